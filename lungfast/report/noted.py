"""Tables beyond the paper's, put together the same way: rows of cells and their notes in, a table out."""

from __future__ import annotations

from typing import Any

from lungfast.report.score_cells import oracle_note
from lungfast.report.table import NOTHING, Cell, Table, difference

Rows = list[list[Cell]]
FINE = 4
"""Digits of a difference between our own methods: prompts and losses may differ by 0.0005."""


def noted_table(caption: str, columns: tuple[str, ...], rows: Rows, *notes: str, heads: int = 2) -> Table:
    """Empty notes fall away; the dagger is explained where there is one."""
    return Table(
        caption=caption,
        columns=columns,
        rows=tuple(map(tuple, rows)),
        notes=(*(note for note in notes if note), *oracle_note(rows)),
        heads=heads,
    )


def interval(ci95: Any) -> str:
    """Both ends of a difference's interval, with their signs."""
    return NOTHING if ci95 is None else ", ".join(difference(value, FINE).text for value in ci95)
