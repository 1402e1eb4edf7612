"""The pure schedule against torch's scheduler."""

from __future__ import annotations

import pytest
import torch

from lungfast.trained.schedule import learning_rate


@pytest.mark.parametrize("n_steps", [4, 5, 11, 100])
def test_onecycle_is_torchs(n_steps: int) -> None:
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3e-3, total_steps=n_steps, cycle_momentum=False
    )
    for step in range(n_steps):
        assert learning_rate("onecycle", 3e-3, step, n_steps) == pytest.approx(
            scheduler.get_last_lr()[0], rel=1e-9
        )
        optimiser.step()
        if step < n_steps - 1:
            scheduler.step()


@pytest.mark.parametrize("n_steps", [1, 2, 3])
def test_very_short_runs_have_positive_rates(n_steps: int) -> None:
    rates = [learning_rate("onecycle", 1e-3, step, n_steps) for step in range(n_steps)]
    assert all(0 < rate <= 1e-3 for rate in rates)


def test_constant() -> None:
    assert {learning_rate("constant", 0.1, step, 9) for step in range(9)} == {0.1}
