"""Studies on fold 0's split alone: every combination of some lists is trained, then validated.

Comes in: a configuration with the lists, the study, its folds. Goes out: cells, their trainings and outcomes;
the split, the priors and the learning curves stand in the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lungfast.data.splits import splits_as_dict
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, Split
from lungfast.studies.accounts import Trained
from lungfast.studies.protocol import Cell, Outcome, Study
from lungfast.studies.scoring import Scored
from lungfast.studies.summaries import FoldScores
from lungfast.studies.tables import cells_of, chosen, history_block, history_rows, image_rows


class Lists(Protocol):
    """What is combined."""

    @property
    def prompts(self) -> tuple[PromptConfig, ...]: ...

    @property
    def lrs(self) -> tuple[float, ...]: ...

    @property
    def wds(self) -> tuple[float, ...]: ...

    @property
    def losses(self) -> tuple[LossName, ...]: ...

    @property
    def seeds(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class OneSplit:
    """Trained and validated decoders of one split."""

    cells: Sequence[Cell]
    trained: Sequence[Trained]
    outcomes: Sequence[Outcome]

    def history(self) -> list[dict[str, Any]]:
        """``history`` of results.json."""
        return history_block(self.cells, self.trained)


def train_one_split(lists: Lists, study: Study, splits: Sequence[Split]) -> OneSplit:
    """Train every combination on the first split, and validate."""
    split = splits[0]
    study.run.write_once("splits.json", splits_as_dict([split], study.workspace.cache.images))
    cells = [
        cell
        for prompt in lists.prompts
        for cell in cells_of(
            split, prompt, lrs=lists.lrs, wds=lists.wds, losses=lists.losses, seeds=lists.seeds
        )
    ]
    priors = {f"{split.name}_{cell.prompt.kind}": study.prompts(cell).describe() for cell in cells}
    study.run.write("prompts.json", priors)
    trained = study.fit(cells)
    study.run.write_rows("history.csv", history_rows(trained))
    return OneSplit(cells=cells, trained=trained, outcomes=study.validate(cells, trained))


def fold_scores(outcome: Outcome, test: Scored) -> FoldScores:
    """The test scores of one decoder at its own threshold."""
    cell = outcome.cell
    return FoldScores(fold=cell.split.name, seed=cell.config.seed, scored=test, index=chosen(outcome).index)


def write_images(study: Study, outcomes: Sequence[Outcome], tested: Sequence[tuple[Outcome, Scored]]) -> None:
    """per_image.csv: validation images of every decoder that has a threshold, test images of the tested."""
    images = study.workspace.cache.images
    tables = [image_rows(one, one.val, "val", images) for one in outcomes if one.val]
    tables += [image_rows(one, scored, "test", images) for one, scored in tested]
    study.run.write_rows("per_image.csv", [row for table in tables for row in table])
