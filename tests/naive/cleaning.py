"""The plain twin of lungfast.scored.cleaning: flood fill, one pixel after another."""

from __future__ import annotations

import numpy as np

from lungfast.records import Bool

FOUR = ((0, 1), (0, -1), (1, 0), (-1, 0))
EIGHT = (*FOUR, (1, 1), (1, -1), (-1, 1), (-1, -1))


def two_largest_filled(mask_HW: Bool) -> Bool:
    components = sorted(flooded(mask_HW, EIGHT), key=len, reverse=True)  # stable: the first found wins
    kept_HW = np.zeros(mask_HW.shape, bool)
    for pixel in (pixel for component in components[:2] for pixel in component):
        kept_HW[pixel] = True
    height, width = mask_HW.shape
    for region in flooded(~kept_HW, FOUR):
        if not any(row in {0, height - 1} or column in {0, width - 1} for row, column in region):
            for pixel in region:
                kept_HW[pixel] = True
    return kept_HW


def flooded(mask_HW: Bool, steps: tuple[tuple[int, int], ...]) -> list[list[tuple[int, int]]]:
    """The components of a mask as lists of pixels, in the order of their first pixel."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask_HW)}
    components = []
    for seed in sorted(left):
        if seed not in left:
            continue
        left.remove(seed)
        component = [seed]
        for row, column in component:
            for near in ((row + down, column + right) for down, right in steps):
                if near in left:
                    left.remove(near)
                    component.append(near)
        components.append(component)
    return components
