"""Spoilt films: the mask goes with the image, the same seed gives the same film."""

from __future__ import annotations

import numpy as np
import pytest

from lungfast.data.perturbations import PERTURBATIONS, ROBUSTNESS, Perturbation

IMAGE_HW = np.random.default_rng(0).integers(10, 250, (80, 100)).astype(np.uint8)
MASK_HW = np.zeros((80, 100), bool)
MASK_HW[20:60, 30:70] = True


@pytest.mark.parametrize("spoil", [*PERTURBATIONS, *ROBUSTNESS], ids=lambda spoil: spoil.name)
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


def test_a_deep_file_is_read_with_its_anatomy_over_all_levels() -> None:
    """Neither the window nor a label at full scale takes grey levels away: they are stretched, in order."""
    (deep,) = (one for one in ROBUSTNESS if one.name == "16-bit file")
    ramp_HW = np.tile(np.linspace(60, 180, 200).astype(np.uint8), (150, 1))
    read_HW, _ = deep.apply(ramp_HW, ramp_HW > 100, 0)
    assert (read_HW[:3, -6:] == 255).all()
    below_HW, ramp_below_HW = read_HW[3:].astype(int), ramp_HW[3:].astype(int)
    assert below_HW.max() - below_HW.min() > 250
    line = np.polyval(np.polyfit(ramp_below_HW.ravel(), below_HW.ravel(), 1), ramp_below_HW)
    assert np.abs(below_HW - line).max() < 5


def test_geometry_moves_the_mask_with_the_image() -> None:
    as_image = MASK_HW.astype(np.uint8) * np.uint8(255)
    for spoil in PERTURBATIONS:
        if spoil.name.split()[0] in {"rotated", "sideways", "shifted", "cropped"}:
            image_HW, mask_HW = spoil.apply(as_image, MASK_HW, 0)
            assert ((image_HW > 127) != mask_HW).mean() < 0.01, spoil.name
