"""``tables.csv``: every cell of every table on a line of its own, for a spreadsheet or pandas.

Neutral tables in, CSV out: table, row, the row's names, column, text, value (unrounded, empty where there is
none), best.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping

from lungfast.report.table import Table

HEADER = ("table", "row", "names", "column", "text", "value", "best")
_FORMULA = ("=", "@", "\t", "\r")


def spreadsheet(tables: Mapping[str, Table]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for name, table in tables.items():
        for i, row in enumerate(table.rows, start=1):
            names = " / ".join(cell.text for cell in row[: table.heads])
            for column, cell in list(zip(table.columns, row, strict=True))[table.heads :]:
                value = "" if cell.value is None else repr(cell.value)
                line = [
                    name,
                    i,
                    harmless(names),
                    harmless(column),
                    harmless(cell.text),
                    value,
                    int(cell.bold),
                ]
                writer.writerow(line)
    return text.getvalue()


def harmless(text: str) -> str:
    """A name from data that a spreadsheet would run as a formula becomes text."""
    return f"'{text}" if text.startswith(_FORMULA) else text
