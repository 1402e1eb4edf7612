"""Spoilt films: the mask goes with the image, the same seed gives the same film."""

from __future__ import annotations

import numpy as np
import pytest

from lungfast.data.perturbations import PERTURBATIONS, Perturbation

IMAGE_HW = np.random.default_rng(0).integers(10, 250, (80, 100)).astype(np.uint8)
MASK_HW = np.zeros((80, 100), bool)
MASK_HW[20:60, 30:70] = True


@pytest.mark.parametrize("spoil", PERTURBATIONS, ids=lambda spoil: spoil.name)
def test_every_way_gives_another_image_and_is_repeatable(spoil: Perturbation) -> None:
    image_HW, mask_HW = spoil.apply(IMAGE_HW, MASK_HW, 7)
    assert image_HW.dtype == np.uint8
    assert mask_HW.dtype == bool
    assert image_HW.shape == mask_HW.shape
    assert image_HW.shape != IMAGE_HW.shape or (image_HW != IMAGE_HW).any()
    assert mask_HW.any()
    again = spoil.apply(IMAGE_HW, MASK_HW, 7)
    assert np.array_equal(image_HW, again[0])
    assert np.array_equal(mask_HW, again[1])


def test_geometry_moves_the_mask_with_the_image() -> None:
    as_image = MASK_HW.astype(np.uint8) * np.uint8(255)
    for spoil in PERTURBATIONS:
        if spoil.name.split()[0] in {"rotated", "sideways", "shifted", "cropped"}:
            image_HW, mask_HW = spoil.apply(as_image, MASK_HW, 0)
            assert ((image_HW > 127) != mask_HW).mean() < 0.01, spoil.name
