"""Learning rate by step, as a pure function, so that a resumed decoder needs no scheduler state."""

from __future__ import annotations

import math

from lungfast.records import ScheduleName

WARM_SHARE = 0.3
START_DIVISOR = 25.0
END_DIVISOR = 1e4


def learning_rate(schedule: ScheduleName, lr: float, step: int, n_steps: int) -> float:
    """The rate of step ``step`` (from 0) of ``n_steps``; ``lr`` is the rate given, or the peak.

    ``onecycle`` is torch.optim.lr_scheduler.OneCycleLR with its defaults (cosine; 30 % rising from lr/25,
    then falling to lr/25e4) without its momentum cycle; ``constant`` is the paper's.
    """
    if schedule == "constant":
        return lr
    peak = WARM_SHARE * n_steps - 1
    if step <= peak:
        return _cosine(lr / START_DIVISOR, lr, step / peak if peak > 0 else 1.0)
    return _cosine(lr, lr / START_DIVISOR / END_DIVISOR, (step - peak) / (n_steps - 1 - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
