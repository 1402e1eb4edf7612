"""The protocol, written once: fit on training rows, choose on validation rows, apply to test rows.

A study is a list of :class:`Cell`: a decoder to train and the split it lives in. Everything is keyed by
the cell's key, so that it does not matter how the cells were put together for training.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from lungfast.errors import TrainingError
from lungfast.frozen.prompts import CachePrompts, PromptConfig
from lungfast.records import DecoderConfig, Int64, Plan, Split
from lungfast.runs import LogitsFile, RunFolder
from lungfast.scored.scores import ThresholdChoice, choose_threshold
from lungfast.studies.accounts import Trained
from lungfast.studies.averaging import views_for
from lungfast.studies.fitting import Executor, Fitter, Listener, Settings, in_process
from lungfast.studies.scoring import (
    Candidate,
    Predictions,
    Scored,
    consecutive,
    joined,
    predictions,
    score,
)
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import DIVERGED

TEST = "test"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One decoder of a study, in its split, with its prompt."""

    config: DecoderConfig
    split: Split
    prompt: PromptConfig


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A cell, its training, its validation scores and their threshold; None where it never worked."""

    cell: Cell
    trained: Trained
    val: Scored | None
    choice: ThresholdChoice | None

    def val_mean(self, measure: str) -> float | None:
        if self.val is None or self.choice is None:
            return None
        return float(self.val.at(measure, self.choice.index).mean())


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
        self._fitter = Fitter(workspace, run, settings, listener)
        self._prompts: dict[tuple[str, str, int], CachePrompts] = {}

    @property
    def training(self) -> dict[str, Any]:
        """What was chosen for training, for the run's provenance."""
        return dict(self._fitter.chosen)

    def fit(self, cells: Sequence[Cell]) -> list[Trained]:
        """Train every cell that has no decoder in the run folder yet."""
        return self._fitter.fit(self.plan(cells), self._executor)

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """The Plan of some cells; equal prompts of the same split are one object."""
        rows = self.workspace.rows_of
        return Plan(
            configs=tuple(cell.config for cell in cells),
            train_rows_K=tuple(
                self.workspace.views_of(cell.split.train, self.settings.views) for cell in cells
            ),
            val_rows_K=tuple(rows(cell.split.val) for cell in cells),
            prompts_K=tuple(self.prompts(cell) for cell in cells),
        )

    def prompts(self, cell: Cell) -> CachePrompts:
        key = (cell.split.name, str(cell.prompt), cell.config.seed)
        if key not in self._prompts:
            self._prompts[key] = self.workspace.prompts(cell.prompt, cell.split.train, seed=cell.config.seed)
        return self._prompts[key]

    # --- choose on validation, apply to test ---

    def validate(self, cells: Sequence[Cell], trained: Sequence[Trained]) -> list[Outcome]:
        """Validation scores and the threshold of every decoder that has an epoch to keep."""
        alive = [cell for cell, one in zip(cells, trained, strict=True) if one.best_epoch > 0]
        if not alive:
            raise TrainingError(
                "every decoder diverged (its loss became NaN or infinite)",
                found="lr " + ", ".join(sorted({f"{cell.config.lr:g}" for cell in cells})),
                fix="try a smaller --lr or --precision fp32",
            )
        scored = self.score(alive, [cell.split.val for cell in alive], "val")
        found = {cell.config.key: one for cell, one in zip(alive, scored, strict=True)}
        outcomes = [
            self._outcome(cell, one, found.get(cell.config.key))
            for cell, one in zip(cells, trained, strict=True)
        ]
        self._tell_edges(outcomes)
        return outcomes

    def _outcome(self, cell: Cell, trained: Trained, val: Scored | None) -> Outcome:
        choice = self._choose(val) if val else None
        if trained.status == DIVERGED:
            kept = f"its epoch {trained.best_epoch} is kept" if choice else "no epoch of it is kept"
            self.listener.note(f"{trained.key} diverged (its loss became NaN or infinite); {kept}")
        return Outcome(cell=cell, trained=trained, val=val, choice=choice)

    def _tell_edges(self, outcomes: Sequence[Outcome]) -> None:
        """A better threshold may lie outside the scan; one line, however many decoders say so."""
        at_edge = [one.choice.threshold for one in outcomes if one.choice and one.choice.at_edge]
        if at_edge:
            values = ", ".join(f"{threshold:g}" for threshold in sorted(set(at_edge)))
            self.listener.note(
                f"the best threshold is at the scan's edge ({values}) for {len(at_edge)} of "
                f"{len(outcomes)} decoders"
            )

    def _choose(self, val: Scored) -> ThresholdChoice:
        """Among the thresholds that may be chosen, which are some of those that were scanned."""
        scan = self.settings.thresholds
        allowed = [
            q for q, t in enumerate(scan) if not self.settings.choose_among or t in self.settings.choose_among
        ]
        choice = choose_threshold(val.values["f1"][:, allowed], [scan[q] for q in allowed])
        return replace(choice, index=allowed[choice.index])

    def test(self, outcomes: Sequence[Outcome]) -> list[Scored]:
        """Test scores of chosen decoders."""
        cells = [outcome.cell for outcome in outcomes]
        return self.score(cells, [cell.split.test for cell in cells], TEST)

    # --- decoders that decide together ---

    def join(self, groups: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """One outcome a group, of the mean of its members' logits: its validation scores and threshold."""
        heads = [group[0] for group in groups]
        scored = self.score_together(groups, [one.cell.split.val for one in heads], "val, together")
        return [
            replace(head, cell=_joint_cell(group), val=one, choice=self._choose(one))
            for head, group, one in zip(heads, groups, scored, strict=True)
        ]

    def score_together(
        self, groups: Sequence[Sequence[Outcome]], images_G: Sequence[Int64], part: str
    ) -> list[Scored]:
        """Scores of every group's mean logits on its own images."""
        counts = [len(group) for group in groups]
        self.listener.phase(f"scoring {part}", sum(len(images) for images in images_G))
        cells = [one.cell for group in groups for one in group]
        images_K = [images for images, n in zip(images_G, counts, strict=True) for _ in range(n)]
        predicted = self._predicted(self.candidates(cells, images_K))
        return self._scored(joined(predicted, consecutive(counts)), images_G, part)

    @property
    def width(self) -> int:
        """Decoders at once, in training and in scoring."""
        return int(self._fitter.chosen["width"])

    def candidates(self, cells: Sequence[Cell], images_K: Sequence[Int64]) -> list[Candidate]:
        """Trained cells, each to be scored on its own images."""
        return [
            Candidate(
                key=cell.config.key,
                prompts=self.prompts(cell),
                state=partial(self._fitter.read_state, cell.config.key),
                images=images,
                views=views_for(cell.prompt, self.settings.test_views),
            )
            for cell, images in zip(cells, images_K, strict=True)
        ]

    def score(self, cells: Sequence[Cell], images_K: Sequence[Int64], part: str) -> list[Scored]:
        """Scores at native size of every cell's decoder on its own images, at every threshold."""
        self.listener.phase(f"scoring {part}", sum(len(images) for images in images_K))
        candidates = self.candidates(cells, images_K)
        predicted = self._predicted(candidates)
        with self.run.logits_file(part) if self.settings.save_logits else nullcontext() as logits:
            kept = predicted if logits is None else self._stored(predicted, candidates, logits)
            return self._scored(kept, images_K, part)

    def _predicted(self, candidates: Sequence[Candidate]) -> Predictions:
        batch_size = self.settings.train.batch_size
        return predictions(self.workspace, candidates, width=self.width, batch_size=batch_size)

    def _scored(self, logits: Predictions, images_K: Sequence[Int64], part: str) -> list[Scored]:
        """At every threshold of the scan; test images by probability too."""
        thresholds, advance = self.settings.thresholds, self.listener.advance
        return score(
            self.workspace, logits, images_K, thresholds, advance=advance, calibrated=part.startswith(TEST)
        )

    def _stored(
        self, predicted: Predictions, candidates: Sequence[Candidate], logits: LogitsFile
    ) -> Predictions:
        """Pass predictions on, keeping their logits."""
        for k, image, logits_hw in predicted:
            logits.put(candidates[k].key, self.workspace.cache.images[image].id, logits_hw)
            yield k, image, logits_hw


def _joint_cell(group: Sequence[Outcome]) -> Cell:
    """The first member's, under a key that says who decides."""
    cell = group[0].cell
    if len(group) == 1:
        return cell
    seeds = "+".join(str(one.cell.config.seed) for one in group)
    stem = cell.config.key.rpartition("_seed")[0]
    return replace(cell, config=replace(cell.config, key=f"{stem}_seeds{seeds}"))
