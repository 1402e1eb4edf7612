"""Rows that several studies write: one line per scored image, losses by epoch, decoder identities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lungfast.frozen.prompts import PromptConfig
from lungfast.records import DecoderConfig, ImageRecord, LossName, Split
from lungfast.scored.scores import ThresholdChoice
from lungfast.studies.accounts import Trained
from lungfast.studies.protocol import Cell, Outcome
from lungfast.studies.scoring import MEASURES, Scored

SETTLED_WITHIN = 0.01
"""A learning curve has settled where the validation loss is within this share of its lowest."""


def cells_of(
    split: Split,
    prompt: PromptConfig,
    *,
    lrs: Sequence[float],
    wds: Sequence[float],
    losses: Sequence[LossName],
    seeds: Sequence[int],
) -> list[Cell]:
    """Every combination of loss, learning rate, weight decay and seed on one split."""
    return [
        Cell(
            config=DecoderConfig(
                key=f"{split.name}_{prompt.kind}_{loss}_lr{lr!r}_wd{wd!r}_seed{seed}",
                lr=lr,
                wd=wd,
                loss=loss,
                seed=seed,
            ),
            split=split,
            prompt=prompt,
        )
        for loss, lr, wd, seed in product(losses, lrs, wds, seeds)
    ]


def image_rows(
    outcome: Outcome, scored: Scored, part: str, images: Sequence[ImageRecord]
) -> list[dict[str, Any]]:
    """One line per image at the decoder's chosen threshold."""
    choice = chosen(outcome)
    rows = []
    for position, image in enumerate(scored.images):
        record = images[int(image)]
        rows.append(
            {
                "decoder": outcome.cell.config.key,
                "prompt": outcome.cell.prompt.kind,
                "split": outcome.cell.split.name,
                "loss": outcome.cell.config.loss,
                "seed": outcome.cell.config.seed,
                "part": part,
                "image": record.id,
                "patient": record.patient,
                "label": record.label or "",
                "threshold": choice.threshold,
            }
            | {name: float(scored.values[name][position, choice.index]) for name in MEASURES}
        )
    return rows


def history_rows(trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """Losses by epoch; an epoch without validation has an empty cell."""
    return [
        {"decoder": one.key, "epoch": epoch, "train_loss": _blank(train), "val_loss": _blank(val)}
        for one in trained
        for epoch, (train, val) in enumerate(zip(one.train_loss, one.val_loss, strict=True), start=1)
    ]


def history_block(cells: Sequence[Cell], trained: Sequence[Trained]) -> list[dict[str, Any]]:
    """``history`` of results.json: the learning curve of every decoder, and where it stopped improving."""
    return [
        {
            "decoder": one.key,
            "fold": cell.split.name,
            "prompt": cell.prompt.kind,
            "loss": cell.config.loss,
            "lr": cell.config.lr,
            "wd": cell.config.wd,
            "seed": cell.config.seed,
        }
        | one.losses()
        | improvement(one.val_loss)
        for cell, one in zip(cells, trained, strict=True)
    ]


def improvement(val_loss: Sequence[float]) -> dict[str, int | None]:
    """Epochs, from 1: of the lowest validation loss, and the first one within 1 % of it."""
    losses = np.array(val_loss, np.float64)
    if not np.isfinite(losses).any():
        return {"last_improvement": None, "settled": None}
    lowest = float(np.nanmin(np.where(np.isfinite(losses), losses, np.nan)))
    return {
        "last_improvement": int(np.flatnonzero(losses == lowest)[0]) + 1,
        "settled": int(np.flatnonzero(losses <= (1 + SETTLED_WITHIN) * lowest)[0]) + 1,
    }


def _blank(value: float) -> float | str:
    return value if math.isfinite(value) else ""


def chosen(outcome: Outcome) -> ThresholdChoice:
    """The threshold of an outcome that has one."""
    if outcome.choice is None:
        raise ValueError(f"{outcome.cell.config.key} has no threshold: it was never validated")
    return outcome.choice


def config_row(outcome: Outcome) -> dict[str, Any]:
    """What was trained, and what validation said of it."""
    config, choice = outcome.cell.config, outcome.choice
    return {
        "fold": outcome.cell.split.name,
        "lr": config.lr,
        "wd": config.wd,
        "loss": config.loss,
        "prompt": outcome.cell.prompt.kind,
        "needs_ground_truth": outcome.cell.prompt.is_oracle,
        "seed": config.seed,
        "status": outcome.trained.status,
        "best_epoch": outcome.trained.best_epoch,
        "threshold": choice.threshold if choice else None,
        "val_f1": outcome.val_mean("f1"),
        "val_iou": outcome.val_mean("iou"),
        "decoder": config.key,
        "n_train": len(outcome.cell.split.train),
    }


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The highest mean validation F1, the first on ties; None where every decoder diverged."""
    validated = [outcome for outcome in outcomes if outcome.choice is not None]
    return max(validated, key=lambda outcome: outcome.val_mean("f1") or 0.0, default=None)


def mean_scores(scored: Scored, index: int) -> Mapping[str, float]:
    """Mean over images of every measure at threshold number ``index``."""
    return {name: float(scored.at(name, index).mean()) for name in MEASURES}
