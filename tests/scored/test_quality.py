"""Quality from logits: the decoder's own expected Dice, disagreement, the cut, and how good the flag is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungfast.scored.quality import (
    TOO_FEW,
    disagreement,
    flag_scores,
    highest_cut,
    logit_of,
    self_dice,
)

EVERYWHERE = np.ones((6, 7), bool)


def test_self_dice_is_the_formula_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    logits_hw = rng.normal(0, 3, (6, 7)).astype(np.float32)
    valid_hw = rng.random((6, 7)) < 0.7
    both = probability = mask = 0.0
    for logit in logits_hw[valid_hw].tolist():
        p = 1 / (1 + math.exp(-(logit - math.log(0.6 / 0.4))))
        m = p > 0.5
        both, probability, mask = both + p * m, probability + p, mask + m
    assert self_dice(logits_hw, valid_hw, 0.6) == pytest.approx(2 * both / (probability + mask), rel=1e-12)


def test_certainty_is_one_doubt_is_less_and_nothing_is_zero() -> None:
    sure_hw = np.where(np.arange(42).reshape(6, 7) < 20, 40.0, -40.0).astype(np.float32)
    assert self_dice(sure_hw, EVERYWHERE, 0.5) == pytest.approx(1)
    assert self_dice(sure_hw / 40, EVERYWHERE, 0.5) < 0.8
    assert self_dice(-np.abs(sure_hw), EVERYWHERE, 0.5) == 0
    assert self_dice(sure_hw * 1e30, EVERYWHERE, 0.5) == pytest.approx(1)


def test_padding_counts_in_nothing() -> None:
    logits_hw = np.random.default_rng(1).normal(0, 3, (6, 7)).astype(np.float32)
    valid_hw = EVERYWHERE.copy()
    valid_hw[4:] = False
    other_hw = logits_hw.copy()
    other_hw[4:] = 50
    assert self_dice(logits_hw, valid_hw, 0.5) == self_dice(other_hw, valid_hw, 0.5)


def test_disagreement_is_one_minus_the_mean_dice_of_all_pairs() -> None:
    masks_Khw = np.random.default_rng(2).random((4, 6, 7)) < 0.4
    dice = [
        2 * (a & b).sum() / (a.sum() + b.sum()) for i, a in enumerate(masks_Khw) for b in masks_Khw[i + 1 :]
    ]
    assert disagreement(masks_Khw) == pytest.approx(1 - np.mean(dice), rel=1e-6)
    assert disagreement(masks_Khw[:1]) is None
    assert disagreement(np.zeros((3, 6, 7), bool)) == 0
    assert disagreement(np.stack([EVERYWHERE, ~EVERYWHERE])) == 1


@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8, 0.81, 0.9, 0.95, 1.0]), min_size=1, max_size=60))
def test_the_cut_is_the_largest_with_few_false_alarms(quality: list[float]) -> None:
    good_N = np.array(quality)
    cut = highest_cut(np.append(good_N, 0.1), np.append(np.full(len(quality), 0.95), 0.2))
    assert (good_N < cut).mean() <= 0.05
    higher = good_N[good_N > cut]
    if higher.size:
        assert (good_N < higher.min()).mean() > 0.05


def test_without_a_good_image_every_mask_is_flagged() -> None:
    assert highest_cut(np.array([0.5, 0.6]), np.array([0.1, 0.89])) == 1


def test_recall_and_precision_of_the_flag() -> None:
    f1_N = np.array([0.5, 0.6, 0.7, 0.89, 0.9, 0.95, 0.99, 1.0])
    scores = flag_scores([True, True, True, False, True, False, False, False], f1_N)
    assert (scores.n, scores.n_bad, scores.n_flagged) == (8, 4, 4)
    assert scores.recall is not None
    assert scores.precision is not None
    assert scores.recall.value == scores.precision.value == 0.75
    low, high = scores.recall.ci95
    assert 0 < low < 0.75 < high < 1
    assert scores.note == TOO_FEW
    assert flag_scores([False] * 20, np.zeros(20)).note == ""
    assert flag_scores([True] * 3 + [False] * 17, np.zeros(20)).note == f"{TOO_FEW} flagged"
    nothing = flag_scores([False], [1.0])
    assert nothing.recall is None
    assert nothing.precision is None


def test_logit_of_is_the_inverse_of_the_sigmoid() -> None:
    assert 1 / (1 + math.exp(-logit_of(0.37))) == pytest.approx(0.37)
