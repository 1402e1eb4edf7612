"""ViT-H on a GPU: images a second against stock, stock with segment-anything-fast's techniques, the machine.

Comes in: a CUDA device. Goes out: a table and targets. Of that package's techniques these need no kernel of
its own: bf16 weights, batches, torch.compile, here block by block (on an H200 autotuning a block's products
took a minute and chose the library's). Its Triton kernel for attention with relative positions, int8 and
sparse weights are left out.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from benchmarks import films
from benchmarks.common import Target, medians, ratio, time_interleaved, wait_for
from benchmarks.limits import Rates, encoder_flop
from benchmarks.weights import random_sam, tiny_sam
from lungfast.data.datasets import list_montgomery
from lungfast.data.phantoms import MONTGOMERY, render_phantom
from lungfast.frozen.encoders import Encoder, fast
from lungfast.records import EncoderSpec, PrecisionName, UInt8
from lungfast.studies.ahead import work_ahead

BATCH, BATCHES = 8, 4
SPEC = EncoderSpec(
    name="random", input_size=1024, grid=(64, 64), channels=256, resize="longest", weights_sha256="0" * 64
)
Table = list[dict[str, Any]]
OURS, LOOP = "lungfast bf16, batches", "set_image, fp32"


def encoder_of(module: Any, precision: PrecisionName, device: str) -> Encoder:
    """As ``load_encoder`` makes it of a checkpoint."""
    target = torch.device(device)
    quick = fast(module, precision, target)
    return Encoder(spec=SPEC, head=b"", module=quick, device=target, precision=precision)


def measure(device: str, rates: Rates, *, quick: bool, repeats: int = 3) -> tuple[Table, list[Target]]:
    """Images a second of every route, and of decoding on this machine's cores."""
    sam = random_sam(tiny_sam if quick else sam_model_registry["vit_h"], device)
    film_HW = render_phantom(MONTGOMERY, 0, (1024, 848)).image_HW
    batch, flop = 1 if quick else BATCH, encoder_flop(sam.image_encoder)
    n_images = batch * (1 if quick else BATCHES)
    candidates = routes(sam, film_HW, n_images, batch, compiled=not quick)
    seconds = time_interleaved(candidates, repeats=repeats, warmup=0 if quick else 1)
    table = [
        {
            f"vit_h, {n_images} images": name,
            "images/s": float(f"{n_images / value:.3g}"),
            "times set_image fp32": round(ratio(seconds[LOOP], seconds[name]), 2),
            "share of the bf16 products": round(flop * n_images / value / rates.products["bf16"], 3),
        }
        for name, value in medians(seconds).items()
    ]
    share = flop * n_images / medians(seconds)[OURS] / rates.products["bf16"]
    decoded = decoding_rate(2, films.SMALL_SIDES) if quick else decoding_rate()
    table.append(
        {f"vit_h, {n_images} images": "decoding and resizing alone", "images/s": float(f"{decoded:.3g}")}
    )
    return table, [
        Target("embed-vit-h", share, at_least=0.5),
        Target("embed-decoding", decoded * medians(seconds)[OURS] / n_images, at_least=1),
    ]


def routes(
    sam: Sam, film_HW: UInt8, n_images: int, batch: int, *, compiled: bool
) -> dict[str, Callable[[], object]]:
    """Each encodes the same number of images and waits for the last features."""
    predictor, film_HW3 = SamPredictor(sam), film_HW[..., None].repeat(3, axis=2)
    device = str(sam.pixel_mean.device)
    ours = encoder_of(copy.deepcopy(sam.image_encoder), "bf16", device)
    images = torch.randn(batch, 3, 1024, 1024, device=device, dtype=torch.bfloat16)
    cast = copy.deepcopy(sam.image_encoder).to(torch.bfloat16)

    def loop(*, autocast: bool) -> object:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=autocast):
            for _ in range(n_images):
                predictor.set_image(film_HW3)
        return wait_for(device)

    def batches(encoder: Any) -> object:
        with torch.inference_mode():
            found = [encoder(images).float().cpu() for _ in range(n_images // batch)]
        return found

    found: dict[str, Callable[[], object]] = {
        LOOP: lambda: loop(autocast=False),
        "set_image, bf16 autocast": lambda: loop(autocast=True),
        "stock in bf16, batches": lambda: batches(cast),
        OURS: lambda: [ours.encode([film_HW] * batch) for _ in range(n_images // batch)],
    }
    if compiled:
        compiled_blocks = copy.deepcopy(cast)
        for block in compiled_blocks.blocks:
            block.compile(dynamic=False)
        found["stock in bf16, batches, torch.compile"] = lambda: batches(compiled_blocks)
    return found


def decoding_rate(n_images: int = 32, sides: Mapping[str, int] = films.OFFICIAL_SIDES) -> float:
    """Films (of 4020 x 4892) read, checked, resized and packed by every core, images a second."""
    with tempfile.TemporaryDirectory() as name:
        folder = films.draw(Path(name), {"montgomery": n_images}, sides)
        encoder = Encoder(spec=SPEC, head=b"", module=torch.nn.Identity(), device=torch.device("cpu"))
        refs = list_montgomery(folder).refs
        todo = [(ref.id, lambda ref=ref: encoder.prepare(ref.load().image_HW)) for ref in refs]
        started = time.perf_counter()
        done = sum(1 for _ in work_ahead(todo))
        return done / (time.perf_counter() - started)
