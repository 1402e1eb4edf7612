"""Prompts of one decoder for every row of a cache, as the trainer asks for them.

Comes in: a :class:`PromptConfig`, the fold's training images, and what the cache knows of each image. Goes
out: a :class:`CachePrompts`, a ``PromptSource`` that yields encoded tokens per row and epoch. ``box`` and
``both`` take their box from the ground truth, at test time too: they are oracles and say so; the others need
no ground truth.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from lungfast.errors import DataError, UsageError
from lungfast.frozen.mask_summary import MaskSummary, union_box
from lungfast.frozen.priors import (
    Placement,
    Prior,
    fold_averages,
    lung_averages,
    negative_points,
    prior_box,
    prior_points,
)
from lungfast.frozen.prompt_encoder import FrozenPromptEncoder
from lungfast.geometry import Frame
from lungfast.records import Float64, Int64, PromptKind, PromptTokens

BoxMode = Literal["whole", "per-lung"]
_JITTER_FRAME = 1024  # box_jitter_px counts pixels of SAM's input


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """How a decoder is prompted.

    ``box_jitter_px``: in training each side of a box moves outward by 0 to ``box_jitter_px - 1`` pixels of a
    1024-pixel frame, as common SAM fine-tuning code does. ``point_jitter``: standard deviation in training,
    as a share of the image's sides. ``box``: one box around both lungs, or one prompt per lung.
    """

    kind: PromptKind = "points"
    points_per_lung: int = 1
    placement: Placement = "deepest"
    negative_points: int = 0
    box: BoxMode = "whole"
    box_jitter_px: int = 20
    point_jitter: float = 0.01

    def __post_init__(self) -> None:
        choices = {"kind": PromptKind, "placement": Placement, "box": BoxMode}
        for name, options in choices.items():
            if getattr(self, name) not in get_args(options):
                raise UsageError(
                    f"prompt {name} is unknown",
                    found=repr(getattr(self, name)),
                    expected=", ".join(get_args(options)),
                )
        ranges = {
            "points_per_lung": (1, 64),
            "negative_points": (0, 64),
            "box_jitter_px": (0, 512),
            "point_jitter": (0, 0.5),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(
                    f"prompt {name} is out of range", found=getattr(self, name), expected=f"{low} to {high}"
                )

    @property
    def has_points(self) -> bool:
        return self.kind in {"points", "both", "both-auto"}

    @property
    def has_box(self) -> bool:
        return self.kind != "points"

    @property
    def is_oracle(self) -> bool:
        """True where the prompt is taken from the ground truth, which is not there in use."""
        return self.kind in {"box", "both"}

    @property
    def n_instances(self) -> int:
        return 2 if self.has_box and self.box == "per-lung" else 1

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class PromptImages:
    """What prompts need to know of a cache: per image its id, frame and mask summary, per row its image.

    ``boxes_of_row`` gives the lungs' boxes (lungs, 4) of any row, an altered view's too; None: those of the
    image's summary.
    """

    ids: Sequence[str]
    frames: Sequence[Frame]
    image_of_row: Int64
    summaries: Sequence[MaskSummary]
    boxes_of_row: Callable[[int], Float64] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CachePrompts:
    """A ``PromptSource``: tokens depend on (seed, image id, epoch) alone, never on the batch."""

    config: PromptConfig
    prior: Prior
    images: PromptImages
    encoder: FrozenPromptEncoder
    seed: int

    @classmethod
    def build(
        cls,
        config: PromptConfig,
        *,
        images: PromptImages,
        train_images: Int64,
        encoder: FrozenPromptEncoder,
        seed: int,
    ) -> CachePrompts:
        """Derive the prior from the masks of ``train_images`` (indices into ``images``) and nothing else.

        To prompt another cache with the same prior, construct directly with ``prior=``.
        """
        try:
            prior = make_prior(config, [images.summaries[int(i)] for i in train_images])
        except ValueError as error:
            raise DataError(
                f"prompt {config.kind} cannot be made", found=str(error), fix="check the masks"
            ) from None
        return cls(config=config, prior=prior, images=images, encoder=encoder, seed=seed)

    @property
    def n_instances(self) -> int:
        return self.config.n_instances

    @property
    def n_tokens(self) -> int:
        """Prompt tokens P: N points and a padding point, two for a box, N + 2 for both."""
        points = self.prior.points_IN2.shape[1] if self.config.has_points else 0
        return points + (2 if self.config.has_box else 1)

    @property
    def is_oracle(self) -> bool:
        return self.config.is_oracle

    def describe(self) -> dict[str, Any]:
        """JSON for the run's record: the configuration and the actual prior in normalised coordinates."""
        return {
            **self.config.as_dict(),
            "oracle": self.is_oracle,
            "seed": self.seed,
            "prior": self.prior.as_dict(),
        }

    def tokens(self, rows_B: Int64, *, epoch: int | None) -> PromptTokens:
        """Encoded prompts (B, I, P, C) of rows; ``epoch`` None (validation, test) perturbs nothing."""
        rows = np.asarray(rows_B)
        images = self.images.image_of_row[rows].tolist()
        return self.encoded(
            [
                self.coordinates(image, epoch=epoch, row=row)
                for image, row in zip(images, rows.tolist(), strict=True)
            ]
        )

    def encoded(self, coordinates_B: Sequence[tuple[Float64, Float64]]) -> PromptTokens:
        """Tokens of points and boxes as :meth:`coordinates` gives them, one pair an image."""
        points, boxes = zip(*coordinates_B, strict=True)
        labels = [self.prior.labels_IN] * len(points)
        tokens_BIPC = self.encoder.encode(
            points_BIP2=np.stack(points) if self.config.has_points else None,
            labels_BIP=np.stack(labels) if self.config.has_points else None,
            boxes_BI4=np.stack(boxes) if self.config.has_box else None,
        )
        return PromptTokens(tokens_BIPC=tokens_BIPC, mask_BIP=np.ones(tokens_BIPC.shape[:3], bool))

    def coordinates(
        self, image: int, *, epoch: int | None, row: int | None = None
    ) -> tuple[Float64, Float64]:
        """Points (I, N, 2) and boxes (I, 4) of one image, in the encoder's input pixels.

        ``row`` may be that of an altered view. What comes from the prior stays where it is: at test time too
        it is put on a film without asking how the patient stands. A box of the truth is that of the view.
        """
        frame = self.images.frames[image]
        points_IN2, boxes_I4 = self.prior.points_IN2, self._boxes(image, row)
        corners_I22 = frame.points_to_input(boxes_I4.reshape(-1, 2, 2))
        if epoch is not None:
            rng = np.random.default_rng([self.seed, epoch, zlib.crc32(self.images.ids[image].encode())])
            noise_IN2 = rng.normal(0.0, 1.0, points_IN2.shape) * self.config.point_jitter
            points_IN2 = np.clip(points_IN2 + noise_IN2, 0, 1)
            corners_I22 = self._moved_outward(corners_I22, frame, rng)
        return frame.points_to_input(points_IN2), corners_I22.reshape(-1, 4)

    def _boxes(self, image: int, row: int | None) -> Float64:
        """Normalised (I, 4): of this view's own mask for an oracle, else of the prior."""
        if not self.is_oracle:
            return self.prior.boxes_I4
        boxes_S4 = self.images.summaries[image].boxes_S4
        if row is not None and self.images.boxes_of_row is not None:
            boxes_S4 = self.images.boxes_of_row(row)
        if self.n_instances == 2 and len(boxes_S4) == 2:
            return boxes_S4
        return np.stack([union_box(boxes_S4)] * self.n_instances)

    def _moved_outward(self, corners_I22: Float64, frame: Frame, rng: np.random.Generator) -> Float64:
        if self.config.box_jitter_px == 0:
            return corners_I22
        pixels = rng.integers(0, self.config.box_jitter_px, corners_I22.shape)
        outward_22 = np.array([[-1.0], [1.0]]) * frame.input_size / _JITTER_FRAME
        low_2, high_2 = frame.points_to_input(np.array([[0.0, 0.0], [1.0, 1.0]]))
        return np.clip(corners_I22 + pixels * outward_22, low_2, high_2)


def make_prior(config: PromptConfig, summaries: Sequence[MaskSummary]) -> Prior:
    """Points and boxes from the average of some (training) masks; ValueError where all of them are empty."""
    if not summaries:
        raise ValueError("no prior: no training images")
    averages = fold_averages(summaries)
    lungs = lung_averages(averages)
    per_lung = [prior_points(lung_hw, config.points_per_lung, config.placement) for lung_hw in lungs]
    negatives_N2 = negative_points(averages, config.negative_points)
    if config.n_instances == 1:
        union_hw = np.clip(np.sum(lungs, axis=0), 0, 1)
        return _prior([np.concatenate(per_lung)], negatives_N2, [prior_box(union_hw)])
    if len(lungs) == 1:  # lungs that touch everywhere: both prompts are the same, so is their maximum
        per_lung, lungs = per_lung * 2, lungs * 2
    return _prior(per_lung, negatives_N2, [prior_box(lung_hw) for lung_hw in lungs])


def _prior(lungs_I: Sequence[Float64], negatives_N2: Float64, boxes_I: Sequence[Float64]) -> Prior:
    points_IN2 = np.stack([np.concatenate([lung_N2, negatives_N2]) for lung_N2 in lungs_I])
    labels_N = np.repeat([1, 0], [len(lungs_I[0]), len(negatives_N2)])
    return Prior(
        points_IN2=points_IN2, labels_IN=np.stack([labels_N] * len(lungs_I)), boxes_I4=np.stack(boxes_I)
    )


def config_from_dict(content: Mapping[str, Any]) -> PromptConfig:
    """The inverse of ``PromptConfig.as_dict``; other keys (of ``CachePrompts.describe``) are ignored."""
    fields = PromptConfig.__dataclass_fields__
    return PromptConfig(**{name: value for name, value in content.items() if name in fields})
