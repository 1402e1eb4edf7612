"""Averages of weights against the recursion that they are, in a trainer too, and through a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lungfast.trained.averaging import EVERY, StackAverage
from lungfast.trained.trainer import TrainConfig
from tests.trained.test_trainer import FAST, SLOW, initial, plan_of, run, same, trainer_of  # noqa: F401

DECAY = 0.9


def weights(step: int) -> torch.Tensor:
    return torch.randn(3, 64, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def test_equals_the_recursion_row_by_row() -> None:
    flat_KL = weights(0).clone()
    average = StackAverage(flat_KL, DECAY)
    expected, counts = flat_KL.clone(), np.zeros(3, int)
    for step in range(1, 60):
        stepped_K = np.array([True, step % 3 != 1, step > 20])
        flat_KL[torch.from_numpy(stepped_K)] = weights(step)[torch.from_numpy(stepped_K)]
        average.update(stepped_K)
        for k in np.flatnonzero(stepped_K):
            counts[k] += 1
            steps = 1 if counts[k] <= EVERY else EVERY
            if counts[k] % steps == 0:
                decay = min(DECAY, (1 + counts[k]) / (10 + counts[k])) ** steps
                expected[k] = decay * expected[k] + (1 - decay) * flat_KL[k]
    before = flat_KL.clone()
    with average.in_place():
        torch.testing.assert_close(flat_KL, expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(flat_KL, before)


def test_the_averaged_decoder_is_what_validates_and_is_kept(initial: dict[str, torch.Tensor]) -> None:  # noqa: F811
    trainer = trainer_of(plan_of(FAST), initial, epochs=6, schedule="constant", average=0.8)
    kept = run(trainer)["fast"]
    again = trainer_of(plan_of(FAST), dict(kept.state), epochs=1)
    assert again._validate()[0] == pytest.approx(min(kept.val_loss), rel=1e-6)
    plain = run(trainer_of(plan_of(FAST), initial, epochs=6, schedule="constant"))["fast"]
    assert plain.train_loss == kept.train_loss
    assert plain.val_loss != kept.val_loss
    last = trainer_of(plan_of(FAST), initial, epochs=6, schedule="constant", average=0.8, keep="last")
    assert same(run(last)["fast"], kept) == (kept.best_epoch == 6)


def test_a_resume_goes_on_with_the_average(initial: dict[str, torch.Tensor]) -> None:  # noqa: F811
    whole = run(trainer_of(plan_of(SLOW, FAST), initial, average=0.8))
    first = trainer_of(plan_of(SLOW, FAST), initial, average=0.8)
    next(first.epochs())
    notes = first.notes()
    tensors = [{name: tensor.clone() for name, tensor in flat.items()} for flat in first.tensors()]
    second = trainer_of(plan_of(SLOW, FAST), initial, average=0.8)
    second.restore(notes, tensors)
    resumed = run(second)
    assert all(same(one, resumed[key]) for key, one in whole.items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_is_checked_where_it_is_made(decay: float) -> None:
    with pytest.raises(ValueError, match="average must be"):
        TrainConfig(epochs=1, average=decay)
