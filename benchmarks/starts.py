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

import numpy as np
import torch

from benchmarks.common import Target
from lungfast.frozen.cache import Fingerprint
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.encoders import load_encoder
from lungfast.records import Bool, Sample, Size

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
    n_images = write_cache(url, share=0.02 if quick else 1.0)
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


def write_cache(url: str, *, share: float) -> int:
    """A nano cache of noise with two ellipses for lungs; returns how many images it holds."""
    encoder = load_encoder("nano", device=torch.device("cpu"))
    counts = [max(9, round(share * n)) for _, n, _ in SETS]
    fingerprint = Fingerprint.of(encoder.spec, dtype="float16", compute_dtype="float32", device_class="cpu")
    noise_NC = np.random.default_rng(0).normal(size=(encoder.spec.n_tokens, 256)).astype(np.float32)
    with CacheWriter.open(
        url, spec=encoder.spec, fingerprint=fingerprint, n_images=sum(counts), pixels=False
    ) as writer:
        writer.put_blob("head.safetensors", encoder.head)
        row = 0
        for (size, _, structures), count in zip(SETS, counts, strict=True):
            masks = lungs(size, structures)
            for _ in range(count):
                writer.add(row, sample(row, size, masks), np.roll(noise_NC, row, axis=0))
                row += 1
        writer.finish()
    return sum(counts)


def lungs(size: Size, structures: tuple[str, ...]) -> dict[str, Bool]:
    y, x = np.ogrid[0 : size[0], 0 : size[1]]
    sides = [
        ((x / size[1] - centre) / 0.14) ** 2 + ((y / size[0] - 0.48) / 0.3) ** 2 < 1 for centre in (0.3, 0.7)
    ]
    if len(structures) == 1:
        return {structures[0]: sides[0] | sides[1]}
    return dict(zip(structures, sides, strict=True))


def sample(row: int, size: Size, masks: dict[str, Bool]) -> Sample:
    return Sample(
        id=f"image-{row}",
        image_HW=np.zeros(size, np.uint8),
        masks=masks,
        source="generated for timing",
        patient=f"patient-{row}",
        content_sha256=f"{row:064x}",
    )


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
