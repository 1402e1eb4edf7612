"""Small training problems that the tests of this room share: random, seeded, awkward on purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lungfast.trained.batches import StackBatch
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.optim import StackAdam
from lungfast.trained.step import StepConfig, TrainStep
from tests.naive.trained import NaiveStack, sam_decoder, with_conv_s1

GRID = (4, 5)
LOSSES = ("dicefocal", "dicece", "dicefocal")


def make_batch(
    *,
    groups: int = 1,
    decoders: int = 3,
    images: int = 3,
    instances: int = 1,
    prompts: int = 3,
    fine: int = 0,
    seed: int = 0,
) -> StackBatch:
    """Ragged weights, padded prompt tokens that hold NaN, padded rows and columns of the targets; ``fine``
    channels of high-resolution features a cell."""
    generator = torch.Generator().manual_seed(seed)
    height, width = 4 * GRID[0], 4 * GRID[1]
    valid = torch.zeros(groups, images, height, width, dtype=torch.bool)
    for b in range(images):
        valid[:, b, : height - b, : width - 2 * b] = True
    mask = torch.rand(decoders, images, instances, prompts, generator=generator) > 0.4
    mask[..., 0] = True
    tokens = torch.randn(decoders, images, instances, prompts, 256, generator=generator)
    weight = torch.ones(decoders, images)
    for k in range(1, decoders):
        weight[k, images - min(k, images - 1) :] = 0
    return StackBatch(
        features_GBNC=torch.randn(groups, images, GRID[0] * GRID[1], 256 + 4 * fine, generator=generator),
        targets_GBhw=(torch.rand(groups, images, height, width, generator=generator) > 0.5) & valid,
        valid_GBhw=valid,
        tokens_KBIPC=tokens.masked_fill(~mask[..., None], float("nan")),
        token_mask_KBIP=mask,
        weight_KB=weight,
    )


def make_constants(dtype: torch.dtype) -> tuple[Tensor, Tensor, tuple[int, int]]:
    generator = torch.Generator().manual_seed(99)
    pe_NC = torch.randn(GRID[0] * GRID[1], 256, generator=generator)
    return pe_NC.to(dtype), (torch.randn(256, generator=generator) * 0.1).to(dtype), GRID


def make_stack(states: list[dict[str, Tensor]], dtype: torch.dtype = torch.float32) -> DecoderStack:
    pe_NC, dense_C, grid = make_constants(dtype)
    return DecoderStack.from_states(states, pe_NC=pe_NC, dense_C=dense_C, grid=grid, dtype=dtype)


def make_pair(dtype: torch.dtype, n: int = 3, *, fine: int = 0) -> tuple[DecoderStack, NaiveStack]:
    """A stack and its slow twin with the same weights, enlarged so that attention is not uniform."""
    decoders = [sam_decoder(seed=seed, scale=1.5) for seed in range(n)]
    if fine:
        decoders = [with_conv_s1(decoder, fine, seed=seed) for seed, decoder in enumerate(decoders)]
    decoders = [decoder.to(dtype) for decoder in decoders]
    stack = make_stack([decoder.state_dict() for decoder in decoders], dtype)
    return stack, NaiveStack(decoders, LOSSES[:n], make_constants(dtype))


def make_step(stack: DecoderStack, **config: object) -> TrainStep:
    losses = [LOSSES[k % len(LOSSES)] for k in range(stack.K)]
    return TrainStep(stack, StackAdam(stack.flat_KL), losses, StepConfig(**config))  # type: ignore[arg-type]


def trained_state() -> dict[str, Tensor]:
    """The mask decoder of the real weights beside the real X-rays; skips the test where there are none."""
    root = os.environ.get("LUNGFAST_DATA")
    path = Path(root or ".").parent / "weights" / "mobilesam_prompt_mask_decoder.safetensors"
    if root is None or not path.exists():
        pytest.skip("no trained decoder: LUNGFAST_DATA is unset or has no ../weights beside it")
    from safetensors.torch import load_file

    prefix = "mask_decoder."
    return {name[len(prefix) :]: x for name, x in load_file(path).items() if name.startswith(prefix)}
