"""Counting one native image at many thresholds: ours against torch, MONAI and numpy.

    python -m benchmarks.bench_score [--quick] [--repeats N]

The logits are those of a trained decoder on a generated X-ray of 4020x4892 (fixtures.py), the same made soft,
and saturated. All peers start from them and get the truth in the form they like best (float for MONAI, bool
for the others; ours reads packed bits). Everyone uses every core.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    Target,
    measure_copy_rate,
    measure_matmul_rate,
    medians,
    parser_of,
    print_targets,
    ratio,
    rest,
    time_interleaved,
    write_record,
)
from benchmarks.fixtures import KINDS, read_fixture
from benchmarks.score_peers import (
    Case,
    compiled_route,
    hybrid_route,
    monai_route,
    stripes_route,
    torch_route,
)
from lungfast.compute import cpu_count
from lungfast.geometry import Frame
from lungfast.scored.kernels import count_image, threshold_edges
from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS

FINE = tuple((n + 1) / 1002 for n in range(1001))
OURS = "lungfast, 5 thresholds"
PLAIN = ("torch, 5 compares", "torch + numpy counts", "torch + compiled counts", "numpy, stripes of 16 rows")
MONAI = "torch + MONAI DiceMetric"


def cases(*, quick: bool) -> dict[str, Case]:
    """By kind of field; a quick one is a sixteenth as wide."""
    fixture = read_fixture()
    frame, truth_HW, step = fixture.frame, fixture.truth_HW, 16 if quick else 1
    if quick:
        truth_HW = np.ascontiguousarray(truth_HW[::64, ::64])
        frame = Frame.of((truth_HW.shape[0], truth_HW.shape[1]), frame.input_size // step, "longest")
    fields = {kind: np.ascontiguousarray(fixture.logits_hw[kind][::step, ::step]) for kind in KINDS}
    spread = 5.0 * np.random.default_rng(0).normal(size=fields["trained"].shape)
    fields["noise"] = (fields["trained"] + spread).astype(np.float32)
    return {kind: Case(logits_hw, frame, truth_HW) for kind, logits_hw in fields.items()}


def ours(case: Case, thresholds: tuple[float, ...], threads: int = 0) -> Callable[[], Any]:
    edges_Q, threads = threshold_edges(thresholds), threads or cpu_count()
    given = (case.logits_hw, case.frame, case.packed, edges_Q)
    return lambda: count_image(*given, threads=threads).true_positive_Q


def candidates(case: Case, *, compiled: bool) -> dict[str, Callable[[], Any]]:
    """The routes; every one that counts must agree with ours but for a few pixels of rounding."""
    routes = {
        OURS: ours(case, PAPER_THRESHOLDS),
        "lungfast, 5 thresholds, one thread": ours(case, PAPER_THRESHOLDS, 1),
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


def measure(case: Case, repeats: int, *, compiled: bool) -> tuple[list[dict[str, Any]], list[Target]]:
    routes = candidates(case, compiled=compiled)
    seconds = time_interleaved(routes, repeats=repeats, before=rest)
    median = medians(seconds)
    best = min((name for name in PLAIN if name in routes), key=lambda name: median[name])
    table = [
        {
            "route": name + (" (best plain route)" if name == best else ""),
            "ms an image": round(1e3 * median[name], 2),
            "time against lungfast's 5": round(ratio(seconds[name], seconds[OURS]), 2),
        }
        for name in routes
    ]
    return table, [
        Target("score-5", ratio(seconds[MONAI], seconds[OURS]), at_least=200),
        Target("score-5-vs-hist", ratio(seconds[best], seconds[OURS]), at_least=40),
    ]


def measure_fields(fields: Mapping[str, Case], repeats: int) -> tuple[list[dict[str, Any]], list[Target]]:
    """Ours alone: what 5 and 1,001 thresholds take on every kind of field."""
    routes = {
        (kind, len(scan)): ours(case, scan)
        for kind, case in fields.items()
        for scan in (PAPER_THRESHOLDS, FINE)
    }
    seconds = time_interleaved({f"{kind} {n}": route for (kind, n), route in routes.items()}, repeats=repeats)
    median = medians(seconds)
    table, grows = [], {}
    for kind in fields:
        few, many = f"{kind} {len(PAPER_THRESHOLDS)}", f"{kind} {len(FINE)}"
        grows[kind] = ratio(seconds[many], seconds[few])
        table.append(
            {
                "lungfast, field": kind,
                "ms, 5 thresholds": round(1e3 * median[few], 2),
                "ms, 1,001 thresholds": round(1e3 * median[many], 2),
                "ratio": round(grows[kind], 2),
            }
        )
    return table, [
        Target("score-1001", grows["saturated"], at_most=3),
        Target("score-1001-soft", grows["soft"]),
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
    repeats = 1 if quick else repeats
    fields = cases(quick=quick)
    case = fields["trained"]
    compiled = not quick and any(map(shutil.which, ("g++", "clang++", "c++")))
    table, targets = measure(case, repeats, compiled=compiled)
    kinds, more = measure_fields(fields, repeats)
    height, width = case.frame.native_size
    low = case.logits_hw.shape[0]
    content = {
        "title": "Scoring one image at native size",
        "question": f"Logits {low} x {low} of a trained decoder against a mask of {height} x {width}: how "
        f"long do the counts at 5 thresholds take? {cpu_count()} threads; median of {repeats}; ratios are "
        "medians of the ratios round by round. And how does it depend on the field?",
        "threads": cpu_count(),
        "tables": [table, kinds, limits(case, quick=quick)],
        "targets": [*targets, *more],
    }
    return write_record("score", content, quick=quick)


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    path = run(quick=options.quick, repeats=options.repeats)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
