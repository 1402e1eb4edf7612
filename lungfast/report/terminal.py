"""results.json in, rich tables out. ± stands only where it is a standard deviation over folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def grid_table(content: Mapping[str, Any]) -> Table:
    """One line per configuration, the winner marked; its test scores in the caption."""
    table = Table(title="grid: chosen on validation rows", title_justify="left")
    for name in ("", "lr", "wd", "loss", "best epoch", "threshold", "val F1", "val IoU", "status"):
        table.add_column(name, justify="left" if name in {"", "loss", "status"} else "right")
    best = content["best"]
    for row in content["rows"]:
        marked = row["decoder"] == best["decoder"]
        table.add_row(
            "★" if marked else "",
            f"{row['lr']:g}",
            f"{row['wd']:g}",
            row["loss"],
            str(row["best_epoch"]),
            _cell(row["threshold"], 2),
            _cell(row["val_f1"]),
            _cell(row["val_iou"]),
            row["status"],
            style="bold" if marked else "",
        )
    test = best["test"]
    table.caption = (
        f"★ on its {test['n']} test images: F1 {test['f1']:.4f}, IoU {test['iou']:.4f}, "
        f"precision {test['precision']:.4f}, recall {test['recall']:.4f}"
    )
    table.caption_justify = "left"
    return table


def cv_table(content: Mapping[str, Any]) -> Table:
    """One line per prompt (mean ± std over folds), the best marked, then one line per fold."""
    rows = content["rows"]
    table = Table(title="cross-validation: mean ± std over folds", title_justify="left")
    for name in ("", "prompt", "F1", "IoU", "precision", "recall", "F1 per image [95 % interval]"):
        table.add_column(name, justify="left" if name in {"", "prompt"} else "right")
    best = max(rows, key=lambda row: row["f1"]["mean"])
    for row in rows:
        marked = row is best and len(rows) > 1
        low, high = row["f1_image"]["ci95"]
        table.add_row(
            "★" if marked else "",
            row["prompt"] + (" (needs ground truth)" if row["needs_ground_truth"] else ""),
            *(_spread(row[name]) for name in ("f1", "iou", "precision", "recall")),
            f"{row['f1_image']['mean']:.4f} [{low:.4f}, {high:.4f}], n = {row['f1_image']['n']}",
            style="bold" if marked else "",
        )
    return table


def fold_table(row: Mapping[str, Any]) -> Table:
    """What one prompt's folds chose and scored."""
    table = Table(title=f"folds of {row['prompt']}", title_justify="left", box=None)
    for name in ("fold", "lr", "wd", "loss", "best epoch", "threshold", "val F1", "test F1", "test IoU", "n"):
        table.add_column(name, justify="left" if name in {"fold", "loss"} else "right")
    for fold in row["per_fold"]:
        table.add_row(
            fold["fold"],
            f"{fold['lr']:g}",
            f"{fold['wd']:g}",
            fold["loss"],
            str(fold["best_epoch"]),
            _cell(fold["threshold"], 2),
            _cell(fold["val_f1"]),
            _cell(fold["test"]["f1"]),
            _cell(fold["test"]["iou"]),
            str(fold["n_test"]),
        )
    return table


def _cell(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(summary: Mapping[str, Any]) -> str:
    return f"{summary['mean']:.4f} ± {summary['std']:.4f}"
