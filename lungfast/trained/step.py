"""One training step of the whole stack, in pieces whose activations stay in the processor's cache.

Comes in: a batch on the device, a rate and a decay per decoder, and which decoders take part. Goes out: their
losses, and the stack's parameters changed in place. The gradient is that of the whole batch: it is summed in
float32 over pieces of a few decoders x a few images, which all have one shape, so that one compiled function
serves every step. On a CPU a piece is of one decoder, and its threads take a decoder each (workers.py).

Precision: ``fp32``; ``bf16`` and ``fp16`` cast the weights once a step and then compute in that one type,
with float32 weights, gradient sums, losses and Adam. ``fp16`` scales every decoder's loss by its own power
of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from lungfast.errors import UsageError
from lungfast.records import Bool, Float64, LossName, PrecisionName
from lungfast.trained.batches import StackBatch
from lungfast.trained.cutting import image_pieces, piece_size
from lungfast.trained.decoder import DecoderStack, Sides
from lungfast.trained.inputs import Inputs
from lungfast.trained.losses import focal_flags, segmentation_loss
from lungfast.trained.optim import LossScale, StackAdam
from lungfast.trained.parameters import to_token_major
from lungfast.trained.piece import Piece, PieceRunner
from lungfast.trained.recorded import Recorder
from lungfast.trained.updating import StepResult, Updater
from lungfast.workers import Workers

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """``micro_batch`` None: as many images as :func:`piece_size` allows."""

    precision: PrecisionName = "fp32"
    compile: bool = False
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in {"fp32", "bf16", "fp16"}:
            raise UsageError("precision is unknown", found=self.precision, expected="fp32, bf16 or fp16")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UsageError("micro-batch is too small", found=str(self.micro_batch), expected="at least 1")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Of the decoders asked for, in their order: loss of each image, and its logits."""

    loss_KB: Float64
    logits_KBhw: Tensor


class TrainStep:
    """Trains a stack by steps; the optimiser and the loss scales are its state, see :meth:`state_dict`."""

    def __init__(
        self,
        stack: DecoderStack,
        optimiser: StackAdam,
        losses_K: Sequence[LossName],
        config: StepConfig,
    ) -> None:
        self._stack, self._optimiser, self._config = stack, optimiser, config
        flat_KL = stack.flat_KL
        self._focal_K = focal_flags(losses_K, flat_KL.device)
        self._grads_KL = torch.zeros_like(flat_KL)
        self._weights_KL = flat_KL
        if config.precision in _DTYPES:
            self._weights_KL = torch.zeros_like(flat_KL, dtype=_DTYPES[config.precision])
        self._scale = LossScale(stack.K, enabled=config.precision == "fp16")
        self._runner = PieceRunner(flat_KL.device, compile=config.compile)
        self._workers = Workers.of(flat_KL.device)
        self._updater = Updater(optimiser, self._scale, self._workers)
        self._spare_PL = flat_KL.new_zeros(0, flat_KL.shape[1])
        self._recorder = Recorder(self._runner.run, stack.layout)

    @property
    def compile_note(self) -> str:
        """``compiled``, or ``eager: `` and why; settled in the first step before it changes anything."""
        return self._runner.note

    @property
    def one_size(self) -> bool:
        """Batches should be of one size: a step is compiled or recorded, and every size would be anew."""
        return self._runner.compiled or self._grads_KL.device.type == "cuda"

    def train(self, batch: StackBatch, *, lr_K: Float64, wd_K: Float64, active_K: Bool) -> StepResult:
        """One Adam step for the decoders where ``active_K``, by the gradient of the whole batch.

        A decoder without a row of weight takes no part. One whose loss or gradient is not finite keeps its
        parameters, moments and count, and is reported; in fp16 a gradient that overflows halves that
        decoder's loss scale and skips its step instead.
        """
        weight_KB = batch.weight_KB.to("cpu", self._grads_KL.dtype)
        total_K = weight_KB.sum(1)
        chosen = [int(k) for k in np.flatnonzero(active_K & (total_K > 0).numpy())]
        if self._weights_KL is not self._stack.flat_KL:
            pairs = [(self._weights_KL[k], self._stack.flat_KL[k]) for k in chosen]
            self._workers.map(lambda pair: pair[0].copy_(pair[1]), pairs, elementwise=True)
        share_KB = weight_KB / total_K[:, None]
        batch = self._with_image(batch)
        if self._runner.untried and chosen:
            real, piece = next(self._pieces(batch, share_KB, chosen))
            self._runner.settle(self._stack.layout.views(self._rows_of(real, piece)), piece)
        if self._grads_KL.device.type == "cuda":
            losses = self._learn_together(batch, share_KB, chosen)
        elif self._workers.n == 1 or self._runner.compiled:
            losses = self._learn(batch, share_KB, {k: self._grads_KL[k] for k in chosen})
        else:
            losses = self._learn_side_by_side(batch, share_KB, chosen)
        return self._updater.update(self._grads_KL, losses, lr_K=lr_K, wd_K=wd_K)

    def _learn_together(
        self, batch: StackBatch, share_KB: Tensor, chosen: Sequence[int]
    ) -> dict[int, Tensor]:
        """On a GPU: many decoders a piece, and a piece is one recorded launch."""
        losses: dict[int, Tensor] = {}
        for real, piece in self._pieces(batch, share_KB, chosen):
            loss_D, grads_DL = self._recorder.run(self._rows_of(real, piece), piece)
            for n, k in enumerate(real):
                self._grads_KL[k] = self._grads_KL[k] + grads_DL[n] if k in losses else grads_DL[n]
                losses[k] = losses[k] + loss_D[n] if k in losses else loss_D[n].clone()
        return losses

    def _learn_side_by_side(
        self, batch: StackBatch, share_KB: Tensor, chosen: Sequence[int]
    ) -> dict[int, Tensor]:
        """A decoder to each worker while the stack comes out even; images of the others are shared out.

        Which is which depends on the place in the stack alone, so that one that stops or diverges leaves its
        neighbours' bytes as they were.
        """
        even = self._stack.K // self._workers.n * self._workers.n
        alone = [k for k in chosen if k < even]
        found = self._workers.map(lambda k: self._learn(batch, share_KB, {k: self._grads_KL[k]})[k], alone)
        losses = dict(zip(alone, found, strict=True))
        return losses | {k: self._learn_in_parts(batch, share_KB, k) for k in chosen if k >= even}

    def _learn_in_parts(self, batch: StackBatch, share_KB: Tensor, k: int) -> Tensor:
        """One decoder, a part of the images to each worker; the parts' sums are added in order."""
        edges = np.linspace(0, share_KB.shape[1], self._workers.n + 1).astype(int).tolist()
        parts = [slice(*pair) for pair in pairwise(edges) if pair[0] < pair[1]]
        if len(self._spare_PL) < len(parts) - 1:
            self._spare_PL = self._grads_KL.new_zeros(len(parts) - 1, self._grads_KL.shape[1])
        rows = [self._grads_KL[k], *self._spare_PL[: len(parts) - 1]]
        found = self._workers.map(
            lambda job: self._learn(batch.images(job[0]), share_KB[:, job[0]], {k: job[1]})[k],
            list(zip(parts, rows, strict=True)),
        )
        for row in rows[1:]:
            rows[0] += row
        return torch.stack(found).sum()

    def _learn(self, batch: StackBatch, share_KB: Tensor, grads: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Fill the rows ``grads`` of some decoders with the gradient of all pieces; returns their losses."""
        losses: dict[int, Tensor] = {}
        for real, piece in self._pieces(batch, share_KB, list(grads)):
            loss_D, found = self._runner.run(self._stack.layout.views(self._rows_of(real, piece)), piece)
            for n, k in enumerate(real):
                sums = self._stack.layout.views(grads[k][None])
                into = torch._foreach_add_ if k in losses else torch._foreach_copy_
                into(list(sums.values()), [found[name][n : n + 1] for name in sums])
                losses[k] = losses[k] + loss_D[n] if k in losses else loss_D[n].clone()
        for k in grads.keys() - losses.keys():  # none of these images weighs anything
            grads[k].zero_()
            losses[k] = share_KB.new_zeros(())
        return losses

    def _pieces(
        self, batch: StackBatch, share_KB: Tensor, chosen: Sequence[int]
    ) -> Iterator[tuple[list[int], Piece]]:
        """Decoders and the data of their piece, images outermost so that a shared image is prepared once."""
        device, most = self._weights_KL.device, self._config.micro_batch
        n_bytes = self._stack.constants.encoding_NC.numel() * self._weights_KL.element_size()
        micro_batch, k_chunk = piece_size(n_bytes, batch.weight_KB.shape, device, most)
        fused = k_chunk == 1 and device.type == "cpu" and not self._runner.compiled
        for rows, part_KB in image_pieces(share_KB, micro_batch):
            weighing = [k for k in chosen if part_KB[k].any()]
            shared = self._sides(batch, slice(0, 1), rows) if len(batch.features_GBNC) == 1 else None
            grid = self._stack.constants.grid
            for first in range(0, len(weighing), k_chunk):
                real = weighing[first : first + k_chunk]
                ks = real + [real[0]] * (k_chunk - len(real))  # fills up a piece; its results are dropped
                group = ks if shared is None else slice(0, 1)
                image, fine = shared or self._sides(batch, ks, rows)
                inputs = Inputs(
                    image_GBNC=image,
                    encoding_NC=self._stack.constants.encoding_NC.to(self._weights_KL.dtype),
                    tokens_KBIPC=batch.tokens_KBIPC[ks, rows].to(self._weights_KL.dtype),
                    mask_KBIP=batch.token_mask_KBIP[ks, rows],
                    fused=fused,
                    fine_GBNF=fine,
                )
                scale_K = torch.from_numpy(self._scale.factor_K[ks])
                yield (
                    real,
                    Piece(
                        inputs=inputs,
                        targets_GBX=to_token_major(batch.targets_GBhw[group, rows], grid),
                        valid_GBX=to_token_major(batch.valid_GBhw[group, rows], grid),
                        share_KB=part_KB[ks].to(self._focal_K.device),
                        scale_K=scale_K.to(self._focal_K.device, share_KB.dtype),
                        focal_K=self._focal_K[ks],
                    ),
                )

    def _with_image(self, batch: StackBatch) -> StackBatch:
        """On a CPU, image tokens that several decoders share are made once, an image to each worker."""
        features_GBNC = batch.features_GBNC
        if features_GBNC.shape[0] > 1 or self._stack.K == 1 or self._workers.n == 1:
            return batch
        shape = (*features_GBNC.shape[:2], *self._stack.constants.encoding_NC.shape)
        image_GBNC = torch.empty(shape, dtype=self._weights_KL.dtype)
        self._workers.map(
            lambda b: self._stack.constants.image_into(features_GBNC[:, b], image_GBNC[:, b]),
            range(features_GBNC.shape[1]),
        )
        return replace(batch, image_GBNC=image_GBNC)

    def _sides(self, batch: StackBatch, groups: list[int] | slice, rows: slice) -> Sides:
        made_GBNC = None if batch.image_GBNC is None else batch.image_GBNC[groups, rows]
        return self._stack.sides(batch.features_GBNC[groups, rows], self._weights_KL.dtype, made_GBNC)

    def _rows_of(self, real: list[int], piece: Piece) -> Tensor:
        """(D, L), a view where the decoders are neighbours."""
        ks = real + [real[0]] * (len(piece.focal_K) - len(real))
        neighbours = ks == list(range(ks[0], ks[0] + len(ks)))
        return self._weights_KL[ks[0] : ks[0] + len(ks)] if neighbours else self._weights_KL[ks]

    @torch.no_grad()
    def evaluate(self, batch: StackBatch, *, active: Sequence[int] | None = None) -> Evaluation:
        """Losses and logits by one forward pass, in the stack's dtype (float32)."""
        chosen = list(range(self._stack.K)) if active is None else list(active)
        logits_KBhw = self._stack.logits(
            batch.features_GBNC, batch.tokens_KBIPC, batch.token_mask_KBIP, active=chosen
        )
        is_shared = batch.features_GBNC.shape[0] == 1

        @torch.no_grad()
        def loss_of(row: int) -> Tensor:
            k = chosen[row]
            group = slice(0, 1) if is_shared else slice(k, k + 1)
            truth = (batch.targets_GBhw[group].flatten(2), batch.valid_GBhw[group].flatten(2))
            return segmentation_loss(logits_KBhw[row : row + 1].flatten(2), *truth, self._focal_K[k : k + 1])

        loss_KB = torch.cat(self._workers.map(loss_of, range(len(chosen))))
        return Evaluation(loss_KB=loss_KB.to("cpu", torch.float64).numpy(), logits_KBhw=logits_KBhw)

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Everything but the parameters that decoder k's next step depends on."""
        return self._optimiser.state_dict(k) | {"loss_scale": self._scale.state(k)}

    def load(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Put :meth:`state_dict`'s result back."""
        self._optimiser.load(k, state)
        self._scale.load(k, state["loss_scale"])
