"""Where lungs are on average: prompts that need no ground truth at test time.

Comes in: the masks of one fold's own *training* images. Goes out: points and boxes in normalised coordinates
of the unpadded image (see records.py), so that they land on the same anatomy in portrait, landscape and
square. The paper averages training images and takes points from that; our reading is the average training
*mask*.

A lung's place is looked up by its position, never by its name: lungs are ordered from left to right *in the
image*, because datasets disagree on which side ``left`` is.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from lungfast.geometry import area_average, tight_box
from lungfast.records import Bool, Float32, Float64, Int64

Placement = Literal["deepest", "spread"]
PRIOR_GRID = 256
INSIDE, OUTSIDE, BOX_LEVEL = 0.7, 0.05, 0.5
_WHOLE_IMAGE_4 = (0.0, 0.0, 1.0, 1.0)
# a second component smaller than this share of the first is a stray blob, not a lung
_LEAST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MaskSummary:
    """All that prompts need of one image's masks: made once per run, shared by all folds.

    ``packed`` holds each structure's area average in 256 steps, compressed: 3 KB instead of 256 KB, as 5,000
    images would otherwise take 2.6 GB. ``boxes_S4`` holds one normalised tight box per lung, left to right
    in the image (one row where the lungs touch, none where the mask is empty).
    """

    packed: Mapping[str, bytes]
    grid: int
    boxes_S4: Float64

    @property
    def averages(self) -> dict[str, Float32]:
        """A structure's (grid, grid) area average, to 1/510."""
        return {name: self._unpack(packed) for name, packed in self.packed.items()}

    def _unpack(self, packed: bytes) -> Float32:
        steps = np.frombuffer(zlib.decompress(packed), np.uint8)
        return (steps.reshape(self.grid, self.grid) / 255).astype(np.float32)

    @property
    def whole_4(self) -> Float64:
        """One tight box around both lungs; the whole image where the mask is empty."""
        return _union_box(self.boxes_S4)


def summarise_mask(masks: Mapping[str, Bool], grid: int = PRIOR_GRID) -> MaskSummary:
    """Summarise one image; stray blobs away from the lungs (Montgomery has some) do not widen its boxes."""
    averages = {name: average_mask([mask_HW], grid) for name, mask_HW in masks.items()}
    sources = {name: (masks[name], averages[name]) for name in masks}
    if len(masks) != 2:
        union_HW = np.logical_or.reduce(list(masks.values()))
        union_hw = averages[next(iter(masks))] if len(masks) == 1 else average_mask([union_HW], grid)
        sources = {str(i): (union_HW, part_hw) for i, part_hw in enumerate(_components(union_hw, 0.0))}
    else:
        parts = {name: _components(average_hw, 0.0)[:1] for name, average_hw in averages.items()}
        sources = {name: (masks[name], part[0]) for name, part in parts.items() if part}
    boxes = [_box_near(mask_HW, part_hw) for mask_HW, part_hw in sources.values()]
    found = sorted((box for box in boxes if box is not None), key=lambda box: float(box[0] + box[2]))
    packed = {
        name: zlib.compress(np.round(average_hw * 255).astype(np.uint8).tobytes(), 1)
        for name, average_hw in averages.items()
    }
    return MaskSummary(packed=packed, grid=grid, boxes_S4=np.array(found, np.float64).reshape(-1, 4))


def average_mask(masks: Iterable[Bool], grid: int = PRIOR_GRID) -> Float32:
    """(grid, grid) share of masks that cover each cell, every mask squashed to the unit square first."""
    total_hw, count = np.zeros((grid, grid), np.float64), 0
    for mask_HW in masks:
        total_hw += area_average(mask_HW, (grid, grid))
        count += 1
    return (total_hw / max(1, count)).astype(np.float32)


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
        splits = (_components(union_hw, level) for level in np.arange(BOX_LEVEL, 0.95, 0.05))
        lungs = next((parts for parts in splits if len(parts) == 2), [union_hw])
    if not any(lung_hw.any() for lung_hw in lungs):
        raise ValueError("no prior: every training mask is empty")
    return sorted(lungs, key=lambda average_hw: float(ndimage.center_of_mass(average_hw)[1]))


def prior_box(average_hw: Float32) -> Float64:
    """Normalised tight box of the average mask > 0.5 (> half its maximum where nothing exceeds 0.5)."""
    box_4 = tight_box(average_hw > min(BOX_LEVEL, float(average_hw.max()) / 2))
    return np.array(_WHOLE_IMAGE_4) if box_4 is None else box_4


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


def _union_box(boxes_S4: Float64) -> Float64:
    if len(boxes_S4) == 0:
        return np.array(_WHOLE_IMAGE_4)
    return np.concatenate([boxes_S4[:, :2].min(axis=0), boxes_S4[:, 2:].max(axis=0)])


def _components(average_hw: Float32, level: float) -> list[Float32]:
    """The one or two lungs among the connected regions > level, largest first; elsewhere 0."""
    labels_hw, count = ndimage.label(average_hw > level)
    weights = ndimage.sum_labels(average_hw, labels_hw, np.arange(1, count + 1))
    order = np.argsort(-weights, kind="stable")[:2]
    kept = [i for i in order if weights[i] >= _LEAST_SHARE * weights[order[0]]]
    return [np.where(labels_hw == i + 1, average_hw, np.float32(0)) for i in kept]


def _box_near(mask_HW: Bool, part_hw: Float32) -> Float64 | None:
    """Exact tight box of the mask's pixels that lie in the cells where ``part_hw`` is positive.

    Only the cells of the box's own sides are opened: all 20 million pixels take ten times as long.
    """
    near_hw = part_hw > 0
    tops, lefts = np.flatnonzero(near_hw.any(1)), np.flatnonzero(near_hw.any(0))
    sides = [_first_line(mask_HW, near_hw, tops), _first_line(mask_HW.T, near_hw.T, lefts)]
    sides += [_first_line(mask_HW, near_hw, tops[::-1]), _first_line(mask_HW.T, near_hw.T, lefts[::-1])]
    if None in sides:
        return None
    (top, left, bottom, right), (height, width) = np.array(sides, int), mask_HW.shape
    return np.array([left / width, top / height, (right + 1) / width, (bottom + 1) / height])


def _first_line(mask_HW: Bool, near_hw: Bool, cells: Int64) -> int | None:
    """The outermost row of pixels of the mask in near cells, cell rows being searched in the order given."""
    (height, width), (rows, columns) = mask_HW.shape, near_hw.shape
    # a pixel belongs to the cell of its centre; the edges differ by under one pixel
    column_of_W = ((np.arange(width) + 0.5) / width * columns).astype(np.intp)
    row_of_H = ((np.arange(height) + 0.5) / height * rows).astype(np.intp)
    for cell in cells.tolist():
        first, last = np.searchsorted(row_of_H, [cell, cell + 1]).tolist()
        found = np.flatnonzero((mask_HW[first:last] & near_hw[cell][column_of_W]).any(1))
        if found.size:
            return int(first + (found[0] if cells[0] <= cells[-1] else found[-1]))
    return None


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
