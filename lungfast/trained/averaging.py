"""Exponential moving averages of a stack's weights: a decoder that validates and is kept may be the average.

Comes in: the stack's parameters, a decay. Goes out: their average, to be put in the stack's place for a
while. The average of a decoder that was not trained in a step stays as it is. It follows fast at first and
then slower, min(decay, (1 + n) / (10 + n)) after n steps, so that the start is soon forgotten: the
average is of the last ninth of all steps, until these are 9 / (1 - decay).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from lungfast.records import Bool

EVERY = 4
"""Steps from one update to the next: a pass over 16 MB of weights a decoder would else be 7 % of a step."""


class StackAverage:
    """Averages of every row of ``flat_KL``; ``decay`` counts for a single step."""

    def __init__(self, flat_KL: Tensor, decay: float) -> None:
        self._flat_KL, self._decay = flat_KL, decay
        self._average_KL = flat_KL.clone()
        self._steps_K = np.zeros(len(flat_KL), np.int64)

    @torch.no_grad()
    def update(self, stepped_K: Bool) -> None:
        """After a step of the decoders where ``stepped_K``."""
        for k in np.flatnonzero(stepped_K).tolist():
            self._steps_K[k] += 1
            n = int(self._steps_K[k])
            steps = 1 if n <= EVERY else EVERY
            if n % steps == 0:
                decay = min(self._decay, (1 + n) / (10 + n)) ** steps
                self._average_KL[k].lerp_(self._flat_KL[k], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the stack holds the averages."""
        trained_KL = self._flat_KL.clone()
        self._flat_KL.copy_(self._average_KL)
        try:
            yield
        finally:
            self._flat_KL.copy_(trained_KL)

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Copies on the CPU: enough to go on with the same bytes."""
        return {
            "weights": self._average_KL[k].to("cpu", copy=True),
            "steps": torch.tensor(int(self._steps_K[k])),
        }

    def load(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Put :meth:`state_dict`'s result back into decoder k."""
        self._average_KL[k].copy_(state["weights"])
        self._steps_K[k] = int(state["steps"])
