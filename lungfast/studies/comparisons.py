"""Comparisons of two methods on the same images, as every study writes them; Holm's correction by family.

Comes in: for each of two methods its score of every image and its mean of every fold, aligned. Goes out:
plain dictionaries for results.json with the difference, its interval over patients, and two tests.

Holm adjusts Wilcoxon's p values only: the corrected t-test has a handful of values and stands beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lungfast.records import Float64
from lungfast.scored.paired import corrected_resampled_t, holm, paired_difference

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One method: ``images_N`` its score of each image, ``folds_J`` its mean of each fold, over its seeds.

    Both sides of a comparison list the same images and the same folds in the same order. Without folds there
    is no t-test.
    """

    name: str
    images_N: Float64
    folds_J: Sequence[float] = ()


def compare(
    a: Side,
    b: Side,
    patients: Sequence[str],
    *,
    n_train: float,
    n_test: float,
    metric: str = "f1",
    seed: int = 0,
) -> dict[str, Any]:
    """a - b, not yet of a family. ``n_train``, ``n_test``: images of one fold, for the corrected t-test."""
    paired = paired_difference(a.images_N, b.images_N, patients, seed=seed)
    both_have = bool(a.folds_J and b.folds_J)
    differences_J = [x - y for x, y in zip(a.folds_J, b.folds_J, strict=True)] if both_have else []
    t = corrected_resampled_t(differences_J, n_train, n_test)
    return {
        "family": None,
        "name": f"{a.name} {MINUS} {b.name}",
        "a": a.name,
        "b": b.name,
        "metric": metric,
        **asdict(paired),
        "p_holm": None,
        "t": asdict(t) if t else None,
    }


def as_family(family: str, compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons under a common name, their Wilcoxon p values adjusted for being that many."""
    adjusted = holm([one["p_wilcoxon"] for one in compared])
    return [
        {**one, "family": family, "p_holm": p_holm} for one, p_holm in zip(compared, adjusted, strict=True)
    ]


def comparisons(
    family: str,
    pairs: Sequence[tuple[Side, Side]],
    patients: Sequence[str],
    *,
    n_train: float,
    n_test: float,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One family of comparisons (F1) on common images; for different images: compare, then as_family."""
    compared = [compare(a, b, patients, n_train=n_train, n_test=n_test, seed=seed) for a, b in pairs]
    return as_family(family, compared)
