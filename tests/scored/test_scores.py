"""Ratios against scikit-learn and MONAI, the choice of a threshold, spreads against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungfast.errors import LungfastError
from lungfast.scored.scores import (
    DEFAULT_THRESHOLDS,
    PAPER_THRESHOLDS,
    EmptyMaskPolicy,
    choose_threshold,
    over_folds,
    per_image_summary,
    scores_of,
    stack_scores,
)
from tests.naive import scored as naive

NAMES = ("f1_Q", "iou_Q", "precision_Q", "recall_Q")


def counted(predicted: np.ndarray, truth: np.ndarray):
    return naive.counts(np.where(predicted, 1.0, -1.0), truth, np.zeros(1, np.float32))


@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_and_monai(seed: int) -> None:
    import torch
    from monai.metrics import DiceMetric
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    rng = np.random.default_rng(seed)
    truth, predicted = rng.random((40, 31)) < 0.3, rng.random((40, 31)) < 0.4
    scores = scores_of(counted(predicted, truth))
    libraries = (f1_score, jaccard_score, precision_score, recall_score)
    for name, library in zip(NAMES, libraries, strict=True):
        assert getattr(scores, name)[0] == pytest.approx(library(truth.ravel(), predicted.ravel()), abs=1e-12)
    one = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (predicted, truth)]
    assert scores.f1_Q[0] == pytest.approx(DiceMetric()(*one).item(), abs=1e-6)  # MONAI divides in float32


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"), [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)]
)
def test_empty_masks_follow_the_named_policy(predicted: bool, truth: bool, expected: float) -> None:
    counts = counted(np.full((2, 3), predicted), np.full((2, 3), truth))
    assert [getattr(scores_of(counts), name)[0] for name in NAMES] == [expected] * 4
    swapped = EmptyMaskPolicy(name="swapped", both_empty=0.25, one_empty=0.75)
    other = 0.25 if expected == 1.0 else 0.75
    assert [getattr(scores_of(counts, swapped), name)[0] for name in NAMES] == [other] * 4


def test_policy_outside_the_scale_is_refused() -> None:
    with pytest.raises(LungfastError, match="0…1"):
        EmptyMaskPolicy(one_empty=float("nan"))


def test_threshold_lists_are_exact_decimals() -> None:
    assert PAPER_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7)
    assert [f"{t:.2f}" for t in DEFAULT_THRESHOLDS] == [repr(t).ljust(4, "0") for t in DEFAULT_THRESHOLDS]
    assert (len(DEFAULT_THRESHOLDS), DEFAULT_THRESHOLDS[0], DEFAULT_THRESHOLDS[-1]) == (91, 0.05, 0.95)


def test_the_mean_per_image_f1_decides() -> None:
    # threshold 0.6 is best for the mean, though 0.5 wins on two of the three images
    f1_NQ = np.array([[0.9, 0.8, 0.1], [0.9, 0.8, 0.1], [0.2, 0.9, 0.1]])
    choice = choose_threshold(f1_NQ, (0.5, 0.6, 0.7))
    assert (choice.threshold, choice.index, choice.at_edge) == (0.6, 1, False)
    assert choice.mean_f1 == pytest.approx(2.5 / 3)


@pytest.mark.parametrize(
    ("thresholds", "best", "chosen"),
    [
        ((0.3, 0.45, 0.7), (1, 1, 1), 0.45),  # nearest to 0.5
        ((0.3, 0.6, 0.7), (1, 0, 1), 0.3),  # equally near, though not in float64: the lower
        ((0.4, 0.6), (1, 1), 0.4),
        (DEFAULT_THRESHOLDS, (1,) * 91, 0.5),
    ],
)
def test_ties(thresholds: tuple[float, ...], best: tuple[int, ...], chosen: float) -> None:
    f1_NQ = np.tile(0.5 + 0.25 * np.array(best), (3, 1))
    assert choose_threshold(f1_NQ, thresholds).threshold == chosen


def test_rounding_of_a_mean_does_not_break_a_tie() -> None:
    f1_NQ = np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])
    means = f1_NQ.mean(axis=0)
    assert means[0] != means[1]  # equal but for the order of the sum
    for order in (f1_NQ, f1_NQ[:, ::-1]):
        assert choose_threshold(order, (0.5, 0.6)).threshold == 0.5


@pytest.mark.parametrize(("best", "at_edge"), [(0, True), (1, False), (2, True)])
def test_a_best_value_at_the_edge_is_told(best: int, at_edge: bool) -> None:
    assert choose_threshold(np.eye(3)[[best]], (0.4, 0.5, 0.6)).at_edge is at_edge


def test_a_single_threshold_has_no_edge() -> None:
    assert choose_threshold(np.ones((2, 1)), (0.5,)).at_edge is False


@pytest.mark.parametrize("shape", [(0, 2), (3, 3), (2,)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LungfastError, match="cannot choose"):
        choose_threshold(np.ones(shape), (0.5, 0.6))


def test_stack_keeps_the_order_of_images() -> None:
    rng = np.random.default_rng(0)
    parts = [scores_of(counted(rng.random((5, 5)) < 0.5, rng.random((5, 5)) < 0.5)) for _ in range(3)]
    stack = stack_scores(parts)
    for name in NAMES:
        assert np.array_equal(getattr(stack, f"{name[:-1]}NQ")[2], getattr(parts[2], name))
    with pytest.raises(LungfastError, match="no images"):
        stack_scores([])


def test_folds() -> None:
    summary = over_folds([0.9, 0.8, 0.7])
    assert (summary.mean, summary.std) == (pytest.approx(0.8), pytest.approx(0.1))  # ddof 1
    assert over_folds([0.9]).std is None
    with pytest.raises(LungfastError, match="no folds"):
        over_folds([])


def test_bootstrap_equals_a_plain_loop_over_patients() -> None:
    rng = np.random.default_rng(5)
    patients = ["a", "b", "b", "c", "d", "d", "d", "e"]
    values = rng.random(len(patients))
    draws_DP = np.random.default_rng(3).integers(5, size=(1200, 5))  # more than are held at a time
    low, high = np.percentile(naive.patient_means(values, patients, draws_DP), [2.5, 97.5])
    summary = per_image_summary(values, patients, seed=3, draws=1200)
    assert summary.ci95 == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    assert (summary.mean, summary.n) == (pytest.approx(values.mean()), 8)


def test_an_interval_over_patients_is_wider_than_one_over_images() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(0.9, 0.05, 20), 10)  # ten equal images a patient
    owners = [f"p{n // 10}" for n in range(200)]
    by_patient = per_image_summary(values, owners).ci95
    by_image = per_image_summary(values, [str(n) for n in range(200)]).ci95
    assert by_patient is not None
    assert by_image is not None
    assert (by_patient[1] - by_patient[0]) > 2.5 * (by_image[1] - by_image[0])  # sqrt(10) in theory


def test_one_patient_has_no_interval() -> None:
    assert per_image_summary(np.array([0.5, 0.7]), ["a", "a"]).ci95 is None
    with pytest.raises(LungfastError, match="one patient per image"):
        per_image_summary(np.array([0.5, 0.7]), ["a"])


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.integers(0, 99))
def test_interval_holds_within_the_values_and_is_repeatable(values: list[float], seed: int) -> None:
    patients = [str(n) for n in range(len(values))]
    first = per_image_summary(np.array(values), patients, seed=seed, draws=50)
    assert first == per_image_summary(np.array(values), patients, seed=seed, draws=50)
    assert first.ci95 is not None
    assert min(values) - 1e-12 <= first.ci95[0] <= first.ci95[1] <= max(values) + 1e-12
