"""A mask made tidy: at most two lungs, without holes. A named, optional step whose effect is reported.

Comes in: a native binary mask. Goes out: the cleaned mask, and the pixel counts of any one mask against the
packed truth, the same integers as :mod:`lungfast.scored.kernels` gives for a threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from lungfast.errors import LungfastError
from lungfast.geometry import bounding_box, pack_mask
from lungfast.records import Bool, Counts, UInt8

CLEANING = "two largest components, holes filled"
"""The step's name in results."""
_EIGHT = np.ones((3, 3), bool)


def two_largest_filled(mask_HW: Bool) -> Bool:
    """The two largest components (8-connected), then their holes filled (4-connected background).

    Pixels that touch at a corner belong together, so a hole does not leak through a corner. Of components of
    one size the upper is kept; of an empty mask or a single component nothing is lost.
    Holes are what no path of background joins to the border; labelling the background finds them five times
    faster than ``scipy.ndimage.binary_fill_holes`` (the twin in the tests). All of it takes 0.5 s and 0.2 GB
    at 4020x4892.
    """
    cleaned_HW = np.zeros(mask_HW.shape, np.bool_)
    box = bounding_box(mask_HW)
    if box is not None:
        cleaned_HW[box] = _filled(_two_largest(mask_HW[box]))
    return cleaned_HW


def counts_of_mask(mask_HW: Bool, truth_packed: UInt8) -> Counts:
    """Counts (Q = 1) of a native mask against packed truth (H, ceil(W / 8))."""
    mask_packed, inside_packed = pack_mask(mask_HW), pack_mask(np.ones((1, mask_HW.shape[1]), bool))
    if mask_packed.shape != truth_packed.shape:
        raise LungfastError(
            "the packed mask does not fit the image",
            found=f"{truth_packed.dtype} {truth_packed.shape}",
            expected=f"uint8 {mask_packed.shape}",
        )
    both, found = _n_pixels(mask_packed & truth_packed), _n_pixels(mask_packed)
    true = _n_pixels(truth_packed & inside_packed)  # bits beyond the width count nothing
    return Counts(
        true_positive_Q=np.array([both], np.int64),
        false_positive_Q=np.array([found - both], np.int64),
        false_negative_Q=np.array([true - both], np.int64),
        true_negative_Q=np.array([mask_HW.size - found - true + both], np.int64),
    )


def _n_pixels(packed: UInt8) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def _two_largest(mask_HW: Bool) -> Bool:
    labels_HW, n = ndimage.label(mask_HW, _EIGHT)
    if n <= 2:
        return mask_HW
    sizes = np.bincount(labels_HW.ravel())
    sizes[0] = 0  # the background
    largest = np.argsort(-sizes, kind="stable")[:2]
    kept = np.zeros(n + 1, np.bool_)
    kept[largest] = True
    return np.asarray(kept[labels_HW])


def _filled(mask_HW: Bool) -> Bool:
    """True but where the background is joined to a ring of background around the image."""
    labels_HW: npt.NDArray[np.int32] = ndimage.label(~np.pad(mask_HW, 1))[0]
    return np.asarray(labels_HW != labels_HW[0, 0])[1:-1, 1:-1]
