"""The cells that tables of scores share: ours, the paper's beside it, and what is best.

Comes in: rows of results.json. Goes out: cells in the order of :data:`SCORES`.
"""

from __future__ import annotations

from collections.abc import Sequence

from lungfast.report import paper
from lungfast.report.facts import Row
from lungfast.report.material import Material
from lungfast.report.table import (
    MINUS,
    NOTHING,
    ORACLE,
    ORACLE_NOTE,
    PRINTED,
    Cell,
    count,
    difference,
    mean_std,
    number,
    over_images,
    spread,
    words,
)

MEASURED = ("F1", "IoU", "Precision", "Recall", "F1 per image [95 %]", "n", "F1, 5th pct.")
GENERATED = "generated X-rays"


def measured(row: Row) -> list[Cell]:
    """Ours, in the order of MEASURED."""
    image = row.get("f1_image")
    return [
        *(spread(row.get(name)) for name in ("f1", "iou")),
        *(number(row[name]["mean"] if row.get(name) else None) for name in ("precision", "recall")),
        over_images(image),
        count(image["n"] if image else None),
        number(row.get("f1_p05")),
    ]


def beside_columns(number: str) -> tuple[str, ...]:
    """Headings of :func:`beside`, with the number of the paper's table."""
    return f"Paper ({number}): F1", f"Paper ({number}): IoU", f"F1 {MINUS} paper", f"IoU {MINUS} paper"


def beside(row: Row, figures: Sequence[paper.Figure | None], why_not: str = "") -> list[Cell]:
    """The paper's F1 and IoU, and ours less its own unless there is a reason ``why_not``; as headed there."""
    f1, iou = figures
    cells = [paper_cell(f1), paper_cell(iou)]
    if why_not:
        return [*cells, words(why_not if f1 else None), words(None)]
    pairs = ((row["f1"], f1), (row["iou"], iou))
    return [*cells, *(difference(ours["mean"] - one.mean if one else None) for ours, one in pairs)]


def paper_cell(figure: paper.Figure | None) -> Cell:
    """As printed there."""
    if figure is None:
        return Cell(text=NOTHING)
    return Cell(text=mean_std(figure.mean, figure.std), value=figure.mean)


def no_difference(material: Material, set_name: str) -> str:
    """Why no difference to the paper is taken; empty where one is."""
    return GENERATED if material.is_generated(set_name) else ""


def best_positions(rows: Sequence[Row], metric: str = "f1") -> set[int]:
    """Of the best rows and of the best without ground truth: all that print the same mean.

    None where there is no choice.
    """
    found: set[int] = set()
    for oracle in (True, False):
        means = {
            i: round(float(row[metric]["mean"]), PRINTED)
            for i, row in enumerate(rows)
            if row.get(metric) and (oracle or not row.get("needs_ground_truth"))
        }
        if means and len(rows) > 1:
            found |= {i for i, mean in means.items() if mean == max(means.values())}
    return found


BEST_NOTE = "Bold: the best of a set, and the best of those without the ground truth."


def oracle_note(rows: Sequence[Sequence[Cell]], columns: Sequence[str] = ()) -> list[str]:
    """The dagger explained, where there is one."""
    texts = [*columns, *(cell.text for row in rows for cell in row)]
    return [ORACLE_NOTE] if any(ORACLE in text for text in texts) else []
