"""Which lung is which: the two lungs of a predicted mask, told apart by their place in the image.

Comes in: a binary mask. Goes out: the pixels of the lung on the image's left and right, and how they were
told apart. In a standard (PA or AP) film the patient's right lung lies on the image's left, as if the patient
faced the viewer; a mirrored film cannot be recognised from a mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from lungfast.geometry import bounding_box
from lungfast.records import Bool, Int64

Division = Literal["two", "touching", "one", "none"]
LEAST_SHARE = 0.1
"""A second component smaller than this share of the first is a stray blob, not a lung."""
ONE_LUNG_ASPECT = 0.95
"""A single component narrower than this share of its tallest column is one lung. In Montgomery and Shenzhen
one lung has 0.38 to 1.2 (median 0.65), both together 0.84 to 2.1 (median 1.35)."""
ROWS_AT_ONCE = 256
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class LungAreas:
    """Pixels of the *patient's* lungs; ``division`` says how they were told apart."""

    left: int
    right: int
    division: Division


def lung_areas(mask_HW: Bool) -> LungAreas:
    """Areas by side: the two largest components, or one divided where it is lowest in its middle.

    Every other component counts for the lung whose centre is nearer across the image.
    """
    box = bounding_box(mask_HW)
    if box is None:
        return LungAreas(left=0, right=0, division="none")
    labels_hw, n = ndimage.label(mask_HW[box], _EIGHT)
    profiles_NW = _profiles(labels_hw, n)
    sizes_N = profiles_NW.sum(axis=1)
    centres_N = profiles_NW @ (np.arange(profiles_NW.shape[1]) + 0.5) / sizes_N
    largest = np.argsort(-sizes_N, kind="stable")[:2]
    if n >= 2 and sizes_N[largest[1]] >= LEAST_SHARE * sizes_N[largest[0]]:
        middle = centres_N[largest].mean()
        image_left = int(sizes_N[centres_N < middle].sum())
        return LungAreas(right=image_left, left=int(sizes_N.sum()) - image_left, division="two")
    return _of_one(profiles_NW, sizes_N, first_column=box[1].start, image_width=mask_HW.shape[1])


def _of_one(profiles_NW: Int64, sizes_N: Int64, *, first_column: int, image_width: int) -> LungAreas:
    profile_W, total = profiles_NW.sum(axis=0), int(sizes_N.sum())
    main_W = profiles_NW[int(sizes_N.argmax())]
    columns = np.flatnonzero(main_W)
    width = int(columns[-1] - columns[0]) + 1
    if width < ONE_LUNG_ASPECT * main_W.max():
        centre = first_column + float(columns.mean()) + 0.5
        on_image_left = centre < image_width / 2
        return LungAreas(right=total * on_image_left, left=total * (not on_image_left), division="one")
    start = int(columns[0]) + width // 4
    valley = start + int(main_W[start : start + max(1, width // 2)].argmin())
    image_left = int(profile_W[:valley].sum())
    return LungAreas(right=image_left, left=total - image_left, division="touching")


def _profiles(labels_hw: Int64, n: int) -> Int64:
    """(n, W): pixels of every component in every column, some rows at a time (10 MB, not 300, for a film)."""
    width = labels_hw.shape[1]
    counts = np.zeros((n + 1) * width, np.int64)
    for first in range(0, len(labels_hw), ROWS_AT_ONCE):
        flat = labels_hw[first : first + ROWS_AT_ONCE].astype(np.int64) * width + np.arange(width)
        counts += np.bincount(flat.ravel(), minlength=counts.size)
    return counts.reshape(n + 1, width)[1:]
