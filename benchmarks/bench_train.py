"""How long is a training step of the mask decoder, and how soon is the first one made?

    python -m benchmarks.bench_train [--quick] [--threads N] [--compiled]

The same cached tensors go to everyone; one step is forward, loss, backward and Adam of a batch. Stock is
segment-anything's MaskDecoder image by image (it takes no batch of images), MONAI's DiceFocalLoss and
torch.optim.Adam over all parameters that the loss reaches; transformers (where it is installed) is its
``SamModel`` with ``image_embeddings``, batched. Both run in fp32 and, where the processor has instructions
for bf16, under bf16 autocast, and the better counts. Everyone has a process of its own; rounds are
interleaved, and the first two are not counted. Then processes: the time from their start to the first
training step on 704 cached images, and to the end of ``lungfast --help``. On a GPU: bench_gpu.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import starts
from benchmarks.apart import Make, apart, together
from benchmarks.common import (
    Target,
    medians,
    not_installed,
    parser_of,
    print_targets,
    ratio,
    rest,
    time_interleaved,
    told_missing,
    write_record,
)
from benchmarks.limits import Rates, Step
from lungfast.compute import resolve_precision
from lungfast.records import PrecisionName
from lungfast.trained.batches import StackBatch
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.optim import StackAdam
from lungfast.trained.step import StepConfig, TrainStep
from tests.naive.trained import forward_image, sam_decoder, trained_parameters

PROMPT_TOKENS = 3
"""Two points and the padding point that SAM adds."""
LR = 1e-4


# --- what is trained -------------------------------------------------------------------------------


def make_batch(
    side: int,
    n_decoders: int,
    n_images: int,
    device: str = "cpu",
    *,
    prompt_tokens: int = PROMPT_TOKENS,
) -> StackBatch:
    generator = torch.Generator().manual_seed(0)
    low = 4 * side
    tokens = torch.randn(1, n_images, 1, prompt_tokens, 256, generator=generator)
    fields = {
        "features_GBNC": torch.randn(1, n_images, side * side, 256, generator=generator).half(),
        "targets_GBhw": torch.rand(1, n_images, low, low, generator=generator) > 0.5,
        "valid_GBhw": torch.ones(1, n_images, low, low, dtype=torch.bool),
        "tokens_KBIPC": tokens.expand(n_decoders, -1, -1, -1, -1).contiguous(),
        "token_mask_KBIP": torch.ones(n_decoders, n_images, 1, prompt_tokens, dtype=torch.bool),
        "weight_KB": torch.ones(n_decoders, n_images),
    }
    return StackBatch(**{name: value.to(device) for name, value in fields.items()})


def constants(side: int) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(1)
    pe_NC = torch.randn(side * side, 256, generator=generator)
    return pe_NC, torch.randn(256, generator=generator) * 0.1, (side, side)


def our_step(
    batch: StackBatch, side: int, precision: PrecisionName, *, compiled: bool = False
) -> Callable[[], Any]:
    n, device = len(batch.weight_KB), batch.weight_KB.device
    pe_NC, dense_C, grid = constants(side)
    states = [sam_decoder().state_dict()] * n
    stack = DecoderStack.from_states(states, pe_NC=pe_NC, dense_C=dense_C, grid=grid, device=device)
    config = StepConfig(precision=precision, compile=compiled)
    step = TrainStep(stack, StackAdam(stack.flat_KL), ["dicefocal"] * n, config)
    rates = {"lr_K": np.full(n, LR), "wd_K": np.zeros(n), "active_K": np.ones(n, bool)}
    return lambda: step.train(batch, **rates)


def stock_step(batch: StackBatch, side: int, *, autocast: bool) -> Callable[[], float]:
    """A step returns the loss."""
    from monai.losses import DiceFocalLoss

    device = batch.weight_KB.device
    pe_NC, dense_C, grid = (x.to(device) if isinstance(x, torch.Tensor) else x for x in constants(side))
    decoder = sam_decoder().to(device)
    optimiser = torch.optim.Adam(trained_parameters(decoder), lr=LR)
    loss_of = DiceFocalLoss(sigmoid=True)
    features, n_images = batch.features_GBNC[0], batch.weight_KB.shape[1]

    def step() -> float:
        optimiser.zero_grad()
        total = 0.0
        for b in range(n_images):
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                prompt = (batch.tokens_KBIPC[0, b], batch.token_mask_KBIP[0, b])
                logits = forward_image(decoder, features[b].float(), *prompt, (pe_NC, dense_C, grid))
            target = batch.targets_GBhw[0, b][None, None].float()
            loss = loss_of(logits.float()[None, None], target) / n_images
            loss.backward()
            total += float(loss.detach())
        optimiser.step()
        return total

    return step


def hugging_face_step(batch: StackBatch, side: int, *, autocast: bool) -> Callable[[], float]:
    """transformers' SamModel; its image encoder, which ``image_embeddings`` go round, is made small."""
    from monai.losses import DiceFocalLoss
    from transformers import SamConfig, SamModel
    from transformers.models.sam.configuration_sam import SamVisionConfig

    device, n_images = batch.weight_KB.device, batch.weight_KB.shape[1]
    vision = SamVisionConfig(
        image_size=16 * side, num_hidden_layers=1, hidden_size=48, mlp_dim=48, num_attention_heads=1
    )
    config = SamConfig(vision_config=vision.to_dict())
    config.prompt_encoder_config.image_size = 16 * side
    config.prompt_encoder_config.image_embedding_size = side
    model = SamModel(config).to(device)
    model.requires_grad_(False)
    model.mask_decoder.requires_grad_(True)
    optimiser = torch.optim.Adam(model.mask_decoder.parameters(), lr=LR)
    loss_of = DiceFocalLoss(sigmoid=True)
    points = torch.rand(n_images, 1, PROMPT_TOKENS - 1, 2, device=device) * 16 * side
    labels = torch.ones(points.shape[:-1], dtype=torch.long, device=device)
    targets = batch.targets_GBhw[0][:, None].float()

    def step() -> float:
        optimiser.zero_grad()
        embeddings = batch.features_GBNC[0].float().transpose(1, 2).unflatten(2, (side, side))
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            found = model(
                image_embeddings=embeddings, input_points=points, input_labels=labels, multimask_output=False
            )
        loss = loss_of(found.pred_masks[:, 0].float(), targets)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


# --- measurements ----------------------------------------------------------------------------------


def steps(
    side: int, n_images: int, threads: int, among: Iterable[PrecisionName], *, compiled: bool
) -> dict[str, Make]:
    """One decoder, a batch of images, everyone in every precision ``among`` those given."""
    found: dict[str, Make] = {}
    make = partial(candidate, side, n_images, threads)
    for precision in among:
        autocast = precision == "bf16"
        found[f"stock {precision}"] = partial(make, stock_step, autocast=autocast)
        if find_spec("transformers"):
            found[f"transformers {precision}"] = partial(make, hugging_face_step, autocast=autocast)
        found[f"lungfast {precision}"] = partial(make, our_step, precision=precision)
        if compiled:
            found[f"lungfast {precision} compiled"] = partial(
                make, our_step, precision=precision, compiled=True
            )
    return found


def candidate(
    side: int, n_images: int, threads: int, make: Callable[..., Callable[[], object]], **options: Any
) -> Callable[[], object]:
    """One of :func:`steps`, in the process that it is measured in."""
    torch.set_num_threads(threads)
    return make(make_batch(side, 1, n_images), side, **options)


def better(median: Mapping[str, float], peer: str) -> str:
    return min((name for name in median if name.startswith(peer)), key=lambda name: median[name])


def measure(
    makes: Mapping[str, Make], n_images: int, repeats: int, *, default: PrecisionName, quick: bool
) -> tuple[list[dict[str, Any]], list[Target]]:
    with together(makes) if quick else apart(makes) as candidates:
        seconds = time_interleaved(candidates, repeats=repeats, warmup=2, before=rest)
    median = medians(seconds)
    peers = {"stock fp32": "stock fp32", "best stock": better(median, "stock")}
    if find_spec("transformers"):
        peers["best transformers"] = better(median, "transformers")
    table = [
        {"candidate": name, "ms an image": round(1e3 * median[name] / n_images, 2)}
        | {f"times {peer}": round(ratio(seconds[chosen], seconds[name]), 2) for peer, chosen in peers.items()}
        for name in seconds
    ]
    ours = seconds[f"lungfast {default}"]
    targets = [
        Target("train-vs-stock", ratio(seconds[peers["best stock"]], ours), at_least=4),
        Target("train-vs-stock-fp32", ratio(seconds["stock fp32"], seconds["lungfast fp32"]), at_least=2.5),
    ]
    if find_spec("transformers"):
        targets.append(Target("train-vs-hf", ratio(seconds[peers["best transformers"]], ours), at_least=6))
    else:
        told_missing("train-vs-hf", not_installed("transformers"))
    return table, targets


def measure_stack(
    side: int, n_decoders: int, n_images: int, repeats: int, precision: PrecisionName
) -> tuple[list[dict[str, Any]], Target]:
    """A grid in one stack against as many runs one after another, all in this warm process."""
    stack = our_step(make_batch(side, n_decoders, n_images), side, precision)
    one = our_step(make_batch(side, 1, n_images), side, precision)
    candidates = {"stack": stack, "alone": lambda: [one() for _ in range(n_decoders)]}
    seconds = time_interleaved(candidates, repeats=repeats)
    names = {"stack": f"{n_decoders} in one stack", "alone": f"{n_decoders} one after another"}
    table = [
        {
            "lungfast": names[name],
            "ms a decoder and image": round(1e3 * value / n_decoders / n_images, 2),
        }
        for name, value in medians(seconds).items()
    ]
    return table, Target("stack-9", ratio(seconds["alone"], seconds["stack"]), at_least=1)


def roofline(side: int, n_images: int, rates: Rates, precision: PrecisionName) -> dict[str, Any]:
    """Milliseconds an image that arithmetic and memory allow at these rates."""
    step = Step(side=side, n_images=n_images, prompt_tokens=PROMPT_TOKENS)
    arithmetic, moved = step.seconds(rates, precision)
    return {
        "precision": precision,
        "GFLOP an image": round(step.flop / 1e9, 2),
        "GFLOP/s, measured": round(rates.products[precision] / 1e9),
        "ms an image, products": round(1e3 * arithmetic, 4),
        "MB an image": round(step.bytes / 1e6, 1),
        "GB/s copied, measured": round(rates.copied / 1e9),
        "ms an image, bytes": round(1e3 * moved, 4),
    }


def run(*, quick: bool = False, threads: int = 2, compiled: bool = False) -> Path:
    torch.set_num_threads(threads)
    side, small, n_images, n_decoders, repeats = (8, 4, 2, 2, 1) if quick else (64, 32, 8, 9, 7)
    default = resolve_precision("auto", torch.device("cpu")).name
    rates = Rates.measured(quick=quick)
    makes = steps(side, n_images, threads, rates.products, compiled=compiled)
    table, targets = measure(makes, n_images, repeats, default=default, quick=quick)
    stacked, target = measure_stack(small, n_decoders, n_images, max(1, repeats // 2), default)
    limits = [roofline(side, n_images, rates, name) for name in rates.products]
    with tempfile.TemporaryDirectory() as folder:
        started, begun = starts.measure(Path(folder), quick=quick)
    content = {
        "title": "Training step of the mask decoder",
        "question": f"Forward, loss, backward and Adam, {side}x{side} image tokens, batch {n_images}, "
        f"{PROMPT_TOKENS} prompt tokens, {threads} threads, {default} by default: against segment-anything "
        f"and transformers? {n_decoders} decoders of {small}x{small} tokens together? What does the machine "
        "allow? How soon is the first step made?",
        "threads": threads,
        "device": "cpu",
        "tables": [table, stacked, limits, started],
        "targets": [*targets, target, *begun],
    }
    return write_record("train", content, quick=quick)


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="torch.compile too (minutes to compile)")
    options = parser.parse_args(arguments)
    path = run(quick=options.quick, threads=options.threads, compiled=options.compiled)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
