"""Masks of two elliptic lungs, in sizes of every shape."""

from __future__ import annotations

import numpy as np

from lungfast.records import Bool

# normalised ellipses: centre x, centre y, half width, half height; what is left in the image comes first
LEFT, RIGHT = (0.3, 0.45, 0.12, 0.28), (0.7, 0.45, 0.12, 0.28)
SIZES = [(400, 300), (300, 400), (350, 350), (401, 333)]


def ellipse(size: tuple[int, int], shape: tuple[float, float, float, float]) -> Bool:
    y, x = (np.arange(size[0])[:, None] + 0.5) / size[0], (np.arange(size[1])[None] + 0.5) / size[1]
    return ((x - shape[0]) / shape[2]) ** 2 + ((y - shape[1]) / shape[3]) ** 2 < 1


def two(size: tuple[int, int]) -> dict[str, Bool]:
    # named as a radiologist does: the patient's left lung is right in the image
    return {"left": ellipse(size, RIGHT), "right": ellipse(size, LEFT)}


def union(size: tuple[int, int]) -> dict[str, Bool]:
    return {"lungs": ellipse(size, LEFT) | ellipse(size, RIGHT)}
