"""Learning rate x weight decay (x loss, prompt, seed) on fold 0's split; test rows for the winner only.

Paper: III-D and IV-D, the 3x3 grid of learning rates and weight decays. Chosen by mean per-image F1 on
validation rows, each decoder at its own best threshold there; seeds of one configuration count together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungfast.errors import TrainingError
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, Split
from lungfast.runs import results
from lungfast.studies.one_split import fold_scores, train_one_split, write_images
from lungfast.studies.protocol import Outcome, Study
from lungfast.studies.scoring import Scored
from lungfast.studies.summaries import summary_or_nothing
from lungfast.studies.tables import best_of, chosen, config_row, mean_scores


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """The lists to combine, and the split's seed and number of parts."""

    lrs: tuple[float, ...]
    wds: tuple[float, ...]
    losses: tuple[LossName, ...] = ("dicefocal",)
    prompts: tuple[PromptConfig, ...]
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0


def grid(
    config: GridConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Run the grid and write the run folder; returns the content of results.json."""
    made = train_one_split(config, study, splits)
    winners = _winners(made.outcomes)
    tests = study.test(winners)
    write_images(study, made.outcomes, list(zip(winners, tests, strict=True)))
    won = {one.cell.config.key: fold_scores(one, test) for one, test in zip(winners, tests, strict=True)}
    images = study.workspace.cache.images
    rows = []
    for outcome in made.outcomes:
        scores = [won[key]] if (key := outcome.cell.config.key) in won else []
        rows.append(config_row(outcome) | summary_or_nothing(scores, images))
    content = results("grid", rows, made_with | {"training": study.training})
    content |= {"best": _best(winners, tests), "history": made.history()}
    study.run.write_results(content)
    return content


def _winners(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The decoders, one a seed, of the configuration with the highest mean validation F1; first on ties."""
    groups: dict[tuple[Any, ...], list[Outcome]] = {}
    for one in outcomes:
        config = one.cell.config
        groups.setdefault((one.cell.prompt, config.loss, config.lr, config.wd), []).append(one)
    whole = [group for group in groups.values() if all(one.choice is not None for one in group)]
    if not whole:
        raise TrainingError("every configuration has a decoder that diverged", fix="try a smaller --lr")
    return max(whole, key=_mean_val)


def _mean_val(group: Sequence[Outcome]) -> float:
    return float(np.mean([one.val_mean("f1") or 0.0 for one in group]))


def _best(winners: Sequence[Outcome], tests: Sequence[Scored]) -> dict[str, Any]:
    """The winner as its best seed's row, with the mean test scores of all its seeds."""
    means = [mean_scores(test, chosen(one).index) for one, test in zip(winners, tests, strict=True)]
    test = {name: float(np.mean([mean[name] for mean in means])) for name in means[0]}
    best = best_of(winners)
    return config_row(best or winners[0]) | {
        "seeds": [one.cell.config.seed for one in winners],
        "test": test | {"n": len(tests[0].images)},
    }
