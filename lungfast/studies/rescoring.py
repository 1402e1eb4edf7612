"""The decoders of a finished run scored again: on other images, on another cache, in other prompts.

Comes in: models, an opened cache of the same encoder, images by fold. Goes out: their scores at their own
thresholds, as they were chosen when the run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lungfast.files import file_sha256
from lungfast.records import Int64, PromptSource
from lungfast.runs import ANSWER
from lungfast.studies.ensemble import mean_threshold
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.scoring import Candidate, joined, predictions, prepare, score
from lungfast.studies.summaries import FoldScores
from lungfast.studies.workspace import Workspace

VOTE = "vote"
"""In place of a fold: all decoders together, by the mean of their logits, as ``predict`` asks them."""


def rescore(
    models: Sequence[Model],
    workspace: Workspace,
    images_of: Mapping[str, Int64],
    memory_bytes: int,
    *,
    prompts: Callable[[Model], PromptSource] | None = None,
    advance: Callable[[], None],
) -> list[FoldScores]:
    """Every model on ``images_of`` its fold; ``prompts`` replaces its own.

    Models that decide together are scored together, as the first of them. Where ``images_of`` has VOTE, which
    every model must then meet on its own too, the vote of all of them comes last.
    """
    images_K = [images_of[model.fold] for model in models]
    candidates = [
        Candidate(
            key=model.key,
            prompts=prompts(model) if prompts else model.prompts(workspace),
            state=model.state,
            images=images,
            views=model.views_in(workspace),
        )
        for model, images in zip(models, images_K, strict=True)
    ]
    width = prepare(workspace, memory_bytes, len(models), views=candidates[0].views)
    groups = _groups(models)
    heads = [models[group[0]] for group in groups]
    if VOTE in images_of:
        groups.append(list(range(len(models))))
        threshold = mean_threshold([model.threshold for model in models])
        heads.append(replace(models[0], fold=VOTE, threshold=threshold))
    thresholds = sorted({head.threshold for head in heads})
    logits = joined(predictions(workspace, candidates, width=width), groups)
    scored = score(workspace, logits, [images_of[head.fold] for head in heads], thresholds, advance=advance)
    return [
        FoldScores(fold=head.fold, seed=head.seed, scored=one, index=thresholds.index(head.threshold))
        for head, one in zip(heads, scored, strict=True)
    ]


def tell_fewer_views(models: Sequence[Model], workspace: Workspace, note: Callable[[str], None]) -> None:
    """Where a cache lacks views over which the models' thresholds were chosen."""
    had, has = models[0].views, models[0].views_in(workspace)
    if has < had:
        note(
            f"{workspace.cache.url} holds {has} of the {had} views of an image over which thresholds were "
            f"chosen: answers are averaged over {has}"
        )


def n_scored(models: Sequence[Model], images_of: Mapping[str, Int64]) -> int:
    """Images that :func:`rescore` scores, models that decide together counted once."""
    folds = [models[group[0]].fold for group in _groups(models)]
    return sum(len(images_of[fold]) for fold in (*folds, VOTE) if fold in images_of)


def _groups(models: Sequence[Model]) -> list[list[int]]:
    """Places of models that decide together."""
    groups: dict[tuple[str, int], list[int]] = {}
    for k, model in enumerate(models):
        groups.setdefault((model.fold, -1 if model.together else model.seed), []).append(k)
    return list(groups.values())


def test_images(finished: FinishedRun, workspace: Workspace) -> dict[str, Int64]:
    """The run's test images by the name of the fold."""
    return {split.name: split.test for split in finished.splits(workspace.cache.images)}


def identity(finished: FinishedRun) -> str:
    """What a study that builds on a run asks about: the hash of its results."""
    return file_sha256(finished.path / ANSWER)


def row_head(key: str, model: Model, **more: Any) -> dict[str, Any]:
    """The first columns of a row of rescored models."""
    prompt = model.prompt
    return {
        "key": key,
        "prompt": prompt.kind,
        "needs_ground_truth": prompt.is_oracle,
        "status": "done",
    } | more
