"""A look at every pixel of a patch whose samples do not decide it, pair by pair of input rows.

Comes in: a patch of native pixels, at most as many rows as mix the same low-resolution samples. Goes out:
counts added to the bins. Few edges are compared with every pixel, five at a time in full vectors. Many are
looked up, for a whole column at once where that is enough: between two input rows a column's values are
monotone, rounding included, so its first and last often tell.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lungfast.compiled import compiled
from lungfast.records import Bool, Float32, Int64
from lungfast.scored.bins import FIVE, Bins, find
from lungfast.scored.bits import Patch, Truth, column_sums, pixel, total
from lungfast.scored.stretch import Field, mix, stretch

CHUNK = 32
"""Columns tested together for lying in one bin (16, 64: no better)."""
GROUP = 255
"""Most native rows looked at together: the truth bits of a column are summed in one byte."""
FEW = 2 * FIVE
"""Edges up to which comparing all of them is quicker than looking values up."""
MOST = 2**15 - 1
"""Columns whose marks are summed at once, in 16 bits."""
WIDE = 256
"""Columns from which whole rows are stretched and kept: where all samples differ all are asked for."""
_MARKS = (1 + (np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.int32) << 16)).copy()


class Desk(NamedTuple):
    """Arrays used again and again: one allocation an image."""

    lows: Float32
    highs: Float32
    segments_S3: Int64
    middle: Float32
    part_YW: Float32
    stretched_hW: Float32
    is_stretched_h: Bool
    pair_2W: Float32
    above_Q: Int64
    marks_W: npt.NDArray[np.int32]
    sums: npt.NDArray[np.uint64]


@compiled
def look(field: Field, truth: Truth, bins: Bins, desk: Desk, patch: Patch, packed_B: Int64) -> None:
    """Every pixel of a patch: few edges are compared with all in full vectors, many looked up."""
    rows, first, n = field.rows, patch.first, patch.last - patch.first
    few, n_edges = packed_B.size <= FEW + 1, packed_B.size - 1
    top, bottom = rows.first[patch.start], rows.last[patch.start] + 1
    desk.above_Q[:] = 0
    if n >= WIDE:
        _stretch_whole(field, desk, top, bottom)
        source, top = desk.stretched_hW, 0
    else:
        for k in range(bottom - top):
            stretch(field.logits_hw[top + k], field.columns, first, patch.last, desk.middle, desk.part_YW[k])
        source = desk.part_YW
    start = patch.start
    while start < patch.stop:
        stop = start + 1
        while (
            stop < patch.stop and stop - start < GROUP and rows.input_first[stop] == rows.input_first[start]
        ):
            stop += 1
        for side in range(2):
            i = rows.input_second[start] if side else rows.input_first[start]
            y, z, weight = rows.low_first[i] - top, rows.low_second[i] - top, rows.low_weight[i]
            mix(source[y, first : patch.last], source[z, first : patch.last], weight, desk.pair_2W[side, :n])
        part = Patch(start, stop, first, patch.last)
        if few:
            _compare(rows.input_weight, truth, bins, desk, part, n_edges)
        else:
            _count_pair(desk, rows.input_weight[start:stop], truth, part, bins, packed_B)
        start = stop
    for q in range(n_edges if few else 0):  # above an edge, but not above the next: in the bin between
        packed_B[q + 1] += desk.above_Q[q] - desk.above_Q[q + 1]


@compiled
def _compare(weights: Float32, truth: Truth, bins: Bins, desk: Desk, patch: Patch, n_edges: int) -> None:
    """A mark is 1 for a pixel, and 1 in the upper half for a true one."""
    edges = bins.edges
    for r in range(patch.start, patch.stop):
        for k in range(patch.first >> 3, (patch.last + 7) >> 3):
            for bit in range(8):
                desk.marks_W[8 * k + bit] = _MARKS[truth.packed[r, k], bit]
        for c in range(patch.first, patch.last, MOST):
            stop = min(c + MOST, patch.last)
            place = slice(c - patch.first, stop - patch.first)
            a_W, b_W, marks_W = desk.pair_2W[0, place], desk.pair_2W[1, place], desk.marks_W[c:stop]
            for q in range(0, n_edges, FIVE):
                five = (edges[q + 1], edges[q + 2], edges[q + 3], edges[q + 4], edges[q + 5])
                found = _marks_above(a_W, b_W, weights[r], marks_W, five)
                for k in range(FIVE):
                    desk.above_Q[q + k] += np.int64(found[k] & 0xFFFF) + (np.int64(found[k] >> 16) << 32)


@compiled
def _marks_above(
    a_W: Float32, b_W: Float32, weight: np.float32, marks_W: npt.NDArray[np.int32], edges: Any
) -> Any:
    """Five sums in registers: a third of the time of one edge after the other."""
    none = np.int32(0)
    p = q = r = s = t = none
    for c in range(a_W.size):
        value, mark = a_W[c] + weight * (b_W[c] - a_W[c]), marks_W[c]
        p = np.int32(p + (mark if value > edges[0] else none))
        q = np.int32(q + (mark if value > edges[1] else none))
        r = np.int32(r + (mark if value > edges[2] else none))
        s = np.int32(s + (mark if value > edges[3] else none))
        t = np.int32(t + (mark if value > edges[4] else none))
    return p, q, r, s, t


@compiled
def _stretch_whole(field: Field, desk: Desk, y: int, stop: int) -> None:
    """Low-resolution rows y..stop at every native column, unless they are there."""
    while y < stop:
        if not desk.is_stretched_h[y]:
            out_W = desk.stretched_hW[y]
            stretch(field.logits_hw[y], field.columns, 0, out_W.size, desk.middle, out_W)
            desk.is_stretched_h[y] = True
        y += 1


@compiled
def _count_pair(
    desk: Desk, weights: Float32, truth: Truth, patch: Patch, bins: Bins, packed_B: Int64
) -> None:
    """Count a patch between the two input rows in ``desk.pair_2W``.

    Neighbouring columns mostly share a bin: they are summed in registers and written when it changes.
    """
    n, offset = patch.last - patch.first, patch.first & 7
    a_W, b_W = desk.pair_2W[0, :n], desk.pair_2W[1, :n]
    packed = truth.packed[patch.start : patch.stop, patch.first >> 3 : (patch.last + 7) >> 3]
    true_W = column_sums(packed, desk.sums)[offset : offset + n]
    current, columns, true = np.uintp(0), 0, np.int64(0)
    low, high = bins.edges[0], bins.edges[1]
    first_weight, last_weight = weights[0], weights[-1]
    for start in range(0, n, CHUNK):
        stop = min(start + CHUNK, n)
        if _none_leaves(a_W[start:stop], b_W[start:stop], first_weight, last_weight, low, high):
            columns += stop - start
            true += total(true_W[start:stop])
            continue
        for c in range(start, stop):
            a = a_W[c]
            slope = b_W[c] - a
            top, bottom = a + first_weight * slope, a + last_weight * slope
            if not (low < top <= high and low < bottom <= high):
                found, other = find(bins, top), find(bins, bottom)
                if found != other:
                    packed_B[found] += pixel(packed, 0, offset + c)
                    packed_B[other] += pixel(packed, weights.size - 1, offset + c)
                    for r in range(1, weights.size - 1):
                        packed_B[find(bins, a + weights[r] * slope)] += pixel(packed, r, offset + c)
                    continue
                packed_B[current] += columns * weights.size + (true << 32)
                current, columns, true = found, 0, np.int64(0)
                low, high = bins.edges[found], bins.edges[found + np.uintp(1)]
            columns += 1
            true += true_W[c]
    packed_B[current] += columns * weights.size + (true << 32)


@compiled
def _none_leaves(
    a_W: Float32,
    b_W: Float32,
    first_weight: np.float32,
    last_weight: np.float32,
    low: np.float32,
    high: np.float32,
) -> bool:
    """Whether every column's first and last value lies in the bin; no early exit, so that it vectorises."""
    outside = False
    for c in range(a_W.size):
        slope = b_W[c] - a_W[c]
        top, bottom = a_W[c] + first_weight * slope, a_W[c] + last_weight * slope
        outside |= (top <= low) | (bottom <= low) | (top > high) | (bottom > high)
    return not outside
