"""How long and how much memory does one image take, from a SAM checkpoint file to its row in the cache?

The checkpoint has SAM's size and random weights (no trained one is needed to time it), the X-rays are
generated. ``lungfast embed`` runs as a process of its own; its peak memory is the kernel's figure. The peer
is SamPredictor.set_image on the same images; the limit is the encoder's arithmetic (FLOP for one 1024 x 1024
image) at the rate of this machine's matrix product.

    python -m benchmarks.bench_embed [--quick] [--kinds vit_b,vit_h] [--images 3]
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from segment_anything import SamPredictor, sam_model_registry

from benchmarks.common import measure_matmul_rate, write_record
from lungfast.data.datasets import list_montgomery
from lungfast.data.phantoms import write_montgomery

TERAFLOP = {"vit_b": 0.97, "vit_l": 2.98, "vit_h": 5.95}
PROBE = """
import resource, sys
from lungfast.commands import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(f"peak_kib={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n")
"""


def random_checkpoint(kind: str, path: Path) -> None:
    """A file of SAM's shapes; drawn tensor by tensor: vit_h's own initialisation takes minutes."""
    with torch.device("meta"):
        shapes = sam_model_registry[kind]().state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, meta in shapes.items():
        is_norm_weight = "norm" in name and name.endswith("weight")
        noise = torch.empty(meta.shape).normal_(0, 0.02, generator=generator)
        state[name] = noise + 1 if is_norm_weight else noise
    torch.save(state, path)


def embed_seconds(data: Path, checkpoint: Path, out: Path, n: int) -> tuple[float, float]:
    """Seconds and peak GiB of a whole ``lungfast embed`` process on ``n`` images."""
    started = time.perf_counter()
    command = [
        "embed",
        "montgomery",
        str(data),
        "-o",
        str(out),
        "--checkpoint",
        str(checkpoint),
        "--overwrite",
    ]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 or f"{n} images embedded" not in done.stdout:
        raise SystemExit(done.stdout + done.stderr)
    seconds = time.perf_counter() - started
    peak = re.search(r"peak_kib=(\d+)", done.stderr)
    return seconds, int(peak.group(1)) / 2**20 if peak else float("nan")


def peer_seconds(data: Path, checkpoint: Path, kind: str) -> list[float]:
    """Seconds per image of SamPredictor.set_image, loading excluded."""
    predictor = SamPredictor(sam_model_registry[kind](checkpoint=str(checkpoint)))
    seconds = []
    for ref in list_montgomery(data).refs:
        image_HW3 = ref.load().image_HW[..., None].repeat(3, axis=2)
        started = time.perf_counter()
        predictor.set_image(image_HW3)
        seconds.append(time.perf_counter() - started)
    return seconds


def measure(kind: str, folder: Path, n_images: int) -> dict[str, Any]:
    checkpoint = folder / f"{kind}.pth"
    random_checkpoint(kind, checkpoint)
    one, many = folder / "one", folder / "many"
    if not many.exists():
        write_montgomery(one, 1, long_side=1024)
        write_montgomery(many, n_images, long_side=1024)
    # two processes: their difference is free of start, loading and hashing
    short, _ = embed_seconds(one, checkpoint, folder / "one.zarr", 1)
    long, peak = embed_seconds(many, checkpoint, folder / "many.zarr", n_images)
    stock = peer_seconds(many, checkpoint, kind)
    stock_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rate = measure_matmul_rate("float32")
    each = (long - short) / (n_images - 1)
    row = {
        "encoder": f"{kind}, random weights",
        "checkpoint, MB": round(checkpoint.stat().st_size / 1e6),
        "lungfast, s an image": round(each, 2),
        "start and loading, s": round(short - each, 1),
        "peak memory, GiB": round(peak, 2),
        "SamPredictor, s an image": round(sorted(stock)[len(stock) // 2], 2),
        "its peak so far, GiB": round(stock_peak, 2),
        "limit, s an image": round(TERAFLOP[kind] * 1e12 / rate, 2),
    }
    checkpoint.unlink()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="vit_b and two images")
    parser.add_argument("--kinds", default="vit_b,vit_h")
    parser.add_argument("--images", type=int, default=3)
    options = parser.parse_args()
    kinds, n_images = (["vit_b"], 2) if options.quick else (options.kinds.split(","), options.images)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(kind, Path(folder), n_images) for kind in kinds]
    content = {
        "title": "From a SAM checkpoint to rows in the cache, on a CPU",
        "question": f"lungfast embed on {n_images} generated X-rays of 1024 px, fp32; a GPU is what ViT-H is "
        "made for, and this shows that the path runs without one.",
        "tables": [rows],
    }
    write_record("embed", content, quick=options.quick)


if __name__ == "__main__":
    main()
