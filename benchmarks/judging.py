"""An arm of the recipe's ablation judged: on validation images of its own set, on all images of another.

Comes in: what to train, a study, a workspace of a set that no decoder here trains on. Goes out: mean F1 by
what it was measured on. Test images of the set itself are never scored.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lungfast.compute import parse_memory
from lungfast.data.views import ViewConfig
from lungfast.frozen.prompts import PromptConfig
from lungfast.runs import results
from lungfast.studies.masks import measure_masks
from lungfast.studies.one_split import train_one_split
from lungfast.studies.protocol import Outcome, Study
from lungfast.studies.scoring import joined, predictions, prepare, score
from lungfast.studies.tables import chosen
from lungfast.studies.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What :func:`train_one_split` combines, of an arm."""

    prompts: tuple[PromptConfig, ...]
    lrs: tuple[float, ...]
    wds: tuple[float, ...]
    losses: tuple[Any, ...]
    seeds: tuple[int, ...]
    folds: int = 5
    split_seed: int = 0
    kind: str = "both"
    views: ViewConfig = field(default_factory=ViewConfig)
    input_size: int | None = None
    """Of the encoder, where it is not its own."""
    other: str | None = None
    """The data's hash of the set that was not trained on."""


def judge(
    lists: Lists, away: Workspace | None, study: Study, splits: Sequence[Any], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Train on fold 0 of one set; score its validation images, then all images of the other set, if any."""
    started = time.perf_counter()
    made = train_one_split(lists, study, splits)
    seconds = time.perf_counter() - started
    (together,) = study.join([made.outcomes])
    f1 = {
        "val": float(np.mean([one.val_mean("f1") or 0.0 for one in made.outcomes])),
        "val, together": together.val_mean("f1"),
        "val, cleaned": cleaned_f1(study, made.outcomes[0]),
    }
    f1 |= alone_f1(study, away, made.outcomes[0])
    if away is not None:
        f1 |= away_f1(study, away, made.outcomes, together)
    row = {
        "f1": f1,
        "threshold": chosen(together).threshold,
        "best_epoch": [one.trained.best_epoch for one in made.outcomes],
        "seconds": seconds,
    }
    content = results("ablation", [row], made_with) | {"history": made.history()}
    study.run.write_results(content)
    return content


def cleaned_f1(study: Study, outcome: Outcome) -> float:
    """Of validation masks: two largest components, holes filled."""
    candidates = study.candidates([outcome.cell], [outcome.cell.split.val])
    logits = predictions(study.workspace, candidates, width=1)
    found = measure_masks(
        study.workspace.cache, logits, [chosen(outcome).threshold], surface=False, clean=True
    )
    return float(np.mean([one.cleaned_f1 for _, _, one in found]))


def alone_f1(study: Study, away: Workspace | None, outcome: Outcome) -> dict[str, float]:
    """The first decoder, asked about one view of each image: at its best validation threshold."""
    (candidate,) = study.candidates([outcome.cell], [outcome.cell.split.val])
    thresholds, asked = study.settings.thresholds, [("val", study.workspace, candidate)]
    if away is not None:
        images = np.arange(len(away.cache.images))
        prompts = replace(study.prompts(outcome.cell), images=away.prompt_images)
        asked.append(("away", away, replace(candidate, images=images, prompts=prompts)))
    found = {}
    for name, where, one in asked:
        prepare(where, parse_memory("4GB"), 1)
        logits = predictions(where, [replace(one, views=1)], width=1)
        found[name] = score(where, logits, [one.images], thresholds, advance=lambda: None)[0].values["f1"]
    best = int(found["val"].mean(0).argmax())
    return {f"{name}, one view": float(f1.mean(0)[best]) for name, f1 in found.items()}


def away_f1(
    study: Study, away: Workspace, outcomes: Sequence[Outcome], together: Outcome
) -> dict[str, float]:
    """Mean F1 on another set, each decoder at its own threshold, then all seeds together at theirs."""
    images = np.arange(len(away.cache.images))
    candidates = [
        replace(one, prompts=replace(study.prompts(outcome.cell), images=away.prompt_images), images=images)
        for one, outcome in zip(
            study.candidates([outcome.cell for outcome in outcomes], [images] * len(outcomes)),
            outcomes,
            strict=True,
        )
    ]
    width = prepare(away, parse_memory("4GB"), len(candidates), views=candidates[0].views)
    thresholds = sorted({chosen(one).threshold for one in (*outcomes, together)})
    logits = list(predictions(away, candidates, width=width))
    alone = score(away, iter(logits), [images] * len(candidates), thresholds, advance=lambda: None)
    groups = [range(len(candidates))]
    joint = score(away, joined(iter(logits), groups), [images], thresholds, advance=lambda: None)[0]
    values = [
        one.at("f1", thresholds.index(chosen(outcome).threshold)).mean()
        for one, outcome in zip(alone, outcomes, strict=True)
    ]
    return {
        "away": float(np.mean(values)),
        "away, together": float(joint.at("f1", thresholds.index(chosen(together).threshold)).mean()),
    }
