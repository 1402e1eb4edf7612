"""The protocol, written once: fit on training rows, choose on validation rows, apply to test rows.

A study is a list of :class:`Cell`: a decoder to train and the split it lives in. Everything is keyed by
the cell's key, so that it does not matter how the cells were put together for training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from lungfast.compute import resolve_precision
from lungfast.errors import TrainingError
from lungfast.frozen.prompts import CachePrompts, PromptConfig
from lungfast.records import DecoderConfig, EpochEnd, Float32, Float64, Int64, Plan, Split
from lungfast.runs import RunFolder, read_tensors
from lungfast.scored.scores import DEFAULT_THRESHOLDS, ThresholdChoice, choose_threshold, scores_of
from lungfast.studies.workspace import Workspace, share_memory
from lungfast.trained.trainer import DIVERGED, Fitted, TrainConfig, Trainer

CHECKPOINT_SECONDS = 60.0
"""A checkpoint of nine decoders is 0.6 GB: once a minute costs about 1 % of the time."""
CHOSEN = "chosen.json"
MEASURES = ("f1", "iou", "precision", "recall")


class Listener(Protocol):
    """What a command may show of a running study."""

    def note(self, line: str) -> None: ...

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def epoch(self, end: EpochEnd) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One decoder of a study, in its split, with its prompt."""

    config: DecoderConfig
    split: Split
    prompt: PromptConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What grid, cv and every later study share."""

    train: TrainConfig
    memory_bytes: int
    precision: str = "auto"
    compile: str = "auto"
    thresholds: tuple[float, ...] = field(default=tuple(float(t) for t in DEFAULT_THRESHOLDS))
    save_logits: bool = False


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of one decoder on some images: (images, thresholds) arrays in [0, 1]."""

    images: Int64
    values: dict[str, Float64]

    def at(self, measure: str, index: int) -> Float64:
        """Per-image values of a measure at threshold number ``index``."""
        return np.asarray(self.values[measure][:, index])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell, its decoder, its validation scores and the threshold they chose; None where it never worked."""

    cell: Cell
    fitted: Fitted
    val: Scored | None
    choice: ThresholdChoice | None

    def val_mean(self, measure: str) -> float | None:
        if self.val is None or self.choice is None:
            return None
        return float(self.val.at(measure, self.choice.index).mean())


Executor = Callable[[Sequence[Plan], Callable[[Plan], list[Fitted]]], Iterator[list[Fitted]]]


def in_process(plans: Sequence[Plan], fit: Callable[[Plan], list[Fitted]]) -> Iterator[list[Fitted]]:
    """The executor of one machine: one sub-plan after another."""
    for plan in plans:
        yield fit(plan)


class Study:
    """Cells on a workspace, writing into a run."""

    def __init__(
        self,
        workspace: Workspace,
        run: RunFolder,
        settings: Settings,
        listener: Listener,
        *,
        executor: Executor = in_process,
    ) -> None:
        self.workspace, self.run, self.listener = workspace, run, listener
        self.settings, self._executor = settings, executor
        self._prompts: dict[tuple[str, str, int], CachePrompts] = {}
        self._chosen: dict[str, Any] = {}

    # --- fit ---

    def fit(self, cells: Sequence[Cell]) -> list[Fitted]:
        """Train every cell that has no decoder in the run folder yet; the rest is read from there."""
        self._choose_once(len(cells))
        width = self._chosen["width"]
        self.workspace.hold_rows(self._chosen["row_bytes"], batch_rows=width * self.settings.train.batch_size)
        plan = self.plan(cells)
        done = {key: found for key in self._keys(cells) if (found := self._finished(key))}
        parts = [plan.part(range(len(cells))[start : start + width]) for start in range(0, len(cells), width)]
        # A part is trained again as a whole: another stack width would round differently.
        unfinished = [part for part in parts if any(config.key not in done for config in part.configs)]
        for fitted in self._executor(unfinished, self._fit_part):
            done |= {one.key: one for one in fitted}
        return [done[key] for key in self._keys(cells)]

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """The Plan of some cells; equal prompts of the same split are one object."""
        rows = self.workspace.rows_of
        return Plan(
            configs=tuple(cell.config for cell in cells),
            train_rows_K=tuple(rows(cell.split.train) for cell in cells),
            val_rows_K=tuple(rows(cell.split.val) for cell in cells),
            prompts_K=tuple(self.prompts(cell) for cell in cells),
        )

    def prompts(self, cell: Cell) -> CachePrompts:
        key = (cell.split.name, str(cell.prompt), cell.config.seed)
        if key not in self._prompts:
            self._prompts[key] = self.workspace.prompts(cell.prompt, cell.split.train, seed=cell.config.seed)
        return self._prompts[key]

    @staticmethod
    def _keys(cells: Sequence[Cell]) -> list[str]:
        return [cell.config.key for cell in cells]

    @property
    def training(self) -> dict[str, Any]:
        """What was chosen for training, for the run's provenance."""
        return {name: self._chosen.get(name) for name in ("precision", "why", "compile", "width")}

    def _choose_once(self, n_decoders: int) -> None:
        """Precision, compilation and stack width: fixed before the first step, kept for a resume."""
        if (self.run.path / CHOSEN).exists():
            self._chosen = dict(self.run.read(CHOSEN))
            return
        precision = resolve_precision(self.settings.precision, self.workspace.device)
        budget = share_memory(self.settings.memory_bytes, n_decoders)
        self._chosen = {
            "precision": precision.name,
            "why": precision.reason,
            "compile": self._compiles(),
            "width": budget.width,
            "row_bytes": budget.row_bytes,
        }
        self.run.write(CHOSEN, self._chosen)

    def _compiles(self) -> bool:
        """``auto``: on a GPU only; the CPU kernels are as fast by hand, and compiling takes 100 s."""
        asked = self.settings.compile
        return asked == "on" or (asked == "auto" and self.workspace.device.type == "cuda")

    def _fit_part(self, plan: Plan) -> list[Fitted]:
        chosen = self._chosen
        config = replace(self.settings.train, precision=chosen["precision"], compile=chosen["compile"])
        stack = self.workspace.stack([self.workspace.head.mask_decoder] * len(plan))
        trainer = Trainer(self.workspace.maker(plan), stack, config)
        self.listener.note(
            f"training {len(plan)} decoder{'s' * (len(plan) > 1)} at once in "
            f"{chosen['precision']} ({chosen['why']}), {trainer.compile_note}"
        )
        name = plan.configs[0].key
        saved = self.run.read_checkpoint(name)
        if saved is not None:
            trainer.restore(*saved)
            self.listener.note(f"resuming after epoch {trainer.epochs_done}")
        written = time.monotonic()
        for end in trainer.epochs():
            self.listener.epoch(end)
            if time.monotonic() - written >= CHECKPOINT_SECONDS:
                self.run.write_checkpoint(name, *trainer.checkpoint())
                written = time.monotonic()
        fitted = trainer.fitted()
        for one in fitted:
            self.run.write_decoder(one.key, one.state, _notes_of(one))
        self.run.drop_checkpoint(name)
        return fitted

    def _finished(self, key: str) -> Fitted | None:
        path = self.run.decoder_path(key)
        if not path.exists():
            return None
        tensors, notes = read_tensors(path)
        state = {name.removeprefix("mask_decoder."): tensor for name, tensor in tensors.items()}
        losses = {name: tuple(np.nan if v is None else v for v in notes[name]) for name in _LOSSES}
        return Fitted(key=key, state=state, best_epoch=notes["best_epoch"], status=notes["status"], **losses)

    # --- choose on validation, apply to test ---

    def validate(self, cells: Sequence[Cell], fitted: Sequence[Fitted]) -> list[Outcome]:
        """Validation scores and the threshold of every decoder that has a validated epoch."""
        alive = [k for k, one in enumerate(fitted) if one.best_epoch > 0]
        if not alive:
            raise TrainingError(
                "every decoder diverged (its loss became NaN or infinite)",
                found="lr " + ", ".join(f"{cell.config.lr:g}" for cell in cells),
                fix="try a smaller --lr or --precision fp32",
            )
        scored = self.score(
            [cells[k] for k in alive], [fitted[k] for k in alive], [cells[k].split.val for k in alive], "val"
        )
        found = dict(zip(alive, scored, strict=True))
        outcomes = []
        for k, (cell, one) in enumerate(zip(cells, fitted, strict=True)):
            val = found.get(k)
            choice = choose_threshold(val.values["f1"], self.settings.thresholds) if val else None
            if choice and choice.at_edge:
                self.listener.note(
                    f"{one.key}: the best threshold {choice.threshold:g} is at the scan's edge"
                )
            if one.status == DIVERGED:
                self.listener.note(f"{one.key} diverged (loss NaN or infinite) and was left out of training")
            outcomes.append(Outcome(cell=cell, fitted=one, val=val, choice=choice))
        return outcomes

    def test(self, outcomes: Sequence[Outcome]) -> list[Scored]:
        """Test scores of chosen decoders."""
        cells = [outcome.cell for outcome in outcomes]
        return self.score(
            cells, [outcome.fitted for outcome in outcomes], [cell.split.test for cell in cells], "test"
        )

    def score(
        self, cells: Sequence[Cell], fitted: Sequence[Fitted], images_K: Sequence[Int64], part: str
    ) -> list[Scored]:
        """Scores at native size of every decoder on its own images, at every threshold."""
        plan = self.plan(cells)
        self.listener.phase(f"scoring {part}", sum(len(images) for images in images_K))
        predictions = self.workspace.predict(
            plan, [one.state for one in fitted], images_K, batch_size=self.settings.train.batch_size
        )
        if self.settings.save_logits:
            predictions = self._stored(predictions, self._keys(cells))
        found: list[dict[int, Any]] = [{} for _ in cells]
        for k, image, counts in self.workspace.count(predictions, self.settings.thresholds):
            found[k][image] = scores_of(counts)
            self.listener.advance()
        return [
            Scored(
                images=images,
                values={
                    name: np.array([getattr(found[k][int(image)], f"{name}_Q") for image in images])
                    for name in MEASURES
                },
            )
            for k, images in enumerate(images_K)
        ]

    def _stored(
        self, predictions: Iterator[tuple[int, int, Float32]], keys: Sequence[str]
    ) -> Iterator[tuple[int, int, Float32]]:
        """Pass predictions on, keeping their logits in the run's HDF5 file."""
        with self.run.logits_file() as file:
            for k, image, logits_hw in predictions:
                file.put(keys[k], self.workspace.cache.images[image].id, logits_hw)
                yield k, image, logits_hw


_LOSSES = ("train_loss", "val_loss")


def _notes_of(one: Fitted) -> dict[str, Any]:
    losses = {name: [v if np.isfinite(v) else None for v in getattr(one, name)] for name in _LOSSES}
    return {"best_epoch": one.best_epoch, "status": one.status} | losses
