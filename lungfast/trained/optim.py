"""Adam over a stack of decoders: on a CPU torch's own kernel, a row at a time; on a GPU all rows in one pass.

Comes in: a gradient row per decoder, a learning rate and an L2 weight decay each. Goes out: the stack's
parameters changed in place. Why by selection and not by multiplying with 0:
0 * NaN is NaN, and one Adam step with a zero gradient still moves weights by about 0.9 of the learning rate.

The arithmetic is ``torch.optim.adam.adam`` (coupled L2, as ``torch.optim.Adam``) on one flat row a decoder;
each decoder has its own moments and its own step count. That kernel takes one rate for all its tensors, and
on an H200 a row fills less than half of the GPU: nine rows take 0.74 ms, three and a half times what their
bytes take.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.optim.adam import adam

from lungfast.on_gpu import OnGpu
from lungfast.records import Bool, Float64

BETAS = (0.9, 0.999)
EPS = 1e-8


class StackAdam:
    """Adam for every row of ``flat_KL``; state is kept in float32 (or the parameters' dtype)."""

    def __init__(self, flat_KL: Tensor) -> None:
        self._flat_KL = flat_KL
        self._mean_KL = torch.zeros_like(flat_KL)
        self._square_KL = torch.zeros_like(flat_KL)
        # the fused kernel wants float32 scalars; exact up to 2^24 steps
        self._steps_K = [torch.zeros(()) for _ in range(len(flat_KL))]

    @torch.no_grad()
    def step_row(self, k: int, grad_L: Tensor, *, lr: float, wd: float) -> None:
        """One step of decoder k on a CPU; the rest stay as they are, and may be stepped by other threads."""
        adam(
            [self._flat_KL[k]],
            [grad_L],
            [self._mean_KL[k]],
            [self._square_KL[k]],
            [],
            [self._steps_K[k]],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=lr,
            weight_decay=wd,
            eps=EPS,
            maximize=False,
        )

    @torch.no_grad()
    def step_where(self, taken_K: Tensor, grads_KL: Tensor, *, lr_K: Float64, wd_K: Float64) -> None:
        """One step of the decoders where ``taken_K``, a tensor beside the parameters: nothing waits for it.

        Afterwards :meth:`count` is to be told what it held.
        """
        steps_K = np.array([float(step) for step in self._steps_K]) + 1
        first, second = (1 - beta**steps_K for beta in BETAS)
        rates = torch.from_numpy(np.stack([lr_K / first, np.sqrt(second), wd_K]))
        of_rows = rates.to(self._flat_KL.device, self._flat_KL.dtype)
        _step(self._flat_KL, grads_KL, self._mean_KL, self._square_KL, (taken_K, of_rows))

    def count(self, taken_K: Bool) -> None:
        """One step more of the decoders where ``taken_K``."""
        for k, taken in enumerate(taken_K.tolist()):
            self._steps_K[k] += taken

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


@OnGpu
def _step(
    flat_KL: Tensor, grads_KL: Tensor, mean_KL: Tensor, square_KL: Tensor, rows: tuple[Tensor, Tensor]
) -> None:
    """Adam in place, of the rows that are taken; ``rows`` says which, and (3, K): the rate over the first
    bias correction, the root of the second, the decay."""
    taken_K, (rate_K, root_K, decay_K) = rows[0], rows[1].unbind(0)
    grads = grads_KL + decay_K[:, None] * flat_KL
    mean = BETAS[0] * mean_KL + (1 - BETAS[0]) * grads
    square = BETAS[1] * square_KL + (1 - BETAS[1]) * grads * grads
    flat = flat_KL - rate_K[:, None] * mean / (square.sqrt() / root_K[:, None] + EPS)
    for place, value in ((mean_KL, mean), (square_KL, square), (flat_KL, flat)):
        place.copy_(torch.where(taken_K[:, None], value, place))


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
