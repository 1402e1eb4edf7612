"""Films and negatives are told apart by their lungs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from lungfast.data.datasets import list_montgomery, list_shenzhen
from lungfast.data.phantoms import MONTGOMERY, SHENZHEN, render_phantom
from lungfast.data.polarity import looks_negative, lung_contrast
from lungfast.records import Sample

BOX = np.zeros((40, 50), bool)
BOX[10:30, 5:20] = True


def lungs_of(sample: Sample) -> np.ndarray:
    return np.logical_or.reduce(list(sample.masks.values()))


@pytest.mark.parametrize("style", [MONTGOMERY, SHENZHEN], ids=lambda style: style.name)
@pytest.mark.parametrize("size", [(300, 260), (900, 1000)])
def test_phantoms_and_their_negatives(style, size: tuple[int, int]) -> None:
    for seed in range(4):
        phantom = render_phantom(style, seed, size)
        lungs_HW = phantom.left_HW | phantom.right_HW
        assert lung_contrast(phantom.image_HW, lungs_HW) > 0.5
        assert not looks_negative(phantom.image_HW, lungs_HW)
        assert looks_negative(255 - phantom.image_HW, lungs_HW)


def test_the_contrast_is_that_of_all_pixels_in_the_box_around_the_lungs() -> None:
    image_HW = np.random.default_rng(0).integers(0, 256, BOX.shape).astype(np.uint8)
    two_HW = BOX.copy()
    two_HW[12:28, 30:45] = True
    box = image_HW[10:30, 5:45].astype(float)
    inside = two_HW[10:30, 5:45]
    expected = (box[~inside].mean() - box[inside].mean()) / box.std()
    assert lung_contrast(image_HW, two_HW) == pytest.approx(expected)


@pytest.mark.parametrize(
    "lungs_HW", [np.zeros_like(BOX), BOX, np.ones_like(BOX)], ids=["none", "a box", "all"]
)
def test_nothing_is_said_where_nothing_can_be_compared(lungs_HW: np.ndarray) -> None:
    """Also a mask that fills its own box, and an image of one grey."""
    image_HW = np.where(BOX, 200, 10).astype(np.uint8)
    assert lung_contrast(image_HW, lungs_HW) == 0
    assert lung_contrast(np.full_like(image_HW, 7), np.eye(*BOX.shape, dtype=bool)) == 0


def test_no_real_film_looks_negative_and_every_negative_does() -> None:
    root = os.environ.get("LUNGFAST_DATA")
    if root is None:
        pytest.skip("LUNGFAST_DATA is unset")
    refs = [*list_montgomery(Path(root)).refs, *list_shenzhen(Path(root), None).refs][::4]
    for sample in (ref.load() for ref in refs):
        assert not looks_negative(sample.image_HW, lungs_of(sample)), sample.id
        assert looks_negative(255 - sample.image_HW, lungs_of(sample)), sample.id
