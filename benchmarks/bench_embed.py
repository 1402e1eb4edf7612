"""How long does SAM's image encoder take for an image: against segment-anything, and against the machine?

    python -m benchmarks.bench_embed [--quick] [--repeats 3]

Weights are random, X-rays generated. The peer is a loop of SamPredictor.set_image, in fp32 and, where the
processor has instructions for bf16, under bf16 autocast; ours is what ``lungfast embed --precision`` runs.
The limit is the encoder's arithmetic without padding (linear layers and attention) at the rate of a matrix
product of the same type, measured now. Features are compared with those of the fp32 peer. Then ``lungfast
embed`` as a process: seconds an image, start, peak memory. ViT-H on a GPU: bench_gpu.py.
"""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from benchmarks import embed_gpu
from benchmarks.common import (
    Target,
    medians,
    parser_of,
    print_targets,
    ratio,
    time_interleaved,
    told_missing,
    write_record,
)
from benchmarks.limits import Rates, encoder_flop
from benchmarks.weights import random_checkpoint, random_sam, tiny_sam
from lungfast.compute import cpu_count
from lungfast.data.phantoms import MONTGOMERY, render_phantom, write_montgomery
from lungfast.records import PrecisionName, UInt8

Table = list[dict[str, Any]]
PEER, PEER_BF16 = "set_image, fp32", "set_image, bf16 autocast"
PROBE = """
import resource, sys
from lungfast.commands import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(f"peak_kib={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}\\n")
"""


def routes(
    sam: Sam, film_HW: UInt8, among: Container[PrecisionName]
) -> dict[str, Callable[[], torch.Tensor]]:
    """Everyone encodes the same grey film once a core: one after another, or ours at once."""
    predictor, n_images = SamPredictor(sam), cpu_count()
    film_HW3 = film_HW[..., None].repeat(3, axis=2)

    def set_image(*, autocast: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            for _ in range(n_images):
                predictor.set_image(film_HW3)
        return predictor.get_image_embedding()

    def ours(precision: PrecisionName) -> Callable[[], torch.Tensor]:
        encoder = embed_gpu.encoder_of(copy.deepcopy(sam.image_encoder), precision, "cpu")
        return lambda: torch.from_numpy(encoder.encode([film_HW] * n_images)[:1]).transpose(1, 2)

    found = {PEER: lambda: set_image(autocast=False), "lungfast fp32": ours("fp32")}
    if "bf16" in among:
        found |= {PEER_BF16: lambda: set_image(autocast=True), "lungfast bf16": ours("bf16")}
    return found


def measure(sam: Sam, film_HW: UInt8, rates: Rates, repeats: int) -> tuple[Table, list[Target]]:
    candidates = routes(sam, film_HW, rates.products)
    exact = candidates[PEER]().flatten()
    errors = {
        name: float((call().flatten() - exact).norm() / exact.norm()) for name, call in candidates.items()
    }
    seconds = time_interleaved(candidates, repeats=repeats, warmup=0)  # errors were the first round
    median = {name: value / cpu_count() for name, value in medians(seconds).items()}
    flop = encoder_flop(sam.image_encoder)
    limit = {name: flop / rates.products["bf16" if "bf16" in name else "fp32"] for name in seconds}
    table = [
        {
            "vit_b": name,
            "s an image": round(value, 3),
            "times set_image fp32": round(ratio(seconds[PEER], seconds[name]), 2),
            "limit, s": round(limit[name], 3),
            "share of the limit": round(limit[name] / value, 2),
            "error against fp32": float(f"{errors[name]:.1e}"),
        }
        for name, value in median.items()
    ]
    found = []
    if "bf16" not in rates.products:
        told_missing("embed-vit-b-bf16", "this CPU has no instructions for bf16")
    for precision in rates.products:
        name = f"lungfast {precision}"
        suffix = "" if precision == "fp32" else f"-{precision}"  # fp32 is what a CPU does unless asked
        found += [
            Target(f"embed-vit-b{suffix}", ratio(seconds[PEER], seconds[name]), at_least=2.5),
            Target(f"embed-vit-b{suffix}-roofline", limit[name] / median[name], at_least=0.7),
        ]
    return table, found


def embed_process(kind: str, folder: Path, n_images: int, among: Iterable[PrecisionName]) -> dict[str, Any]:
    """Two ``lungfast embed`` processes: their difference is free of start, loading and hashing."""
    checkpoint = folder / f"{kind}.pth"
    random_checkpoint(kind, checkpoint)
    one, many = folder / "one", folder / "many"
    write_montgomery(one, 1, long_side=1024)
    write_montgomery(many, n_images, long_side=1024)
    found: dict[str, Any] = {
        "process": f"lungfast embed, {kind}",
        "checkpoint, MB": checkpoint.stat().st_size // 10**6,
    }
    for precision in among:
        short, _ = embed_seconds(one, checkpoint, precision)
        long, peak = embed_seconds(many, checkpoint, precision)
        each = (long - short) / (n_images - 1)
        found |= {
            f"{precision}, s an image": round(each, 2),
            f"{precision}, start and loading, s": round(short - each, 1),
            f"{precision}, peak memory, GiB": round(peak, 2),
        }
    return found


def embed_seconds(data: Path, checkpoint: Path, precision: str) -> tuple[float, float]:
    """Seconds and peak GiB of a whole process."""
    started = time.perf_counter()
    command = ["embed", "montgomery", str(data), "-o", f"{data}.zarr", "--checkpoint", str(checkpoint)]
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command, "--precision", precision, "--overwrite"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    seconds = time.perf_counter() - started
    peak = re.search(r"peak_kib=(\d+)", done.stderr)
    return seconds, int(peak.group(1)) / 2**20 if peak else float("nan")


def run(*, quick: bool, repeats: int) -> Path:
    torch.set_num_threads(cpu_count())
    film_HW = render_phantom(MONTGOMERY, 0, (1024, 848)).image_HW
    sam = random_sam(tiny_sam if quick else sam_model_registry["vit_b"])
    rates = Rates.measured(quick=quick)
    table, targets = measure(sam, film_HW, rates, 1 if quick else repeats)
    tables = [table]
    if not quick:
        with tempfile.TemporaryDirectory() as folder:
            tables.append([embed_process("vit_b", Path(folder), 6, rates.products)])
    flop = encoder_flop(sam.image_encoder)
    content = {
        "title": "From an image to its embedding",
        "question": f"SAM's vit_b, random weights, {cpu_count()} cores, against SamPredictor.set_image; "
        f"median of {repeats}. The limit: {flop / 1e12:.3f} TFLOP an image at the rate of a matrix product "
        "of that type. Errors are norms of differences over the norm of the fp32 features.",
        "device": "cpu",
        "tables": tables,
        "targets": targets,
    }
    return write_record("embed", content, quick=quick)


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    path = run(quick=options.quick, repeats=options.repeats)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
