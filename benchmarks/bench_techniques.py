"""What does each technique gain? Everything on, against everything but one.

    python -m benchmarks.bench_techniques [--quick] [--repeats 5]

A training step of one decoder (64x64 tokens, batch 8, 3 prompt tokens, the default precision), a stack of
nine (32x32 tokens), and the scoring of one image: each technique is switched off alone, and the time without
it over the time with it is its gain. The stock loop stands below: what all of them gain together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.bench_score import cases, ours
from benchmarks.bench_train import make_batch, our_step, stock_step
from benchmarks.common import medians, parser_of, ratio, rest, time_interleaved, write_record
from benchmarks.score_peers import monai_route
from lungfast import workers
from lungfast.compute import cpu_count, resolve_precision
from lungfast.records import PrecisionName
from lungfast.scored import kernels
from lungfast.scored.scores import PAPER_THRESHOLDS
from lungfast.trained import attention, cutting, decoder, piece, step

Switch = Sequence[tuple[Any, str, Any]]
"""Module, name, value while the technique is off."""


def _by_hand_off(**fields: Any) -> decoder.Inputs:
    return decoder.Inputs(**(fields | {"fused": False}))


BY_HAND, ABSORBED = "image side by hand, forward and backward", "attention absorbed into the tokens"
BY_IMAGE = "losses image by image, while the pixels lie in the cache"
TRAINING: Mapping[str, Switch] = {
    ABSORBED: ((attention, "ABSORB_BELOW", 0), (decoder, "ABSORB_BELOW", 0)),
    BY_HAND: ((step, "Inputs", _by_hand_off),),
    BY_IMAGE: ((piece, "_goes_image_by_image", lambda _: False),),
    "a thread takes images, not a part of every operation": ((workers, "MOST", 1),),
}
NEEDED: Mapping[str, str] = {ABSORBED: BY_HAND, BY_HAND: BY_IMAGE}
"""What a technique carries: without it that one is off as well, so that its gain is over that one off."""
STACKED: Mapping[str, Switch] = {
    "a thread takes a decoder, not a part of every operation": ((workers, "MOST", 1),),
}
SCORING: Mapping[str, Switch] = {
    "pixels that their samples decide need no look": ((kernels, "LERP_ROUNDING", 1e9),),
}
ALL = "everything on"


@contextmanager
def off(switch: Switch) -> Iterator[None]:
    with ExitStack() as stack:
        for module, name, value in switch:
            stack.enter_context(patch.object(module, name, value))
        yield


def without(switch: Switch, make: Callable[[], Callable[[], Any]]) -> Callable[[], Any]:
    """Made and called while the technique is off."""
    with off(switch):
        call = make()

    def run() -> Any:
        with off(switch):
            return call()

    return run


def measure(
    what: str, candidates: Mapping[str, Callable[[], Any]], peer: str, repeats: int
) -> list[dict[str, Any]]:
    """Techniques by falling gain, the peer last."""
    seconds = time_interleaved(candidates, repeats=repeats, before=rest)
    gains = {name: ratio(seconds[name], seconds[NEEDED.get(name, ALL)]) for name in candidates}
    order = sorted(gains, key=lambda name: (name == peer, name != ALL, -gains[name]))
    return [
        {
            what: name if name in {ALL, peer} else f"without: {name}",
            "ms": round(1e3 * medians(seconds)[name], 2),
            "gain": round(gains[name], 2),
        }
        for name in order
    ]


def training(side: int, n_images: int, repeats: int) -> list[dict[str, Any]]:
    default = resolve_precision("auto", torch.device("cpu")).name
    batch = make_batch(side, 1, n_images)

    def make(precision: PrecisionName = default) -> Callable[[], Any]:
        return our_step(batch, side, precision)

    stock = "segment-anything image by image, MONAI, torch.optim.Adam (fp32)"
    candidates = {
        ALL: make(),
        **{name: without(switch, make) for name, switch in TRAINING.items()},
        f"{default} from end to end": make("fp32"),
        stock: stock_step(batch, side, autocast=False),
    }
    return measure(f"a step of {n_images} images, {default}", candidates, stock, repeats)


def pieces(side: int, n_images: int, repeats: int, *, piece_bytes: int) -> list[dict[str, Any]]:
    """In fp32, whose activations are the larger ones; the switch is checked, as it once changed nothing."""
    batch = make_batch(side, 1, n_images)
    name, most = "pieces of a batch that stay in the cache", "CPU_PIECE_BYTES"
    sizes = {ALL: piece_bytes, name: 1 << 40}
    candidates: dict[str, Callable[[], Any]] = {}
    seen: dict[str, set[tuple[int, int]]] = {}
    for what, n_bytes in sizes.items():
        candidates[what] = without(((cutting, most, n_bytes),), lambda: our_step(batch, side, "fp32"))
        with watched_pieces() as seen[what]:
            candidates[what]()
    if seen[ALL] == seen[name]:
        raise RuntimeError(f"pieces are the same without a bound: {sorted(seen[ALL])}")
    return measure(f"a step of {n_images} images, fp32", candidates, "", repeats)


@contextmanager
def watched_pieces() -> Iterator[set[tuple[int, int]]]:
    """The sizes that pieces get meanwhile."""
    seen: set[tuple[int, int]] = set()

    def piece_size(*args: Any) -> tuple[int, int]:
        size = cutting.piece_size(*args)
        seen.add(size)
        return size

    with patch.object(step, "piece_size", piece_size):
        yield seen


def stacked(side: int, n_images: int, n_decoders: int, repeats: int) -> list[dict[str, Any]]:
    default = resolve_precision("auto", torch.device("cpu")).name
    batch, one = make_batch(side, n_decoders, n_images), make_batch(side, 1, n_images)
    alone = our_step(one, side, default)
    name = f"{n_decoders} runs of one decoder, one after another"
    candidates = {
        ALL: our_step(batch, side, default),
        **{what: without(s, lambda: our_step(batch, side, default)) for what, s in STACKED.items()},
        name: lambda: [alone() for _ in range(n_decoders)],
    }
    return measure(f"a step of {n_decoders} decoders, {n_images} images", candidates, name, repeats)


def scoring(repeats: int, *, quick: bool) -> list[dict[str, Any]]:
    case = cases(quick=quick)["trained"]
    peer = "torch interpolate, MONAI DiceMetric"
    candidates = {
        ALL: ours(case, PAPER_THRESHOLDS),
        "two threads share an image": ours(case, PAPER_THRESHOLDS, 1),
        **{name: without(s, lambda: ours(case, PAPER_THRESHOLDS)) for name, s in SCORING.items()},
        peer: monai_route(case),
    }
    return measure("one image at 5 thresholds", candidates, peer, repeats)


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(cpu_count())
    quick, repeats = options.quick, 1 if options.quick else options.repeats
    side, small, n_images, n_decoders = (8, 4, 2, 2) if quick else (64, 32, 8, 9)
    content = {
        "title": "What each technique gains",
        "question": f"Everything on, against everything but one; {cpu_count()} threads, median of {repeats}. "
        "The gain is the time without a technique over that with everything. Without attention absorbed the "
        "image side is not by hand either: its gain is over the time without that. Techniques overlap: their "
        "gains do not multiply to that over the peer.",
        "tables": [
            training(side, n_images, repeats),
            pieces(side, 4 * n_images, repeats, piece_bytes=1 << 16 if quick else cutting.CPU_PIECE_BYTES),
            stacked(small, n_images, n_decoders, repeats),
            scoring(repeats, quick=quick),
        ],
    }
    path = write_record("techniques", content, quick=quick)
    print(path)
    return path


if __name__ == "__main__":
    main()
