"""Is the difference real? Paired differences, two tests, Holm's correction, an interval for a share.

Comes in: one value per image for each of two methods on the *same* images, or one value per fold. Goes out:
the mean difference with a bootstrap interval over patients, and p values. Two tests, as they answer different
questions: Wilcoxon's asks whether these very decoders differ on images like these; the corrected resampled
t-test asks whether training again on other patients would show it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lungfast.errors import LungfastError
from lungfast.records import Float64
from lungfast.scored.scores import SAME_F1, per_image_summary

SAME_DIGITS = 12
"""Differences are ranked to this many decimals: SAME_F1, so that rounding makes no ranks of its own."""


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Mean of a - b over ``n`` images; ``ci95`` is None for a single patient."""

    difference: float
    ci95: tuple[float, float] | None
    n: int
    p_wilcoxon: float


@dataclass(frozen=True, kw_only=True)
class ResampledT:
    """``t`` and ``p`` are None where all values are one and not zero: no spread, so nothing to test with."""

    difference: float
    t: float | None
    df: int
    p: float | None
    n_values: int


def paired_difference(
    a_N: Float64, b_N: Float64, patients: Sequence[str], *, seed: int = 0, draws: int = 10_000
) -> PairedDifference:
    """a - b over the same images: mean, percentile bootstrap over patients, Wilcoxon's signed-rank test.

    The test takes images as independent (they are where a patient has one image) and drops zeros. It is exact
    for up to 50 images without ties, as scipy's ``wilcoxon`` chooses.
    """
    a, b = np.asarray(a_N, np.float64), np.asarray(b_N, np.float64)
    if a.shape != b.shape:
        raise LungfastError("cannot pair images", found=f"{a.shape} and {b.shape} values", expected="as many")
    summary = per_image_summary(a - b, patients, seed=seed, draws=draws)
    rounded_N = np.round(a - b, SAME_DIGITS)
    ranked = rounded_N[rounded_N != 0]
    p = float(stats.wilcoxon(ranked).pvalue) if ranked.size else 1.0
    return PairedDifference(difference=summary.mean, ci95=summary.ci95, n=summary.n, p_wilcoxon=p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment of one family, order kept; None was not tested and does not count."""
    tested = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, position) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p))
        adjusted[position] = highest
    return adjusted


def corrected_resampled_t(
    differences_J: Sequence[float] | Float64, n_train: float, n_test: float
) -> ResampledT | None:
    """Two-sided t-test over folds whose training sets overlap; None for fewer than two values.

    Nadeau and Bengio (Machine Learning 52, 2003): the variance of the mean is var * (1/J + n_test/n_train),
    not var / J. A value is a fold's, averaged over its seeds: they bring no new patients, and counted one by
    one they would make five folds of three seeds err in 16 % of cases instead of 5.
    """
    values = np.asarray(differences_J, np.float64)
    if values.size < 2:
        return None
    mean, df = float(values.mean()), values.size - 1
    if np.ptp(values) > SAME_F1:
        t = mean / np.sqrt(values.var(ddof=1) * (1 / values.size + n_test / n_train))
        return ResampledT(
            difference=mean, t=float(t), df=df, p=float(2 * stats.t.sf(abs(t), df)), n_values=values.size
        )
    t, p = (0.0, 1.0) if abs(mean) <= SAME_F1 else (None, None)
    return ResampledT(difference=mean, t=t, df=df, p=p, n_values=values.size)


def proportion_interval(k: int, n: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of the share k of n; None where there is nothing to take a share of."""
    if n == 0:
        return None
    interval = stats.binomtest(k, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
