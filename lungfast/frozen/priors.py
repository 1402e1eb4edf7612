"""Where lungs are on average: prompts that need no ground truth at test time.

Comes in: the masks of one fold's own *training* images. Goes out: points and boxes in normalised coordinates
of the unpadded image (see records.py), so that they land on the same anatomy in portrait, landscape and
square. The paper averages training images and takes points from that; our reading is the average training
*mask*.

A lung's place is looked up by its position, never by its name: lungs are ordered from left to right *in the
image*, because datasets disagree on which side ``left`` is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from lungfast.frozen.mask_summary import WHOLE_IMAGE_4, MaskSummary, components
from lungfast.geometry import tight_box
from lungfast.records import Bool, Float32, Float64, Int64

Placement = Literal["deepest", "spread"]
INSIDE, OUTSIDE, BOX_LEVEL = 0.7, 0.05, 0.5


def fold_averages(summaries: Sequence[MaskSummary]) -> dict[str, Float32]:
    """The average training mask: per structure where all images have the same two, else of their union."""
    names = set(summaries[0].packed)
    if len(names) == 2 and all(set(s.packed) == names for s in summaries):
        return {name: _mean(s.averages[name] for s in summaries) for name in sorted(names)}
    return {"lungs": _mean(np.clip(sum(s.averages.values()), 0, 1) for s in summaries)}


def lung_averages(averages: Mapping[str, Float32]) -> list[Float32]:
    """One average per lung, left to right in the image; a single one where they cannot be told apart."""
    if len(averages) == 2:
        lungs = [average_hw for average_hw in averages.values() if average_hw.any()]
    else:
        union_hw = np.asarray(np.clip(sum(averages.values()), 0, 1), np.float32)
        splits = (components(union_hw, level) for level in np.arange(BOX_LEVEL, 0.95, 0.05))
        lungs = next((parts for parts in splits if len(parts) == 2), [union_hw])
    if not any(lung_hw.any() for lung_hw in lungs):
        raise ValueError("no prior: every training mask is empty")
    return sorted(lungs, key=lambda average_hw: float(ndimage.center_of_mass(average_hw)[1]))


def prior_box(average_hw: Float32) -> Float64:
    """Normalised tight box of the average mask > 0.5 (> half its maximum where nothing exceeds 0.5)."""
    box_4 = tight_box(average_hw > min(BOX_LEVEL, float(average_hw.max()) / 2))
    return np.array(WHOLE_IMAGE_4) if box_4 is None else box_4


def prior_points(average_hw: Float32, count: int, placement: Placement = "deepest") -> Float64:
    """``count`` normalised points inside one lung's average mask > 0.7 (> 0.9 of its maximum below that).

    ``deepest``: the point farthest from the border, then again outside a disc around each point taken.
    ``spread``: k-means over the region, so that the points share it evenly.
    """
    inside_hw = average_hw > min(INSIDE, 0.9 * float(average_hw.max()))
    if placement == "spread" and count > 1:
        return _spread(inside_hw, count)
    return _deepest(inside_hw, count)


def negative_points(averages: Mapping[str, Float32], count: int) -> Float64:
    """``count`` normalised points where lungs never are: between the lungs first, then deepest outside."""
    union_hw = np.clip(sum(averages.values()), 0, 1)
    outside_hw = union_hw < max(OUTSIDE, 1.1 * float(union_hw.min()))
    core_hw = union_hw > BOX_LEVEL
    right_of_hw, left_of_hw = (
        np.maximum.accumulate(core_hw, axis=1),
        np.maximum.accumulate(core_hw[:, ::-1], axis=1)[:, ::-1],
    )
    between_hw = outside_hw & right_of_hw & left_of_hw
    first_N2 = _deepest(between_hw, 1) if between_hw.any() and count else np.zeros((0, 2))
    rest_N2 = _deepest(outside_hw, count - len(first_N2), taken_N2=first_N2)
    return np.concatenate([first_N2, rest_N2])


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Prompts of one fold in normalised coordinates: I instances of N points with labels, and a box each."""

    points_IN2: Float64
    labels_IN: Int64
    boxes_I4: Float64

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse of :meth:`from_dict`."""
        return {
            "points": self.points_IN2.tolist(),
            "labels": self.labels_IN.tolist(),
            "boxes": self.boxes_I4.tolist(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Prior:
        boxes_I4 = np.array(content["boxes"], np.float64)
        instances = len(boxes_I4)
        return cls(
            points_IN2=np.array(content["points"], np.float64).reshape(instances, -1, 2),
            labels_IN=np.array(content["labels"], np.int64).reshape(instances, -1),
            boxes_I4=boxes_I4,
        )


def _mean(grids: Iterable[Any]) -> Float32:
    """One grid at a time, in float64: thousands of them never stand in memory together."""
    total_hw, count = np.float64(0), 0
    for grid_hw in grids:
        total_hw = total_hw + grid_hw
        count += 1
    return np.asarray(total_hw / max(1, count), np.float32)


def _depth(region_hw: Bool) -> Float64:
    """Distance of each cell to the nearest cell outside; beyond the image is outside."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(region_hw, 1))[1:-1, 1:-1], np.float64)


def _deepest(region_hw: Bool, count: int, taken_N2: Float64 | None = None) -> Float64:
    height, width = region_hw.shape
    centres_hw2 = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)
    depth_hw = _depth(region_hw)
    chosen = [] if taken_N2 is None else list(taken_N2 * (width, height))
    already, free_hw = len(chosen), region_hw.copy()
    for point_2 in chosen:
        free_hw &= _outside_disc(centres_hw2, point_2, depth_hw)
    for _ in range(count):
        free_depth_hw = _depth(free_hw)
        if free_depth_hw.max() <= 0:  # discs cover the region: go for the cell farthest from all points
            distances = [np.linalg.norm(centres_hw2 - point_2, axis=-1) for point_2 in chosen]
            free_depth_hw = np.where(region_hw, np.min(distances, axis=0), -1.0)
        # a lung's axis is nearly equally deep along centimetres: its middle, not the first cell by chance
        ridge_N2 = centres_hw2[free_depth_hw >= free_depth_hw.max() - 0.5]
        chosen.append(ridge_N2[np.linalg.norm(ridge_N2 - ridge_N2.mean(axis=0), axis=-1).argmin()])
        free_hw = free_hw & _outside_disc(centres_hw2, chosen[-1], depth_hw)
    return np.array(chosen[already:], np.float64).reshape(-1, 2) / (width, height)


def _outside_disc(centres_hw2: Float64, point_2: Float64, depth_hw: Float64) -> Bool:
    """True outside the largest disc around the point that the region holds."""
    radius = depth_hw[int(point_2[1]), int(point_2[0])]
    return np.asarray(np.linalg.norm(centres_hw2 - point_2, axis=-1) > radius)


def _spread(region_hw: Bool, count: int, rounds: int = 20) -> Float64:
    """Lloyd's k-means from ``_deepest`` starts; each mean is moved to the nearest cell of the region."""
    height, width = region_hw.shape
    cells_N2 = np.argwhere(region_hw)[:, ::-1] + 0.5
    means_N2 = _deepest(region_hw, count) * (width, height)
    for _ in range(rounds):
        owner_N = np.linalg.norm(cells_N2[:, None] - means_N2[None], axis=-1).argmin(axis=1)
        groups = [cells_N2[owner_N == i] for i in range(count)]
        means_N2 = np.stack([g.mean(axis=0) if len(g) else m for g, m in zip(groups, means_N2, strict=True)])
    nearest = np.linalg.norm(cells_N2[:, None] - means_N2[None], axis=-1).argmin(axis=0)
    return np.asarray(cells_N2[nearest] / (width, height), np.float64)
