"""What a comparison says, and Holm's correction within a family."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lungfast.scored.paired import corrected_resampled_t, holm, paired_difference
from lungfast.studies.comparisons import (
    MINUS,
    Side,
    as_family,
    compare,
    comparisons,
)
from lungfast.studies.on_request import as_one_family

PATIENTS = [f"p{n}" for n in range(24)]
KEYS = ["family", "name", "a", "b", "metric", "difference", "ci95", "n", "p_wilcoxon", "p_holm", "t"]


def side(name: str, mean: float, seed: int, *, folds: int = 5) -> Side:
    images_N = np.random.default_rng(seed).normal(mean, 0.02, len(PATIENTS))
    return Side(name=name, images_N=images_N, folds_J=[float(images_N[n::5].mean()) for n in range(folds)])


POINTS, BOX, BOTH = side("points", 0.95, 1), side("box", 0.93, 2), side("both", 0.95, 3)


def test_a_comparison_holds_both_tests() -> None:
    one = compare(POINTS, BOX, PATIENTS, n_train=60, n_test=20, metric="iou", seed=3)
    paired = paired_difference(POINTS.images_N, BOX.images_N, PATIENTS, seed=3)
    t = corrected_resampled_t(np.subtract(POINTS.folds_J, BOX.folds_J), 60, 20)
    assert list(one) == KEYS
    assert (one["name"], one["a"], one["b"], one["metric"]) == (f"points {MINUS} box", "points", "box", "iou")
    assert (one["difference"], one["ci95"], one["n"]) == (paired.difference, paired.ci95, 24)
    assert one["p_wilcoxon"] == paired.p_wilcoxon
    assert one["t"]["p"] == t.p
    assert one["t"]["n_values"] == 5


def test_a_family_is_adjusted_for_its_size() -> None:
    pairs = [(POINTS, BOX), (POINTS, BOTH), (BOTH, BOX)]
    family = comparisons("prompts", pairs, PATIENTS, n_train=60, n_test=20)
    assert [one["name"] for one in family] == [
        f"points {MINUS} box",
        f"points {MINUS} both",
        f"both {MINUS} box",
    ]
    assert {one["family"] for one in family} == {"prompts"}
    assert [one["p_holm"] for one in family] == holm([one["p_wilcoxon"] for one in family])
    assert json.loads(json.dumps(family, allow_nan=False))[0]["n"] == 24


def test_a_family_may_span_different_images() -> None:
    fewer = [Side(name=one.name, images_N=one.images_N[:9]) for one in (POINTS, BOX)]
    compared = [
        compare(POINTS, BOX, PATIENTS, n_train=60, n_test=20),
        compare(fewer[0], fewer[1], PATIENTS[:9], n_train=60, n_test=20),
    ]
    family = as_family("transfer", compared)
    assert [one["n"] for one in family] == [24, 9]
    assert family[0]["p_holm"] == pytest.approx(2 * family[0]["p_wilcoxon"])
    assert [one["p_holm"] for one in compared] == [None, None]  # not changed in place


@pytest.mark.parametrize("folds", [0, 1])
def test_fewer_than_two_folds_have_no_t_test(folds: int) -> None:
    one = compare(
        side("a", 0.9, 1, folds=folds), side("b", 0.8, 2, folds=folds), PATIENTS, n_train=3, n_test=1
    )
    assert one["t"] is None


def test_sides_with_different_folds_are_not_paired() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare(POINTS, side("b", 0.8, 2, folds=4), PATIENTS, n_train=3, n_test=1)


def test_cleaning_of_several_rows_is_one_family() -> None:
    alone = [compare(POINTS, other, PATIENTS, n_train=60, n_test=20) for other in (BOX, BOTH)]
    rows = [{"cleaned": {"difference": one}} for one in alone] + [{"key": "not cleaned"}]
    as_one_family(rows)
    found = [row["cleaned"]["difference"]["p_holm"] for row in rows[:2]]
    assert found == holm([one["p_wilcoxon"] for one in alone])
