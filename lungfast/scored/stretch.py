"""Low-resolution logits at native size, in full vectors: rows stretched, rows mixed, masks.

Comes in: logits and the tap tables of both axes. Goes out: native rows or a native mask. Four lerps
``a + w * (b - a)`` in float32 and in this order: columns to the input, columns to native, then rows likewise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lungfast.compiled import compiled
from lungfast.records import Bool, Float32, Int64


class Reach(NamedTuple):
    """By low-resolution sample s: native pixels from ``start[s]`` need none before s, those up to ``stop[s]``
    none after it."""

    start: Int64
    stop: Int64


class Axis(NamedTuple):
    """Taps of both bilinear steps along one axis: low -> input (the part kept by the crop) -> native.

    ``first`` and ``last`` are the outermost low-resolution samples of every native pixel.
    """

    low_first: Int64
    low_second: Int64
    low_weight: Float32
    input_first: Int64
    input_second: Int64
    input_weight: Float32
    first: Int64
    last: Int64
    reach: Reach


class Field(NamedTuple):
    """Logits and how they are stretched; ``margin`` bounds the rounding of all four lerps together."""

    logits_hw: Float32
    margin: np.float32
    rows: Axis
    columns: Axis


@compiled
def predict_pixels(field: Field, edge: np.float32, mask_HW: Bool) -> None:
    rows, height, width = field.rows, *mask_HW.shape
    stretched_hW = np.empty((field.logits_hw.shape[0], width), np.float32)
    middle = np.empty(field.columns.low_first.size, np.float32)
    for y in range(rows.low_second[-1] + 1):
        stretch(field.logits_hw[y], field.columns, 0, width, middle, stretched_hW[y])
    pair_2W = np.empty((2, width), np.float32)
    for r in range(height):
        if r == 0 or rows.input_first[r] != rows.input_first[r - 1]:
            for side in range(2):
                i = rows.input_second[r] if side else rows.input_first[r]
                a_W, b_W = stretched_hW[rows.low_first[i]], stretched_hW[rows.low_second[i]]
                mix(a_W, b_W, rows.low_weight[i], pair_2W[side])
        a_W, b_W, weight = pair_2W[0], pair_2W[1], rows.input_weight[r]
        for c in range(width):
            mask_HW[r, c] = a_W[c] + weight * (b_W[c] - a_W[c]) > edge


@compiled
def stretch(logits_w: Float32, columns: Axis, first: int, last: int, middle: Float32, out_W: Float32) -> None:
    """One low-resolution row at native columns first..last: the first two of the four lerps.

    Unsigned places: numba then skips its test for negatives, a third of the time.
    """
    for x in range(columns.input_first[first], columns.input_second[last - 1] + 1):
        a = logits_w[np.uintp(columns.low_first[x])]
        middle[x] = a + columns.low_weight[x] * (logits_w[np.uintp(columns.low_second[x])] - a)
    for c in range(first, last):
        a = middle[np.uintp(columns.input_first[c])]
        out_W[c] = a + columns.input_weight[c] * (middle[np.uintp(columns.input_second[c])] - a)


@compiled
def mix(a_W: Float32, b_W: Float32, weight: np.float32, out_W: Float32) -> None:
    """An input row from two stretched ones: the third lerp."""
    for c in range(out_W.size):
        out_W[c] = a_W[c] + weight * (b_W[c] - a_W[c])
