"""One trainer for every study: all decoders of a Plan at once.

Comes in: a :class:`Plan`, rows and prompts (Protocols), initial decoders. Goes out: an :class:`EpochEnd`
after every epoch, and at the end one :class:`Fitted` per decoder. The trainer knows losses only; F1
belongs to the study, the progress bar to the command, files to the run.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from lungfast.records import Bool, EpochEnd, Float32, Float64, Int64, Plan, PrecisionName, ScheduleName
from lungfast.trained.averaging import StackAverage
from lungfast.trained.batches import BatchMaker, plan_batches, row_order, steps_of
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.optim import StackAdam
from lungfast.trained.schedule import learning_rate
from lungfast.trained.step import StepConfig, TrainStep

State = Mapping[str, Tensor]
RUNNING, STOPPED, DIVERGED = "running", "stopped", "diverged"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how, and which epoch to keep; the same for every decoder of a run.

    ``patience`` is the number of validations without improvement after which a decoder stops (0: never).
    ``keep`` is ``best`` (lowest validation loss, the earlier on ties) or ``last`` (the paper's).
    ``average`` is the decay a step of a moving average of the weights, which then validates and is kept (0:
    none).
    """

    epochs: int
    batch_size: int = 8
    schedule: ScheduleName = "onecycle"
    val_every: int = 1
    patience: int = 0
    keep: Literal["best", "last"] = "best"
    average: float = 0.0
    precision: PrecisionName = "fp32"
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "val_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.average < 1:
            raise ValueError(f"average must be at least 0 and below 1, got {self.average}")


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """One trained decoder: segment-anything MaskDecoder names, CPU, fp32. Epochs count from 1."""

    key: str
    state: State
    best_epoch: int
    status: str
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]


class Trainer:
    """Trains every decoder of ``plan`` from its place in ``stack``; resumable after any epoch."""

    def __init__(self, plan: Plan, maker: BatchMaker, stack: DecoderStack, config: TrainConfig) -> None:
        self._plan, self._maker, self._stack, self._config = plan, maker, stack, config
        self._adam = StackAdam(stack.flat_KL)
        self._average = StackAverage(stack.flat_KL, config.average) if config.average else None
        self._step = TrainStep(
            stack,
            self._adam,
            [decoder.loss for decoder in plan.configs],
            StepConfig(precision=config.precision, compile=config.compile, micro_batch=None),
        )
        n = len(plan)
        self._status = [RUNNING] * n
        self._best_loss_K = np.full(n, np.inf)
        self._best_epoch_K = np.zeros(n, np.int64)
        self._best: list[dict[str, Tensor]] = [stack.state_dict(k) for k in range(n)]
        self._train_losses: list[Float64] = []
        self._val_losses: list[Float64] = []

    @property
    def compile_note(self) -> str:
        """What the step turned out to be: compiled, or eager and why."""
        return self._step.compile_note

    @property
    def epochs_done(self) -> int:
        return len(self._train_losses)

    def epochs(self) -> Iterator[EpochEnd]:
        """Train epoch by epoch until all are done, or until no decoder is running."""
        while self.epochs_done < self._config.epochs and RUNNING in self._status:
            started = time.perf_counter()
            train_loss_K, images = self._train_epoch(self.epochs_done)
            self._train_losses.append(train_loss_K)
            done = self.epochs_done
            due = done % self._config.val_every == 0 or done == self._config.epochs
            if due:
                self._validate_and_keep()
            else:
                self._val_losses.append(np.full(len(self._plan), np.nan))
            yield EpochEnd(
                epoch=done,
                epochs=self._config.epochs,
                keys=tuple(config.key for config in self._plan.configs),
                train_loss_K=train_loss_K,
                val_loss_K=self._val_losses[-1],
                best_epoch_K=self._best_epoch_K.copy(),
                status_K=tuple(self._status),
                seconds=time.perf_counter() - started,
                images=images,
            )

    def fitted(self) -> list[Fitted]:
        """The kept epoch of every decoder; a diverged one gives the last state that validated, if any."""
        with self._averaged():
            return [self._fitted(k) for k in range(len(self._plan))]

    def _averaged(self) -> AbstractContextManager[None]:
        """Meanwhile the stack holds what validates and is kept."""
        return self._average.in_place() if self._average else nullcontext()

    def _fitted(self, k: int) -> Fitted:
        last = self._config.keep == "last"
        return Fitted(
            key=self._plan.configs[k].key,
            state=self._stack.state_dict(k) if last else self._best[k],
            best_epoch=self._last_epoch(k) if last else int(self._best_epoch_K[k]),
            status="done" if self._status[k] == RUNNING else self._status[k],
            train_loss=tuple(float(loss_K[k]) for loss_K in self._train_losses),
            val_loss=tuple(float(loss_K[k]) for loss_K in self._val_losses),
        )

    def _last_epoch(self, k: int) -> int:
        """The last epoch that decoder k trained; 0 for one that diverged, of which no epoch is to be kept."""
        trained = np.isfinite([loss_K[k] for loss_K in self._train_losses])
        return 0 if self._status[k] == DIVERGED else int(trained.sum())

    def _train_epoch(self, epoch: int) -> tuple[Float64, int]:
        plan, size = self._plan, self._config.batch_size
        orders = [
            row_order(rows, seed=config.seed, epoch=epoch)
            for config, rows in zip(plan.configs, plan.train_rows_K, strict=True)
        ]
        sum_K, weight_K = np.zeros(len(plan)), np.zeros(len(plan))
        batches = plan_batches(orders, size, one_size=self._step.one_size)
        for index, (rows, batch) in enumerate(self._maker.stream(batches, epoch=epoch)):
            active_K = rows.active_K & self._is_running()
            if not active_K.any():
                continue
            result = self._step.train(
                batch, lr_K=self._rates(epoch, index), wd_K=self._decays(), active_K=active_K
            )
            self._mark_diverged(active_K & ~result.finite_K)
            if self._average:
                self._average.update(active_K & result.finite_K)
            taken_K = np.where(active_K & result.finite_K, rows.weight_KB.sum(axis=1), 0.0)
            sum_K += np.where(taken_K > 0, np.nan_to_num(result.loss_K) * taken_K, 0.0)
            weight_K += taken_K
        with np.errstate(invalid="ignore"):
            mean_K = np.where(self._is_running(), sum_K / weight_K, np.nan)
        return mean_K, int(weight_K.sum())

    def _is_running(self) -> Bool:
        return np.array([status == RUNNING for status in self._status])

    def _rates(self, epoch: int, index: int) -> Float64:
        config = self._config
        rates = []
        for decoder, rows in zip(self._plan.configs, self._plan.train_rows_K, strict=True):
            steps = steps_of(len(rows), config.batch_size)
            step = min(epoch * steps + index, config.epochs * steps - 1)
            rates.append(learning_rate(config.schedule, decoder.lr, step, config.epochs * steps))
        return np.array(rates)

    def _decays(self) -> Float64:
        return np.array([decoder.wd for decoder in self._plan.configs])

    def _mark_diverged(self, which_K: Bool) -> None:
        for k in np.flatnonzero(which_K).tolist():
            self._status[k] = DIVERGED

    def _validate_and_keep(self) -> None:
        with self._averaged():
            self._val_losses.append(self._validate())
            self._keep(self._val_losses[-1])

    def _validate(self) -> Float64:
        """Mean validation loss of every running decoder, unperturbed prompts, fp32; NaN for the others."""
        sum_K, weight_K = np.zeros(len(self._plan)), np.zeros(len(self._plan))
        batches = plan_batches(self._plan.val_rows_K, self._config.batch_size)
        for rows, batch in self._maker.stream(batches, epoch=None):
            active = np.flatnonzero(self._is_running() & rows.active_K)
            if active.size:
                loss_AB = self._step.evaluate(batch, active=active.tolist()).loss_KB
                sum_K[active] += np.where(rows.weight_KB[active] > 0, loss_AB, 0.0).sum(axis=1)
                weight_K[active] += rows.weight_KB[active].sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(sum_K / weight_K)

    def _keep(self, val_loss_K: Float64) -> None:
        """Store improved decoders; stop those without improvement for ``patience`` validations."""
        for k in np.flatnonzero(self._is_running()).tolist():
            if not np.isfinite(val_loss_K[k]):
                self._status[k] = DIVERGED
            elif val_loss_K[k] < self._best_loss_K[k]:
                self._best_loss_K[k], self._best_epoch_K[k] = val_loss_K[k], self.epochs_done
                self._best[k] = self._stack.state_dict(k)
            elif self._config.patience and self._waited(k) >= self._config.patience:
                self._status[k] = STOPPED

    def _waited(self, k: int) -> int:
        since = np.array([loss_K[k] for loss_K in self._val_losses[self._best_epoch_K[k] :]])
        return int(np.isfinite(since).sum())

    # --- checkpoints: everything that the next epoch depends on ---

    def tensors(self) -> Iterator[dict[str, Tensor]]:
        """One decoder's tensors after another, so that only one set of copies stands in memory."""
        for k in range(len(self._plan)):
            rooms = {
                "decoder": self._stack.state_dict(k),
                "best": self._best[k],
                "step": self._step.state_dict(k),
                "average": self._average.state_dict(k) if self._average else {},
            }
            yield {f"{room}/{name}": value for room, state in rooms.items() for name, value in state.items()}

    def notes(self) -> dict[str, Any]:
        """The rest, as JSON."""
        return {
            "epoch": self.epochs_done,
            "status": self._status,
            "best_loss": _to_json(self._best_loss_K),
            "best_epoch": self._best_epoch_K.tolist(),
            "train_losses": [_to_json(loss_K) for loss_K in self._train_losses],
            "val_losses": [_to_json(loss_K) for loss_K in self._val_losses],
        }

    def restore(self, notes: Mapping[str, Any], tensors: Iterable[Mapping[str, Tensor]]) -> None:
        """Go on from :meth:`notes` and :meth:`tensors` of the same plan and configuration."""
        for k, flat in enumerate(tensors):
            rooms: dict[str, dict[str, Tensor]] = {"decoder": {}, "best": {}, "step": {}, "average": {}}
            for name, tensor in flat.items():
                room, _, rest = name.partition("/")
                rooms[room][rest] = tensor
            self._stack.load(k, rooms["decoder"])
            self._step.load(k, rooms["step"])
            if self._average:
                self._average.load(k, rooms["average"])
            self._best[k] = rooms["best"]
        self._status = list(notes["status"])
        self._best_loss_K = _from_json(notes["best_loss"], missing=np.inf)
        self._best_epoch_K = np.array(notes["best_epoch"], np.int64)
        self._train_losses = [_from_json(loss_K) for loss_K in notes["train_losses"]]
        self._val_losses = [_from_json(loss_K) for loss_K in notes["val_losses"]]


def _to_json(values: Float64) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _from_json(values: Sequence[float | None], *, missing: float = np.nan) -> Float64:
    return np.array([missing if value is None else value for value in values])


def predict(
    maker: BatchMaker, stack: DecoderStack, rows_K: Sequence[Int64], *, batch_size: int
) -> Iterator[tuple[int, int, Float32]]:
    """(decoder, row, logits_hw float32) of every decoder's own rows, in fp32, prompts unperturbed."""
    for rows, batch in maker.stream(plan_batches(rows_K, batch_size), epoch=None):
        active = np.flatnonzero(rows.active_K)
        logits = stack.logits(
            batch.features_GBNC,
            batch.tokens_KBIPC,
            batch.token_mask_KBIP,
            active=[int(k) for k in active],
        )
        logits_ABhw = logits.float().cpu().numpy()
        for a, k in enumerate(active):
            for b in np.flatnonzero(rows.weight_KB[k] > 0):
                yield int(k), int(rows.rows_KB[k, b]), logits_ABhw[a, b]
