"""How long is a training step of the mask decoder? Ours against segment-anything's, same cached tensors.

`python -m benchmarks.bench_train_step [--quick] [--threads N]`. Stock is segment-anything's MaskDecoder image
by image, MONAI's DiceFocalLoss, torch.optim.Adam over all parameters the loss reaches, in fp32 or under bf16
autocast. One step is forward, loss, backward and Adam of a batch. Rounds are interleaved; the first is not
counted. The roofline is the larger of arithmetic time (absorbed products) and byte time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import (
    measure_copy_rate,
    measure_matmul_rate,
    medians,
    ratio,
    time_interleaved,
    write_record,
)
from lungfast.trained.batches import StackBatch
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.optim import StackAdam
from lungfast.trained.step import StepConfig, TrainStep
from tests.naive.trained import forward_image, sam_decoder, trained_parameters

PROMPT_TOKENS = 3
LR = 1e-4


def make_batch(side: int, n_decoders: int, n_images: int) -> StackBatch:
    generator = torch.Generator().manual_seed(0)
    low = 4 * side
    valid = torch.ones(1, n_images, low, low, dtype=torch.bool)
    tokens = torch.randn(1, n_images, 1, PROMPT_TOKENS, 256, generator=generator)
    return StackBatch(
        features_GBNC=torch.randn(1, n_images, side * side, 256, generator=generator).half(),
        targets_GBhw=torch.rand(1, n_images, low, low, generator=generator) > 0.5,
        valid_GBhw=valid,
        tokens_KBIPC=tokens.expand(n_decoders, -1, -1, -1, -1).contiguous(),
        token_mask_KBIP=torch.ones(n_decoders, n_images, 1, PROMPT_TOKENS, dtype=torch.bool),
        weight_KB=torch.ones(n_decoders, n_images),
    )


def constants(side: int) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(1)
    pe_NC = torch.randn(side * side, 256, generator=generator)
    return pe_NC, torch.randn(256, generator=generator) * 0.1, (side, side)


def our_step(batch: StackBatch, side: int, precision: Any, *, compiled: bool = False) -> Callable[[], Any]:
    n = len(batch.weight_KB)
    pe_NC, dense_C, grid = constants(side)
    state = sam_decoder().state_dict()
    stack = DecoderStack.from_states([state] * n, pe_NC=pe_NC, dense_C=dense_C, grid=grid)
    config = StepConfig(precision=precision, compile=compiled)
    step = TrainStep(stack, StackAdam(stack.flat_KL), ["dicefocal"] * n, config)
    rates = {"lr_K": np.full(n, LR), "wd_K": np.zeros(n), "active_K": np.ones(n, bool)}
    return lambda: step.train(batch, **rates)


def stock_step(batch: StackBatch, side: int, *, autocast: bool, modules: int = 1) -> Callable[[], float]:
    """``modules`` separate decoders, each on every image; a step returns the last one's loss."""
    from monai.losses import DiceFocalLoss

    pe_NC, dense_C, grid = constants(side)
    decoders = [sam_decoder() for _ in range(modules)]
    optimisers = [torch.optim.Adam(trained_parameters(decoder), lr=LR) for decoder in decoders]
    loss_of = DiceFocalLoss(sigmoid=True)
    features, n_images = batch.features_GBNC[0], batch.weight_KB.shape[1]

    def step() -> float:
        for decoder, optimiser in zip(decoders, optimisers, strict=True):
            optimiser.zero_grad()
            total = 0.0
            for b in range(n_images):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    prompt = (batch.tokens_KBIPC[0, b], batch.token_mask_KBIP[0, b])
                    logits = forward_image(decoder, features[b].float(), *prompt, (pe_NC, dense_C, grid))
                target = batch.targets_GBhw[0, b][None, None].float()
                loss = loss_of(logits.float()[None, None], target) / n_images
                loss.backward()
                total += float(loss.detach())
            optimiser.step()
        return total

    return step


def hugging_face_step(batch: StackBatch, side: int) -> Callable[[], object] | None:
    """transformers' SAM mask decoder on the whole batch, fp32; None where transformers is not installed."""
    try:
        from transformers.models.sam.configuration_sam import SamMaskDecoderConfig
        from transformers.models.sam.modeling_sam import SamMaskDecoder
    except ImportError:
        return None
    from monai.losses import DiceFocalLoss

    pe_NC, dense_C, grid = constants(side)
    config = SamMaskDecoderConfig()
    config._attn_implementation = "sdpa"
    decoder = SamMaskDecoder(config)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=LR)
    loss_of = DiceFocalLoss(sigmoid=True)
    n_images = batch.weight_KB.shape[1]
    position = pe_NC.T.reshape(1, 256, *grid).expand(n_images, -1, -1, -1)
    dense = dense_C.view(1, -1, 1, 1).expand(n_images, -1, *grid)

    def step() -> None:
        optimiser.zero_grad()
        embeddings = batch.features_GBNC[0].float().transpose(1, 2).unflatten(2, grid)
        masks = decoder(embeddings, position, batch.tokens_KBIPC[0], dense, multimask_output=False)[0]
        loss_of(masks[:, 0], batch.targets_GBhw[0][:, None].float()).backward()
        optimiser.step()

    return step


def roofline(side: int, n_images: int, precision: str) -> dict[str, float]:
    """Seconds an image that arithmetic and memory allow on this machine, measured now.

    Products of the image side, in multiply-adds per image token: 16 of 64 columns in two blocks and the final
    attention's 2 of 8, the upscaling's 256*256 + 4*64*128. The backward pass costs twice that, less the
    image's own gradients in the first block. Bytes: the embedding, and Adam's weights, moments, gradients.
    """
    columns = 8 * (5 + PROMPT_TOKENS)
    forward = 256 * columns * 8 + 256 * 8 * 2 + 256 * 256 + 4 * 64 * 128 + 16 * 32
    products = side * side * (3 * forward - 3 * 256 * columns)
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    arithmetic = 2 * products / measure_matmul_rate(dtype)
    moved = side * side * 256 * 2 + 3_505_216 * 4 * 7 / n_images
    seconds = {"products": arithmetic, "bytes": moved / measure_copy_rate()}
    return {f"s/image, {name}": round(value, 5) for name, value in seconds.items()}


def measure(side: int, n_images: int, repeats: int, *, compiled: bool) -> list[dict[str, Any]]:
    """SAM's own size: one decoder, a batch of images."""
    batch = make_batch(side, 1, n_images)
    candidates = {
        "stock fp32": stock_step(batch, side, autocast=False),
        "stock bf16 autocast": stock_step(batch, side, autocast=True),
        "lungfast fp32": our_step(batch, side, "fp32"),
        "lungfast bf16": our_step(batch, side, "bf16"),
    }
    if compiled:
        candidates["lungfast fp32 compiled"] = our_step(batch, side, "fp32", compiled=True)
        candidates["lungfast bf16 compiled"] = our_step(batch, side, "bf16", compiled=True)
    hugging_face = hugging_face_step(batch, side)
    if hugging_face is not None:
        candidates["transformers fp32, batched"] = hugging_face
    seconds = time_interleaved(candidates, repeats=repeats)
    median = medians(seconds)
    best_stock = min(("stock fp32", "stock bf16 autocast"), key=lambda name: median[name])
    return [
        {
            "candidate": name,
            "s/image": round(median[name] / n_images, 5),
            "times stock fp32": round(ratio(seconds["stock fp32"], seconds[name]), 2),
            "times best stock": round(ratio(seconds[best_stock], seconds[name]), 2),
        }
        for name in candidates
    ]


def measure_grid(side: int, n_decoders: int, n_images: int, repeats: int) -> list[dict[str, Any]]:
    """A grid of decoders on the same images against as many separate stock decoders."""
    batch = make_batch(side, n_decoders, n_images)
    candidates = {
        "stock fp32": stock_step(batch, side, autocast=False, modules=n_decoders),
        "stock bf16 autocast": stock_step(batch, side, autocast=True, modules=n_decoders),
        "lungfast fp32": our_step(batch, side, "fp32"),
        "lungfast bf16": our_step(batch, side, "bf16"),
    }
    seconds = time_interleaved(candidates, repeats=repeats)
    median = medians(seconds)
    return [
        {
            "candidate": name,
            "ms/(decoder, image)": round(1e3 * median[name] / n_images / n_decoders, 3),
            "times stock fp32": round(ratio(seconds["stock fp32"], seconds[name]), 2),
        }
        for name in candidates
    ]


def run(*, quick: bool = False, threads: int = 2, compiled: bool = False) -> Path:
    torch.set_num_threads(threads)
    side, small, n_images, n_decoders, repeats = (8, 4, 2, 2, 1) if quick else (64, 32, 8, 9, 7)
    step_rows = measure(side, n_images, repeats, compiled=compiled)
    grid_rows = measure_grid(small, n_decoders, n_images, max(1, repeats // 2))
    limits = [{"precision": name, **roofline(side, n_images, name)} for name in ("fp32", "bf16")]
    content = {
        "title": "Training step of the mask decoder",
        "question": f"Forward, loss, backward and Adam, {side}x{side} image tokens, batch {n_images}, "
        f"{PROMPT_TOKENS} prompt tokens, {threads} threads: against segment-anything image by image? And "
        f"{n_decoders} decoders on the same images of {small}x{small} tokens? What does the machine allow?",
        "threads": threads,
        "tables": [step_rows, grid_rows, limits],
    }
    return write_record("train_step", content, quick=quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compiled", action="store_true", help="also time torch.compile (minutes to compile)"
    )
    options = parser.parse_args()
    path = run(quick=options.quick, threads=options.threads, compiled=options.compiled)
    print(path.read_text())


if __name__ == "__main__":
    main()
