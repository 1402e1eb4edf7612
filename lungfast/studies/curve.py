"""Learning curves on fold 0's split, and the epoch after which nothing improves. Paper: Fig. 1.

One decoder for every prompt, loss, rate, decay and seed that is asked for. Every other training writes the
same curves; this study is for looking at them alone, and for longer than the protocol trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lungfast.data.splits import splits_as_dict
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, Split
from lungfast.runs import results
from lungfast.studies.protocol import Study
from lungfast.studies.tables import (
    cells_of,
    chosen,
    config_row,
    history_block,
    history_rows,
    image_rows,
    improvement,
    mean_scores,
)


@dataclass(frozen=True, kw_only=True)
class CurveConfig:
    """Lists of what to train, and the split's seed and number of parts."""

    prompts: tuple[PromptConfig, ...]
    lrs: tuple[float, ...]
    wds: tuple[float, ...] = (0.0,)
    losses: tuple[LossName, ...] = ("dicefocal",)
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0


def learning_curves(
    config: CurveConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Train, validate and test every decoder; returns the content of results.json."""
    images, split = study.workspace.cache.images, splits[0]
    study.run.write_once("splits.json", splits_as_dict([split], images))
    cells = [
        cell
        for prompt in config.prompts
        for cell in cells_of(
            split, prompt, lrs=config.lrs, wds=config.wds, losses=config.losses, seeds=config.seeds
        )
    ]
    priors = {f"{split.name}_{cell.prompt.kind}": study.prompts(cell).describe() for cell in cells}
    study.run.write("prompts.json", priors)
    trained = study.fit(cells)
    study.run.write_rows("history.csv", history_rows(trained))
    outcomes = study.validate(cells, trained)
    alive = [outcome for outcome in outcomes if outcome.choice]
    tested = {one.cell.config.key: scored for one, scored in zip(alive, study.test(alive), strict=True)}
    tables = [image_rows(one, one.val, "val", images) for one in alive if one.val]
    tables += [image_rows(one, tested[one.cell.config.key], "test", images) for one in alive]
    study.run.write_rows("per_image.csv", [row for table in tables for row in table])
    rows = []
    for one in outcomes:
        test = tested.get(one.cell.config.key)
        means = dict(mean_scores(test, chosen(one).index)) | {"n": len(test.images)} if test else None
        row = {"key": one.cell.config.key} | config_row(one) | improvement(one.trained.val_loss)
        rows.append(row | {"test": means})
    content = results("train", rows, made_with | {"training": study.training})
    content["history"] = history_block(cells, trained)
    study.run.write_results(content)
    return content
