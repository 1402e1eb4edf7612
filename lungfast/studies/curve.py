"""Learning curves on fold 0's split, and the epoch after which nothing improves. Paper: Fig. 1.

One decoder for every prompt, loss, rate, decay and seed that is asked for. Every other training writes the
same curves; this study is for looking at them alone, and for longer than the protocol trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, Split
from lungfast.runs import results
from lungfast.studies.one_split import fold_scores, train_one_split, write_images
from lungfast.studies.protocol import Study
from lungfast.studies.summaries import summary_or_nothing
from lungfast.studies.tables import chosen, config_row, improvement, mean_scores


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
    made = train_one_split(config, study, splits)
    alive = [outcome for outcome in made.outcomes if outcome.choice]
    tested = {one.cell.config.key: scored for one, scored in zip(alive, study.test(alive), strict=True)}
    write_images(study, alive, [(one, tested[one.cell.config.key]) for one in alive])
    rows = []
    for one in made.outcomes:
        test = tested.get(one.cell.config.key)
        means = dict(mean_scores(test, chosen(one).index)) | {"n": len(test.images)} if test else None
        row = {"key": one.cell.config.key} | config_row(one) | improvement(one.trained.val_loss)
        scores = [fold_scores(one, test)] if test else []
        rows.append(row | {"test": means} | summary_or_nothing(scores, study.workspace.cache.images))
    content = results("train", rows, made_with | {"training": study.training})
    content["history"] = made.history()
    study.run.write_results(content)
    return content
