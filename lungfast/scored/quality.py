"""Is this mask any good? An estimate from the logits alone, for images without a truth; and how good it is.

Comes in: low-resolution logits of one or several decoders, and their threshold. Goes out: a quality in 0…1,
the disagreement of an ensemble, a cut below which a mask is flagged, recall and precision of the flag.

Why the decoder's own expected Dice and nothing more: on Montgomery's 138 test images (a random encoder, 16
epochs, 11 bad) it ranks a bad mask below a good one in 96 % of pairs. Fragments give 93 %, length of the
outline 92 %, area 77 %, and none of them adds to it. Agreement of the folds' decoders cannot be calibrated on
the run's own images: three of five trained on each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungfast.records import Bool, Float32, Float64
from lungfast.scored.paired import proportion_interval

GOOD_F1 = 0.90
"""A mask below this F1 is bad."""
FALSE_ALARM = 0.05
"""Share of good validation images that the flag may hit."""
FEW = 20
"""Fewer bad images than this say little about the flag's recall."""
TOO_FEW = "too few"


def logit_of(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def self_dice(logits_hw: Float32, valid_hw: Bool, threshold: float) -> float:
    """The Dice that the decoder itself expects of its mask: 2 Σ p·m / (Σ p + Σ m) on the image; 0 if empty.

    p are probabilities, moved in logit space so that the mask m ends at one half: a decoder's threshold says
    where its own calibration is off.
    """
    logits_V = logits_hw[valid_hw].astype(np.float64) - logit_of(threshold)
    inside_V = logits_V > 0
    if not inside_V.any():
        return 0.0
    probs_V = 1 / (1 + np.exp(-np.clip(logits_V, -50, 50)))
    return float(2 * probs_V[inside_V].sum() / (probs_V.sum() + inside_V.sum()))


def disagreement(masks_Khw: Bool) -> float | None:
    """1 - the mean Dice over all pairs of an ensemble's masks; two empty masks agree; None for one."""
    k = len(masks_Khw)
    if k < 2:
        return None
    flat_KX = masks_Khw.reshape(k, -1).astype(np.float32)
    both_KK = flat_KX @ flat_KX.T
    sizes_K = np.diag(both_KK)
    sums_KK = sizes_K[:, None] + sizes_K[None]
    dice_KK = np.where(sums_KK > 0, 2 * both_KK / np.maximum(sums_KK, 1), 1.0)
    return float(1 - dice_KK[np.triu_indices(k, 1)].mean())


def highest_cut(quality_N: Float64, f1_N: Float64, false_alarm: float = FALSE_ALARM) -> float:
    """The largest cut below which at most ``false_alarm`` of the good images lie; 1 where none is good.

    Quality is at most 1: without a good image every mask is flagged.
    """
    good_N = np.sort(quality_N[f1_N >= GOOD_F1])
    if good_N.size == 0:
        return 1.0
    return float(good_N[int(np.floor(false_alarm * good_N.size))])


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share with Wilson's 95 % interval."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class FlagScores:
    """How well a flag finds bad masks. ``recall`` is None without bad images, ``precision`` without flags."""

    n: int
    n_bad: int
    n_flagged: int
    recall: Share | None
    precision: Share | None
    note: str


def flag_scores(flagged_N: Sequence[bool] | Bool, f1_N: Sequence[float] | Float64) -> FlagScores:
    """Recall and precision of the flag for F1 < .90."""
    flagged, bad = np.asarray(flagged_N, bool), np.asarray(f1_N, np.float64) < GOOD_F1
    hits, n_bad, n_flagged = int((flagged & bad).sum()), int(bad.sum()), int(flagged.sum())
    return FlagScores(
        n=len(bad),
        n_bad=n_bad,
        n_flagged=n_flagged,
        recall=_share(hits, n_bad),
        precision=_share(hits, n_flagged),
        note=TOO_FEW if n_bad < FEW else f"{TOO_FEW} flagged" if 0 < n_flagged < FEW else "",
    )


def _share(k: int, n: int) -> Share | None:
    interval = proportion_interval(k, n)
    return None if interval is None else Share(value=k / n, ci95=interval)
