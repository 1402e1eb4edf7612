"""What every study stands on: an opened cache, its rows in memory or streamed, the frozen prompt encoder.

Comes in: a cache URL, a device, a memory budget. Goes out: batch makers for any Plan, decoder stacks from
any states, and scores of any decoder on any images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from lungfast.compute import cpu_count
from lungfast.errors import CacheError, UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.checkpoints import Head, read_head
from lungfast.frozen.encoders import EMBEDDING_CHANNELS, refuse_random_nano
from lungfast.frozen.priors import Prior
from lungfast.frozen.prompt_encoder import FrozenPromptEncoder
from lungfast.frozen.prompts import CachePrompts, PromptConfig, PromptImages
from lungfast.frozen.rows import ResidentRows, fits, open_rows
from lungfast.records import EMBEDDING, Counts, EncoderSpec, Float32, Int64, PromptSource, RowSource, UInt8
from lungfast.scored.kernels import ScoreJob, count_images, threshold_edges
from lungfast.studies.averaging import averaged, views_of_cache
from lungfast.trained.batches import BatchMaker
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.parameters import with_high_res
from lungfast.trained.trainer import predict

DECODER_BYTES = 4_100_000 * (4 + 4 + 8 + 2 + 4 + 4)
"""One decoder in training: weights, gradient, two moments, a bf16 copy, the best epoch, one in transit."""
KEPT_BYTES = 4_100_000 * (4 + 4)
"""Of a decoder on a GPU: its best epoch, and one in transit."""
PROCESS_BYTES = 800 << 20
"""The libraries' own memory, activations of a piece, and read-ahead of scoring; see bench_memory."""
SCORE_CHUNK = 16
"""Images scored together: 16 packed masks of 4020x4892 are 40 MB."""


def stack_width(memory_bytes: int, n_decoders: int, device: torch.device) -> int:
    """Decoders trained at once: half of the bound for them at most, but at least one.

    On a GPU, half of its free memory counts. Raises UsageError where not even one decoder fits.
    """
    usable = memory_bytes - PROCESS_BYTES
    if usable < 2 * DECODER_BYTES:
        need = (PROCESS_BYTES + 2 * DECODER_BYTES) / 1e6
        raise UsageError(
            "--memory is too small to train", found=f"{memory_bytes / 1e6:.0f} MB", expected=f"{need:.0f} MB"
        )
    if device.type == "cuda":
        usable = torch.cuda.mem_get_info(device)[0]
    return max(1, min(n_decoders, usable // 2 // DECODER_BYTES))


def row_budget(memory_bytes: int, width: int, device: torch.device) -> int:
    """Bytes for rows beside ``width`` decoders; of a GPU's decoders the best epochs stand on the host."""
    decoder_bytes = KEPT_BYTES if device.type == "cuda" else DECODER_BYTES
    return max(0, memory_bytes - PROCESS_BYTES - width * decoder_bytes)


class Workspace:
    """A cache opened for studies."""

    def __init__(self, url: str, *, device: torch.device) -> None:
        self.cache = EmbeddingCache.open(url)
        refuse_random_nano(self.cache.spec, url)
        self.device = device
        self.head: Head = read_head(self.cache.blob("head.safetensors"))
        spec = self.cache.spec
        self.prompt_encoder = FrozenPromptEncoder(
            self.head.prompt_encoder, grid=spec.grid, input_size=spec.input_size
        )
        self._rows: RowSource | None = None

    def hold_rows(self, row_bytes: int, *, batch_rows: int, views: int = 1) -> None:
        """Load the rows, or prepare to stream them where they and two batches do not fit.

        Rows that are in memory already, for an earlier study, stay there if they are enough and still fit.
        """
        held = self._rows.views if isinstance(self._rows, ResidentRows) else 0
        if held >= views and fits(self.cache, row_bytes, batch_rows=batch_rows, views=held):
            return
        self._rows = None  # what it held goes before anything else comes
        self._rows = open_rows(self.cache, row_bytes, batch_rows=batch_rows, views=views)

    @cached_property
    def prompt_images(self) -> PromptImages:
        """What prompts need of every image."""
        images = range(len(self.cache.images))
        boxes_of_row = cache(lambda row: self.cache.summary_of_row(row).boxes_S4)
        return PromptImages(
            ids=[record.id for record in self.cache.images],
            frames=[self.cache.frame(image) for image in images],
            image_of_row=self.cache.images_of_rows(),
            summaries=[self.cache.summary(image) for image in images],
            boxes_of_row=boxes_of_row if self.cache.n_views > 1 else None,
        )

    def rows_of(self, images: Int64) -> Int64:
        """Rows of the unaltered view of some images."""
        return np.array([self.cache.row_of_image(int(image)) for image in images], np.int64)

    def views_of(self, images: Int64, n_views: int) -> Int64:
        """(images, views) rows of the first views of some images."""
        return np.array([self.cache.images[int(image)].rows[:n_views] for image in images], np.int64)

    def check_encoder_of(self, other: Workspace) -> None:
        """CacheError where the embeddings of two caches cannot meet one decoder."""
        specs = self.cache.spec, other.cache.spec
        if _embedding_of(specs[0]) != _embedding_of(specs[1]):
            raise CacheError(
                "the two caches come from different encoders",
                found=" and ".join(f"{spec.name} {spec.weights_sha256[:12]}…" for spec in specs),
                expected="the same weights, input size and resize rule",
                fix="embed both sets with the same encoder",
            )

    @cached_property
    def pixels(self) -> frozenset[str]:
        """Hashes of its images: what two caches share are images that both hold."""
        return frozenset(image.content_sha256 for image in self.cache.images)

    def check_views(self, views: int, test_views: int) -> None:
        """UsageError where the cache has fewer views; CacheError where they cannot be averaged."""
        for option, asked in (("--views", views), ("--test-views", test_views)):
            if asked > self.cache.n_views:
                raise UsageError(
                    f"{option} {asked} is more than {self.cache.url} holds of an image",
                    found=str(self.cache.n_views),
                    fix=f"embed again with --views {asked}, or give {option} {self.cache.n_views}",
                )
        if test_views > 1:
            views_of_cache(self.cache)

    def prompts(self, config: PromptConfig, train_images: Int64, *, seed: int) -> CachePrompts:
        """Prompts of one split, their priors from its own training images alone."""
        return CachePrompts.build(
            config,
            images=self.prompt_images,
            train_images=train_images,
            encoder=self.prompt_encoder,
            seed=seed,
        )

    def prompts_at(self, config: PromptConfig, prior: Prior, *, seed: int) -> CachePrompts:
        """Prompts of any images where ``prior`` puts them, whatever masks it came from."""
        return CachePrompts(
            config=config, prior=prior, images=self.prompt_images, encoder=self.prompt_encoder, seed=seed
        )

    def initial(self, *, high_res: bool) -> Mapping[str, Tensor]:
        """The decoder that training begins with; CacheError where it would read features that the cache
        lacks."""
        if not high_res:
            return self.head.mask_decoder
        self.check_high_res(asked=True)
        return with_high_res(self.head.mask_decoder, self.cache.spec.channels - EMBEDDING_CHANNELS)

    def check_high_res(self, *, asked: bool) -> None:
        """CacheError where decoders are to read high-resolution features that the cache lacks."""
        if asked and not self.cache.spec.has_high_res:
            raise CacheError(
                f"{self.cache.url} holds no high-resolution features",
                found=f"features of {self.cache.spec.name}: " + ", ".join(self.cache.spec.feature_maps),
                fix="embed again with --high-res (nano alone has them), or leave --high-res out here",
            )

    def maker(self, prompts_K: Sequence[PromptSource]) -> BatchMaker:
        if self._rows is None:
            raise RuntimeError("hold_rows comes before training and predicting")
        return BatchMaker(prompts_K, self._rows, self.device)

    def stack(self, states: Sequence[Mapping[str, Tensor]]) -> DecoderStack:
        return DecoderStack.from_states(
            states,
            pe_NC=self.prompt_encoder.pe_NC,
            dense_C=self.prompt_encoder.dense_C,
            grid=self.cache.spec.grid,
            device=self.device,
        )

    def predict(
        self,
        prompts_K: Sequence[PromptSource],
        states: Sequence[Mapping[str, Tensor]],
        images_K: Sequence[Int64],
        *,
        batch_size: int,
        views_K: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, int, Float32]]:
        """(decoder, image, logits_hw) for every decoder's own images; ``views_K``: averaged over so many."""
        views_K = views_K or [1] * len(images_K)
        rows_K = [self.views_of(images, n).reshape(-1) for images, n in zip(images_K, views_K, strict=True)]
        maker = self.maker(prompts_K)
        of_rows = predict(maker, self.stack(states), rows_K, batch_size=batch_size)
        yield from averaged(self.cache, of_rows, views_K)

    def count(
        self, predictions: Iterator[tuple[int, int, Float32]], thresholds_Q: Sequence[float]
    ) -> Iterator[tuple[int, int, Counts]]:
        """(decoder, image, counts at every threshold) at native size.

        Logits finer than the encoder's input, a U-Net's, are not brought down to it first.
        """
        edges_Q = threshold_edges(thresholds_Q)
        waiting: list[tuple[int, int, Float32]] = []
        for prediction in predictions:
            waiting.append(prediction)
            if len(waiting) == SCORE_CHUNK:
                yield from self._count_chunk(waiting, edges_Q)
                waiting = []
        yield from self._count_chunk(waiting, edges_Q)

    def _count_chunk(
        self, waiting: Sequence[tuple[int, int, Float32]], edges_Q: Float32
    ) -> Iterator[tuple[int, int, Counts]]:
        truths: dict[int, UInt8] = {}
        jobs = []
        for _, image, logits_hw in waiting:
            if image not in truths:
                truths[image] = self.cache.packed_mask(image)
            frame = self.cache.frame(image).at_least(max(logits_hw.shape))
            jobs.append(ScoreJob(logits_hw=logits_hw, frame=frame, truth_packed=truths[image]))
        for (k, image, _), counts in zip(
            waiting, count_images(jobs, edges_Q, threads=cpu_count()), strict=True
        ):
            yield k, image, counts


def _embedding_of(spec: EncoderSpec) -> EncoderSpec:
    """Without high-resolution features, which a cache may hold beside the same embeddings."""
    return (
        replace(spec, channels=EMBEDDING_CHANNELS, feature_maps=(EMBEDDING,)) if spec.has_high_res else spec
    )
