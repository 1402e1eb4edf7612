"""Trained decoders on images that are in no cache: encode, prompt, decode, each image in its own frame.

Comes in: models of a finished run, its encoder, 8-bit images. Goes out: low-resolution logits of each model,
and what makes an ensemble of them. Features are rounded as the run's cache stored them, and views are made as
it made them, so that an image that is in the cache gets the very logits that the study scored.

The ensemble is the mean of the members' logits in float32, and its threshold the mean of theirs in logit
space. Upsampling is linear, so the mean is taken once, at low resolution, and the native mask is that of the
members' averaged native logits; averaged probabilities would need every member at native size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungfast.compute import encoder_precision_like
from lungfast.data.views import ViewConfig, make_views, mean_on_film
from lungfast.errors import CheckpointError, LungfastError, RunError, UsageError
from lungfast.files import file_sha256
from lungfast.frozen.checkpoints import find_checkpoint, read_head
from lungfast.frozen.encoders import Encoder, load_encoder
from lungfast.frozen.mask_summary import MaskSummary
from lungfast.frozen.prompt_encoder import FrozenPromptEncoder
from lungfast.frozen.prompts import CachePrompts, PromptConfig, PromptImages
from lungfast.frozen.stored_features import Features, as_read
from lungfast.geometry import Frame
from lungfast.records import HIGH_RES, Float32, Float64, Sample, UInt8
from lungfast.scored.quality import logit_of
from lungfast.studies.averaging import views_as_made, views_for
from lungfast.studies.models import FinishedRun, Model
from lungfast.trained.batches import pad_tokens
from lungfast.trained.decoder import DecoderStack

NO_BOXES = np.zeros((0, 4))


class Ensemble:
    """Decoders of one prompt on their common encoder."""

    def __init__(
        self, models: Sequence[Model], encoder: Encoder, *, prompt: PromptConfig, like: Mapping[str, Any]
    ) -> None:
        """``like``: the fingerprint of the run's cache, whose dtype and kind of views count."""
        spec = encoder.spec
        self.models, self.encoder, self.prompt = tuple(models), encoder, prompt
        self._dtype = str(like["dtype"])
        self.views = views_for(prompt, models[0].views)
        self._altered = ViewConfig()
        if self.views > 1:
            self._altered = views_as_made(like["view_settings"], "the run's cache")
        self._prompt_encoder = FrozenPromptEncoder(
            read_head(encoder.head).prompt_encoder, grid=spec.grid, input_size=spec.input_size
        )
        self._stack = DecoderStack.from_states(
            [model.state() for model in models],
            pe_NC=self._prompt_encoder.pe_NC,
            dense_C=self._prompt_encoder.dense_C,
            grid=spec.grid,
            device=encoder.device,
        )

    @property
    def threshold(self) -> float:
        """The members' thresholds averaged in logit space, as a probability."""
        return mean_threshold([model.threshold for model in self.models])

    def frame(self, image_HW: UInt8) -> Frame:
        spec = self.encoder.spec
        return Frame.of((image_HW.shape[0], image_HW.shape[1]), spec.input_size, spec.resize)

    def logits(
        self,
        images: Sequence[UInt8],
        boxes: Sequence[Float64] | None = None,
        *,
        ids: Sequence[str],
        members: Sequence[int] | None = None,
    ) -> Float32:
        """(K, B, h, w) of all decoders, or of some ``members``: means over :attr:`views` of each image.

        ``boxes``: normalised (lungs, 4) of every image, for a prompt that takes them from the user. ``ids``
        decide the views.
        """
        try:
            of_film_KBhw = self._of_each(images, boxes, members)
            if self.views == 1:
                return of_film_KBhw
            means_B = []
            for b, (image_HW, image_id) in enumerate(zip(images, ids, strict=True)):
                views = self._altered_views(image_HW, image_id)
                parts = [views[i : i + len(images)] for i in range(0, len(views), len(images))]
                others = [self._of_each(part, None, members) for part in parts]
                logits_KVhw = np.concatenate([of_film_KBhw[:, b : b + 1], *others], axis=1)
                frame = self.frame(image_HW)
                means_B.append(
                    [mean_on_film(one_Vhw, image_id, frame, self._altered) for one_Vhw in logits_KVhw]
                )
        except torch.OutOfMemoryError as error:
            raise LungfastError(
                f"the GPU's memory is too small for {len(images)} images at once", fix="use --batch 1"
            ) from error
        return np.stack(means_B, axis=1)

    def _altered_views(self, image_HW: UInt8, image_id: str) -> list[UInt8]:
        """As embedding makes them; they need no mask."""
        film = Sample(id=image_id, image_HW=image_HW, masks={}, source="", patient="", content_sha256="")
        views = make_views(film, self.views, self.frame(image_HW).resized_size, self._altered)
        return [view.image_HW for view in views]

    def _of_each(
        self, images: Sequence[UInt8], boxes: Sequence[Float64] | None, members: Sequence[int] | None
    ) -> Float32:
        """(K, B, h, w), one view an image."""
        features_BNC = as_read(self.encoder.encode(images), self._dtype)
        with torch.inference_mode():
            logits_KBhw = self._decode(features_BNC, images, boxes, members)
        return np.asarray(logits_KBhw.float().cpu().numpy())

    def _decode(
        self,
        features_BNC: Features,
        images: Sequence[UInt8],
        boxes: Sequence[Float64] | None,
        members: Sequence[int] | None,
    ) -> torch.Tensor:
        prompts_K = self._prompts(images, boxes)
        rows_B = np.arange(len(images))
        tokens = pad_tokens(
            [one.tokens(rows_B, epoch=None) for one in prompts_K],
            max(one.n_instances for one in prompts_K),
            max(one.n_tokens for one in prompts_K),
        )
        device = self.encoder.device
        return self._stack.logits(
            torch.from_numpy(features_BNC)[None].to(device),
            torch.from_numpy(tokens.tokens_BIPC).to(device),
            torch.from_numpy(tokens.mask_BIP).to(device),
            active=members,
        )

    def _prompts(self, images: Sequence[UInt8], boxes: Sequence[Float64] | None) -> list[CachePrompts]:
        """The models' own priors in the frames of these images, which stand in for a cache's."""
        summaries = [
            MaskSummary(packed={}, grid=1, boxes_S4=boxes_S4)
            for boxes_S4 in boxes or [NO_BOXES] * len(images)
        ]
        fresh = PromptImages(
            ids=[str(number) for number in range(len(images))],
            frames=[self.frame(image_HW) for image_HW in images],
            image_of_row=np.arange(len(images)),
            summaries=summaries,
        )
        return [
            CachePrompts(
                config=self.prompt,
                prior=model.prior,
                images=fresh,
                encoder=self._prompt_encoder,
                seed=model.seed,
            )
            for model in self.models
        ]


def mean_threshold(thresholds: Sequence[float]) -> float:
    """Probabilities averaged in logit space."""
    return float(1 / (1 + np.exp(-np.mean([logit_of(threshold) for threshold in thresholds]))))


def run_encoder(run: FinishedRun, checkpoint: Path | None, *, device: torch.device) -> Encoder:
    """The encoder that made the run's cache, by its sha256; in the cache's precision if this device has it.

    A SAM encoder without ``checkpoint`` is looked for in $LUNGFAST_WEIGHTS. Raises CheckpointError or
    UsageError, one line, where the weights are absent or others.
    """
    name, expected = str(run.encoder["name"]), str(run.encoder["weights_sha256"])
    if name == "nano" and checkpoint is not None:
        raise UsageError(
            "--checkpoint has no use here", found=f"{run.path} was trained on nano", fix="leave it out"
        )
    if checkpoint is not None and checkpoint.is_file() and (found := file_sha256(checkpoint)) != expected:
        raise CheckpointError(
            f"{checkpoint} did not make the embeddings of {run.path}",
            found=f"sha256 {found[:12]}…",
            expected=f"{name} with sha256 {expected[:12]}…",
        )
    encoder = load_encoder(
        name,
        checkpoint=checkpoint,
        resize=run.encoder["resize"],
        device=device,
        precision=encoder_precision_like(str(run.fingerprint["compute_dtype"]), device),
        high_res=HIGH_RES in run.encoder["feature_maps"],
    )
    _check_spec(run, encoder)
    return encoder


def _check_spec(run: FinishedRun, encoder: Encoder) -> None:
    for field, value in asdict(encoder.spec).items():
        ours, theirs = (
            list(v) if isinstance(v, tuple | list) else v for v in (value, run.encoder.get(field))
        )
        if ours != theirs:
            raise RunError(
                f"{run.path} was trained on another {encoder.spec.name} encoder",
                found=f"{field} {str(theirs)[:12]}",
                expected=str(ours)[:12],
                fix="embed the training set again and train on that cache",
            )


def available_encoder(run: FinishedRun, checkpoint: Path | None, *, device: torch.device) -> Encoder | None:
    """As :func:`run_encoder`, but None where it is a SAM encoder whose weights were not given or found."""
    name = str(run.encoder["name"])
    if checkpoint is None and name != "nano" and find_checkpoint(name) is None:  # type: ignore[arg-type]
        return None
    return run_encoder(run, checkpoint, device=device)
