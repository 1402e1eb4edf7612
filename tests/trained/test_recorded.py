"""A recorded step on a GPU is the step of the CPU."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

from lungfast.trained.batches import StackBatch
from lungfast.trained.decoder import DecoderStack
from tests.naive.trained import sam_decoder, with_conv_s1
from tests.trained.problems import make_batch, make_constants, make_stack, make_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

RATES = {"lr_K": np.array([1e-3, 1e-4, 3e-4]), "wd_K": np.array([0.0, 0.1, 1e-3])}


def on_gpu(batch: StackBatch) -> StackBatch:
    moved = {name: value if value is None else value.cuda() for name, value in vars(batch).items()}
    return StackBatch(**moved)


@pytest.mark.parametrize(
    ("groups", "micro_batch", "fine"), [(1, None, 0), (3, 2, 0), (1, None, 24), (3, 2, 24)]
)
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_the_step_of_the_cpu(groups: int, micro_batch: int | None, fine: int, compiled: bool) -> None:
    """Several pieces a step, a decoder that pauses (another recording), one that has padding rows; without
    and with high-resolution features."""
    decoders = [sam_decoder(seed=k, scale=1.5) for k in range(3)]
    if fine:
        decoders = [with_conv_s1(decoder, fine, seed=k) for k, decoder in enumerate(decoders)]
    states = [decoder.state_dict() for decoder in decoders]
    pe_NC, dense_C, grid = make_constants(torch.float64)
    ours = DecoderStack.from_states(
        deepcopy(states), pe_NC=pe_NC, dense_C=dense_C, grid=grid, device="cuda", dtype=torch.float64
    )
    twin = make_stack(states, torch.float64)
    step = make_step(ours, micro_batch=micro_batch, compile=compiled)
    twin_step = make_step(twin, micro_batch=micro_batch)
    for i in range(4):
        batch = make_batch(groups=groups, fine=fine, seed=i)
        active_K = np.array([True, i != 2, True])
        found = step.train(on_gpu(batch), active_K=active_K, **RATES)
        expected = twin_step.train(batch, active_K=active_K, **RATES)
        np.testing.assert_allclose(found.loss_K, expected.loss_K, rtol=1e-7)
        assert found.finite_K.all()
    assert step.compile_note == ("compiled" if compiled else "not compiled")
    torch.testing.assert_close(ours.flat_KL.cpu(), twin.flat_KL, rtol=1e-6, atol=1e-8)
    logits = step.evaluate(on_gpu(batch)).logits_KBhw.cpu()
    torch.testing.assert_close(logits, twin_step.evaluate(batch).logits_KBhw, rtol=1e-6, atol=1e-7)


def test_a_decoder_that_diverges_leaves_the_others_alone() -> None:
    states = [sam_decoder(seed=k).state_dict() for k in range(3)]
    pe_NC, dense_C, grid = make_constants(torch.float32)
    stack = DecoderStack.from_states(states, pe_NC=pe_NC, dense_C=dense_C, grid=grid, device="cuda")
    step = make_step(stack)
    stack.flat_KL[1, 0] = float("nan")
    before = stack.flat_KL.clone()
    found = step.train(on_gpu(make_batch()), active_K=np.ones(3, bool), **RATES)
    assert found.finite_K.tolist() == [True, False, True]
    assert torch.equal(stack.flat_KL[1].nan_to_num(), before[1].nan_to_num())
    assert not torch.equal(stack.flat_KL[0], before[0])
