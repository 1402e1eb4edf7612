"""Low-resolution logits against a native mask: pixel counts at every threshold, in one fused pass.

Comes in: logits (h, w), the image's :class:`Frame`, its native truth as packed bits, threshold edges.
Goes out: :class:`Counts`, integers only. The native logits (80 MB for 4020 x 4892) never exist.

The values are those of segment-anything's ``Sam.postprocess_masks``: bilinear to the input square, crop the
padding, bilinear to native size, both as torch's ``F.interpolate(align_corners=False)``. Both steps are
separable, so columns are stretched first (h rows only), then rows: four float32 lerps ``a + w*(b - a)`` in
this fixed order, which the plain twin in the tests repeats; the counts are equal to the last pixel.

Between two input rows lie several native rows (4.8 at 4892 from 1024), and there a column's value is monotone,
rounding included. Where its first and last value fall in one bin, so do all: one look serves the group, and
only the sum of the truth bits is needed. That is what makes 1,001 thresholds nearly as cheap as five.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from lungfast.errors import LungfastError, TrainingError
from lungfast.geometry import Frame
from lungfast.records import Bool, Counts, Float32, Int64, UInt8

BLOCK = 1024
"""Native columns at a time: the block's input rows (1024 x 1024 float32, 4 MB) stay in the outer cache."""
LARGEST_LOGIT = 1e37
"""Beyond this a difference of two logits may overflow float32; NaN and infinity are caught by the same test."""
MOST_CELLS = 4096
GROUP = 255
"""Most native rows looked at together: the truth bits of a column are summed in one byte."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_BIT_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64)[:, 0].copy()
"""Packed byte -> eight bytes 0/1 in one word, in pixel order on this machine: eight columns summed by one add."""


def _compiled(function: _Function) -> _Function:
    """numba.njit without fastmath; cached on disk unless no cache folder can be written (read-only installs)."""
    try:
        compiled: _Function = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        compiled = numba.njit(nogil=True)(function)
    return compiled


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
    first_bin: Int64
    origin: np.float32
    scale: np.float32


@dataclass(frozen=True, kw_only=True)
class ScoreJob:
    """One image to count: logits (h, w), its frame, its packed native truth (H, ceil(W / 8))."""

    logits_hw: Float32
    frame: Frame
    truth_packed: UInt8


# --- public ----------------------------------------------------------------------------------------


def threshold_edges(thresholds_Q: Sequence[float] | np.ndarray[Any, Any]) -> Float32:
    """Probabilities in (0, 1), strictly increasing -> float32 logits log(t / (1 - t))."""
    thresholds = np.asarray(thresholds_Q, np.float64)
    fits = thresholds.ndim == 1 and thresholds.size > 0
    if not (fits and np.all(thresholds > 0) and np.all(thresholds < 1) and np.all(np.diff(thresholds) > 0)):
        raise LungfastError(
            "thresholds cannot be used",
            found=np.array2string(thresholds, threshold=8),
            expected="probabilities between 0 and 1 (exclusive), strictly increasing",
        )
    return (np.log(thresholds) - np.log1p(-thresholds)).astype(np.float32)


def pack_mask(mask_HW: Bool) -> UInt8:
    """(H, W) bool -> (H, ceil(W / 8)) uint8, first pixel in the highest bit, rows padded with zeros."""
    return np.packbits(np.asarray(mask_HW, bool), axis=1, bitorder="big")


def unpack_mask(packed: UInt8, width: int) -> Bool:
    """The inverse of :func:`pack_mask`; ``width`` in pixels."""
    return np.unpackbits(packed, axis=1, count=width, bitorder="big").view(bool)


def count_image(logits_hw: Float32, frame: Frame, truth_packed: UInt8, edges_Q: Float32) -> Counts:
    """Counts of one image at native size, positive where the logit is strictly above the edge.

    ``edges_Q`` as :func:`threshold_edges` gives them. Raises TrainingError on NaN or infinite logits.
    """
    logits = _checked(logits_hw)
    height, width = frame.native_size
    if truth_packed.shape != (height, -(-width // 8)) or truth_packed.dtype != np.uint8:
        raise LungfastError(
            "the packed mask does not fit the image",
            found=f"{truth_packed.dtype} {truth_packed.shape}",
            expected=f"uint8 {(height, -(-width // 8))} for {height} x {width} pixels",
        )
    rows, columns = _axes(frame, logits.shape)
    bins = _bins(edges_Q)
    histogram_2B = np.zeros((2, edges_Q.size + 1), np.int64)
    _count(logits, rows, columns, np.ascontiguousarray(truth_packed), bins, histogram_2B)
    all_Q, true_Q = (_above(histogram) for histogram in histogram_2B)
    n_true = int(histogram_2B[1].sum())
    return Counts(
        true_positive_Q=true_Q,
        false_positive_Q=all_Q - true_Q,
        false_negative_Q=n_true - true_Q,
        true_negative_Q=height * width - n_true - (all_Q - true_Q),
    )


def count_images(jobs: Sequence[ScoreJob], edges_Q: Float32, *, threads: int) -> list[Counts]:
    """:func:`count_image` of every job, in order, ``threads`` images at a time (the kernels hold no GIL)."""

    def count(job: ScoreJob) -> Counts:
        return count_image(job.logits_hw, job.frame, job.truth_packed, edges_Q)

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(count, jobs))


def predict_mask(logits_hw: Float32, frame: Frame, threshold: float) -> Bool:
    """The native mask (H, W) that :func:`count_image` counts at ``threshold``, bit for bit."""
    logits = _checked(logits_hw)
    rows, columns = _axes(frame, logits.shape)
    mask_HW = np.empty(frame.native_size, np.bool_)
    _predict(logits, rows, columns, threshold_edges([threshold])[0], mask_HW)
    return mask_HW


# --- tables ----------------------------------------------------------------------------------------


def _checked(logits_hw: Float32) -> Float32:
    logits = np.ascontiguousarray(logits_hw, np.float32)
    if not np.abs(logits).max() <= LARGEST_LOGIT:
        raise TrainingError(
            "logits contain NaN or infinity", found="a decoder that diverged", fix="train with a lower --lr"
        )
    return logits


def _above(histogram_B: Int64) -> Int64:
    """Bin b holds the pixels above exactly b edges: those above edge q are in the bins after q."""
    return np.asarray(histogram_B[::-1].cumsum()[::-1][1:])


def _axes(frame: Frame, low_size: tuple[int, ...]) -> tuple[Axis, Axis]:
    rows, columns = (
        Axis(
            *(taps[:resized] for taps in _taps(low, frame.input_size)),
            *_taps(resized, native),
        )
        for low, resized, native in zip(low_size, frame.resized_size, frame.native_size, strict=True)
    )
    return rows, columns


def _taps(n_in: int, n_out: int) -> tuple[Int64, Int64, Float32]:
    """torch's source index in float32, as its CPU kernel rounds it: max(0, scale * (i + .5) - .5)."""
    half = np.float32(0.5)
    scale = np.float32(n_in) / np.float32(n_out)
    source = np.maximum(scale * (np.arange(n_out, dtype=np.float32) + half) - half, np.float32(0))
    first = np.minimum(source.astype(np.int64), n_in - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, n_in - 1), weight.astype(np.float32)


def _bins(edges_Q: Float32) -> Bins:
    """The cell of a value is monotone in it, so every edge in an earlier cell is below the value: exact."""
    n_cells = min(4 * edges_Q.size, MOST_CELLS)
    origin, span = edges_Q[0], edges_Q[-1] - edges_Q[0]
    scale = np.float32(n_cells / span) if span > 0 else np.float32(0)
    cells_Q = np.minimum((edges_Q - origin) * scale, np.float32(n_cells - 1)).astype(np.int64)
    first_bin = np.searchsorted(cells_Q, np.arange(n_cells), side="left").astype(np.int64)
    edges = np.concatenate([[-np.inf], edges_Q, [np.inf]]).astype(np.float32)
    return Bins(edges, first_bin, origin, scale)


# --- kernels ---------------------------------------------------------------------------------------


@_compiled
def _count(logits_hw, rows, columns, truth_packed, bins, histogram_2B):  # type: ignore[no-untyped-def]
    width = columns.input_first.size
    for first in range(0, width, BLOCK):
        last = min(first + BLOCK, width)
        input_RW = _input_rows(logits_hw, rows, columns, first, last)
        truth = truth_packed[:, first // 8 : (last + 7) // 8]
        _count_block(input_RW, rows, truth, bins, histogram_2B)


@_compiled
def _predict(logits_hw, rows, columns, edge, mask_HW):  # type: ignore[no-untyped-def]
    width = columns.input_first.size
    for first in range(0, width, BLOCK):
        input_RW = _input_rows(logits_hw, rows, columns, first, min(first + BLOCK, width))
        for r in range(mask_HW.shape[0]):
            a_W, b_W = input_RW[rows.input_first[r]], input_RW[rows.input_second[r]]
            weight = rows.input_weight[r]
            for c in range(a_W.size):
                mask_HW[r, first + c] = a_W[c] + weight * (b_W[c] - a_W[c]) > edge


@_compiled
def _input_rows(logits_hw, rows, columns, first, last):  # type: ignore[no-untyped-def]
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
def _count_block(input_RW, rows, truth_packed, bins, histogram_2B):  # type: ignore[no-untyped-def]
    """Group the native rows by the pair of input rows between which they lie, and count each group."""
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
        _count_group(a_W, b_W, weights, truth, words.view(np.uint8), bins, histogram_2B)
        start = stop


@_compiled
def _count_group(a_W, b_W, weights, truth_packed, true_W, bins, histogram_2B):  # type: ignore[no-untyped-def]
    """Neighbouring columns mostly share a bin: they are summed in registers and written when it changes."""
    current, columns, true = 0, 0, 0
    low, high = bins.edges[0], bins.edges[1]
    for c in range(a_W.size):
        a = a_W[c]
        slope = b_W[c] - a
        top, bottom = a + weights[0] * slope, a + weights[-1] * slope
        if not (low < top <= high and low < bottom <= high):
            found = _find(bins, top)
            if found != _find(bins, bottom):
                _count_column(a, slope, c, weights, truth_packed, bins, histogram_2B)
                continue
            histogram_2B[0, current] += columns * weights.size
            histogram_2B[1, current] += true
            current, columns, true = found, 0, 0
            low, high = bins.edges[found], bins.edges[found + 1]
        columns += 1
        true += true_W[c]
    histogram_2B[0, current] += columns * weights.size
    histogram_2B[1, current] += true


@_compiled
def _count_column(a, slope, c, weights, truth_packed, bins, histogram_2B):  # type: ignore[no-untyped-def]
    for r in range(weights.size):
        found = _find(bins, a + weights[r] * slope)
        histogram_2B[0, found] += 1
        histogram_2B[1, found] += (truth_packed[r, c >> 3] >> (7 - (c & 7))) & 1


@_compiled
def _find(bins, value):  # type: ignore[no-untyped-def]
    """How many edges lie strictly below the value."""
    position = (value - bins.origin) * bins.scale
    last = bins.first_bin.size - 1
    cell = last if position >= last else (int(position) if position > 0 else 0)
    found = bins.first_bin[cell]
    found += bins.edges[found + 1] < value
    while bins.edges[found + 1] < value:
        found += 1
    return found
