"""Training steps of the stack against segment-anything, MONAI and torch.optim.Adam; precision; isolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from lungfast.errors import UsageError
from lungfast.trained import step as step_module
from lungfast.trained.batches import StackBatch
from lungfast.trained.step import StepConfig
from lungfast.workers import Workers
from tests.naive.trained import NaiveStack, sam_decoder
from tests.trained.problems import (
    LOSSES,
    make_batch,
    make_constants,
    make_pair,
    make_stack,
    make_step,
    trained_state,
)

LR_K, WD_K, ALL = np.array([1e-3, 1e-4, 3e-4]), np.array([0.0, 0.1, 1e-3]), np.ones(3, bool)


def train(step, batch, active_K=ALL):
    n = len(batch.weight_KB)
    return step.train(batch, lr_K=LR_K[:n], wd_K=WD_K[:n], active_K=active_K[:n])


@pytest.mark.parametrize(
    ("groups", "instances", "prompts", "micro_batch", "fine"),
    [(1, 2, 3, None, 0), (3, 1, 3, 2, 0), (3, 1, 20, 2, 0), (1, 1, 3, None, 6), (3, 2, 3, 2, 6)],
)
def test_five_steps_equal_segment_anything_and_torch_adam(groups, instances, prompts, micro_batch, fine):
    """20 prompt tokens make 25 in all: the stock order of the attention."""
    stack, naive = make_pair(torch.float64, fine=fine)
    step = make_step(stack, micro_batch=micro_batch)
    for i in range(5):
        batch = make_batch(groups=groups, instances=instances, prompts=prompts, fine=fine, seed=i)
        active_K = np.array([True, True, i not in {2, 3}])
        result = train(step, batch, active_K)
        expected = naive.train(batch, LR_K, WD_K, active_K)
        np.testing.assert_allclose(result.loss_K, expected, rtol=1e-8)
        assert result.finite_K.all()
    for k in range(3):
        parameters = naive.decoders[k].state_dict()
        for name, ours_K in stack.parameters.items():
            torch.testing.assert_close(ours_K[k], parameters[name], rtol=1e-8, atol=1e-8, msg=name)
        ours = step.evaluate(batch)
        ours_hw = ours.logits_KBhw[k]
        torch.testing.assert_close(ours_hw, naive.logits(k, batch).detach(), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(
            ours.loss_KB[k], naive.losses_of(k, batch, naive.logits(k, batch)).detach(), rtol=1e-8
        )


@pytest.mark.parametrize("weights", ["random", "trained"])
def test_first_gradients_in_float32(weights):
    states = (
        [sam_decoder(seed=k).state_dict() for k in range(2)] if weights == "random" else [trained_state()] * 2
    )
    naive = NaiveStack([sam_decoder(state) for state in states], LOSSES, make_constants(torch.float32))
    stack, batch = make_stack(states), make_batch(decoders=2)
    step = make_step(stack, micro_batch=2)
    train(step, batch)
    gradients = stack.layout.views(step._grads_KL)
    for k in range(2):
        naive.backward(k, batch)
        for name, parameter in naive.decoders[k].named_parameters():
            if name in gradients:
                largest = float(parameter.grad.abs().max())
                assert float((gradients[name][k] - parameter.grad).abs().max()) < 1e-4 * largest, name


def test_a_split_stack_differs_by_rounding_only_and_repeats_byte_for_byte():
    batch = make_batch(decoders=3)
    results = []
    for members in ([0, 1, 2], [0, 1, 2], [1]):
        stack = make_stack([sam_decoder(seed=k).state_dict() for k in members])
        step = make_step(stack)
        step._focal_K = step._focal_K.new_tensor([LOSSES[k] == "dicefocal" for k in members])
        part = StackBatch(
            features_GBNC=batch.features_GBNC,
            targets_GBhw=batch.targets_GBhw,
            valid_GBhw=batch.valid_GBhw,
            tokens_KBIPC=batch.tokens_KBIPC[members],
            token_mask_KBIP=batch.token_mask_KBIP[members],
            weight_KB=batch.weight_KB[members],
        )
        for _ in range(2):
            step.train(part, lr_K=LR_K[members], wd_K=WD_K[members], active_K=ALL[members])
        results.append(stack.flat_KL)
    whole, again, alone = results
    assert torch.equal(whole, again)
    torch.testing.assert_close(alone[0], whole[1], rtol=0, atol=1e-5)


def test_resume_is_byte_equal():
    stack, batch = make_stack([sam_decoder().state_dict()]), make_batch(decoders=1)
    step = make_step(stack)
    train(step, batch)
    later = make_stack([stack.state_dict(0)])
    resumed = make_step(later)
    resumed.load(0, step.state_dict(0))
    train(step, batch)
    train(resumed, batch)
    assert torch.equal(stack.flat_KL, later.flat_KL)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_diverging_decoder_is_reported_and_disturbs_nobody(precision):
    states = [sam_decoder(seed=k).state_dict() for k in range(3)]
    batch = make_batch(groups=3)
    results = []
    for poison in (False, True):
        stack = make_stack(states)
        if poison:
            stack.flat_KL[1, 0] = float("nan")
        before = stack.flat_KL.clone()
        step = make_step(stack, precision=precision)
        result = train(step, batch)
        results.append((stack.flat_KL, result, step.state_dict(1)))
    (clean, first, _), (poisoned, second, state) = results
    assert first.finite_K.all()
    assert second.finite_K.tolist() == [True, False, True]
    assert np.isnan(second.loss_K[1])
    assert torch.equal(clean[[0, 2]], poisoned[[0, 2]])
    assert torch.equal(poisoned[1].nan_to_num(7.0), before[1].nan_to_num(7.0))
    assert float(state["step"]) == 0


def test_inactive_decoders_and_those_without_rows_are_left_alone():
    stack, _ = make_pair(torch.float32)
    batch = make_batch()
    batch.weight_KB[1] = 0
    before = stack.flat_KL.clone()
    result = train(make_step(stack), batch, np.array([True, True, False]))
    assert np.isnan(result.loss_K).tolist() == [False, True, True]
    assert result.finite_K.all()
    assert torch.equal(stack.flat_KL[1:], before[1:])
    assert not torch.equal(stack.flat_KL[0], before[0])


def test_a_padding_row_may_hold_anything():
    batch = make_batch(groups=3)
    stacks = [make_pair(torch.float32)[0] for _ in range(2)]
    train(make_step(stacks[0]), batch)
    batch.targets_GBhw[1, 2] = ~batch.targets_GBhw[1, 2]
    batch.features_GBNC[1, 2] = 1e3
    train(make_step(stacks[1]), batch)
    assert torch.equal(stacks[0].flat_KL, stacks[1].flat_KL)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.06), ("fp16", 0.01)])
def test_reduced_precision_follows_float32(precision, tolerance):
    batch, states = make_batch(decoders=2), [sam_decoder(seed=k).state_dict() for k in range(2)]
    steps = {name: make_step(make_stack(states), precision=name) for name in ("fp32", precision)}
    results = {name: train(step, batch) for name, step in steps.items()}
    np.testing.assert_allclose(results[precision].loss_K, results["fp32"].loss_K, rtol=tolerance)
    exact, reduced = (steps[name]._grads_KL for name in ("fp32", precision))
    assert float((exact - reduced).norm() / exact.norm()) < tolerance
    assert steps[precision]._stack.flat_KL.dtype == torch.float32


def test_fp16_overflow_halves_the_scale_and_skips_the_step():
    stack, batch = make_stack([sam_decoder(seed=k).state_dict() for k in range(2)]), make_batch(decoders=2)
    step = make_step(stack, precision="fp16")
    step._scale.factor_K[1] = 2.0**40
    before = stack.flat_KL.clone()
    result = train(step, batch)
    assert result.finite_K.all()
    assert np.isfinite(result.loss_K).all()
    assert torch.equal(stack.flat_KL[1], before[1])
    assert not torch.equal(stack.flat_KL[0], before[0])
    assert step._scale.factor_K.tolist() == [2.0**16, 2.0**39]


def test_pieces_of_several_decoders_give_the_same_step(monkeypatch):
    """The plain path with a filled-up last piece, as on a GPU."""
    batch = make_batch(groups=3, instances=2)
    stacks = [make_pair(torch.float64)[0] for _ in range(2)]
    steps = [make_step(stack) for stack in stacks]
    first = train(steps[0], batch)
    monkeypatch.setattr(step_module, "piece_size", lambda *_: (2, 2))
    monkeypatch.setattr(steps[1], "_workers", Workers(1, 1))
    second = train(steps[1], batch)
    np.testing.assert_allclose(first.loss_K, second.loss_K, rtol=1e-10)
    torch.testing.assert_close(steps[0]._grads_KL, steps[1]._grads_KL, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("workers", [2, 3, 5])
@pytest.mark.parametrize("groups", [1, 3])
def test_workers_give_the_same_step(workers, groups, monkeypatch):
    """3 decoders of 4 images: a decoder each, or their images shared out (2: both; 5: more than images)."""
    batch = make_batch(groups=groups, images=4)
    alone, together = (make_step(make_pair(torch.float64)[0]) for _ in range(2))
    monkeypatch.setattr(alone, "_workers", Workers(1, 1))
    monkeypatch.setattr(together, "_workers", Workers(workers, 1))
    for active_K in (ALL, np.array([False, True, False])):
        first, second = (train(step, batch, active_K) for step in (alone, together))
        np.testing.assert_allclose(first.loss_K, second.loss_K, rtol=1e-12)
        torch.testing.assert_close(alone._grads_KL, together._grads_KL, rtol=1e-8, atol=1e-12)


def test_compiled_steps_equal_eager_ones_and_are_compiled_once():
    torch._dynamo.reset()
    counters.clear()
    batch = make_batch(decoders=2)
    states = [sam_decoder(seed=k).state_dict() for k in range(2)]
    eager, compiled = (make_step(make_stack(states), compile=flag) for flag in (False, True))
    assert compiled.compile_note.startswith(("to be compiled", "eager: no"))
    results = [train(step, batch) for step in (eager, compiled)]
    if compiled.compile_note != "compiled":
        pytest.skip(compiled.compile_note)
    np.testing.assert_allclose(results[0].loss_K, results[1].loss_K, rtol=1e-5)
    error = float((eager._grads_KL - compiled._grads_KL).abs().max())
    assert error < 1e-4 * float(eager._grads_KL.abs().max())
    graphs = counters["stats"]["unique_graphs"]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for active_K in (np.array([True, True]), np.array([False, True])):
            train(compiled, make_batch(decoders=2), active_K)
    assert counters["stats"]["unique_graphs"] == graphs <= 2


def test_a_failing_compiler_is_announced_and_changes_nothing(monkeypatch):
    def refuse(*args, **options):
        def fail(*args):
            raise RuntimeError("\n backend broke\nmore")

        return fail

    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(torch, "compile", refuse)
    batch, states = make_batch(decoders=1), [sam_decoder().state_dict()]
    eager, fallen = (make_step(make_stack(states), compile=flag) for flag in (False, True))
    for step in (eager, fallen):
        train(step, batch)
        train(step, batch)
    assert eager.compile_note == "not compiled"
    assert fallen.compile_note == "eager: backend broke"
    torch.testing.assert_close(fallen._stack.flat_KL, eager._stack.flat_KL, rtol=0, atol=0)


def test_no_compiler_is_announced(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    step = make_step(make_stack([sam_decoder().state_dict()]), compile=True)
    assert step.compile_note == "eager: no C++ compiler"


def test_training_lowers_the_loss():
    stack, batch = make_stack([sam_decoder().state_dict()]), make_batch(decoders=1)
    step = make_step(stack, precision="bf16")
    losses = [float(train(step, batch).loss_K[0]) for _ in range(25)]
    assert losses[-1] < 0.9 * losses[0]


def test_configuration_is_checked():
    with pytest.raises(UsageError, match="precision is unknown"):
        StepConfig(precision="int8")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="micro-batch"):
        StepConfig(precision="fp32", micro_batch=0)
