"""What prompts need of one image's masks, taken once, when the image is embedded.

Comes in: the native masks of one image. Goes out: a :class:`MaskSummary` of some kilobytes, which the cache
keeps beside the row: reading and summarising 704 native masks took 18 s at the start of every study.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungfast.geometry import area_average
from lungfast.records import Bool, Float32, Float64, Int64

PRIOR_GRID = 256
WHOLE_IMAGE_4 = (0.0, 0.0, 1.0, 1.0)
# a second component smaller than this share of the first is a stray blob, not a lung
_LEAST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class MaskSummary:
    """All that prompts need of one image's masks: made once, shared by all folds of all studies.

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

    def to_bytes(self) -> bytes:
        """As the cache stores it; the inverse of :meth:`from_bytes`."""
        sizes = {name: len(packed) for name, packed in self.packed.items()}
        facts = {"grid": self.grid, "boxes": self.boxes_S4.tolist(), "structures": sizes}
        return json.dumps(facts).encode() + b"\n" + b"".join(self.packed.values())

    @classmethod
    def from_bytes(cls, content: bytes) -> MaskSummary:
        """ValueError for bytes that :meth:`to_bytes` did not write."""
        first, _, rest = content.partition(b"\n")
        try:
            facts = json.loads(first)
            ends = np.cumsum([0, *facts["structures"].values()]).tolist()
            parts = [rest[start:end] for start, end in itertools.pairwise(ends)]
            boxes_S4 = np.array(facts["boxes"], np.float64).reshape(-1, 4)
            packed = dict(zip(facts["structures"], parts, strict=True))
            found = cls(packed=packed, grid=int(facts["grid"]), boxes_S4=boxes_S4)
            whole = ends[-1] == len(rest) and bool(found.averages)
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error):
            whole = False
        if not whole:
            raise ValueError("no summary of masks, or a damaged one")
        return found

    def _unpack(self, packed: bytes) -> Float32:
        steps = np.frombuffer(zlib.decompress(packed), np.uint8)
        return (steps.reshape(self.grid, self.grid) / 255).astype(np.float32)

    @property
    def whole_4(self) -> Float64:
        """One tight box around both lungs; the whole image where the mask is empty."""
        return union_box(self.boxes_S4)


def summarise_mask(masks: Mapping[str, Bool], grid: int = PRIOR_GRID) -> MaskSummary:
    """Summarise one image; stray blobs away from the lungs (Montgomery has some) do not widen its boxes."""
    averages = {name: average_mask([mask_HW], grid) for name, mask_HW in masks.items()}
    sources = {name: (masks[name], averages[name]) for name in masks}
    if len(masks) != 2:
        union_HW = np.logical_or.reduce(list(masks.values()))
        union_hw = averages[next(iter(masks))] if len(masks) == 1 else average_mask([union_HW], grid)
        sources = {str(i): (union_HW, part_hw) for i, part_hw in enumerate(components(union_hw, 0.0))}
    else:
        parts = {name: components(average_hw, 0.0)[:1] for name, average_hw in averages.items()}
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


def union_box(boxes_S4: Float64) -> Float64:
    """One box around all; the whole image where there is none."""
    if len(boxes_S4) == 0:
        return np.array(WHOLE_IMAGE_4)
    return np.concatenate([boxes_S4[:, :2].min(axis=0), boxes_S4[:, 2:].max(axis=0)])


def components(average_hw: Float32, level: float) -> list[Float32]:
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
