"""results.json in, rich tables out, 80 columns wide. ± stands only where it is a std over folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

BEST = "★"


def grid_table(content: Mapping[str, Any]) -> Table:
    """One line per configuration, the winner marked; its test scores in the caption."""
    table = _table(
        "grid, chosen on validation rows",
        "",
        "lr",
        "wd",
        "loss",
        "epoch",
        "thr",
        "val F1",
        "val IoU",
        "status",
    )
    best = content["best"]
    for row in content["rows"]:
        marked = row["decoder"] == best["decoder"]
        table.add_row(
            BEST if marked else "",
            *_settings(row),
            _cell(row["val_f1"]),
            _cell(row["val_iou"]),
            row["status"],
            style="bold" if marked else "",
        )
    test = best["test"]
    table.caption = (
        f"{BEST} on its {test['n']} test images: F1 {test['f1']:.4f}, IoU {test['iou']:.4f}, "
        f"precision {test['precision']:.4f}, recall {test['recall']:.4f}"
    )
    return table


def cv_table(content: Mapping[str, Any]) -> Table:
    """One line per prompt, mean ± std over folds, the best of several marked; intervals in the caption."""
    rows = content["rows"]
    table = _table(
        "cross-validation, mean ± std over folds", "", "prompt", "F1", "IoU", "precision", "recall"
    )
    best = max(rows, key=lambda row: row["f1"]["mean"])
    for row in rows:
        marked = row is best and len(rows) > 1
        table.add_row(
            BEST if marked else "",
            row["prompt"] + (" †" if row["needs_ground_truth"] else ""),
            *(_spread(row[name]) for name in ("f1", "iou", "precision", "recall")),
            style="bold" if marked else "",
        )
    lines = [_per_image(row) for row in rows]
    if any(row["needs_ground_truth"] for row in rows):
        lines.append("† its box is taken from the ground truth, which is not there in use")
    table.caption = "\n".join(lines)
    return table


def fold_table(row: Mapping[str, Any]) -> Table:
    """What one prompt's folds chose and scored."""
    table = _table(
        f"{row['prompt']}, fold by fold",
        "fold",
        "lr",
        "wd",
        "loss",
        "epoch",
        "thr",
        "val F1",
        "test F1",
        "test IoU",
        "n",
    )
    for fold in row["per_fold"]:
        table.add_row(
            fold["fold"],
            *_settings(fold),
            _cell(fold["val_f1"]),
            _cell(fold["test"]["f1"]),
            _cell(fold["test"]["iou"]),
            str(fold["n_test"]),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for name in columns:
        text = name in {"", "prompt", "fold", "loss", "status"}
        table.add_column(name, justify="left" if text else "right", no_wrap=True)
    return table


def _settings(row: Mapping[str, Any]) -> tuple[str, ...]:
    threshold = _cell(row["threshold"], 2)
    return f"{row['lr']:g}", f"{row['wd']:g}", row["loss"], str(row["best_epoch"]), threshold


def _cell(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.4f} ± {summary['std']:.4f}"


def _per_image(row: Mapping[str, Any]) -> str:
    f1 = row["f1_image"]
    interval = "" if f1["ci95"] is None else f" [95 % {f1['ci95'][0]:.4f} to {f1['ci95'][1]:.4f}]"
    return f"{row['prompt']}: F1 per image {f1['mean']:.4f}{interval}, n = {f1['n']}"
