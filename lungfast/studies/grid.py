"""Learning rate x weight decay (x loss) on fold 0's split; test rows are scored for the winner only.

Paper: the 3x3 grid of learning rates and weight decays. Chosen by mean per-image F1 on validation rows, each
decoder at its own best threshold there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lungfast.data.splits import splits_as_dict
from lungfast.errors import TrainingError
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, Split
from lungfast.runs import results
from lungfast.studies.protocol import Study
from lungfast.studies.tables import (
    best_of,
    cells_of,
    chosen,
    config_row,
    history_rows,
    image_rows,
    mean_scores,
)


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The lists to combine, one prompt, and the split's seed and number of parts."""

    lrs: tuple[float, ...]
    wds: tuple[float, ...]
    losses: tuple[LossName, ...] = ("dicefocal",)
    prompt: PromptConfig
    folds: int = 5
    seed: int = 0
    split_seed: int = 0


def grid(
    config: GridConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Run the grid and write the run folder; returns the content of results.json."""
    images = study.workspace.cache.images
    split = splits[0]
    study.run.write_once("splits.json", splits_as_dict([split], images))
    cells = cells_of(
        split, config.prompt, lrs=config.lrs, wds=config.wds, losses=config.losses, seed=config.seed
    )
    study.run.write("prompts.json", {split.name: study.prompts(cells[0]).describe()})
    trained = study.fit(cells)
    study.run.write_rows("history.csv", history_rows(trained))
    outcomes = study.validate(cells, trained)
    best = best_of(outcomes)
    if best is None:  # Study.validate has refused this already
        raise TrainingError("every decoder of the grid diverged", fix="try a smaller --lr")
    test = study.test([best])[0]
    rows_csv = [
        row for outcome in outcomes if outcome.val for row in image_rows(outcome, outcome.val, "val", images)
    ]
    study.run.write_rows("per_image.csv", rows_csv + image_rows(best, test, "test", images))
    content = results(
        "grid", [config_row(outcome) for outcome in outcomes], made_with | {"training": study.training}
    )
    content["best"] = config_row(best) | {
        "test": dict(mean_scores(test, chosen(best).index)) | {"n": len(test.images)}
    }
    study.run.write_results(content)
    return content
