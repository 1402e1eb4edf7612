"""K-fold cross-validation of one or several prompts; hyperparameters given as lists are chosen per fold.

Fold i tests on part i, validates on part i+1 and trains on the rest. Everything that is chosen (epoch,
threshold, hyperparameters, and the prompt's priors) comes from the fold's own training and validation rows.
Paper: Table V. Losses may be compared instead of chosen, and every fold may be trained from several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lungfast.data.splits import splits_as_dict
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import ImageRecord, LossName, PromptKind, Split
from lungfast.runs import results
from lungfast.studies.comparisons import Side, comparisons
from lungfast.studies.on_request import Extras, Measures, as_one_family, extras_of, measure_extras
from lungfast.studies.protocol import Cell, Outcome, Study
from lungfast.studies.scoring import Scored, consecutive
from lungfast.studies.summaries import (
    FoldScores,
    calibration,
    curve,
    empty_summary,
    fold_values,
    image_block,
    per_image,
    summary,
)
from lungfast.studies.tables import (
    best_of,
    cells_of,
    chosen,
    config_row,
    history_block,
    history_rows,
    image_rows,
)

CHOSEN_PER_FOLD = "chosen per fold"


@dataclass(frozen=True, kw_only=True)
class CvConfig:
    """Prompts to compare, folds, seeds, and the lists from which each fold chooses."""

    prompts: tuple[PromptConfig, ...]
    lrs: tuple[float, ...]
    wds: tuple[float, ...] = (0.0,)
    losses: tuple[LossName, ...] = ("dicefocal",)
    compare_losses: tuple[PromptKind, ...] = ()
    """Prompts that get one row per loss instead of choosing among them; the others then use the first."""
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    ensemble: bool = False
    """The seeds of a fold decide together, by the mean of their logits."""
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """One row of the table: a prompt and the losses that it may use; its cells by (fold, seed)."""

    key: str
    prompt: PromptConfig
    loss: str
    cells: Mapping[tuple[str, int], list[Cell]]


@dataclass(frozen=True, kw_only=True)
class Winner:
    """The chosen decoder of one fold and seed, or those of all its seeds together, with its test scores.

    ``best`` is the decoder's outcome, or that of the ``members`` together.
    """

    best: Outcome
    members: Sequence[Outcome]
    test: Scored

    @property
    def scores(self) -> FoldScores:
        cell = self.best.cell
        return FoldScores(
            fold=cell.split.name, seed=cell.config.seed, scored=self.test, index=chosen(self.best).index
        )

    def rows(self) -> list[dict[str, Any]]:
        """One a member; threshold and test scores are those of all together."""
        common = {
            "threshold": chosen(self.best).threshold,
            "together": len(self.members),
            "n_test": len(self.test.images),
            "test": self.scores.means(),
        }
        return [config_row(one) | common for one in self.members]


def cross_validate(
    config: CvConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Train all folds of all prompts at once and write the run folder; returns results.json's content."""
    images = study.workspace.cache.images
    study.run.write_once("splits.json", splits_as_dict(splits, images))
    plans = _row_plans(config, splits)
    cells = [cell for plan in plans for group in plan.cells.values() for cell in group]
    study.run.write("prompts.json", _priors(study, cells))
    trained = study.fit(cells)
    study.run.write_rows("history.csv", history_rows(trained))
    outcomes = {outcome.cell.config.key: outcome for outcome in study.validate(cells, trained)}
    found = _test(plans, outcomes, study, together=config.ensemble)
    _write_images(study, list(outcomes.values()), found, images)
    measures = _measures(study, found, config.extras)
    rows = [_row(plan, found[plan.key], study, config, measures) for plan in plans]
    as_one_family(rows)
    content = results("cv", rows, made_with | {"training": study.training})
    done = {plan.key: found[plan.key] for plan in plans if _is_complete(plan, found[plan.key])}
    scores = {key: [winner.scores for winner in winners] for key, winners in done.items()}
    content["images"] = image_block(scores, images)
    content["history"] = history_block(cells, trained)
    content["comparisons"] = _comparisons(plans, scores, images, splits, seed=config.seeds[0])
    if len(plans) == 1:
        content |= {name: content["rows"][0][name] for name in ("f1", "iou", "f1_image", "iou_image")}
    study.run.write_results(content)
    return content


def _row_plans(config: CvConfig, splits: Sequence[Split]) -> list[RowPlan]:
    plans = []
    for prompt in config.prompts:
        for losses in _loss_groups(config, prompt.kind):
            cells = {
                (split.name, seed): cells_of(
                    split, prompt, lrs=config.lrs, wds=config.wds, losses=losses, seeds=(seed,)
                )
                for split in splits
                for seed in config.seeds
            }
            key = prompt.kind if losses[0] == config.losses[0] else f"{prompt.kind}, {losses[0]}"
            loss = losses[0] if len(losses) == 1 else CHOSEN_PER_FOLD
            plans.append(RowPlan(key=key, prompt=prompt, loss=loss, cells=cells))
    return plans


def _loss_groups(config: CvConfig, kind: PromptKind) -> list[tuple[LossName, ...]]:
    """The losses of each row of a prompt."""
    if kind in config.compare_losses:
        return [(loss,) for loss in config.losses]
    return [config.losses[:1] if config.compare_losses else config.losses]


def _priors(study: Study, cells: Sequence[Cell]) -> dict[str, Any]:
    return {f"{cell.split.name}_{cell.prompt.kind}": study.prompts(cell).describe() for cell in cells}


def _test(
    plans: Sequence[RowPlan], outcomes: Mapping[str, Outcome], study: Study, *, together: bool
) -> dict[str, list[Winner]]:
    """The best outcome of every fold and seed by validation, alone or together, then its test scores."""
    members: dict[tuple[str, str, int], list[Outcome]] = {}
    for plan in plans:
        for (fold, seed), cells in plan.cells.items():
            if winner := best_of([outcomes[cell.config.key] for cell in cells]):
                members.setdefault((plan.key, fold, 0 if together else seed), []).append(winner)
    groups = list(members.values())
    if together:
        best = study.join(groups)
        tested = study.score_together(groups, [one.cell.split.test for one in best], "test, together")
    else:
        best = [group[0] for group in groups]
        tested = study.test(best)
    found: dict[str, list[Winner]] = {plan.key: [] for plan in plans}
    for (key, *_), group, one, scored in zip(members, groups, best, tested, strict=True):
        found[key].append(Winner(best=one, members=group, test=scored))
    return found


def _measures(study: Study, found: Mapping[str, Sequence[Winner]], extras: Extras) -> Measures:
    winners = [winner for group in found.values() for winner in group]
    cells = [member.cell for winner in winners for member in winner.members]
    candidates = study.candidates(cells, [cell.split.test for cell in cells])
    groups = consecutive([len(winner.members) for winner in winners])
    thresholds = [chosen(winner.best).threshold for winner in winners]
    return measure_extras(study, candidates, groups, thresholds, extras)


def _is_complete(plan: RowPlan, winners: Sequence[Winner]) -> bool:
    """Every fold and seed has a decoder that works."""
    return sum(len(winner.members) for winner in winners) == len(plan.cells)


def _write_images(
    study: Study,
    outcomes: Sequence[Outcome],
    found: Mapping[str, Sequence[Winner]],
    images: Sequence[ImageRecord],
) -> None:
    rows = [row for one in outcomes if one.val for row in image_rows(one, one.val, "val", images)]
    for winners in found.values():
        rows += [row for one in winners for row in image_rows(one.best, one.test, "test", images)]
    study.run.write_rows("per_image.csv", rows)


def _row(
    plan: RowPlan, winners: Sequence[Winner], study: Study, config: CvConfig, measures: Measures
) -> dict[str, Any]:
    """One with a fold in which every decoder diverged has no mean, but tells of the others."""
    row: dict[str, Any] = {
        "key": plan.key,
        "prompt": plan.prompt.kind,
        "needs_ground_truth": plan.prompt.is_oracle,
        "loss": plan.loss,
        "seeds": list(config.seeds),
        "ensemble": config.ensemble,
        "status": "done" if _is_complete(plan, winners) else "diverged",
    }
    if row["status"] == "done":
        scores = [winner.scores for winner in winners]
        row |= summary(scores, study.workspace.cache.images, seed=config.seeds[0])
        row["calibration"] = calibration(scores)
        row["curve"] = curve(
            study.settings.thresholds,
            [winner.best.val for winner in winners if winner.best.val],
            [winner.test for winner in winners],
        )
        row |= extras_of(
            config.extras,
            measures,
            {
                (one.fold, one.seed): winner.members[0].cell.config.key
                for one, winner in zip(scores, winners, strict=True)
            },
            scores,
            study.workspace.cache.images,
            n_train=min(len(winner.best.cell.split.train) for winner in winners),
        )
    else:
        row |= empty_summary()
    return row | {"per_fold": [row for winner in winners for row in winner.rows()]}


def _comparisons(
    plans: Sequence[RowPlan],
    scores: Mapping[str, Sequence[FoldScores]],
    images: Sequence[ImageRecord],
    splits: Sequence[Split],
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """Every pair of prompts under the same loss, and every pair of losses under the same prompt."""
    done = [plan for plan in plans if plan.key in scores]
    pairs = [(a, b) for i, a in enumerate(done) for b in done[i + 1 :]]
    families = {
        "prompts": [(a, b) for a, b in pairs if a.loss == b.loss],
        "losses": [(a, b) for a, b in pairs if a.prompt == b.prompt],
    }
    sides = {key: _side(key, folds) for key, folds in scores.items()}
    found: list[dict[str, Any]] = []
    for family, chosen_pairs in families.items():
        if chosen_pairs:
            patients = [images[int(i)].patient for i in per_image(scores[chosen_pairs[0][0].key]).images]
            found += comparisons(
                family,
                [(sides[a.key], sides[b.key]) for a, b in chosen_pairs],
                patients,
                n_train=min(len(split.train) for split in splits),
                n_test=max(len(split.test) for split in splits),
                seed=seed,
            )
    return found


def _side(key: str, folds: Sequence[FoldScores]) -> Side:
    return Side(name=key, images_N=per_image(folds).values["f1"], folds_J=fold_values(folds, "f1"))
