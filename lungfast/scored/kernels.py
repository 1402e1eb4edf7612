"""Low-resolution logits against a native mask: pixel counts at every threshold, in one fused pass.

Comes in: logits (h, w), the image's :class:`Frame`, its native truth as packed bits, threshold edges.
Goes out: :class:`Counts`, integers only. The native logits (80 MB for 4020 x 4892) never exist.

The values are those of segment-anything's ``Sam.postprocess_masks``: bilinear to the input square, crop the
padding, bilinear to native size, both as torch's ``F.interpolate(align_corners=False)``. Both steps are
separable, so columns are stretched first (h rows only), then rows: four float32 lerps ``a + w*(b - a)`` in
this fixed order, which the plain twin in the tests repeats; the counts are equal to the last pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungfast.errors import LungfastError, TrainingError
from lungfast.geometry import Frame
from lungfast.records import Bool, Counts, Float32, Int64, UInt8
from lungfast.scored.fused import Axis, Bins, count_pixels, predict_pixels

LARGEST_LOGIT = 1e37
"""Beyond this a difference of two logits may overflow float32; the same test catches NaN and infinity."""
MOST_CELLS = 4096


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
    count_pixels(logits, rows, columns, np.ascontiguousarray(truth_packed), bins, histogram_2B)
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
    predict_pixels(logits, rows, columns, threshold_edges([threshold])[0], mask_HW)
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
    return _axis(frame, low_size, 0), _axis(frame, low_size, 1)


def _axis(frame: Frame, low_size: tuple[int, ...], axis: int) -> Axis:
    resized = frame.resized_size[axis]
    first, second, weight = _taps(low_size[axis], frame.input_size)
    kept = first[:resized], second[:resized], weight[:resized]
    return Axis(*kept, *_taps(resized, frame.native_size[axis]))


def _taps(n_in: int, n_out: int) -> tuple[Int64, Int64, Float32]:
    """torch's source index max(0, scale * (i + .5) - .5) with its float32 scale and its fused multiply-add.

    The float64 expression rounded once equals that fused one; two roundings would move a weight by 3e-5.
    """
    scale = np.float64(np.float32(n_in) / np.float32(n_out))
    source = np.maximum(scale * (np.arange(n_out) + 0.5) - 0.5, 0).astype(np.float32)
    first = np.minimum(source.astype(np.int64), n_in - 1)
    weight = np.clip(source - first.astype(np.float32), np.float32(0), np.float32(1))
    return first, np.minimum(first + 1, n_in - 1), weight


def _bins(edges_Q: Float32) -> Bins:
    """The cell of a value is monotone in it, so every edge in an earlier cell is below the value: exact."""
    n_cells = min(4 * edges_Q.size, MOST_CELLS)
    origin, span = edges_Q[0], edges_Q[-1] - edges_Q[0]
    scale = np.float32(n_cells / span) if span > 0 else np.float32(0)
    cells_Q = np.minimum((edges_Q - origin) * scale, np.float32(n_cells - 1)).astype(np.int64)
    first_bin = np.searchsorted(cells_Q, np.arange(n_cells), side="left").astype(np.int32)
    edges = np.concatenate([[-np.inf], edges_Q, [np.inf]]).astype(np.float32)
    return Bins(edges, first_bin, origin, scale, np.float32(n_cells - 1))
