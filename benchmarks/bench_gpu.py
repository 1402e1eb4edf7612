"""What does one GPU do: images a second through ViT-H, and training steps of a stack of decoders?

    python -m benchmarks.bench_gpu [--quick] [--repeats 5]

Needs CUDA (``--quick`` runs tiny sizes on the CPU). Weights are random. The encoder runs against
SamPredictor.set_image and against stock with segment-anything-fast's techniques (embed_gpu.py); a stack of
nine against segment-anything's decoder image by image, against transformers, and against our own decoders one
after another. The limits are this GPU's rate of bf16 products of random matrices and its rate of copying,
both measured in the same process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import embed_gpu
from benchmarks.bench_train import (
    PROMPT_TOKENS,
    hugging_face_step,
    make_batch,
    our_step,
    roofline,
    stock_step,
)
from benchmarks.common import (
    Target,
    medians,
    parser_of,
    print_targets,
    ratio,
    time_interleaved,
    wait_for,
    write_record,
)
from benchmarks.limits import DTYPES, Rates, Step

N_IMAGES, STACK = 8, 9
STACKED, ALONE = "lungfast, nine in one stack", "lungfast, one"


def candidates(device: str, side: int, n_images: int) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Decoders that a step trains, and the step."""
    compiled = device != "cpu"
    one, nine = (make_batch(side, n, n_images, device) for n in (1, STACK))
    found: dict[str, tuple[int, Callable[[], Any]]] = {
        STACKED: (STACK, our_step(nine, side, "bf16", compiled=compiled)),
        ALONE: (1, our_step(one, side, "bf16", compiled=compiled)),
        "stock fp32": (1, stock_step(one, side, autocast=False)),
        "stock bf16": (1, stock_step(one, side, autocast=True)),
    }
    if find_spec("transformers"):
        found["transformers bf16"] = (1, hugging_face_step(one, side, autocast=True))
    return found


def waited(step: Callable[[], Any], device: str) -> Callable[[], None]:
    """A step with all that it gave the device to do, Adam's update too."""

    def run() -> None:
        step()
        wait_for(device)

    return run


def measure_training(
    device: str, side: int, n_images: int, rates: Rates, repeats: int
) -> tuple[list[list[dict[str, Any]]], list[Target]]:
    measured = candidates(device, side, n_images)
    calls = {name: waited(step, device) for name, (_, step) in measured.items()}
    seconds = time_interleaved(calls, repeats=repeats)
    each = {
        name: [value / measured[name][0] / n_images for value in values] for name, values in seconds.items()
    }
    limit = Step(side=side, n_images=n_images, prompt_tokens=PROMPT_TOKENS).limit(rates, "bf16")
    stock = min(("stock fp32", "stock bf16"), key=lambda name: medians(each)[name])
    table = [
        {
            "candidate": name,
            "ms a decoder and image": round(1e3 * value, 4),
            "times the better stock": round(ratio(each[stock], each[name]), 1),
            "share of the limit": float(f"{limit / value:.2g}"),
        }
        for name, value in medians(each).items()
    ]
    return [table, [roofline(side, n_images, rates, "bf16")]], [
        Target("train-gpu", ratio(each[stock], each[STACKED]), at_least=100),
        Target("train-gpu-roofline", limit / medians(each)[STACKED], at_least=0.5),
        Target("stack-9-gpu", ratio(each[ALONE], each[STACKED]), at_least=4),
    ]


def show(rows: Sequence[dict[str, Any]]) -> None:
    """At once: a machine on loan may be gone before the record is written."""
    for row in rows:
        print(row, flush=True)


def run(device: str, *, quick: bool, repeats: int) -> Path:
    rates = Rates.measured(device, DTYPES, quick=quick)
    side, n_images = (4, 1) if quick else (64, N_IMAGES)
    trained, targets = measure_training(device, side, n_images, rates, 1 if quick else repeats)
    show([row for table in trained for row in table])
    step = f"A training step (forward, loss, backward, Adam; {side}x{side} image tokens, batch {n_images}, "
    content: dict[str, Any] = {
        "title": "One GPU",
        "question": f"{step}{PROMPT_TOKENS} prompt tokens), medians of {repeats}; and ViT-H's embeddings.",
        "device": device,
        "tables": trained,
        "targets": targets,
    }
    write_record("gpu", content, quick=quick)  # stands if what follows does not come to its end
    encoded, asked = embed_gpu.measure(device, rates, quick=quick, repeats=1 if quick else 3)
    show(encoded)
    more = {"tables": [*trained, encoded], "targets": [*targets, *asked]}
    return write_record("gpu", content | more, quick=quick)


def main(arguments: Sequence[str] | None = None) -> Path | None:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    if not options.quick and not torch.cuda.is_available():
        print("train-gpu and embed-vit-h skipped: no CUDA device")
        return None
    path = run("cpu" if options.quick else "cuda", quick=options.quick, repeats=options.repeats)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
