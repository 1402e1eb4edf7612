"""The decoders of a finished run scored again: on other images, on another cache, in other prompts.

Comes in: models, an opened cache of the same encoder, images by fold. Goes out: their scores at their own
thresholds, as they were chosen when the run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lungfast.files import file_sha256
from lungfast.records import Int64, PromptSource
from lungfast.runs import ANSWER
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.scoring import Candidate, predictions, prepare, score
from lungfast.studies.summaries import FoldScores
from lungfast.studies.workspace import Workspace


def rescore(
    models: Sequence[Model],
    workspace: Workspace,
    images_of: Mapping[str, Int64],
    memory_bytes: int,
    *,
    prompts: Callable[[Model], PromptSource] | None = None,
    advance: Callable[[], None],
) -> list[FoldScores]:
    """Every model on ``images_of`` its fold; ``prompts`` replaces its own."""
    images_K = [images_of[model.fold] for model in models]
    candidates = [
        Candidate(
            key=model.key,
            prompts=prompts(model) if prompts else model.prompts(workspace),
            state=model.state,
            images=images,
        )
        for model, images in zip(models, images_K, strict=True)
    ]
    width = prepare(workspace, memory_bytes, len(models))
    thresholds = sorted({model.threshold for model in models})
    logits = predictions(workspace, candidates, width=width)
    scored = score(workspace, logits, images_K, thresholds, advance=advance)
    return [
        FoldScores(fold=model.fold, seed=model.seed, scored=one, index=thresholds.index(model.threshold))
        for model, one in zip(models, scored, strict=True)
    ]


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
