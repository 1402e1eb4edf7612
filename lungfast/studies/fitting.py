"""Training the cells of a study: what is fixed before the first step, parts of the stack, checkpoints.

Comes in: a Plan, a workspace, settings. Goes out: one decoder file per cell in the run folder, and a
:class:`Trained` account of each. Decoders are read back from their files when they are scored, so that memory
holds no more of them than train at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from lungfast.compute import resolve_precision
from lungfast.errors import TrainingError, UsageError
from lungfast.records import EpochEnd, Plan
from lungfast.runs import RunFolder
from lungfast.scored.scores import DEFAULT_THRESHOLDS
from lungfast.studies.accounts import Trained, decoder_state, keep_decoder
from lungfast.studies.pace import timed
from lungfast.studies.workspace import Workspace, row_budget, stack_width
from lungfast.trained.batches import steps_of
from lungfast.trained.trainer import Fitted, TrainConfig, Trainer

CHECKPOINT_SECONDS = 60.0
"""A checkpoint of nine decoders is 0.6 GB: once a minute costs about 1 % of the time."""
COMPILE_FROM_STEPS = 4_000
"""On an H200 a step of nine decoders and 8 images takes 12 ms compiled, 19 ms recorded alone (docs/speed.md);
compiling takes half a minute."""
CHOSEN = "chosen.json"


class Listener(Protocol):
    """What a command may show of a running study."""

    def note(self, line: str) -> None: ...

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, n: int = 1) -> None: ...

    def epoch(self, end: EpochEnd) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What grid, cv and every later study share."""

    train: TrainConfig
    memory_bytes: int
    precision: str = "auto"
    compile: str = "auto"
    thresholds: tuple[float, ...] = field(default=tuple(float(t) for t in DEFAULT_THRESHOLDS))
    """Scanned for the curves; chosen among them, or among ``choose_among`` alone."""
    choose_among: tuple[float, ...] = ()
    save_logits: bool = False
    views: int = 1
    """Views of a training image that epochs draw from: the first ones that the cache holds."""
    test_views: int = 1
    """Views of a validation or test image whose logits are averaged, after training: the first ones."""
    high_res: bool = False
    """Decoders read the cache's high-resolution features beside its embeddings."""
    recipe: str = ""
    """Where the settings come from, in words; empty: option by option."""

    def __post_init__(self) -> None:
        for name in ("views", "test_views"):
            if (found := getattr(self, name)) < 1:
                raise UsageError(f"{name} is out of range", found=str(found), expected="at least 1")


Executor = Callable[[Sequence[Plan], Callable[[Plan], list[Trained]]], Iterator[list[Trained]]]


def in_process(plans: Sequence[Plan], fit: Callable[[Plan], list[Trained]]) -> Iterator[list[Trained]]:
    """The executor of one machine: one sub-plan after another."""
    for plan in plans:
        yield fit(plan)


class Fitter:
    """Trains plans into a run folder."""

    def __init__(self, workspace: Workspace, run: RunFolder, settings: Settings, listener: Listener) -> None:
        self._workspace, self._run = workspace, run
        self._settings, self._listener = settings, listener
        self.chosen: dict[str, Any] = {}

    def fit(self, plan: Plan, executor: Executor) -> list[Trained]:
        """Train what has no decoder file yet; the order of the plan is kept."""
        self._choose_once(plan)
        self.hold_rows(plan)
        done = {config.key: found for config in plan.configs if (found := self._finished(config.key))}
        # A part is trained again as a whole: another stack width would round differently.
        unfinished = [
            part for part in self.parts(plan) if any(config.key not in done for config in part.configs)
        ]
        for trained in executor(unfinished, self._fit_part):
            done |= {one.key: one for one in trained}
        return [done[config.key] for config in plan.configs]

    def parts(self, plan: Plan) -> list[Plan]:
        """The plan in pieces of the stack's width."""
        width, everyone = self.chosen["width"], range(len(plan))
        return [plan.part(everyone[start : start + width]) for start in range(0, len(plan), width)]

    def hold_rows(self, plan: Plan) -> None:
        """Rows in memory or streamed: decided anew on every start, as it changes no result."""
        width, longest = self.chosen["width"], max(len(rows) for rows in plan.train_rows_K)
        row_bytes = row_budget(self._settings.memory_bytes, width, self._workspace.device)
        self._workspace.hold_rows(
            row_bytes,
            batch_rows=width * min(self._settings.train.batch_size, longest),
            views=max(self._settings.views, self._settings.test_views),
        )

    def read_state(self, key: str) -> dict[str, Tensor]:
        """A finished decoder's weights under segment-anything's MaskDecoder names."""
        return decoder_state(self._run.decoder_path(key))

    def _choose_once(self, plan: Plan) -> None:
        """Precision, compilation and stack width: fixed before the first step, kept for a resume."""
        if (self._run.path / CHOSEN).exists():
            self.chosen = dict(self._run.read(CHOSEN))
            return
        device = self._workspace.device
        precision = resolve_precision(self._settings.precision, device)
        self.chosen = {
            "precision": precision.name,
            "why": precision.reason,
            "width": stack_width(self._settings.memory_bytes, len(plan), device),
        }
        self.chosen["compile"] = compiles(self._settings.compile, device, self._steps(plan))
        self._run.write(CHOSEN, self.chosen)

    def _steps(self, plan: Plan) -> int:
        """Of all parts of the plan, at most."""
        train, longest = self._settings.train, max(len(rows) for rows in plan.train_rows_K)
        return len(self.parts(plan)) * train.epochs * steps_of(longest, train.batch_size)

    def _fit_part(self, plan: Plan) -> list[Trained]:
        trainer = self._trainer(plan)
        chosen, name = self.chosen, plan.configs[0].key
        self._listener.note(
            f"training {len(plan)} decoder{'s' * (len(plan) > 1)} at once in "
            f"{chosen['precision']} ({chosen['why']}), {trainer.compile_note}"
        )
        saved = self._run.read_checkpoint(name)
        if saved is not None:
            trainer.restore(*saved)
            self._listener.note(f"resuming after epoch {trainer.epochs_done}")
        try:
            self._run_epochs(trainer, plan)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the GPU's memory is too small",
                found=str(error).split(".", maxsplit=1)[0],
                fix="use a smaller --batch-size in a new run",
            ) from error
        return self._write(trainer.fitted(), name)

    def _trainer(self, plan: Plan) -> Trainer:
        config = replace(
            self._settings.train, precision=self.chosen["precision"], compile=self.chosen["compile"]
        )
        stack = self._workspace.stack([self._workspace.initial(high_res=self._settings.high_res)] * len(plan))
        return Trainer(plan, self._workspace.maker(plan.prompts_K), stack, config)

    def _run_epochs(self, trainer: Trainer, plan: Plan) -> None:
        name, written = plan.configs[0].key, time.monotonic()
        longest = max(len(rows) for rows in plan.train_rows_K)
        batch_size = self._settings.train.batch_size
        for end in timed(trainer.epochs(), self._run, images=longest, batch_size=batch_size):
            self._listener.epoch(end)
            self._settle(trainer.compile_note)
            if time.monotonic() - written >= CHECKPOINT_SECONDS:
                self._run.write_checkpoint(name, trainer.notes(), trainer.tensors())
                written = time.monotonic()

    def _settle(self, compile_note: str) -> None:
        """What compiling came to is known after the first step; a resume must do the same."""
        if self.chosen["compile"] and "compiled_as" not in self.chosen:
            self.chosen |= {"compile": compile_note == "compiled", "compiled_as": compile_note}
            self._run.write(CHOSEN, self.chosen)
            self._listener.note(compile_note)

    def _write(self, fitted: Sequence[Fitted], name: str) -> list[Trained]:
        trained = [keep_decoder(self._run, one) for one in fitted]
        self._run.drop_checkpoint(name)
        return trained

    def _finished(self, key: str) -> Trained | None:
        path = self._run.decoder_path(key)
        return Trained.read(path) if path.exists() else None


def compiles(asked: str, device: torch.device, n_steps: int) -> bool:
    """``auto``: where a GPU makes :data:`COMPILE_FROM_STEPS`; a CPU's kernels are as fast by hand."""
    return asked == "on" or (asked == "auto" and device.type == "cuda" and n_steps >= COMPILE_FROM_STEPS)
