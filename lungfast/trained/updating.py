"""What a step does with gradients: find the decoders that diverged, and move the others.

Comes in: the stack's gradient rows, the losses of the decoders that took part, a rate and a decay each. Goes
out: losses, which decoders are finite, and the parameters changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lungfast.records import Bool, Float64
from lungfast.trained.optim import LossScale, StackAdam
from lungfast.workers import Workers


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """``loss_K`` is NaN where a decoder took no part; ``finite_K`` False where it diverged in this step."""

    loss_K: Float64
    finite_K: Bool


class Updater:
    """Steps the decoders whose loss and gradient are finite; one sum a row finds any that is not."""

    def __init__(self, optimiser: StackAdam, scale: LossScale, workers: Workers) -> None:
        self._optimiser, self._scale, self._workers = optimiser, scale, workers

    def update(
        self, grads_KL: Tensor, losses: Mapping[int, Tensor], *, lr_K: Float64, wd_K: Float64
    ) -> StepResult:
        """Gradients of a scaled loss are divided in place."""
        result = StepResult(loss_K=np.full(len(grads_KL), np.nan), finite_K=np.ones(len(grads_KL), bool))
        if losses:
            step = self._together if grads_KL.device.type == "cuda" else self._row_by_row
            for k, (loss, finite) in step(grads_KL, losses, lr_K, wd_K).items():
                result.loss_K[k] = loss
                result.finite_K[k] = np.isfinite(loss) and not self._scale.update(k, finite=finite)
        return result

    def _row_by_row(
        self, grads_KL: Tensor, losses: Mapping[int, Tensor], lr_K: Float64, wd_K: Float64
    ) -> dict[int, tuple[float, bool]]:
        """Loss of each decoder, and whether it and its gradient are finite; rows go to threads."""

        def step(k: int) -> tuple[float, bool]:
            if self._scale.enabled:
                grads_KL[k] /= float(self._scale.factor_K[k])
            loss = float(losses[k])
            finite = bool(np.isfinite([loss, float(grads_KL[k].sum())]).all())
            if finite:
                self._optimiser.step_row(k, grads_KL[k], lr=float(lr_K[k]), wd=float(wd_K[k]))
            return loss, finite

        return dict(zip(losses, self._workers.map(step, list(losses), elementwise=True), strict=True))

    @torch.no_grad()
    def _together(
        self, grads_KL: Tensor, losses: Mapping[int, Tensor], lr_K: Float64, wd_K: Float64
    ) -> dict[int, tuple[float, bool]]:
        """The same on a GPU, which itself finds what is finite: steps are asked for before losses come."""
        if self._scale.enabled:
            for k in losses:
                grads_KL[k] /= float(self._scale.factor_K[k])
        sums_K = grads_KL.sum(1)
        sums = torch.stack([sums_K[k] for k in losses])  # one by one: a list of rows would be waited for
        found_2K = torch.stack([torch.stack(list(losses.values())).to(sums), sums])
        skipped_K = (~found_2K.isfinite().all(0)).float()
        arriving_2K = torch.empty(found_2K.shape, dtype=found_2K.dtype, pin_memory=True)
        arriving_2K.copy_(found_2K, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(grads_KL.device))
        for k, skipped in zip(losses, skipped_K, strict=True):
            self._optimiser.step_row(k, grads_KL[k], lr=float(lr_K[k]), wd=float(wd_K[k]), skipped=skipped)
        arrived.synchronize()
        finite_K = arriving_2K.isfinite().all(0).tolist()
        return dict(zip(losses, zip(arriving_2K[0].tolist(), finite_K, strict=True), strict=True))
