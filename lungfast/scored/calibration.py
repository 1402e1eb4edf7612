"""Are the masks' probabilities what they say? Pixels counted by probability, then the expected error.

Comes in: :class:`Counts` of images at every edge of :data:`CALIBRATION_EDGES`. Goes out: integers by bin, and
at last the expected calibration error of Naeini et al. (AAAI 2015): the mean over pixels of the distance
between a bin's share of lung and its probability. A bin's probability is its middle, at most 0.005 from any
pixel in it; the bins at both ends, where most pixels lie, are 0.001 wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lungfast.errors import LungfastError
from lungfast.records import Counts, Float64, Int64

CALIBRATION_EDGES: tuple[float, ...] = (
    *(0.001, 0.002, 0.005),
    *(n / 100 for n in range(1, 100)),
    *(0.995, 0.998, 0.999),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Pixels of some images by predicted probability, and those of them that are lung; B = edges + 1 bins."""

    pixels_B: Int64
    lung_B: Int64

    @classmethod
    def of(cls, counts: Counts) -> Reliability:
        """Of one image, counted at :data:`CALIBRATION_EDGES`."""
        above_Q = counts.true_positive_Q + counts.false_positive_Q
        all_pixels = above_Q + counts.false_negative_Q + counts.true_negative_Q
        lung = counts.true_positive_Q + counts.false_negative_Q
        if len(above_Q) != len(CALIBRATION_EDGES):
            raise LungfastError(
                "counts do not fit the bins", found=str(len(above_Q)), expected=str(len(CALIBRATION_EDGES))
            )
        return cls(
            pixels_B=-np.diff(np.concatenate([all_pixels[:1], above_Q, [0]])),
            lung_B=-np.diff(np.concatenate([lung[:1], counts.true_positive_Q, [0]])),
        )


def pooled(parts: Sequence[Reliability]) -> Reliability:
    """All images of all parts, every pixel once."""
    return Reliability(
        pixels_B=np.sum([one.pixels_B for one in parts], axis=0),
        lung_B=np.sum([one.lung_B for one in parts], axis=0),
    )


def bin_middles() -> Float64:
    """(B,) probabilities."""
    edges = np.array([0.0, *CALIBRATION_EDGES, 1.0])
    return np.asarray((edges[1:] + edges[:-1]) / 2)


def expected_calibration_error(found: Reliability) -> float:
    """In 0…1, over all pixels that were counted."""
    distance_B = np.abs(found.lung_B - bin_middles() * found.pixels_B)
    return float(distance_B.sum() / found.pixels_B.sum())
