"""Counts -> ratios -> the figures of a table. The only place that divides.

Comes in: :class:`Counts` per image, then scores per image and threshold. Goes out: F1, IoU, precision and
recall, the threshold that validation chooses, mean and spread over folds, and the mean over images with a
bootstrap interval over patients (images of one patient are not independent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungfast.errors import LungfastError
from lungfast.records import Counts, Float64, Int64

PAPER_THRESHOLDS: tuple[float, ...] = tuple(n / 100 for n in range(50, 71, 5))
"""0.50, 0.55, … 0.70, as the paper scans them."""
DEFAULT_THRESHOLDS: tuple[float, ...] = tuple(n / 100 for n in range(5, 96))
"""0.05, 0.06, … 0.95."""
SAME_F1 = 1e-12
"""Mean F1 values closer than this tie: one pixel moves a mean over 1,000 images by 1e-11 or more."""
DRAWS_AT_ONCE = 500
"""Bootstrap draws held at a time: 3 MB at 700 patients instead of 56 MB for 10,000."""


@dataclass(frozen=True, kw_only=True)
class EmptyMaskPolicy:
    """What a ratio is worth where truth, prediction or both are empty. Libraries disagree: 0, 1 or NaN.

    ``both_empty``: nothing to find and nothing found; ``one_empty``: something missed altogether, or found
    where nothing is. All four scores follow it, also precision and recall whose denominator is then 0.
    """

    name: str = "both empty: 1, one empty: 0"
    both_empty: float = 1.0
    one_empty: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.both_empty <= 1 and 0 <= self.one_empty <= 1):
            raise LungfastError("an empty-mask policy needs scores in 0…1", found=repr(self))


DEFAULT_EMPTY = EmptyMaskPolicy()


@dataclass(frozen=True, kw_only=True)
class Scores:
    """One image at Q thresholds, each in 0…1."""

    f1_Q: Float64
    iou_Q: Float64
    precision_Q: Float64
    recall_Q: Float64


@dataclass(frozen=True, kw_only=True)
class StackedScores:
    """N images at Q thresholds, each in 0…1."""

    f1_NQ: Float64
    iou_NQ: Float64
    precision_NQ: Float64
    recall_NQ: Float64


@dataclass(frozen=True, kw_only=True)
class ThresholdChoice:
    """``at_edge``: the best value is the first or last of several, so a better one may lie outside."""

    threshold: float
    index: int
    mean_f1: float
    at_edge: bool


@dataclass(frozen=True, kw_only=True)
class FoldSummary:
    """Mean over folds; ``std`` with ddof 1, None for a single fold."""

    mean: float
    std: float | None
    folds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ImageSummary:
    """Mean over images; ``ci95`` is None for a single patient, about whose spread nothing is known."""

    mean: float
    n: int
    ci95: tuple[float, float] | None


def scores_of(counts: Counts, policy: EmptyMaskPolicy = DEFAULT_EMPTY) -> Scores:
    """Ratios of one image's counts (Q,)."""
    both_Q = counts.true_positive_Q
    found_Q = both_Q + counts.false_positive_Q
    true_Q = both_Q + counts.false_negative_Q
    one_empty = (found_Q == 0) | (true_Q == 0)
    both_empty = (found_Q == 0) & (true_Q == 0)

    def ratio(top_Q: Int64, bottom_Q: Int64) -> Float64:
        plain = top_Q / np.maximum(bottom_Q, 1)
        return np.where(both_empty, policy.both_empty, np.where(one_empty, policy.one_empty, plain))

    return Scores(
        f1_Q=ratio(2 * both_Q, found_Q + true_Q),
        iou_Q=ratio(both_Q, found_Q + true_Q - both_Q),
        precision_Q=ratio(both_Q, found_Q),
        recall_Q=ratio(both_Q, true_Q),
    )


def stack_scores(scores_N: Sequence[Scores]) -> StackedScores:
    """Per-image scores (Q,) -> arrays (N, Q)."""
    if not scores_N:
        raise LungfastError("no images to score", expected="at least one")
    return StackedScores(
        f1_NQ=np.stack([scores.f1_Q for scores in scores_N]),
        iou_NQ=np.stack([scores.iou_Q for scores in scores_N]),
        precision_NQ=np.stack([scores.precision_Q for scores in scores_N]),
        recall_NQ=np.stack([scores.recall_Q for scores in scores_N]),
    )


def choose_threshold(f1_NQ: Float64, thresholds_Q: Sequence[float] | Float64) -> ThresholdChoice:
    """The threshold with the highest mean per-image F1; ties to the one nearest 0.5, then to the lower.

    ``f1_NQ`` are validation images: a threshold chosen on test images leaks.
    """
    thresholds = np.asarray(thresholds_Q, np.float64)
    if f1_NQ.ndim != 2 or f1_NQ.shape[0] == 0 or f1_NQ.shape[1] != thresholds.size or thresholds.size == 0:
        raise LungfastError(
            "cannot choose a threshold",
            found=f"F1 values of shape {f1_NQ.shape}",
            expected=f"at least one image at {thresholds.size} thresholds",
        )
    mean_Q = f1_NQ.mean(axis=0)
    tied = np.flatnonzero(mean_Q >= mean_Q.max() - SAME_F1)
    # rounded, as |0.7 - 0.5| < |0.3 - 0.5| in float64
    distance_Q = np.round(np.abs(thresholds - 0.5), 9)
    index = int(tied[np.lexsort((thresholds[tied], distance_Q[tied]))[0]])
    return ThresholdChoice(
        threshold=float(thresholds[index]),
        index=index,
        mean_f1=float(mean_Q[index]),
        at_edge=thresholds.size > 1 and index in {0, thresholds.size - 1},
    )


def over_folds(values: Sequence[float] | Float64) -> FoldSummary:
    """Mean and sample standard deviation of one figure per fold."""
    folds = tuple(float(value) for value in values)
    if not folds:
        raise LungfastError("no folds to summarise", expected="at least one")
    std = float(np.std(folds, ddof=1)) if len(folds) > 1 else None
    return FoldSummary(mean=float(np.mean(folds)), std=std, folds=folds)


def per_image_summary(
    values_N: Float64, patients: Sequence[str], *, seed: int = 0, draws: int = 10_000
) -> ImageSummary:
    """Mean over images, and its 95 % percentile bootstrap interval over patients.

    Each draw takes as many patients as there are, with replacement, and all images of each.
    """
    values = np.asarray(values_N, np.float64)
    if values.ndim != 1 or values.size == 0 or values.size != len(patients):
        raise LungfastError(
            "cannot summarise images",
            found=f"{values.shape} values, {len(patients)} patients",
            expected="one patient per image, at least one image",
        )
    _, owner_N = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    sum_P, size_P = np.bincount(owner_N, weights=values).astype(np.float64), np.bincount(owner_N)
    if size_P.size == 1:
        return ImageSummary(mean=float(values.mean()), n=values.size, ci95=None)
    means_D = _bootstrap_means(sum_P, size_P, seed, draws)
    low, high = np.percentile(means_D, [2.5, 97.5])
    return ImageSummary(mean=float(values.mean()), n=values.size, ci95=(float(low), float(high)))


def _bootstrap_means(sum_P: Float64, size_P: Int64, seed: int, draws: int) -> Float64:
    generator = np.random.default_rng(seed)
    parts = []
    for start in range(0, draws, DRAWS_AT_ONCE):
        drawn_DP = generator.integers(sum_P.size, size=(min(DRAWS_AT_ONCE, draws - start), sum_P.size))
        parts.append(sum_P[drawn_DP].sum(axis=1) / size_P[drawn_DP].sum(axis=1))
    return np.concatenate(parts)
