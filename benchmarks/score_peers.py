"""The peers of scoring: torch, MONAI and numpy, each from the same logits to its counts.

Comes in: a :class:`Case`. Goes out: callables that count true positives at the paper's thresholds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.meandice import DiceMetric

from lungfast.geometry import Frame, pack_mask
from lungfast.records import Bool, Float32
from lungfast.scored.kernels import threshold_edges
from lungfast.scored.scores import PAPER_THRESHOLDS

STRIPE = 16


class Case:
    """One image: logits, their geometry, the truth in every form."""

    def __init__(self, logits_hw: Float32, frame: Frame, truth_HW: Bool) -> None:
        self.frame, self.logits_hw, self.truth_HW = frame, logits_hw, truth_HW
        self.packed = pack_mask(truth_HW)
        self.edges_Q = threshold_edges(PAPER_THRESHOLDS)
        self.logits_torch = torch.from_numpy(self.logits_hw)[None, None]
        self.truth_torch = torch.from_numpy(self.truth_HW)
        self.truth_float = self.truth_torch[None, None].float()

    def native_torch(self) -> torch.Tensor:
        """segment-anything's postprocess_masks, (1, 1, H, W)."""
        stretch = functools.partial(F.interpolate, mode="bilinear", align_corners=False)
        square = stretch(self.logits_torch, (self.frame.input_size,) * 2)
        rows, columns = self.frame.resized_size
        return stretch(square[..., :rows, :columns], self.frame.native_size)


def monai_route(case: Case) -> Callable[[], Any]:
    metric = DiceMetric(reduction="none")

    def run() -> list[float]:
        probs = torch.sigmoid(case.native_torch())
        return [metric((probs > t).float(), case.truth_float).item() for t in PAPER_THRESHOLDS]

    return run


def torch_route(case: Case) -> Callable[[], Any]:
    def run() -> list[int]:
        native, both, found = case.native_torch()[0, 0], [], []
        for edge in case.edges_Q.tolist():
            above = native > edge
            found.append(int(torch.count_nonzero(above)))
            both.append(int(torch.count_nonzero(above & case.truth_torch)))
        return both

    return run


def numpy_counts(native_HW: Float32, truth_HW: Bool, edges_Q: Float32, totals_2Q: np.ndarray) -> None:
    above = np.empty(native_HW.shape, bool)
    for q, edge in enumerate(edges_Q):
        np.greater(native_HW, edge, out=above)
        totals_2Q[0, q] += np.count_nonzero(above)
        np.logical_and(above, truth_HW, out=above)
        totals_2Q[1, q] += np.count_nonzero(above)


def hybrid_route(case: Case) -> Callable[[], Any]:
    def run() -> np.ndarray:
        totals_2Q = np.zeros((2, case.edges_Q.size), np.int64)
        numpy_counts(case.native_torch()[0, 0].numpy(), case.truth_HW, case.edges_Q, totals_2Q)
        return np.asarray(totals_2Q[1])

    return run


def compiled_route(case: Case) -> Callable[[], Any]:
    """One generated loop over the native image for all ten counts."""
    edges = case.edges_Q.tolist()

    def counts(native: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        above = [native > edge for edge in edges]
        sums = [mask.sum(dtype=torch.int32) for a in above for mask in (a & truth, a)]
        return torch.stack(sums)

    compiled = torch.compile(counts)

    def run() -> list[int]:
        sums: list[int] = compiled(case.native_torch()[0, 0], case.truth_torch).tolist()
        return sums[::2]

    return run


def stripes_route(case: Case) -> Callable[[], Any]:
    """Stretch columns of the few input rows first, then rows in stripes that stay in the cache."""
    height, width = case.frame.native_size
    rows, columns = case.frame.resized_size
    buffers = np.empty((2, STRIPE, width), np.float32)

    def run() -> np.ndarray:
        square_hw = lerp(case.logits_hw, case.frame.input_size)
        low_hW = lerp(square_hw[:, :columns], width)
        upper, lower, low_weight = taps(low_hW.shape[0], case.frame.input_size)
        input_RW = low_hW[upper[:rows]]
        slope_RW = low_hW[lower[:rows]]
        slope_RW -= input_RW
        slope_RW *= low_weight[:rows, None]
        input_RW += slope_RW
        np.subtract(input_RW[1:], input_RW[:-1], out=slope_RW[:-1])
        slope_RW[-1] = 0
        first, _, weight = taps(rows, height)
        totals_2Q = np.zeros((2, case.edges_Q.size), np.int64)
        for r in range(0, height, STRIPE):
            part = first[r : r + STRIPE]
            native, base = buffers[:, : part.size]
            np.take(slope_RW, part, axis=0, out=native, mode="clip")  # without a mode numpy buffers `out`
            native *= weight[r : r + STRIPE, None]
            native += np.take(input_RW, part, axis=0, out=base, mode="clip")
            numpy_counts(native, case.truth_HW[r : r + STRIPE], case.edges_Q, totals_2Q)
        return np.asarray(totals_2Q[1])

    return run


def taps(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, Float32]:
    source = np.maximum(n_in / n_out * (np.arange(n_out) + 0.5) - 0.5, 0)
    first = np.minimum(source.astype(int), n_in - 1)
    return first, np.minimum(first + 1, n_in - 1), np.minimum(source - first, 1).astype(np.float32)


def lerp(values: Float32, n_out: int) -> Float32:
    first, second, weight = taps(values.shape[1], n_out)
    left = np.take(values, first, axis=1)
    right = np.take(values, second, axis=1)
    right -= left
    right *= weight
    left += right
    return left
