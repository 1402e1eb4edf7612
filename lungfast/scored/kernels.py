"""Low-resolution logits against a native mask: pixel counts at every threshold, in one fused pass.

Comes in: logits (h, w), the image's :class:`Frame`, its native truth as packed bits, threshold edges.
Goes out: :class:`Counts`, integers only. The native logits (80 MB for 4020 x 4892) never exist.

The values are those of segment-anything's ``Sam.postprocess_masks``: bilinear to the input square, crop the
padding, bilinear to native size, both as torch's ``F.interpolate(align_corners=False)``. Both steps are
separable, so columns are stretched first (h rows only), then rows: four float32 lerps ``a + w*(b - a)`` in
this fixed order, which the plain twin in the tests repeats; the counts are equal to the last pixel.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lungfast.errors import LungfastError, TrainingError
from lungfast.geometry import Frame
from lungfast.records import Bool, Counts, Float32, Int64, UInt8
from lungfast.scored.bins import Bins
from lungfast.scored.bits import Truth
from lungfast.scored.fused import count_pixels
from lungfast.scored.shares import LOOKS, Shares, all_done
from lungfast.scored.stretch import PAD, Axis, Field, Reach, predict_pixels

Number = TypeVar("Number", np.int64, np.float32)

LARGEST_LOGIT = 1e37
"""Beyond this a difference of two logits may overflow float32; the same test catches NaN and infinity."""
LERP_ROUNDING = 32 * 2.0**-24
"""Of the greatest |logit|: four lerps of five roundings of 2^-24 stray by 20 beyond their samples at most."""


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
    return np.log(thresholds / (1 - thresholds)).astype(np.float32)


def count_image(
    logits_hw: Float32, frame: Frame, truth_packed: UInt8, edges_Q: Float32, *, threads: int = 1
) -> Counts:
    """Counts of one image at native size, positive where the logit is strictly above the edge.

    ``edges_Q`` as :func:`threshold_edges` gives them; ``threads`` share the rows. Raises TrainingError on NaN
    or infinite logits.
    """
    logits = _checked(logits_hw)
    height, width = frame.native_size
    if truth_packed.shape != (height, -(-width // 8)) or truth_packed.dtype != np.uint8:
        raise LungfastError(
            "the packed mask does not fit the image",
            found=f"{truth_packed.dtype} {truth_packed.shape}",
            expected=f"uint8 {(height, -(-width // 8))} for {height} x {width} pixels",
        )
    given = _field(logits, frame), Truth.of(truth_packed), Bins.of(edges_Q)
    shares = Shares.of(height, threads)
    histograms_n2B = np.zeros((min(threads, shares.n), 2, edges_Q.size + 1), np.int64)
    waiting = [_pool(threads).submit(count_pixels, *given, shares, one_2B) for one_2B in histograms_n2B[1:]]
    count_pixels(*given, shares, histograms_n2B[0])
    if not all_done(shares, LOOKS):  # else nobody waits for a thread that is still waking
        for one in waiting:
            one.result()
    histogram_2B = histograms_n2B.sum(0)
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

    def count(job: ScoreJob, share: int = 1) -> Counts:
        return count_image(job.logits_hw, job.frame, job.truth_packed, edges_Q, threads=share)

    if len(jobs) == 1:
        return [count(jobs[0], threads)]
    return list(_pool(max(1, threads)).map(count, jobs))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept: starting its threads takes as long as an image."""
    return ThreadPoolExecutor(threads, thread_name_prefix="scoring")


if hasattr(os, "register_at_fork"):  # a forked process has the pool, but none of its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


def predict_mask(logits_hw: Float32, frame: Frame, threshold: float) -> Bool:
    """The native mask (H, W) that :func:`count_image` counts at ``threshold``, bit for bit."""
    mask_HW = np.empty(frame.native_size, np.bool_)
    predict_pixels(_field(_checked(logits_hw), frame), threshold_edges([threshold])[0], mask_HW)
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


def _field(logits: Float32, frame: Frame) -> Field:
    margin = np.float32(LERP_ROUNDING) * np.abs(logits).max()
    rows, columns = (
        _axis(n_low, frame.input_size, resized, native)
        for n_low, resized, native in zip(logits.shape, frame.resized_size, frame.native_size, strict=True)
    )
    return Field(logits, margin, rows, columns)


@lru_cache(maxsize=64)
def _axis(n_low: int, n_input: int, resized: int, native: int) -> Axis:
    """The tables of one axis; images of one size share them."""
    low, near = _taps(n_low, n_input), _taps(resized, native)
    first, last = low[0][near[0]], low[1][near[1]]
    samples = np.arange(n_low)
    reach = Reach(np.searchsorted(first, samples, "left"), np.searchsorted(last, samples, "right"))
    return Axis(
        *(low[0][:resized], low[1][:resized], low[2][:resized]),
        *(_padded(near[0]), _padded(near[1]), _padded(near[2])),
        *(first, last, reach),
    )


def _padded(table: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Its last entry again and again, for columns that are looked at in whole blocks."""
    return np.pad(table, (0, PAD), "edge")


def _taps(n_in: int, n_out: int) -> tuple[Int64, Int64, Float32]:
    """torch's source index max(0, scale * (i + .5) - .5) with its float32 scale and its fused multiply-add.

    The float64 expression rounded once equals that fused one; two roundings would move a weight by 3e-5.
    """
    scale = np.float64(np.float32(n_in) / np.float32(n_out))
    source = np.maximum(scale * (np.arange(n_out) + 0.5) - 0.5, 0).astype(np.float32)
    first = np.minimum(source.astype(np.int64), n_in - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, n_in - 1), weight
