"""Low-resolution logits at native size, in full vectors: rows stretched, rows mixed, masks.

Comes in: logits and the tap tables of both axes. Goes out: native rows or a native mask. Four lerps
``a + w * (b - a)`` in float32 and in this order: columns to the input, columns to native, then rows likewise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lungfast.compiled import compiled, lean
from lungfast.records import Bool, Float32, Int64

LANES = 32
"""Columns of a block: a loop of that length is a few whole vectors, without a rest column by column."""
PAD = LANES


class Reach(NamedTuple):
    """By low-resolution sample s: native pixels from ``start[s]`` need none before s, those up to ``stop[s]``
    none after it."""

    start: Int64
    stop: Int64


class Axis(NamedTuple):
    """Taps of both bilinear steps along one axis: low -> input (the part kept by the crop) -> native.

    ``first`` and ``last`` are the outermost low-resolution samples of every native pixel. The tables from
    input to native are longer by :data:`PAD`, for columns that are looked at in whole blocks.
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


@lean
def blocks(first: int, last: int) -> int:
    """Columns of the blocks that hold first..last, when the first begins there."""
    return (last - first + LANES - 1) // LANES * LANES


@compiled
def predict_pixels(field: Field, edge: np.float32, mask_HW: Bool) -> None:
    rows, height, width = field.rows, *mask_HW.shape
    whole = blocks(0, width)
    stretched_hW = np.empty((field.logits_hw.shape[0], whole), np.float32)
    middle = np.empty(field.columns.low_first.size, np.float32)
    for y in range(rows.low_second[-1] + 1):
        stretch(field.logits_hw[y], field.columns, 0, whole, middle, stretched_hW[y])
    pair_2W = np.empty((2, whole), np.float32)
    for r in range(height):
        if r == 0 or rows.input_first[r] != rows.input_first[r - 1]:
            for side in range(2):
                i = rows.input_second[r] if side else rows.input_first[r]
                a_W, b_W = stretched_hW[rows.low_first[i]], stretched_hW[rows.low_second[i]]
                mix(a_W, b_W, rows.low_weight[i], pair_2W[side])
        a_W, b_W, weight = pair_2W[0], pair_2W[1], rows.input_weight[r]
        for c in range(width):
            mask_HW[r, c] = a_W[c] + weight * (b_W[c] - a_W[c]) > edge


@lean
def stretch(logits_w: Float32, columns: Axis, first: int, last: int, middle: Float32, out_W: Float32) -> None:
    """One low-resolution row at native columns first..last, whole eights: the first two of the four lerps.

    Columns beyond the image take what its last one takes.
    """
    _lerp(
        logits_w,
        columns.low_first,
        columns.low_second,
        columns.low_weight,
        columns.input_first[first],
        columns.input_second[last - 1] + 1,
        middle,
    )
    _lerp(middle, columns.input_first, columns.input_second, columns.input_weight, first, last, out_W)


@lean
def _lerp(
    values: Float32, first: Int64, second: Int64, weight: Float32, start: int, stop: int, out: Float32
) -> None:
    """Places start..stop of ``out``. Slices and unsigned places: neither is then tested for negatives."""
    first, second, weight = first[start:stop], second[start:stop], weight[start:stop]
    out = out[start:stop]
    for x in range(out.size):
        a = values[np.uintp(first[x])]
        out[x] = a + weight[x] * (values[np.uintp(second[x])] - a)


@lean
def mix(a_W: Float32, b_W: Float32, weight: np.float32, out_W: Float32) -> None:
    """An input row from two stretched ones, whole blocks: the third lerp."""
    for c in range(out_W.size):
        out_W[c] = a_W[c] + weight * (b_W[c] - a_W[c])
