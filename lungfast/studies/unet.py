"""A U-Net trained and tested on the folds of the decoders, from the cache's previews: the paper's Table VI.

Comes in: a workspace whose cache has previews, a :class:`UnetStudyConfig`, and the ``cv`` run to pair with,
if any. Goes out: results.json with one row as cv's, its images, learning curves and paired differences.
Folds, scoring at native size and the choice of epoch and threshold are those of ``cv``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lungfast.data.splits import make_folds, splits_as_dict
from lungfast.errors import TrainingError
from lungfast.records import ImageRecord, Split
from lungfast.runs import results
from lungfast.scored.scores import ThresholdChoice, choose_threshold
from lungfast.studies.accounts import Trained
from lungfast.studies.fitting import Listener, Settings
from lungfast.studies.protocol import Study
from lungfast.studies.rival import Rival
from lungfast.studies.scoring import MEASURES, Scored
from lungfast.studies.session import Request, run_study
from lungfast.studies.summaries import FoldScores, curve, empty_summary, image_block, summary
from lungfast.studies.tables import history_rows, improvement
from lungfast.studies.unet_fitting import UnetFitter, check_pictures, pictures_of
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import TrainConfig
from lungfast.trained.unet import PRESETS, UnetConfig, build_unet, n_parameters

KEY = "unet"


@dataclass(frozen=True, kw_only=True)
class UnetStudyConfig:
    """The network and the folds; ``against`` is the identity of the scores it is paired with."""

    model: UnetConfig = field(default_factory=lambda: PRESETS["small"])
    folds: int = 5
    split_seed: int = 0
    against: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A fold's U-Net: its validation scores, the threshold that they choose, its test scores."""

    split: Split
    trained: Trained
    val: Scored
    choice: ThresholdChoice
    test: Scored
    seed: int

    @property
    def scores(self) -> FoldScores:
        return FoldScores(fold=self.split.name, seed=self.seed, scored=self.test, index=self.choice.index)


def unet_settings(model: UnetConfig, *, memory_bytes: int, precision: str = "auto") -> Settings:
    """The settings of a request for this study; thresholds are scanned finely."""
    train = TrainConfig(epochs=model.epochs, batch_size=model.batch_size, schedule=model.schedule)
    return Settings(train=train, memory_bytes=memory_bytes, precision=precision, compile="off")


def run_unet(
    request: Request, workspace: Workspace, listener: Listener, *, against: Path | None = None
) -> dict[str, Any]:
    """Check all that can be refused, then train, score and write the run folder.

    ``request.config`` is a :class:`UnetStudyConfig`, ``request.settings`` come from :func:`unet_settings`;
    ``against`` is a finished cv run on the same data and folds.
    """
    config: UnetStudyConfig = request.config
    check_pictures(workspace, config.model, request.settings.memory_bytes)
    rival = None
    if against is not None:
        splits = make_folds(workspace.cache.images, config.folds, seed=config.split_seed)
        rival = Rival.open(against, workspace.cache, splits)
    config = replace(config, against=rival.identity if rival else None)
    body = partial(cross_validate_unet, config, rival)
    return run_study(replace(request, config=config), workspace, body, listener)


def cross_validate_unet(
    config: UnetStudyConfig,
    rival: Rival | None,
    study: Study,
    splits: Sequence[Split],
    made_with: dict[str, Any],
) -> dict[str, Any]:
    """Train one U-Net a fold and write the run folder; returns results.json's content."""
    images, model = study.workspace.cache.images, config.model
    study.run.write_once("splits.json", splits_as_dict(splits, images))
    fitter = UnetFitter(study, model, pictures_of(study.workspace, model.size, study.listener))
    trained = [fitter.fit(split) for split in splits]
    study.run.write_rows("history.csv", history_rows(trained))
    tested = _test(fitter, study, splits, trained, seed=model.seed)
    study.run.write_rows("per_image.csv", list(_image_rows(tested, images)))
    row = _row(model, tested, study, is_complete=len(tested) == len(splits))
    scores = [one.scores for one in tested] if row["status"] == "done" else []
    content = results(KEY, [row], made_with | {"training": fitter.chosen})
    content["images"] = image_block({KEY: scores} if scores else {}, images)
    content["history"] = [_history(model, *pair) for pair in zip(splits, trained, strict=True)]
    content["comparisons"] = rival.compare(KEY, scores, splits) if rival and scores else []
    content |= {name: row[name] for name in ("f1", "iou", "f1_image", "iou_image")}
    study.run.write_results(content)
    return content


def _test(
    fitter: UnetFitter, study: Study, splits: Sequence[Split], trained: Sequence[Trained], *, seed: int
) -> list[Tested]:
    """Folds that have an epoch to keep: the threshold from validation rows, then the test rows."""
    pairs = [(split, one) for split, one in zip(splits, trained, strict=True) if one.best_epoch > 0]
    for note in (_diverged(one) for one in trained if one.status != "done"):
        study.listener.note(note)
    if not pairs:
        raise TrainingError(
            "the U-Net of every fold diverged (its loss became NaN or infinite)",
            fix="try a smaller --lr or --precision fp32",
        )
    alive, thresholds = [split for split, _ in pairs], study.settings.thresholds
    val = fitter.score(alive, "val")
    choices = [choose_threshold(one.values["f1"], thresholds) for one in val]
    for (_, one), choice in zip(pairs, choices, strict=True):
        if choice.at_edge:
            study.listener.note(f"{one.key}: the best threshold {choice.threshold:g} is at the scan's edge")
    parts = zip(pairs, val, choices, fitter.score(alive, "test"), strict=True)
    return [
        Tested(split=split, trained=one, val=val, choice=choice, test=test, seed=seed)
        for (split, one), val, choice, test in parts
    ]


def _diverged(one: Trained) -> str:
    kept = f"its epoch {one.best_epoch} is kept" if one.best_epoch else "no epoch of it is kept"
    return f"{one.key} diverged (its loss became NaN or infinite); {kept}"


def _row(model: UnetConfig, tested: Sequence[Tested], study: Study, *, is_complete: bool) -> dict[str, Any]:
    """One row as cv's; without a mean where a fold has no U-Net to test."""
    row: dict[str, Any] = {
        "key": KEY,
        "prompt": None,
        "needs_ground_truth": False,
        "loss": model.loss,
        "seeds": [model.seed],
        "status": "done" if is_complete else "diverged",
    }
    if is_complete:
        row |= summary([one.scores for one in tested], study.workspace.cache.images, seed=model.seed)
        row["curve"] = curve(
            study.settings.thresholds, [one.val for one in tested], [one.test for one in tested]
        )
    else:
        row |= empty_summary()
    return row | {"per_fold": [_fold_row(model, one) for one in tested], "model": describe(model)}


def describe(model: UnetConfig) -> dict[str, Any]:
    """``model`` of results.json; augmentation and the rest stand in the provenance."""
    return {
        "name": f"MONAI UNet, {model.residual_units} residual units",
        "size": model.size,
        "channels": list(model.channels),
        "parameters": n_parameters(build_unet(model)),
        "epochs": model.epochs,
        "lr": model.lr,
        "batch_size": model.batch_size,
    }


def _fold_row(model: UnetConfig, one: Tested) -> dict[str, Any]:
    trained = {name: getattr(one.trained, name) for name in ("status", "best_epoch")}
    chosen = {f"val_{name}": float(one.val.at(name, one.choice.index).mean()) for name in ("f1", "iou")}
    return {
        "fold": one.split.name,
        **_settings(model),
        **trained,
        "threshold": one.choice.threshold,
        **chosen,
        "decoder": one.trained.key,
        "n_train": len(one.split.train),
        "n_test": len(one.split.test),
        "test": one.scores.means(),
    }


def _settings(model: UnetConfig) -> dict[str, Any]:
    return {"prompt": None, "loss": model.loss, "lr": model.lr, "wd": model.wd, "seed": model.seed}


def _history(model: UnetConfig, split: Split, one: Trained) -> dict[str, Any]:
    start = {"decoder": one.key, "fold": split.name}
    return start | _settings(model) | one.losses() | improvement(one.val_loss)


def _image_rows(tested: Sequence[Tested], images: Sequence[ImageRecord]) -> Iterator[dict[str, Any]]:
    """Lines as cv's, at the chosen threshold."""
    for one in tested:
        for part, scored in (("val", one.val), ("test", one.test)):
            values = {name: scored.at(name, one.choice.index) for name in MEASURES}
            for position, image in enumerate(scored.images.tolist()):
                record = images[image]
                yield {
                    "decoder": one.trained.key,
                    "split": one.split.name,
                    "part": part,
                    "image": record.id,
                    "patient": record.patient,
                    "label": record.label or "",
                    "threshold": one.choice.threshold,
                    **{name: float(values_N[position]) for name, values_N in values.items()},
                }
