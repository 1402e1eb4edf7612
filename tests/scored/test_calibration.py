"""Expected calibration error from counts against the pixel-by-pixel definition."""

from __future__ import annotations

import numpy as np
import pytest

from lungfast.errors import LungfastError
from lungfast.geometry import Frame, pack_mask
from lungfast.scored.calibration import (
    CALIBRATION_EDGES,
    Reliability,
    bin_middles,
    expected_calibration_error,
    pooled,
)
from lungfast.scored.kernels import count_image, threshold_edges
from tests.naive.scored import native_logits

EDGES = threshold_edges(CALIBRATION_EDGES)


def image(seed: int) -> tuple[np.ndarray, Frame, np.ndarray]:
    """Logits, frame, truth: right on the whole, unsure at the border."""
    rng = np.random.default_rng(seed)
    frame = Frame.of((50 + seed, 40), 64, "longest")
    logits_hw = rng.normal(0, 3, (16, 16)).astype(np.float32)
    truth_HW = rng.random(frame.native_size) < 1 / (1 + np.exp(-native_logits(logits_hw, frame)))
    return logits_hw, frame, truth_HW


def reliability(seed: int) -> Reliability:
    logits_hw, frame, truth_HW = image(seed)
    return Reliability.of(count_image(logits_hw, frame, pack_mask(truth_HW), EDGES))


def test_equals_a_histogram_of_all_pixels() -> None:
    """Up to the width of the bins it is the error by each bin's mean probability."""
    parts, probabilities, truths = [], [], []
    for seed in range(4):
        logits_hw, frame, truth_HW = image(seed)
        parts.append(reliability(seed))
        probabilities.append(1 / (1 + np.exp(-native_logits(logits_hw, frame).astype(np.float64))).ravel())
        truths.append(truth_HW.ravel())
    probability, truth = np.concatenate(probabilities), np.concatenate(truths)
    bins = np.searchsorted(CALIBRATION_EDGES, probability, side="left")
    found = pooled(parts)
    n_bins = len(CALIBRATION_EDGES) + 1
    assert np.abs(found.pixels_B - np.bincount(bins, minlength=n_bins)).sum() <= 2
    assert np.abs(found.lung_B - np.bincount(bins[truth], minlength=n_bins)).sum() <= 2
    by_mean = sum(abs(truth[bins == b].sum() - probability[bins == b].sum()) for b in np.unique(bins)) / len(
        truth
    )
    assert expected_calibration_error(found) == pytest.approx(by_mean, abs=0.005)


def test_what_it_says_is_zero_and_certain_error_is_one() -> None:
    pixels_B = np.full(len(bin_middles()), 10**6)
    exact = Reliability(pixels_B=pixels_B, lung_B=np.rint(bin_middles() * 10**6).astype(np.int64))
    assert expected_calibration_error(exact) < 1e-6
    logits_hw = np.full((4, 4), 50, np.float32)
    frame = Frame.of((8, 8), 16, "longest")
    wrong = Reliability.of(count_image(logits_hw, frame, pack_mask(np.zeros((8, 8), bool)), EDGES))
    assert expected_calibration_error(wrong) == pytest.approx(1, abs=0.001)


def test_counts_of_another_scan_are_refused() -> None:
    logits_hw, frame, truth_HW = image(0)
    counts = count_image(logits_hw, frame, pack_mask(truth_HW), threshold_edges([0.5]))
    with pytest.raises(LungfastError, match="counts do not fit the bins; found 1"):
        Reliability.of(counts)
