"""Cleaning against a flood fill and scipy; counts of a mask against the twin of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from lungfast.errors import LungfastError
from lungfast.geometry import pack_mask
from lungfast.records import Bool
from lungfast.scored.cleaning import counts_of_mask, two_largest_filled
from tests.naive import cleaning as naive
from tests.naive import scored

FIELDS = ("true_positive_Q", "false_positive_Q", "false_negative_Q", "true_negative_Q")


@st.composite
def masks(draw: st.DrawFn) -> Bool:
    size = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return np.asarray(rng.random(size) < draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])))


def drawn(*rows: str) -> Bool:
    return np.array([[letter == "#" for letter in row] for row in rows])


@given(masks())
def test_equals_a_flood_fill(mask_HW: Bool) -> None:
    before_HW = mask_HW.copy()
    cleaned_HW = two_largest_filled(mask_HW)
    assert np.array_equal(cleaned_HW, naive.two_largest_filled(mask_HW))
    assert np.array_equal(two_largest_filled(cleaned_HW), cleaned_HW)
    assert np.array_equal(mask_HW, before_HW)


@given(masks())
def test_holes_are_those_of_scipy(mask_HW: Bool) -> None:
    labels_HW, n = ndimage.label(mask_HW, np.ones((3, 3)))
    sizes = ndimage.sum(mask_HW, labels_HW, range(1, n + 1))
    kept = np.argsort(-np.atleast_1d(sizes), kind="stable")[:2] + 1
    filled_HW = ndimage.binary_fill_holes(np.isin(labels_HW, kept) & mask_HW)
    assert np.array_equal(two_largest_filled(mask_HW), filled_HW)


def test_a_picture() -> None:
    mask_HW = drawn(
        ".####...####",
        ".#..#...#.##",
        ".#.##.#.####",
        "..##....#...",
        "............",
        "##..........",
    )
    expected_HW = drawn(
        ".####...####",
        ".####...####",
        ".####...####",
        "..##....#...",
        "............",
        "............",
    )
    expected_HW[2, 2] = True  # closed below by a corner only: a hole
    assert np.array_equal(two_largest_filled(mask_HW), expected_HW)


def test_of_equal_components_the_upper_is_kept() -> None:
    mask_HW = drawn("#....", "..#..", "....#")
    assert np.array_equal(two_largest_filled(mask_HW), drawn("#....", "..#..", "....."))


def test_one_component_and_none() -> None:
    assert not two_largest_filled(np.zeros((4, 5), bool)).any()
    whole_HW = np.ones((4, 5), bool)
    assert np.array_equal(two_largest_filled(whole_HW), whole_HW)


@given(masks(), st.integers(0, 99))
def test_counts_equal_those_of_the_kernels_twin(mask_HW: Bool, seed: int) -> None:
    truth_HW = np.random.default_rng(seed).random(mask_HW.shape) < 0.5
    expected = scored.counts(np.where(mask_HW, 1.0, -1.0), truth_HW, np.zeros(1, np.float32))
    packed = pack_mask(truth_HW)
    packed[:, -1] |= np.uint8((1 << (-mask_HW.shape[1] % 8)) - 1)  # bits beyond the width count nothing
    found = counts_of_mask(mask_HW, packed)
    for name in FIELDS:
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
        assert getattr(found, name).dtype == np.int64


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(LungfastError, match="does not fit"):
        counts_of_mask(np.zeros((3, 9), bool), pack_mask(np.zeros((3, 8), bool)))
