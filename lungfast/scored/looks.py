"""A look at every pixel of a patch whose samples do not decide it, pair by pair of input rows.

Comes in: a patch of native pixels, at most as many rows as mix the same low-resolution samples. Goes out:
counts added to the bins. Few edges are compared with every pixel (lanes.py). Many are looked up, for a whole
column at once where that is enough: between two input rows a column's values are monotone, rounding included,
so its first and last often tell.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lungfast.compiled import inlined, lean
from lungfast.records import Bool, Float32, Int64
from lungfast.scored.bins import FIVE, Bins, find
from lungfast.scored.bits import Patch, Truth, column_sums, pixel, total
from lungfast.scored.lanes import Mixture, Pair, Span, Stretched, count_pair_above
from lungfast.scored.stretch import Field, blocks, mix, stretch

CHUNK = 32
"""Columns tested together for lying in one bin (16, 64: no better)."""
GROUP = 255
"""Most native rows looked at together: the truth bits of a column are summed in one byte."""
FEW = 2 * FIVE
"""Edges up to which comparing all of them is quicker than looking values up."""


class Desk(NamedTuple):
    """Arrays used again and again: one allocation a thread and image.

    ``rows_yW`` holds the last few low-resolution rows that were stretched, row y in place y modulo the number
    of places, a power of two: ``row_of_y`` says which, ``eights_yE`` which eights of its columns. Pieces of
    contour lie below one another, so that most of a row was wanted a moment ago.
    """

    lows: Float32
    highs: Float32
    segments_S3: Int64
    middle: Float32
    rows_yW: Float32
    row_of_y: Int64
    eights_yE: Bool
    pair_2W: Float32
    base_L: Float32
    slope_L: Float32
    above_Q: Int64
    sums: npt.NDArray[np.uint64]


@inlined
def look(field: Field, truth: Truth, bins: Bins, desk: Desk, patch: Patch, packed_B: Int64) -> None:
    """Every pixel of a patch: few edges are compared with all in full vectors, many looked up."""
    rows, begin = field.rows, patch.first & ~7  # from a whole byte of truth on, in whole blocks
    n, span = blocks(begin, patch.last), Span(begin, patch.first, patch.last)
    few, n_edges = packed_B.size <= FEW + 1, packed_B.size - 1
    source, places = desk.rows_yW, desk.row_of_y.size - 1  # row y lies at y & places
    desk.above_Q[:] = 0
    for y in range(rows.first[patch.start], rows.last[patch.start] + 1):
        _stretch(field, desk, y, begin, begin + n)
    start = patch.start
    while start < patch.stop:
        stop = start + 1
        while (
            stop < patch.stop and stop - start < GROUP and rows.input_first[stop] == rows.input_first[start]
        ):
            stop += 1
        i, j, weights = rows.input_first[start], rows.input_second[start], rows.input_weight[start:stop]
        upper = Mixture(rows.low_first[i] & places, rows.low_second[i] & places, rows.low_weight[i])
        lower = Mixture(rows.low_first[j] & places, rows.low_second[j] & places, rows.low_weight[j])
        if few:
            pair, stretched = Pair(upper, lower, weights), Stretched(source, desk.base_L, desk.slope_L)
            count_pair_above(stretched, pair, truth, start, span, bins.edges, desk.above_Q)
        else:
            _mixed(source, upper, span, desk.pair_2W[0])
            _mixed(source, lower, span, desk.pair_2W[1])
            _count_pair(desk, weights, truth, Patch(start, stop, patch.first, patch.last), bins, packed_B)
        start = stop
    for q in range(n_edges if few else 0):  # above an edge, but not above the next: in the bin between
        packed_B[q + 1] += desk.above_Q[q] - desk.above_Q[q + 1]


@lean
def _mixed(source: Float32, row: Mixture, span: Span, out_W: Float32) -> None:
    """The columns of a span of an input row, whole blocks."""
    first, last = span.begin, span.begin + blocks(span.begin, span.last)
    mix(source[row.first, first:last], source[row.second, first:last], row.weight, out_W[: last - first])


@inlined
def _stretch(field: Field, desk: Desk, y: int, first: int, last: int) -> None:
    """Low-resolution row y at native columns first..last, whole eights, less what both ends have already."""
    place = y & (desk.row_of_y.size - 1)
    eights_E = desk.eights_yE[place]
    if desk.row_of_y[place] != y:
        desk.row_of_y[place] = y
        eights_E[:] = False
    while first < last and eights_E[first >> 3]:
        first += 8
    while first < last and eights_E[(last >> 3) - 1]:
        last -= 8
    if first < last:
        stretch(field.logits_hw[y], field.columns, first, last, desk.middle, desk.rows_yW[place])
        eights_E[first >> 3 : last >> 3] = True


@lean
def _count_pair(
    desk: Desk, weights: Float32, truth: Truth, patch: Patch, bins: Bins, packed_B: Int64
) -> None:
    """Count a patch between the two input rows in ``desk.pair_2W``.

    Neighbouring columns mostly share a bin: they are summed in registers and written when it changes.
    """
    n, offset = patch.last - patch.first, patch.first & 7
    a_W, b_W = desk.pair_2W[0, offset : offset + n], desk.pair_2W[1, offset : offset + n]
    packed = truth.packed[patch.start : patch.stop, patch.first >> 3 : (patch.last + 7) >> 3]
    words = desk.sums[: packed.shape[1]]
    column_sums(packed, words)
    true_W = words.view(np.uint8)[offset : offset + n]
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


@lean
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
