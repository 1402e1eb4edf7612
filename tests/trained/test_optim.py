"""StackAdam against torch.optim.Adam, selection, resume; and the loss scales."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lungfast.trained.optim import LossScale, StackAdam

LR_K, WD_K = np.array([1e-3, 1e-2, 3e-4]), np.array([0.0, 0.1, 1e-3])


def gradients(step: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(3, 64, generator=torch.Generator().manual_seed(step), dtype=dtype)


def step_chosen(adam, grads_KL, lr_K, wd_K, active_K):
    for k in np.flatnonzero(active_K).tolist():
        adam.step_row(k, grads_KL[k], lr=float(lr_K[k]), wd=float(wd_K[k]))


def step_all_but_skipped(adam, grads_KL, lr_K, wd_K, active_K):
    """As on a GPU: the kernel is asked for every row, and looks itself."""
    for k, skipped in enumerate(torch.from_numpy(~active_K).float()):
        adam.step_row(k, grads_KL[k], lr=float(lr_K[k]), wd=float(wd_K[k]), skipped=skipped)


both_ways = pytest.mark.parametrize("step_chosen", [step_chosen, step_all_but_skipped])


@both_ways
def test_equals_torch_adam_with_own_rates_decays_and_counts(step_chosen):
    flat_KL = gradients(100).clone()
    rows = [flat_KL[k].clone().requires_grad_() for k in range(3)]
    twins = [torch.optim.Adam([row]) for row in rows]
    adam = StackAdam(flat_KL)
    for step in range(20):
        active_K = np.array([True, step % 3 != 1, step > 7])
        step_chosen(adam, gradients(step), LR_K * (1 + step), WD_K, active_K)
        for k in np.flatnonzero(active_K):
            twins[k].param_groups[0].update(lr=LR_K[k] * (1 + step), weight_decay=WD_K[k])
            rows[k].grad = gradients(step)[k]
            twins[k].step()
    for k in range(3):
        torch.testing.assert_close(flat_KL[k], rows[k].detach(), rtol=1e-12, atol=1e-13)


@both_ways
def test_an_unselected_decoder_keeps_every_byte_even_with_a_nan_gradient(step_chosen):
    flat_KL = gradients(1, torch.float32)
    adam = StackAdam(flat_KL)
    step_chosen(adam, gradients(2, torch.float32), LR_K, WD_K, np.ones(3, bool))
    before, state = flat_KL.clone(), adam.state_dict(1)
    bad = gradients(3, torch.float32)
    bad[1] = float("nan")
    step_chosen(adam, bad, LR_K, WD_K, np.array([True, False, True]))
    assert torch.equal(flat_KL[1], before[1])
    assert not torch.equal(flat_KL[0], before[0])
    for name, tensor in adam.state_dict(1).items():
        assert torch.equal(tensor, state[name]), name


@both_ways
def test_resume_is_byte_equal(step_chosen):
    straight, halted = gradients(1, torch.float32), gradients(1, torch.float32)
    adam, first = StackAdam(straight), StackAdam(halted)
    for step in range(4):
        step_chosen(adam, gradients(step, torch.float32), LR_K, WD_K, np.ones(3, bool))
    for step in range(2):
        step_chosen(first, gradients(step, torch.float32), LR_K, WD_K, np.ones(3, bool))
    second = StackAdam(halted)
    for k in range(3):
        second.load(k, first.state_dict(k))
    for step in range(2, 4):
        step_chosen(second, gradients(step, torch.float32), LR_K, WD_K, np.ones(3, bool))
    assert torch.equal(straight, halted)


def test_the_state_is_a_copy():
    adam = StackAdam(gradients(1, torch.float32))
    state = adam.state_dict(0)
    step_chosen(adam, gradients(2, torch.float32), LR_K, WD_K, np.ones(3, bool))
    assert float(state["step"]) == 0
    assert not state["mean"].any()


def test_an_overflow_halves_one_scale_and_good_steps_double_it():
    scale = LossScale(2, enabled=True)
    assert not scale.update(0, finite=False)
    assert scale.factor_K.tolist() == [2.0**15, 2.0**16]
    for _ in range(LossScale.GROWTH_STEPS):
        scale.update(0, finite=True)
    assert scale.factor_K.tolist() == [2.0**16, 2.0**16]
    other = LossScale(2, enabled=True)
    other.load(1, scale.state(0))
    assert other.factor_K[1] == 2.0**16


@pytest.mark.parametrize("enabled", [True, False])
def test_overflow_for_ever_is_divergence(enabled):
    scale = LossScale(1, enabled=enabled)
    outcomes = [scale.update(0, finite=False) for _ in range(17)]
    assert outcomes[-1]
    assert outcomes[0] is not enabled
