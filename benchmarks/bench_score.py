"""Counting one native image at many thresholds: ours against torch, MONAI and numpy.

All peers start from the same low-resolution logits and get the truth in the form they like best (float for
MONAI, bool for the others; ours reads packed bits). Peers use every core, ours uses one per image.
"""

from __future__ import annotations

import argparse
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics.meandice import DiceMetric

from benchmarks.common import (
    measure_copy_rate,
    measure_matmul_rate,
    medians,
    ratio,
    time_interleaved,
    write_record,
)
from lungfast.compute import cpu_count
from lungfast.geometry import Frame, pack_mask
from lungfast.records import Bool, Float32
from lungfast.scored.kernels import (
    ScoreJob,
    count_image,
    count_images,
    predict_mask,
    threshold_edges,
)
from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS

FINE = tuple((n + 1) / 1002 for n in range(1001))
STRIPE = 16
OURS = "lungfast, 5 thresholds"
PLAIN = ("torch, 5 compares", "torch + numpy counts", "torch + compiled counts", "numpy, stripes of 16 rows")
MONAI = "torch + MONAI DiceMetric"


class Case:
    """One image: logits of two wavy lungs plus noise, and a truth that differs a little from them."""

    def __init__(self, native: tuple[int, int], low: int, input_size: int, noise: float) -> None:
        self.frame = Frame.of(native, input_size, "longest")
        self.logits_hw = lung_logits(low, noise)
        self.truth_HW: Bool = predict_mask(lung_logits(low, 0.0), self.frame, 0.4)
        self.packed = pack_mask(self.truth_HW)
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


def lung_logits(side: int, noise: float) -> Float32:
    y, x = np.mgrid[0:side, 0:side] / side
    lungs = [1 - ((x - cx) / 0.16) ** 2 - ((y - 0.45) / 0.33) ** 2 for cx in (0.28, 0.6)]
    spread = noise * np.random.default_rng(0).normal(size=(side, side))
    return np.asarray(8 * np.tanh(3 * np.maximum(*lungs)) + spread, np.float32)


def ours(case: Case, thresholds: tuple[float, ...]) -> Callable[[], Any]:
    edges_Q = threshold_edges(thresholds)
    return lambda: count_image(case.logits_hw, case.frame, case.packed, edges_Q).true_positive_Q


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


def candidates(case: Case, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    """The routes; every one that counts must agree with ours but for a few pixels of rounding."""
    routes = {
        OURS: ours(case, PAPER_THRESHOLDS),
        "lungfast, 91 thresholds": ours(case, DEFAULT_THRESHOLDS),
        "lungfast, 1,001 thresholds": ours(case, FINE),
        MONAI: monai_route(case),
    }
    plain = (torch_route, hybrid_route, compiled_route, stripes_route)
    for name, route in zip(PLAIN, plain, strict=True):
        if compiled or route is not compiled_route:
            routes[name] = route(case)
    for name in set(PLAIN) & set(routes):
        difference = np.abs(np.asarray(routes[name]()) - routes[OURS]()).max()
        if difference > 1 + 1e-5 * case.truth_HW.size:
            raise SystemExit(f"{name} counts other pixels than ours: {difference}")
    return routes


def measure(case: Case, repeats: int, *, compiled: bool) -> list[dict[str, Any]]:
    routes = candidates(case, compiled=compiled)
    seconds = time_interleaved(routes, repeats=repeats)
    median = medians(seconds)
    best = min((name for name in PLAIN if name in routes), key=lambda name: median[name])
    return [
        {
            "route": name + (" (best plain route)" if name == best else ""),
            "ms an image": round(1e3 * median[name], 2),
            "time against lungfast's 5": round(ratio(seconds[name], seconds[OURS]), 2),
        }
        for name in routes
    ]


def measure_noise(case: Case, repeats: int, n_images: int) -> list[dict[str, Any]]:
    """Ours alone: logits of pure steps, where neighbours share nothing; and several images on all cores."""
    job = ScoreJob(logits_hw=case.logits_hw, frame=case.frame, truth_packed=case.packed)
    rough = Case(case.frame.native_size, case.logits_hw.shape[0], case.frame.input_size, 5.0)
    routes = {
        f"{n_images} images on {cpu_count()} threads, 5 thresholds": lambda: count_images(
            [job] * n_images, case.edges_Q, threads=cpu_count()
        ),
        "one image, noise of 5 logits per low-resolution pixel, 5 thresholds": ours(rough, PAPER_THRESHOLDS),
        "the same, 1,001 thresholds": ours(rough, FINE),
    }
    median = medians(time_interleaved(routes, repeats=repeats))
    images = [n_images, 1, 1]
    return [
        {"lungfast": name, "ms an image": round(1e3 * median[name] / n, 2)}
        for name, n in zip(routes, images, strict=True)
    ]


def limits(case: Case, *, quick: bool) -> list[dict[str, Any]]:
    """What one thread of the machine allows: bytes that must be read, one lerp and Q compares a pixel."""
    n_pixels, copy = case.truth_HW.size, measure_copy_rate(1 << 20 if quick else 256 << 20)
    torch.set_num_threads(1)
    multiply_add = measure_matmul_rate("float32", side=64 if quick else 2048)
    torch.set_num_threads(cpu_count())
    operations = n_pixels * (3 + case.edges_Q.size)
    rows = {
        "reading the logits and the packed truth once": (case.logits_hw.nbytes + case.packed.nbytes) / copy,
        "writing and reading the native logits once (which ours never does)": 8 * n_pixels / copy,
        # a matrix product counts a multiply-add, one instruction, as two operations
        "one lerp (3) and 5 compares of every pixel at half the product rate": operations
        / (multiply_add / 2),
    }
    return [{"limit": name, "ms": round(1e3 * value, 2)} for name, value in rows.items()]


def run(*, quick: bool = False, repeats: int = 9) -> Path:
    torch.set_num_threads(cpu_count())
    native, low, input_size, repeats = ((61, 73), 16, 64, 1) if quick else ((4020, 4892), 256, 1024, repeats)
    case = Case(native, low, input_size, 0.3)
    compiled = not quick and any(map(shutil.which, ("g++", "clang++", "c++")))
    content = {
        "title": "Scoring one image at native size",
        "question": f"Logits {low} x {low} of two lungs against a mask of {native[0]} x {native[1]}: how "
        f"long do the counts at 5 thresholds take? Peers use {cpu_count()} threads, lungfast one; median of "
        f"{repeats}; ratios are medians of the ratios round by round.",
        "threads_of_peers": cpu_count(),
        "tables": [
            measure(case, repeats, compiled=compiled),
            measure_noise(case, repeats, 2 if quick else 8),
            limits(case, quick=quick),
        ],
    }
    return write_record("score", content, quick=quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    path = run(quick=options.quick, repeats=options.repeats)
    print(path)
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
