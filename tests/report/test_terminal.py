"""Tables fit 80 columns uncut; the winner, an oracle and a failed prompt are marked."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from lungfast.report.terminal import BEST, ORACLE, cv_table, fold_table, grid_table, transfer_table
from tests.report.material import material


def shown(table: Table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def row(lr: float, wd: float, **more: Any) -> dict[str, Any]:
    scores = {"val_f1": 0.951234, "val_iou": 0.91, "threshold": 0.45, "best_epoch": 100, "status": "done"}
    names = {"decoder": f"{lr}-{wd}", "prompt": "both-auto", "needs_ground_truth": False, "seed": 0}
    return {"lr": lr, "wd": wd, "loss": "dicefocal"} | scores | names | more


def test_a_grid_of_nine() -> None:
    oracle = {"needs_ground_truth": True, "prompt": "box"}
    rows = [row(lr, wd, **oracle) for lr in (1e-5, 3.3e-4, 1e-3) for wd in (0, 1e-1, 1e-3)]
    test = {"f1": 0.95, "iou": 0.91, "precision": 0.9, "recall": 0.9, "n": 28}
    best = row(1e-3, 0, **oracle) | {"test": test}
    text = shown(grid_table({"rows": rows, "best": best}))
    assert "…" not in text
    assert sum(line.strip().startswith(BEST) for line in text.splitlines()) == 2  # its line and its test
    assert "loss dicefocal" in text
    assert f"box {ORACLE}" in text


def test_a_diverged_row_has_dashes() -> None:
    rows = [row(1e-3, 0), row(1e30, 0, val_f1=None, val_iou=None, threshold=None, status="diverged")]
    test = {"f1": 0.95, "iou": 0.91, "precision": 0.9, "recall": 0.9, "n": 28}
    text = shown(grid_table({"rows": rows, "best": rows[0] | {"test": test}}))
    (line,) = [line for line in text.splitlines() if "diverged" in line]
    assert line.split()[2:5] == ["-", "-", "-"]


def test_a_narrow_terminal_cuts_nothing_off() -> None:
    text = shown(cv_table({"rows": [cv_row("points", 0.96), cv_row("both-auto", 0.95)]}), 44)
    assert "…" not in text
    for digits, times in (("0.9600", 4), ("0.9500", 4), ("0.0123", 4)):
        assert text.count(digits) >= times
    assert "".join(text.split()).count("0.9700]") == 1


def test_a_caption_is_as_wide_as_the_terminal() -> None:
    text = shown(cv_table({"rows": [cv_row("points", 0.96)]}), 200)
    (line,) = [line for line in text.splitlines() if line.startswith("points: F1")]
    assert "n = 566" in line


def cv_row(prompt: str, mean: float, *, oracle: bool = False) -> dict[str, Any]:
    summary = {"mean": mean, "std": 0.0123, "folds": [mean] * 5}
    test = {"f1": mean, "iou": mean, "precision": mean, "recall": mean}
    folds = [row(1e-3, 0, fold=f"fold-{i}", n_test=113, test=test) for i in range(5)]
    return {
        "key": prompt,
        "prompt": prompt,
        "needs_ground_truth": oracle,
        **dict.fromkeys(("f1", "iou", "precision", "recall"), summary),
        "f1_image": {"mean": mean, "n": 566, "ci95": [mean - 0.01, mean + 0.01]},
        "per_fold": folds,
    }


def test_a_cross_validation_of_several_prompts() -> None:
    failed = cv_row("both-auto", 0.5) | dict.fromkeys(("f1", "iou", "precision", "recall", "f1_image"))
    rows = [cv_row("points", 0.9512), cv_row("box", 0.9712, oracle=True), failed]
    text = shown(cv_table({"rows": rows}))
    assert "…" not in text
    (winner,) = [line for line in text.splitlines() if BEST in line]
    assert f"box {ORACLE}" in winner
    assert "0.9512 ± 0.0123" in text
    assert "both-auto: no result" in text
    assert "…" not in shown(fold_table(rows[0]))


def test_a_transfer_between_sets_of_long_names() -> None:
    content = dict(material(("montgomery", "shenzhen")).transfer or {})
    content["rows"] = [row | {"of": "both-auto", "needs_ground_truth": True} for row in content["rows"]]
    text = shown(transfer_table(content))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert f"both-auto {ORACLE}" in text
