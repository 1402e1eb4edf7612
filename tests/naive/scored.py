"""The plain twin of lungfast.scored: float32 numpy, whole images, one step after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lungfast.geometry import Frame
from lungfast.records import Bool, Counts, Float32, Float64

Array = npt.NDArray[Any]


def native_logits(logits_hw: Float32, frame: Frame) -> Float32:
    """Columns to the input square, crop, columns to native; then the same for rows."""
    wide_hW = _stretch_columns(logits_hw, frame, 1)
    return np.ascontiguousarray(_stretch_columns(np.ascontiguousarray(wide_hW.T), frame, 0).T)


def _stretch_columns(values: Float32, frame: Frame, axis: int) -> Float32:
    square = _lerp_columns(values, frame.input_size)
    return _lerp_columns(square[:, : frame.resized_size[axis]], frame.native_size[axis])


def _lerp_columns(values: Float32, n_out: int) -> Float32:
    n_in = values.shape[1]
    scale = np.float64(np.float32(n_in) / np.float32(n_out))
    source = np.maximum(scale * (np.arange(n_out) + 0.5) - 0.5, 0).astype(np.float32)
    left = np.minimum(source.astype(int), n_in - 1)
    right = np.minimum(left + 1, n_in - 1)
    weight = np.clip(source - left.astype(np.float32), np.float32(0), np.float32(1))
    a, b = values[:, left], values[:, right]
    return np.asarray(a + weight * (b - a), np.float32)


def edges(thresholds: Sequence[float]) -> Float32:
    return np.array([np.log(t / (1 - t)) for t in thresholds]).astype(np.float32)


def counts(native_HW: Array, truth_HW: Bool, edges_Q: Float32) -> Counts:
    predicted = [native_HW > edge for edge in edges_Q]
    return Counts(
        true_positive_Q=np.array([(p & truth_HW).sum() for p in predicted], np.int64),
        false_positive_Q=np.array([(p & ~truth_HW).sum() for p in predicted], np.int64),
        false_negative_Q=np.array([(~p & truth_HW).sum() for p in predicted], np.int64),
        true_negative_Q=np.array([(~p & ~truth_HW).sum() for p in predicted], np.int64),
    )


def patient_means(values_N: Float64, patients: Sequence[str], draws_DP: Array) -> Float64:
    """Draw by draw: put the drawn patients' images together and average them."""
    names = sorted(set(patients))
    means = []
    for draw in draws_DP:
        drawn = [
            value
            for patient in draw
            for value, owner in zip(values_N, patients, strict=True)
            if owner == names[patient]
        ]
        means.append(float(np.mean(drawn)))
    return np.array(means)
