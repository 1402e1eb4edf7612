"""Adam over a stack of decoders: torch's own kernel, a row at a time.

Comes in: a gradient row per decoder, a learning rate and an L2 weight decay each. Goes out: the stack's
parameters changed in place, a row at a time. Why by selection and not by multiplying with 0:
0 * NaN is NaN, and one Adam step with a zero gradient still moves weights by about 0.9 of the learning rate.

The arithmetic is ``torch.optim.adam.adam`` (coupled L2, as ``torch.optim.Adam``) on one flat row a decoder;
each decoder has its own moments and its own step count.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from lungfast.records import Float64

BETAS = (0.9, 0.999)
EPS = 1e-8


class StackAdam:
    """Adam for every row of ``flat_KL``; state is kept in float32 (or the parameters' dtype)."""

    def __init__(self, flat_KL: Tensor) -> None:
        self._flat_KL = flat_KL
        self._mean_KL = torch.zeros_like(flat_KL)
        self._square_KL = torch.zeros_like(flat_KL)
        # the fused kernel wants float32 scalars on the parameters' device; exact up to 2^24 steps
        self._steps_K = [torch.zeros((), device=flat_KL.device) for _ in range(len(flat_KL))]

    @torch.no_grad()
    def step_row(
        self, k: int, grad_L: Tensor, *, lr: float, wd: float, skipped: Tensor | None = None
    ) -> None:
        """One step of decoder k; the rest stay as they are, and may be stepped by other threads.

        Where the float32 scalar ``skipped``, beside the parameters, is 1 it stays too, its count included:
        the kernel looks, so that nothing waits for a GPU.
        """
        adam(
            [self._flat_KL[k]],
            [grad_L],
            [self._mean_KL[k]],
            [self._square_KL[k]],
            [],
            [self._steps_K[k]],
            fused=True,
            found_inf=skipped,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=wd,
            eps=EPS,
            maximize=False,
        )

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Copies of decoder k's moments and step count on the CPU: enough to go on with the same bytes."""
        return {
            "mean": self._mean_KL[k].to("cpu", copy=True),
            "square": self._square_KL[k].to("cpu", copy=True),
            "step": self._steps_K[k].to("cpu", copy=True),
        }

    def load(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Put :meth:`state_dict`'s result back into decoder k."""
        self._mean_KL[k].copy_(state["mean"])
        self._square_KL[k].copy_(state["square"])
        self._steps_K[k].copy_(state["step"])


class LossScale:
    """Powers of two by which float16 losses are multiplied so that small gradients do not vanish.

    One per decoder, as a decoder that overflows must not disturb its neighbours. Halved by an overflow,
    doubled after :data:`GROWTH_STEPS` steps without one, as ``torch.amp.GradScaler`` does for a whole model.
    """

    START, LIMIT, GROWTH_STEPS = 2.0**16, 2.0**24, 2000

    def __init__(self, n_decoders: int, *, enabled: bool) -> None:
        self.enabled = enabled
        self.factor_K: Float64 = np.full(n_decoders, self.START if enabled else 1.0)
        self._good_K = np.zeros(n_decoders)

    def update(self, k: int, *, finite: bool) -> bool:
        """Note a step's outcome; True where the decoder has diverged: no scale down to 1 keeps it finite."""
        if finite:
            self._good_K[k] += 1
            if self.enabled and self._good_K[k] >= self.GROWTH_STEPS:
                self.factor_K[k] = min(2 * self.factor_K[k], self.LIMIT)
                self._good_K[k] = 0
            return False
        if not self.enabled or self.factor_K[k] <= 1:
            return True
        self.factor_K[k] /= 2
        self._good_K[k] = 0
        return False

    def state(self, k: int) -> Tensor:
        return torch.tensor([self.factor_K[k], self._good_K[k]], dtype=torch.float64)

    def load(self, k: int, state: Tensor) -> None:
        self.factor_K[k], self._good_K[k] = state.tolist()
