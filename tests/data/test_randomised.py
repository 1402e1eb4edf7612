"""Domain-randomised X-rays: the same for the same numbers, varied, and with masks that fit together."""

from __future__ import annotations

import numpy as np
import pytest

from lungfast.data.randomised import STRUCTURES, GeneratedXray, generate_xray

SIDE = 96


@pytest.fixture(scope="module")
def xrays() -> list[GeneratedXray]:
    return [generate_xray(3, i, SIDE) for i in range(24)]


def test_the_same_numbers_give_the_same_pixels(xrays: list[GeneratedXray]) -> None:
    again = generate_xray(3, 5, SIDE)
    assert np.array_equal(again.image_HW, xrays[5].image_HW)
    assert np.array_equal(again.masks_SHW, xrays[5].masks_SHW)
    assert not np.array_equal(generate_xray(4, 5, SIDE).image_HW[:50, :50], again.image_HW[:50, :50])


def test_two_films_show_one_body_differently(xrays: list[GeneratedXray]) -> None:
    assert (xrays[0].masks_SHW == xrays[1].masks_SHW).mean() > 0.9  # their collimations differ
    assert not np.array_equal(xrays[0].image_HW, xrays[1].image_HW)
    assert xrays[1].masks_SHW.shape != xrays[2].masks_SHW.shape or not np.array_equal(
        xrays[1].masks_SHW, xrays[2].masks_SHW
    )


def test_images_are_8_bit_with_the_side_asked_for(xrays: list[GeneratedXray]) -> None:
    for one in xrays:
        assert one.image_HW.dtype == np.uint8
        assert max(one.image_HW.shape) == SIDE
        assert min(one.image_HW.shape) >= 0.7 * SIDE
        assert one.masks_SHW.shape == (len(STRUCTURES), *one.image_HW.shape)
    assert len({one.image_HW.shape for one in xrays}) > 4


def test_lungs_and_mediastinum_do_not_overlap(xrays: list[GeneratedXray]) -> None:
    for one in xrays:
        left, right, middle, abdomen = one.masks_SHW[:4]
        assert not (left & right).any()
        assert not ((left | right) & (middle | abdomen)).any()
    shares = [float(one.masks_SHW[:2].any(axis=0).mean()) for one in xrays]
    assert 0.1 < np.median(shares) < 0.5


def test_exposures_differ(xrays: list[GeneratedXray]) -> None:
    """Lungs are darker than the mediastinum in most, brighter in the inverted; contrasts vary widely."""
    steps = []
    for one in xrays:
        lungs, middle = one.masks_SHW[:2].any(axis=0), one.masks_SHW[2]
        if lungs.any() and middle.any():
            steps.append(float(one.image_HW[middle].mean()) - float(one.image_HW[lungs].mean()))
    assert np.mean(np.array(steps) > 0) > 0.6
    assert np.std(steps) > 20
