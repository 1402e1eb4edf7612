"""Which rows meet which decoder when: seeded orders, ragged batches, padded prompts.

Comes in: prompts per decoder and a RowSource. Goes out: one :class:`StackBatch` after another, on the device.
A row order derives from (seed, the rows themselves, epoch): decoders of a grid, which have the same rows
and seed, therefore read the same batch (G = 1), and a decoder's order never depends on its neighbours.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lungfast.records import Bool, Float32, Int64, PromptSource, PromptTokens, RowBatch, RowSource


@dataclass(frozen=True, kw_only=True)
class StackBatch:
    """A batch on the device; G is 1 where all share the images, else K.

    ``weight_KB``, which the step plans by, stays on the CPU. It is 0 on the padding rows of a ragged batch;
    a decoder's loss is sum(w*l) / sum(w).
    ``valid_GBhw`` is False on padded area, ``token_mask_KBIP`` False on padded prompt tokens.
    """

    features_GBNC: Tensor
    targets_GBhw: Tensor
    valid_GBhw: Tensor
    tokens_KBIPC: Tensor
    token_mask_KBIP: Tensor
    weight_KB: Tensor
    image_GBNC: Tensor | None = None
    """What the decoder makes of the features (``Constants.image``), where that was done ahead."""

    def images(self, part: slice) -> StackBatch:
        """Some of its images."""
        found = {name: value[:, part] for name, value in vars(self).items() if value is not None}
        return StackBatch(**found)


@dataclass(frozen=True, kw_only=True)
class BatchRows:
    """One step: rows of every decoder (padding repeats a row at weight 0) and who takes part."""

    rows_KB: Int64
    weight_KB: Float32

    @property
    def active_K(self) -> Bool:
        return np.asarray(self.weight_KB.sum(axis=1) > 0)

    @property
    def shared(self) -> bool:
        """True where every decoder reads the very same rows."""
        return bool((self.rows_KB == self.rows_KB[:1]).all())

    @property
    def rows_GB(self) -> Int64:
        return self.rows_KB[:1] if self.shared else self.rows_KB


def row_order(rows: Int64, *, seed: int, epoch: int) -> Int64:
    """The order of one epoch: a permutation seeded by (seed, the set of rows, epoch).

    Of views (n, V) every image comes once, as one of its views: drawn by the same seed, each as likely.
    """
    views_NV = rows.reshape(len(rows), -1)
    views_NV = views_NV[np.argsort(views_NV[:, 0])]
    identity = zlib.crc32(views_NV[:, 0].astype("<i8").tobytes())
    rng = np.random.default_rng([seed, identity, epoch])
    ordered_NV = rng.permutation(views_NV)
    return np.asarray(ordered_NV[np.arange(len(rows)), rng.integers(0, views_NV.shape[1], len(rows))])


def steps_of(n_rows: int, batch_size: int) -> int:
    return -(-n_rows // batch_size)


def plan_batches(orders_K: Sequence[Int64], batch_size: int, *, one_size: bool = False) -> list[BatchRows]:
    """Cut each decoder's rows into batches; a decoder that has no rows left weighs 0.

    Such a decoder repeats rows of a neighbour that is still at work, so that a shared batch stays shared.
    The last batch is as short as the most that any decoder has left, or as long as the others: ``one_size``.
    """
    longest = max(len(order) for order in orders_K)
    batch_size = min(batch_size, longest)
    batches = []
    for step in range(steps_of(longest, batch_size)):
        parts = [order[step * batch_size : (step + 1) * batch_size] for order in orders_K]
        filler = next(part for part in parts if part.size)
        shape = (len(parts), batch_size if one_size else max(part.size for part in parts))
        rows_KB, weight_KB = np.empty(shape, np.int64), np.zeros(shape, np.float32)
        for k, part in enumerate(parts):
            real = part if part.size else filler
            rows_KB[k, : real.size] = real
            rows_KB[k, real.size :] = real[0]
            weight_KB[k, : part.size] = 1.0
        batches.append(BatchRows(rows_KB=rows_KB, weight_KB=weight_KB))
    return batches


def pad_tokens(prompts: Sequence[PromptTokens], n_instances: int, n_tokens: int) -> PromptTokens:
    """Stack K prompts over a new first axis, padded to common I and P.

    A missing instance repeats the first one (the maximum of equals changes nothing); a missing token is
    masked.
    """
    tokens_K, mask_K = [], []
    for prompt in prompts:
        tokens, mask = prompt.tokens_BIPC, prompt.mask_BIP
        _, instances, length, _ = tokens.shape
        take = [i if i < instances else 0 for i in range(n_instances)]
        tokens_K.append(np.pad(tokens[:, take], ((0, 0), (0, 0), (0, n_tokens - length), (0, 0))))
        mask_K.append(np.pad(mask[:, take], ((0, 0), (0, 0), (0, n_tokens - length))))
    return PromptTokens(tokens_BIPC=np.stack(tokens_K), mask_BIP=np.stack(mask_K))


class BatchMaker:
    """Turns row numbers into batches on the device, in order."""

    def __init__(self, prompts_K: Sequence[PromptSource], source: RowSource, device: torch.device) -> None:
        self.prompts_K, self.source, self.device = prompts_K, source, device
        self._n_instances = max(prompt.n_instances for prompt in prompts_K)
        self._n_tokens = max(prompt.n_tokens for prompt in prompts_K)

    def stream(
        self, batches: Sequence[BatchRows], *, epoch: int | None
    ) -> Iterator[tuple[BatchRows, StackBatch]]:
        """``epoch`` None: validation or test, so prompts are not perturbed."""
        loaded = self.source.stream(batch.rows_GB for batch in batches)
        for batch, rows in zip(batches, loaded, strict=True):
            yield batch, self._to_device(batch, rows, epoch)

    def _to_device(self, batch: BatchRows, rows: RowBatch, epoch: int | None) -> StackBatch:
        prompts = self._prompts(batch, epoch)
        device = self.device
        return StackBatch(
            features_GBNC=_move(rows.features_GBNC, device),
            targets_GBhw=_move(rows.targets_GBhw, device),
            valid_GBhw=_move(rows.valid_GBhw, device),
            tokens_KBIPC=_move(prompts.tokens_BIPC, device),
            token_mask_KBIP=_move(prompts.mask_BIP, device),
            weight_KB=torch.from_numpy(batch.weight_KB),
        )

    def _prompts(self, batch: BatchRows, epoch: int | None) -> PromptTokens:
        """Decoders of a grid share their prompt source: encode it once a batch."""
        made: dict[tuple[int, bytes], PromptTokens] = {}
        for prompt, rows_B in zip(self.prompts_K, batch.rows_KB, strict=True):
            key = (id(prompt), rows_B.tobytes())
            if key not in made:
                made[key] = prompt.tokens(rows_B, epoch=epoch)
        ordered = [
            made[id(prompt), rows_B.tobytes()]
            for prompt, rows_B in zip(self.prompts_K, batch.rows_KB, strict=True)
        ]
        return pad_tokens(ordered, self._n_instances, self._n_tokens)


def _move(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
