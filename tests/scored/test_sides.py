"""Which lung is which: two components, lungs that touch, one alone, none; right is on the image's left."""

from __future__ import annotations

import numpy as np
import pytest

from lungfast.scored.sides import lung_areas


def ellipse(x: float, y: float, rx: float, ry: float, size: tuple[int, int] = (120, 130)) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.asarray(((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 < 1)


LEFT_IN_IMAGE, RIGHT_IN_IMAGE = ellipse(35, 60, 20, 45), ellipse(95, 60, 17, 45)
BRIDGE = np.zeros((120, 130), bool)
BRIDGE[58:62, 50:85] = True


def test_two_lungs() -> None:
    areas = lung_areas(LEFT_IN_IMAGE | RIGHT_IN_IMAGE)
    assert areas.division == "two"
    assert (areas.right, areas.left) == (LEFT_IN_IMAGE.sum(), RIGHT_IN_IMAGE.sum())
    mirrored = lung_areas((LEFT_IN_IMAGE | RIGHT_IN_IMAGE)[:, ::-1])
    assert (mirrored.left, mirrored.right) == (areas.right, areas.left)


def test_a_stray_blob_counts_for_the_nearer_lung() -> None:
    blob = ellipse(15, 8, 4, 4)
    areas = lung_areas(LEFT_IN_IMAGE | RIGHT_IN_IMAGE | blob)
    assert (areas.right, areas.left) == (LEFT_IN_IMAGE.sum() + blob.sum(), RIGHT_IN_IMAGE.sum())


def test_lungs_that_touch_are_divided_where_they_are_narrow() -> None:
    mask = LEFT_IN_IMAGE | RIGHT_IN_IMAGE | BRIDGE
    areas = lung_areas(mask)
    assert areas.division == "touching"
    assert areas.left + areas.right == mask.sum()
    assert areas.right == pytest.approx(LEFT_IN_IMAGE.sum(), rel=0.06)
    assert areas.left == pytest.approx(RIGHT_IN_IMAGE.sum(), rel=0.06)


def test_one_lung_and_none() -> None:
    one = lung_areas(RIGHT_IN_IMAGE)
    assert (one.left, one.right, one.division) == (RIGHT_IN_IMAGE.sum(), 0, "one")
    assert lung_areas(LEFT_IN_IMAGE).left == 0
    none = lung_areas(np.zeros((5, 6), bool))
    assert (none.left, none.right, none.division) == (0, 0, "none")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_masks_of_a_pixel_or_a_line(size: tuple[int, int]) -> None:
    areas = lung_areas(np.ones(size, bool))
    assert areas.left + areas.right == size[0] * size[1]
