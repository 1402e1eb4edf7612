"""How does cost grow: with images, decoders, thresholds, image tokens, prompt tokens and cores?

    python -m benchmarks.bench_scale [--quick] [--images N] [--repeats 3]

One curve each, with what the machine allows drawn in: the arithmetic and the bytes that no method can leave
out (limits.py) at the rates of a matrix product and a copy measured now, and bare reads in threads, into
memory used again, for images from the disk. Images are streamed in random order under a fixed memory bound,
their pages dropped first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.bench_score import Case, cases, ours
from benchmarks.bench_train import make_batch, our_step, stock_step
from benchmarks.common import Plot, medians, parser_of, print_targets, rest, time_interleaved, write_record
from benchmarks.limits import Rates, Step
from benchmarks.scale_images import images, most_images
from lungfast.compute import cpu_count, resolve_precision
from lungfast.data.phantoms import MONTGOMERY, render_phantom
from lungfast.frozen.encoders import load_encoder
from lungfast.records import PrecisionName
from lungfast.scored.scores import PAPER_THRESHOLDS

BATCH, PROMPT_TOKENS = 8, 3
Table = list[dict[str, Any]]
Curve = tuple[Table, Plot]
Lines = dict[str, list[tuple[float, float]]]


def tabulated(x: str, lines: Mapping[str, Sequence[tuple[float, float]]], y: str) -> Table:
    """A row a place, a column a line."""
    places = sorted({place for points in lines.values() for place, _ in points})
    values = {name: dict(points) for name, points in lines.items()}
    return [
        {x: f"{place:g}"}
        | {f"{name}, {y}": float(f"{values[name][place]:.4g}") for name in lines if place in values[name]}
        for place in places
    ]


def default_precision() -> PrecisionName:
    return resolve_precision("auto", torch.device("cpu")).name


# --- training --------------------------------------------------------------------------------------


def decoders(side: int, counts: Sequence[int], rates: Rates, repeats: int) -> Curve:
    """A stack of more and more decoders on the same images."""
    precision = default_precision()
    step = Step(side=side, n_images=BATCH, prompt_tokens=PROMPT_TOKENS)
    lines: Lines = {"lungfast": [], "limit": []}
    for count in counts:
        train = our_step(make_batch(side, count, BATCH), side, precision)
        found = medians(time_interleaved({"stack": train}, repeats=repeats))["stack"]
        lines["lungfast"].append((count, 1e3 * found / count / BATCH))
        lines["limit"].append((count, 1e3 * step.limit(rates, precision)))
    y = "ms a decoder and image"
    title = f"Decoders in one stack ({side}x{side} tokens, {precision})"
    plot = Plot(name="decoders", title=title, x="decoders", y=y, lines=lines)
    return tabulated("decoders", lines, y), plot


def steps(name: str, sizes: Sequence[tuple[int, int]], rates: Rates, repeats: int) -> tuple[Table, Plot]:
    """One decoder's step over (image tokens a side, prompt tokens), against the stock loop."""
    precision = default_precision()
    lines: Lines = {"lungfast": [], "stock loop": [], "limit": []}
    for side, tokens in sizes:
        batch = make_batch(side, 1, BATCH, prompt_tokens=tokens)
        candidates: dict[str, Callable[[], Any]] = {
            "lungfast": our_step(batch, side, precision),
            "stock loop": stock_step(batch, side, autocast=precision == "bf16"),
        }
        seconds = medians(time_interleaved(candidates, repeats=repeats))
        place = side * side if name == "tokens" else tokens
        for line, value in seconds.items():
            lines[line].append((place, 1e3 * value / BATCH))
        limit = Step(side=side, n_images=BATCH, prompt_tokens=tokens).limit(rates, precision)
        lines["limit"].append((place, 1e3 * limit))
    x = {"tokens": "image tokens", "prompt-tokens": "prompt tokens"}[name]
    y = "ms an image"
    title = f"A training step, batch {BATCH}, {precision}"
    return tabulated(x, lines, y), Plot(name=name, title=title, x=x, y=y, lines=lines)


# --- scoring ---------------------------------------------------------------------------------------


def thresholds(fields: Mapping[str, Case], counts: Sequence[int], rates: Rates, repeats: int) -> Curve:
    """One image at native size; the limit reads its logits and its truth once, and its counts."""
    scans = {n: tuple((i + 1) / (n + 1) for i in range(n)) for n in counts}
    kinds = {"trained": "lungfast, trained", "soft": "lungfast, soft"}
    lines: Lines = {label: [] for label in kinds.values()} | {"torch histogram": [], "limit": []}
    for n, scan in scans.items():
        candidates = {label: ours(fields[kind], scan) for kind, label in kinds.items()}
        candidates["torch histogram"] = histogram_route(fields["trained"], scan)
        seconds = medians(time_interleaved(candidates, repeats=repeats, before=rest))
        for line, value in seconds.items():
            lines[line].append((n, 1e3 * value))
        case = fields["trained"]
        moved = case.logits_hw.nbytes + case.packed.nbytes + 2 * 8 * n
        lines["limit"].append((n, 1e3 * moved / rates.copied))
    height, width = fields["trained"].frame.native_size
    title = f"Counting {height} x {width} pixels at many thresholds"
    plot = Plot(name="thresholds", title=title, x="thresholds", y="ms an image", lines=lines)
    return tabulated("thresholds", lines, "ms"), plot


def histogram_route(case: Case, scan: Sequence[float]) -> Callable[[], Any]:
    """Every pixel into its bin once, whatever the number of thresholds; two histograms."""
    edges = torch.tensor(scan, dtype=torch.float64).logit().float()

    def run() -> torch.Tensor:
        bins = torch.bucketize(case.native_torch()[0, 0], edges)
        both = bins + (len(edges) + 1) * case.truth_torch
        return torch.bincount(both.ravel(), minlength=2 * len(edges) + 2)

    return run


# --- cores -----------------------------------------------------------------------------------------


def cores(side: int, case: Case, repeats: int) -> Curve:
    """The rate of one core, and of as many as there are."""
    counts = sorted({1, cpu_count()})
    batch = make_batch(side, 1, BATCH)
    film_HW = render_phantom(MONTGOMERY, 0, (512, 424)).image_HW
    nano = load_encoder("nano", device=torch.device("cpu"))
    candidates: dict[tuple[str, int], Callable[[], Any]] = {}
    for n in counts:
        torch.set_num_threads(n)
        step = our_step(batch, side, default_precision())
        candidates["training step", n] = on_threads(n, step)
        candidates["nano embedding", n] = on_threads(n, lambda: nano.encode([film_HW]))
        candidates["scoring", n] = ours(case, PAPER_THRESHOLDS, n)
    calls = {f"{kind} {n}": call for (kind, n), call in candidates.items()}
    seconds = medians(time_interleaved(calls, repeats=repeats, before=rest))
    torch.set_num_threads(cpu_count())
    kinds = dict.fromkeys(kind for kind, _ in candidates)
    lines: Lines = {
        kind: [(n, seconds[f"{kind} 1"] / seconds[f"{kind} {n}"]) for n in counts] for kind in kinds
    }
    lines["limit"] = [(n, float(n)) for n in counts]
    y = "times the rate of one core"
    plot = Plot(name="cores", title="More cores", x="cores", y=y, lines=lines)
    return tabulated("cores", lines, y), plot


def on_threads(n: int, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(n)
        return call()

    return run


# --- all -------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "grid": 64,
    "small": 32,
    "decoders": (1, 2, 5, 9, 15, 27, 45),
    "thresholds": (1, 5, 10, 100, 1000, 10_000),
    "sides": (32, 40, 48, 56, 64),
    "prompt_tokens": (6, 10, 14, 20, 28, 40),
}
QUICK: dict[str, Any] = {
    "grid": 8,
    "small": 4,
    "decoders": (1, 2),
    "thresholds": (1, 10),
    "sides": (4, 8),
    "prompt_tokens": (6, 14),
}


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, help="in the largest cache; by default as the disk holds")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    quick, repeats = options.quick, 1 if options.quick else options.repeats
    size = QUICK if quick else FULL
    torch.set_num_threads(cpu_count())
    rates, fields = Rates.measured(quick=quick), cases(quick=quick)
    most = 24 if quick else options.images or most_images(size["grid"])
    counts = [n for n in (8, 100, 300, 1000, 3000, 10_000, 30_000) if n < most and (quick or n > 8)]
    curves = [
        images(size["grid"], [*counts, most], repeats),
        decoders(size["small"], size["decoders"], rates, repeats),
        thresholds(fields, size["thresholds"], rates, repeats),
        steps("tokens", [(side, PROMPT_TOKENS) for side in size["sides"]], rates, repeats),
        steps("prompt-tokens", [(size["grid"], n) for n in size["prompt_tokens"]], rates, repeats),
        cores(size["grid"], fields["trained"], repeats),
    ]
    products = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.products.items())
    content = {
        "title": "How cost grows",
        "question": "With images, decoders, thresholds, image tokens, prompt tokens, cores; one column, "
        f"dashed in the plots, is what the machine allows: matrix products of {products} GFLOP/s, "
        f"{rates.copied / 1e9:.1f} GB/s copied. {cpu_count()} threads; median of {repeats}.",
        "tables": [table for table, _ in curves],
        "plots": [plot for _, plot in curves],
    }
    path = write_record("scale", content, quick=quick)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
