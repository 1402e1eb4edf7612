"""The compiled loops behind :mod:`lungfast.scored.kernels`: numba, single-threaded, no GIL, no fastmath.

Comes in: logits, tap tables, truth bits, bins. Goes out: histograms, or a native mask. Every function also
runs uncompiled (``NUMBA_DISABLE_JIT=1``), so the tests can read it as plain Python. One file holds them all,
because numba's disk cache notices changes of a function's own file only.

Between two input rows lie several native rows (4.8 at 4892 from 1024), where a column's value is monotone,
rounding included. If its first and last value fall in one bin, so do all: one look serves the group, and
only the sum of the truth bits is needed. That is what makes 1,001 thresholds nearly as cheap as five.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

from lungfast.records import Bool, Float32, Int64, UInt8

BLOCK = 1024
"""Native columns at a time: the block's input rows (1024 x 1024 float32, 4 MB) stay in the outer cache."""
CHUNK = 32
"""Columns tested together for lying in one bin: 5 thresholds: 7 ms, not 10 (16, 64: no better)."""
GROUP = 255
"""Most native rows looked at together: the truth bits of a column are summed in one byte."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_BIT_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64)[:, 0].copy()
"""Packed byte -> eight bytes 0/1 of one word in pixel order: one add sums eight columns."""


def _compiled(function: _Function) -> _Function:
    """numba.njit, cached on disk unless no cache folder can be written (a read-only install)."""
    try:
        return cast(_Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(nogil=True)(function))


class Axis(NamedTuple):
    """Taps of both bilinear steps along one axis: low -> input (the part kept by the crop) -> native."""

    low_first: Int64
    low_second: Int64
    low_weight: Float32
    input_first: Int64
    input_second: Int64
    input_weight: Float32


class Bins(NamedTuple):
    """Edges with -inf and inf around them, and a uniform grid over them that says where to start looking."""

    edges: Float32
    first_bin: npt.NDArray[np.int32]
    origin: np.float32
    scale: np.float32
    last_cell: np.float32


@_compiled
def count_pixels(
    logits_hw: Float32, rows: Axis, columns: Axis, truth_packed: UInt8, bins: Bins, histogram_2B: Int64
) -> None:
    width = columns.input_first.size
    packed_B = np.empty(histogram_2B.shape[1], np.int64)
    for first in range(0, width, BLOCK):
        last = min(first + BLOCK, width)
        input_RW = _input_rows(logits_hw, rows, columns, first, last)
        packed_B[:] = 0
        _count_block(input_RW, rows, truth_packed[:, first // 8 : (last + 7) // 8], bins, packed_B)
        for b in range(packed_B.size):
            histogram_2B[0, b] += packed_B[b] & 0xFFFFFFFF
            histogram_2B[1, b] += packed_B[b] >> 32


@_compiled
def predict_pixels(logits_hw: Float32, rows: Axis, columns: Axis, edge: np.float32, mask_HW: Bool) -> None:
    width = columns.input_first.size
    for first in range(0, width, BLOCK):
        input_RW = _input_rows(logits_hw, rows, columns, first, min(first + BLOCK, width))
        for r in range(mask_HW.shape[0]):
            a_W, b_W = input_RW[rows.input_first[r]], input_RW[rows.input_second[r]]
            weight = rows.input_weight[r]
            for c in range(a_W.size):
                mask_HW[r, first + c] = a_W[c] + weight * (b_W[c] - a_W[c]) > edge


@_compiled
def _input_rows(logits_hw: Float32, rows: Axis, columns: Axis, first: int, last: int) -> Float32:
    """Native columns first..last of every input row: three of the four lerps."""
    n_low = rows.low_second[-1] + 1
    start, stop = columns.input_first[first], columns.input_second[last - 1] + 1
    middle = np.empty(stop, np.float32)
    low_hW = np.empty((n_low, last - first), np.float32)
    for y in range(n_low):
        for x in range(start, stop):
            a = logits_hw[y, columns.low_first[x]]
            middle[x] = a + columns.low_weight[x] * (logits_hw[y, columns.low_second[x]] - a)
        for c in range(first, last):
            a = middle[columns.input_first[c]]
            low_hW[y, c - first] = a + columns.input_weight[c] * (middle[columns.input_second[c]] - a)
    input_RW = np.empty((rows.low_first.size, last - first), np.float32)
    for r in range(input_RW.shape[0]):
        a_W, b_W, out_W = low_hW[rows.low_first[r]], low_hW[rows.low_second[r]], input_RW[r]
        weight = rows.low_weight[r]
        for c in range(out_W.size):
            out_W[c] = a_W[c] + weight * (b_W[c] - a_W[c])
    return input_RW


@_compiled
def _count_block(input_RW: Float32, rows: Axis, truth_packed: UInt8, bins: Bins, packed_B: Int64) -> None:
    """Group the native rows by the pair of input rows between which they lie, and count each group.

    A count holds the pixels in its lower half and the true ones in its upper half: one add for both.
    """
    height = rows.input_first.size
    words = np.empty(truth_packed.shape[1], np.uint64)
    start = 0
    while start < height:
        pair = rows.input_first[start]
        stop = start + 1
        while stop < height and stop - start < GROUP and rows.input_first[stop] == pair:
            stop += 1
        words[:] = 0
        for r in range(start, stop):
            for k in range(words.size):
                words[k] += _BIT_BYTES[truth_packed[r, k]]
        a_W, b_W = input_RW[pair], input_RW[rows.input_second[start]]
        weights, truth = rows.input_weight[start:stop], truth_packed[start:stop]
        _count_group(a_W, b_W, weights, truth, words.view(np.uint8), bins, packed_B)
        start = stop


@_compiled
def _count_group(
    a_W: Float32,
    b_W: Float32,
    weights: Float32,
    truth_packed: UInt8,
    true_W: UInt8,
    bins: Bins,
    packed_B: Int64,
) -> None:
    """Neighbouring columns mostly share a bin: they are summed in registers and written when it changes.

    Slices and not indices go to the small loops: numba vectorises those, at a third of the time.
    """
    current, columns, true = np.uintp(0), 0, np.int64(0)
    low, high = bins.edges[0], bins.edges[1]
    first_weight, last_weight = weights[0], weights[-1]
    for start in range(0, a_W.size, CHUNK):
        stop = min(start + CHUNK, a_W.size)
        if _all_within(a_W[start:stop], b_W[start:stop], first_weight, last_weight, low, high):
            columns += stop - start
            true += _total(true_W[start:stop])
            continue
        for c in range(start, stop):
            a = a_W[c]
            slope = b_W[c] - a
            top, bottom = a + first_weight * slope, a + last_weight * slope
            if not (low < top <= high and low < bottom <= high):
                found, other = _find(bins, top), _find(bins, bottom)
                if found != other:
                    packed_B[found] += _pixel(truth_packed, 0, c)
                    packed_B[other] += _pixel(truth_packed, weights.size - 1, c)
                    for r in range(1, weights.size - 1):
                        packed_B[_find(bins, a + weights[r] * slope)] += _pixel(truth_packed, r, c)
                    continue
                packed_B[current] += columns * weights.size + (true << 32)
                current, columns, true = found, 0, np.int64(0)
                low, high = bins.edges[found], bins.edges[found + np.uintp(1)]
            columns += 1
            true += true_W[c]
    packed_B[current] += columns * weights.size + (true << 32)


@_compiled
def _all_within(
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


@_compiled
def _total(true_W: UInt8) -> np.int64:
    total = np.int64(0)
    for c in range(true_W.size):
        total += true_W[c]
    return total


@_compiled
def _pixel(truth_packed: UInt8, r: int, c: int) -> np.int64:
    """One pixel, and in the upper half whether it is true."""
    bit = (truth_packed[r, c >> 3] >> np.uint8(7 - (c & 7))) & np.uint8(1)
    return np.int64(1) + (np.int64(bit) << 32)


@_compiled
def _find(bins: Bins, value: np.float32) -> np.uintp:
    """How many edges lie strictly below the value (unsigned: numba then skips its test for negatives).

    The first step is an addition and not a branch: at 1,001 edges it would be mispredicted every other time.
    """
    position = (value - bins.origin) * bins.scale
    position = max(np.float32(0), min(position, bins.last_cell))
    found = np.uintp(bins.first_bin[np.uintp(np.int32(position))])
    found += np.uintp(bins.edges[found + np.uintp(1)] < value)
    while bins.edges[found + np.uintp(1)] < value:
        found += np.uintp(1)
    return found
