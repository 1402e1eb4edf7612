"""How soon is something done? Whole processes, from their start: the first training step, and the help.

Comes in: a folder for a cache of 704 images at the sizes of the real sets. Goes out: seconds. The process
that makes the first step is ``lungfast grid`` itself; it is stopped in its first step.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.caches import noise_rows, write_cache
from benchmarks.common import Target
from lungfast.frozen.encoders import load_encoder
from lungfast.records import Size

SETS: tuple[tuple[Size, int, tuple[str, ...]], ...] = (
    ((4020, 4892), 138, ("left", "right")),
    ((3000, 3000), 566, ("lungs",)),
)
"""Native size, images, structures: Montgomery's and Shenzhen's."""
STOP = """
import os, sys
from lungfast.commands import main
from lungfast.trained import step
train = step.TrainStep.train
def once(*given, **named):
    train(*given, **named)
    os._exit(77)
step.TrainStep.train = once
main(sys.argv[1:])
"""


def measure(folder: Path, *, quick: bool) -> tuple[list[dict[str, Any]], list[Target]]:
    """A table row and a target for each; the cache is written first and is in the page cache."""
    url, repeats = f"{folder}/start.zarr", 1 if quick else 3
    n_images = write_sets(url, share=0.02 if quick else 1.0)
    first = [first_step(url, folder / f"run-{i}") for i in range(repeats)]
    shown = [help_shown() for _ in range(1 if quick else 5)]
    table = [
        {"process": f"lungfast grid, {n_images} images: to its first step", "s": statistics.median(first)},
        {"process": "lungfast --help", "s": statistics.median(shown)},
    ]
    targets = [
        Target("first-step", statistics.median(first), at_most=5),
        Target("help", statistics.median(shown), at_most=0.3),
    ]
    return [row | {"s": round(float(row["s"]), 2)} for row in table], targets


def write_sets(url: str, *, share: float) -> int:
    """A nano cache of noise at the sizes of both sets; returns how many images it holds."""
    encoder = load_encoder("nano", device=torch.device("cpu"))
    films = [(size, names) for size, n, names in SETS for _ in range(max(9, round(share * n)))]
    rows = noise_rows(encoder.spec, films)
    write_cache(url, rows, len(films), spec=encoder.spec, head=encoder.head)
    return len(films)


def first_step(url: str, run: Path) -> float:
    command = ["grid", url, "--lr", "1e-3", "--wd", "0", "--prompt", "points", "-o", str(run)]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", STOP, *command], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 77:
        raise SystemExit(done.stdout + done.stderr)
    return seconds


def help_shown() -> float:
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "from lungfast.commands import main; main(['--help'])"],
        capture_output=True,
        check=True,
    )
    return time.perf_counter() - started
