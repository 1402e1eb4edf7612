"""The compiled count behind :mod:`lungfast.scored.kernels`: what one thread does.

Comes in: logits with tap tables, truth bits, bins, shares of the rows. Goes out: a histogram. Every function
also runs uncompiled (``NUMBA_DISABLE_JIT=1``), so the tests can read it as plain Python.

Most pixels need no look. A native pixel lies between the few low-resolution samples it is mixed from (two or
three a side): where the least and the greatest of them, with a margin for rounding, fall in one bin, so does
the pixel, and of a whole rectangle of such pixels only the number of true ones is asked, by counting bits.
What is left, a few in a hundred of a decoder's usual mask, is looked at (looks.py).
"""

from __future__ import annotations

import numpy as np

from lungfast.compiled import compiled, inlined, lean
from lungfast.records import Float32, Int64
from lungfast.scored.bins import FIVE, Bins, find
from lungfast.scored.bits import Patch, Truth, rectangle
from lungfast.scored.looks import FEW, Desk, look
from lungfast.scored.shares import Shares, finish, take
from lungfast.scored.stretch import LANES, PAD, Field, Reach

CHUNK = 32
"""Samples tested together for lying in one bin."""


@compiled
def count_pixels(field: Field, truth: Truth, bins: Bins, shares: Shares, histogram_2B: Int64) -> None:
    """Add native rows, as long as shares of them are left, to a histogram: pixels and true pixels by bin.

    A count holds the pixels in its lower half and the true ones in its upper half: one add for both. What
    lies below all edges, often most of an image, is what is left of the whole.
    """
    share, n_done = take(shares), 0
    if share < 0:
        return
    rows, columns, w = field.rows, field.columns, field.logits_hw.shape[1]
    width = columns.first.size
    n_rows, most = 1, np.max(rows.last - rows.first) + 1
    while n_rows < most:  # a power of two, by which looks.py finds a row's place
        n_rows *= 2
    desk = Desk(
        np.empty(w, np.float32),
        np.empty(w, np.float32),
        np.empty((2 * w + 1, 3), np.int64),
        np.empty(columns.low_first.size, np.float32),
        np.empty((n_rows, width + PAD), np.float32),
        np.full(n_rows, -1),
        np.empty((n_rows, (width + PAD) // 8), np.bool_),
        np.empty((2, width + PAD), np.float32),
        np.empty(LANES, np.float32),
        np.empty(LANES, np.float32),
        np.empty(FEW + FIVE, np.int64),
        np.empty(truth.packed.shape[1] + 1, np.uint64),
    )
    packed_B, whole = np.zeros(histogram_2B.shape[1], np.int64), np.int64(0)
    while share >= 0:
        first_row, last_row = shares.bounds_n[share], shares.bounds_n[share + 1]
        whole += rectangle(truth, Patch(first_row, last_row, 0, width))
        _count_groups(field, truth, bins, desk, first_row, last_row, packed_B)
        share, n_done = take(shares), n_done + 1
    packed_B[0] = whole - packed_B[1:].sum()
    for b in range(packed_B.size):
        histogram_2B[0, b] += packed_B[b] & 0xFFFFFFFF
        histogram_2B[1, b] += packed_B[b] >> 32
    finish(shares, n_done)


@inlined
def _count_groups(
    field: Field, truth: Truth, bins: Bins, desk: Desk, first_row: int, last_row: int, packed_B: Int64
) -> None:
    """Rows that mix the same low-resolution rows at a time."""
    rows, columns = field.rows, field.columns
    width = columns.first.size
    start = first_row
    while start < last_row:
        low, high = rows.first[start], rows.last[start]
        stop = start + 1
        while stop < last_row and rows.first[stop] == low and rows.last[stop] == high:
            stop += 1
        _bound(field.logits_hw[low : high + 1], field.margin, desk.lows, desk.highs)
        n = _segments(desk.lows, desk.highs, columns.reach, bins, width, desk.segments_S3)
        for s in range(n):
            first, last, found = desk.segments_S3[s]
            if found > 0:
                packed_B[found] += rectangle(truth, Patch(start, stop, first, last))
            elif found < 0:
                look(field, truth, bins, desk, Patch(start, stop, first, last), packed_B)
        start = stop


@lean
def _bound(samples_yw: Float32, margin: np.float32, lows: Float32, highs: Float32) -> None:
    """Least and greatest of each column of samples, with the margin.

    Three rows at once, and there are mostly two or three: a least value put back where it came from would
    be stored under a mask, which is slow.
    """
    last = samples_yw.shape[0] - 1
    a_w, b_w, c_w = samples_yw[0], samples_yw[min(1, last)], samples_yw[min(2, last)]
    for x in range(lows.size):
        lows[x] = min(a_w[x], b_w[x], c_w[x]) - margin
        highs[x] = max(a_w[x], b_w[x], c_w[x]) + margin
    for y in range(3, last + 1):
        for x in range(lows.size):
            lows[x] = min(lows[x], samples_yw[y, x] - margin)
            highs[x] = max(highs[x], samples_yw[y, x] + margin)


@lean
def _segments(lows: Float32, highs: Float32, reach: Reach, bins: Bins, width: int, out_S3: Int64) -> int:
    """All native columns in pieces (from, to, bin), bin -1 where the samples do not decide."""
    n, done, x = 0, 0, 0
    while x < lows.size:
        found = find(bins, lows[x])
        low, high = bins.edges[found], bins.edges[found + np.uintp(1)]
        if highs[x] > high:
            x += 1
            continue
        stop = x + 1
        while stop + CHUNK <= lows.size and _all_within(
            lows[stop : stop + CHUNK], highs[stop : stop + CHUNK], low, high
        ):
            stop += CHUNK
        while stop < lows.size and low < lows[stop] and highs[stop] <= high:
            stop += 1
        begin, end = reach.start[x], reach.stop[stop - 1]
        if end > begin:
            if begin > done:
                out_S3[n, 0], out_S3[n, 1], out_S3[n, 2] = done, begin, -1
                n += 1
            out_S3[n, 0], out_S3[n, 1], out_S3[n, 2] = begin, end, found
            n, done = n + 1, end
        x = stop
    if done < width:
        out_S3[n, 0], out_S3[n, 1], out_S3[n, 2] = done, width, -1
        n += 1
    return n


@lean
def _all_within(lows: Float32, highs: Float32, low: np.float32, high: np.float32) -> bool:
    """No early exit, so that it vectorises."""
    outside = False
    for x in range(lows.size):
        outside |= (lows[x] <= low) | (highs[x] > high)
    return not outside
