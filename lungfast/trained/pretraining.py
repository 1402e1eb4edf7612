"""One training of a promptable model: AdamW, a rate that rises, stays and falls, averaged weights.

Comes in: a model and batches. Goes out: losses by step, and state as plain tensors from which a killed
training goes on. Products run in bf16 where the device multiplies it natively, weights stay float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lungfast.trained.promptable import PromptableBatch, PromptableModel, promptable_loss

if TYPE_CHECKING:
    from torch import Tensor

MODEL, AVERAGE, FIRST, SECOND = "model", "average", "first_moment", "second_moment"
_CLIP, _DECAY = 1.0, 0.3


@dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """``average``: what the running average keeps of itself at each step. The first ``small_steps`` take
    X-rays of half the side: a third of the time, and as good for learning what is where.
    """

    steps: int = 2882
    small_steps: int = 576
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 0.05
    warm_up: int = 100
    average: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or self.warm_up < 0 or not 0 <= self.average < 1:
            raise ValueError(f"steps and batch from 1, warm_up from 0, average in [0, 1): got {self}")

    def rate(self, step: int) -> float:
        """Linear to ``lr`` over the warm-up, constant, and linear to nothing over the last 30 % of steps."""
        rising, falling = (step + 1) / max(1, self.warm_up), (self.steps - step) / (_DECAY * self.steps)
        return self.lr * min(1.0, rising, falling)


class Pretraining:
    """The state of a training; ``step`` is how many batches it has seen."""

    def __init__(
        self, model: PromptableModel, config: PretrainingConfig, device: torch.device, *, bf16: bool
    ) -> None:
        # channels last: convolutions take 15 % less on a CPU
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.config, self.step = config, 0
        self._device, self._bf16 = device, bf16
        keep = get_ema_multi_avg_fn(config.average)  # type: ignore[no-untyped-call]
        self._average = AveragedModel(self.model, multi_avg_fn=keep)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(
            groups, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98), fused=True
        )

    @property
    def average(self) -> PromptableModel:
        """The averaged model, which is what a training leaves."""
        module = self._average.module
        if not isinstance(module, PromptableModel):
            raise TypeError(f"an average of {type(module).__name__}")
        return module

    def train(self, batch: PromptableBatch) -> dict[str, float]:
        """One step; the parts of its loss."""
        moved = {f.name: getattr(batch, f.name).to(self._device, non_blocking=True) for f in fields(batch)}
        batch = PromptableBatch(**moved)
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.rate(self.step)
        outputs = self._forward(batch)
        loss, parts = promptable_loss(batch, *outputs)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self._optimiser.step()
        self._average.update_parameters(self.model)
        self.step += 1
        return parts

    def _forward(self, batch: PromptableBatch) -> tuple[Tensor, Tensor, Tensor]:
        """In bf16 from one cast of the weights: autocast's many small casts took a quarter of a step."""
        if not self._bf16:
            return self.model(batch)  # type: ignore[no-any-return]
        cast = {name: p.to(torch.bfloat16) for name, p in self.model.named_parameters()}
        return functional_call(self.model, cast, (batch,))  # type: ignore[no-any-return]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Weights, their average, and AdamW's moments, by parameter name."""
        names = [name for name, _ in self.model.named_parameters()]
        found = [self._optimiser.state[p] for p in self.model.parameters()]
        return {
            MODEL: dict(self.model.state_dict()),
            AVERAGE: dict(self.average.state_dict()),
            FIRST: {name: one["exp_avg"] for name, one in zip(names, found, strict=True) if one},
            SECOND: {name: one["exp_avg_sq"] for name, one in zip(names, found, strict=True) if one},
        }

    def load(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Go on from :meth:`state` after ``step`` batches."""
        self.step = step
        self.model.load_state_dict(state[MODEL])
        self.average.load_state_dict(state[AVERAGE])
        self._average.n_averaged.fill_(step)
        # the fused AdamW walks memory: moments have to lie as their parameters do (channels last)
        for name, parameter in self.model.named_parameters():
            if name in state[FIRST]:
                self._optimiser.state[parameter] = {
                    "step": torch.tensor(float(step)),
                    "exp_avg": torch.empty_like(parameter).copy_(state[FIRST][name]),
                    "exp_avg_sq": torch.empty_like(parameter).copy_(state[SECOND][name]),
                }
