"""F1 over thresholds: chosen on validation rows, applied to test rows; the whole curve too. Paper: Table II.

From a cache: one decoder per prompt, trained on fold 0's split. From a run whose logits were stored: all of
its decoders, scanned again without training. From the results of a cross-validation: its curves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungfast.errors import RunError
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import Float32, Int64, LossName, Split
from lungfast.runs import RunFolder, results
from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS, choose_threshold
from lungfast.studies.fitting import Listener
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.one_split import fold_scores, train_one_split
from lungfast.studies.protocol import Study
from lungfast.studies.scoring import Predictions, Scored, score
from lungfast.studies.session import ScoreBody
from lungfast.studies.summaries import FoldScores, curve, empty_summary, summary_or_nothing
from lungfast.studies.workspace import Workspace

HALF = 0.5
_PARTS = ("val", "test")


@dataclass(frozen=True, kw_only=True)
class ThresholdsConfig:
    """What to train before the scan: one decoder per prompt."""

    prompts: tuple[PromptConfig, ...]
    lrs: tuple[float] = (1e-3,)
    wds: tuple[float] = (0.0,)
    losses: tuple[LossName] = ("dicefocal",)
    folds: int = 5
    seeds: tuple[int] = (0,)
    split_seed: int = 0


@dataclass(frozen=True, kw_only=True)
class RescanConfig:
    """A finished run to scan again, by the hash of its results."""

    run: str
    results_sha256: str


def thresholds(
    config: ThresholdsConfig, study: Study, splits: Sequence[Split], made_with: dict[str, Any]
) -> dict[str, Any]:
    """Train one decoder per prompt and scan it; returns the content of results.json."""
    made = train_one_split(config, study, splits)
    outcomes = [outcome for outcome in made.outcomes if outcome.val]
    rows, images = [], study.workspace.cache.images
    for outcome, test in zip(outcomes, study.test(outcomes), strict=True):
        prompt = outcome.cell.prompt
        found = curve(study.settings.thresholds, [outcome.val] if outcome.val else [], [test])
        measured = summary_or_nothing([fold_scores(outcome, test)], images)
        rows.append(threshold_row(prompt.kind, found, measured, needs_ground_truth=prompt.is_oracle))
    content = results("thresholds", rows, made_with | {"training": study.training})
    content["history"] = made.history()
    study.run.write_results(content)
    return content


def rescan(finished: FinishedRun, workspace: Workspace, listener: Listener) -> ScoreBody:
    """The body that scans the stored logits of a run; RunError where it kept none."""
    finished.check_cache(workspace.cache)
    for part in _PARTS:
        if not _logits_path(finished, part).exists():
            raise RunError(
                f"{finished.path} has no stored logits",
                expected=_logits_path(finished, part).name,
                fix="run the study again with --save-logits",
            )

    def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for key in finished.rows():
            models = finished.models(key)
            listener.phase(f"scanning {key}", 0)
            val, test = (_scan(finished, models, workspace, part, listener) for part in _PARTS)
            scores = [_chosen(*one) for one in zip(models, val, test, strict=True)]
            measured = summary_or_nothing(scores, workspace.cache.images)
            found = curve(DEFAULT_THRESHOLDS, val, test)
            rows.append(threshold_row(key, found, measured, needs_ground_truth=models[0].prompt.is_oracle))
        content = results("thresholds", rows, made_with)
        run.write_results(content)
        return content

    return body


def from_cross_validation(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows from a cv's results.json: its mean curves, and its test scores at each fold's threshold."""
    return [
        threshold_row(
            row["key"],
            row["curve"],
            {name: row[name] for name in empty_summary()},
            needs_ground_truth=row["needs_ground_truth"],
        )
        for row in content["rows"]
        if row["status"] == "done"
    ]


def threshold_row(
    prompt: str, found: Mapping[str, Any], measured: Mapping[str, Any], *, needs_ground_truth: bool
) -> dict[str, Any]:
    """One prompt: its curve, the best of all thresholds and of the paper's five, and ``measured``.

    The best of a mean curve describes; ``measured`` is the summary of test scores at thresholds that each
    decoder chose on its own validation images, as over all folds those images are everybody's test images.
    """
    scan = np.array(found["thresholds"])
    paper = np.flatnonzero(np.isin(np.round(scan, 9), np.round(PAPER_THRESHOLDS, 9)))
    half = int(np.abs(scan - HALF).argmin())
    return {
        "key": prompt,
        "prompt": prompt,
        "needs_ground_truth": needs_ground_truth,
        **found,
        "chosen": _best(found, np.arange(len(scan))),
        "chosen_paper": _best(found, paper) if len(paper) else None,
        "test": {name: measured[name]["mean"] for name in ("f1", "iou")},
        "test_at_half": {"f1": found["test_f1"][half], "iou": found["test_iou"][half]},
        **measured,
    }


def _best(found: Mapping[str, Any], among: Int64) -> dict[str, float]:
    val_f1_1Q = np.array(found["val_f1"])[None, among]
    choice = choose_threshold(val_f1_1Q, np.array(found["thresholds"])[among])
    return {"threshold": choice.threshold, "val_f1": choice.mean_f1}


def _chosen(model: Model, val: Scored, test: Scored) -> FoldScores:
    """Test scores at the threshold of the decoder's own validation images."""
    index = choose_threshold(val.values["f1"], DEFAULT_THRESHOLDS).index
    return FoldScores(fold=model.fold, seed=model.seed, scored=test, index=index)


# --- stored logits ---------------------------------------------------------------------------------


def _logits_path(finished: FinishedRun, part: str) -> Path:
    return finished.path / f"logits-{part}.h5"


def _scan(
    finished: FinishedRun, models: Sequence[Model], workspace: Workspace, part: str, listener: Listener
) -> list[Scored]:
    import h5py

    position = {record.id: i for i, record in enumerate(workspace.cache.images)}
    with h5py.File(_logits_path(finished, part)) as file:
        images_K = [
            np.array(sorted(position[name] for name in file[model.key]), np.int64) for model in models
        ]

        def stored() -> Predictions:
            for k, (model, images) in enumerate(zip(models, images_K, strict=True)):
                for image in images.tolist():
                    logits_hw: Float32 = file[model.key][workspace.cache.images[image].id][:]
                    yield k, image, logits_hw

        return score(workspace, stored(), images_K, DEFAULT_THRESHOLDS, advance=listener.advance)
