"""K-fold cross-validation of one or several prompts; hyperparameters given as lists are chosen per fold.

Fold i tests on part i, validates on part i+1 and trains on the rest. Everything that is chosen (epoch,
threshold, hyperparameters, and the prompt's priors) comes from the fold's own training and validation rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lungfast.data.splits import splits_as_dict
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import ImageRecord, LossName, PromptKind, Split
from lungfast.runs import results
from lungfast.scored.scores import over_folds, per_image_summary
from lungfast.studies.protocol import MEASURES, Cell, Outcome, Scored, Study
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
class CvConfig:
    """Prompts to compare, folds, and the lists from which each fold chooses."""

    prompts: tuple[PromptConfig, ...]
    lrs: tuple[float, ...]
    wds: tuple[float, ...] = (0.0,)
    losses: tuple[LossName, ...] = ("dicefocal",)
    folds: int = 5
    seed: int = 0
    split_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """The winner of one fold and its test scores."""

    split: Split
    best: Outcome
    test: Scored

    def means(self) -> dict[str, float]:
        return dict(mean_scores(self.test, chosen(self.best).index))


def cross_validate(
    config: CvConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Train all folds of all prompts at once and write the run folder; returns results.json's content."""
    images = study.workspace.cache.images
    study.run.write_once("splits.json", splits_as_dict(splits, images))
    groups = {
        (prompt.kind, split.name): cells_of(
            split, prompt, lrs=config.lrs, wds=config.wds, losses=config.losses, seed=config.seed
        )
        for prompt in config.prompts
        for split in splits
    }
    cells = [cell for group in groups.values() for cell in group]
    study.run.write("prompts.json", _priors(study, groups))
    trained = study.fit(cells)
    study.run.write_rows("history.csv", history_rows(trained))
    outcomes = {outcome.cell.config.key: outcome for outcome in study.validate(cells, trained)}
    winners = {
        name: best
        for name, group in groups.items()
        if (best := best_of([outcomes[cell.config.key] for cell in group]))
    }
    tested = dict(zip(winners, study.test(list(winners.values())), strict=True))
    found = {
        prompt.kind: [
            FoldResult(split=split, best=winners[name], test=tested[name])
            for split in splits
            if (name := (prompt.kind, split.name)) in winners
        ]
        for prompt in config.prompts
    }
    _write_images(study, list(outcomes.values()), found, images)
    rows = [
        _row(prompt, found[prompt.kind], images, seed=config.seed)
        if len(found[prompt.kind]) == len(splits)
        else _failed_row(prompt, found[prompt.kind])
        for prompt in config.prompts
    ]
    content = results("cv", rows, made_with | {"training": study.training})
    if len(rows) == 1:
        content |= {name: rows[0][name] for name in ("f1", "iou", "f1_image", "iou_image")}
    study.run.write_results(content)
    return content


def _priors(study: Study, groups: Mapping[tuple[PromptKind, str], list[Cell]]) -> dict[str, Any]:
    return {f"{split}_{kind}": study.prompts(cells[0]).describe() for (kind, split), cells in groups.items()}


def _write_images(
    study: Study,
    outcomes: Sequence[Outcome],
    found: Mapping[PromptKind, list[FoldResult]],
    images: Sequence[ImageRecord],
) -> None:
    rows = [row for one in outcomes if one.val for row in image_rows(one, one.val, "val", images)]
    for folds in found.values():
        rows += [row for fold in folds for row in image_rows(fold.best, fold.test, "test", images)]
    study.run.write_rows("per_image.csv", rows)


def _row(
    prompt: PromptConfig, folds: Sequence[FoldResult], images: Sequence[ImageRecord], *, seed: int
) -> dict[str, Any]:
    means = [fold.means() for fold in folds]
    patients = [images[int(image)].patient for fold in folds for image in fold.test.images]
    row: dict[str, Any] = {"prompt": prompt.kind, "needs_ground_truth": prompt.is_oracle, "status": "done"}
    for name in MEASURES:
        row[name] = asdict(over_folds([mean[name] for mean in means]))
    for name in ("f1", "iou"):
        values_N = np.concatenate([fold.test.at(name, chosen(fold.best).index) for fold in folds])
        row[f"{name}_image"] = asdict(per_image_summary(values_N, patients, seed=seed))
    row["per_fold"] = _fold_rows(folds)
    return row


def _failed_row(prompt: PromptConfig, folds: Sequence[FoldResult]) -> dict[str, Any]:
    """A prompt with a fold in which every decoder diverged has no mean; its other folds are told."""
    empty = dict.fromkeys((*MEASURES, "f1_image", "iou_image"))
    row = {"prompt": prompt.kind, "needs_ground_truth": prompt.is_oracle, "status": "diverged"}
    return row | empty | {"per_fold": _fold_rows(folds)}


def _fold_rows(folds: Sequence[FoldResult]) -> list[dict[str, Any]]:
    return [
        config_row(fold.best)
        | {"fold": fold.split.name, "n_test": len(fold.test.images), "test": fold.means()}
        for fold in folds
    ]
