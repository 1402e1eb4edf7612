"""The optional table beside a folder of pairs: label, patient and pixel spacing per image.

In: a CSV file with the columns ``id`` and any of ``label``, ``patient``, ``spacing_mm`` (square pixels) or
``spacing_y_mm`` and ``spacing_x_mm``. Out: one :class:`MetaRow` per id. Empty cells mean unknown. Everything
else is a one-line :class:`DataError` with file and line.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lungfast.errors import DataError

_QUOTE = "look for a quote that nothing closes"
COLUMNS = ("id", "label", "patient", "spacing_mm", "spacing_y_mm", "spacing_x_mm")


@dataclass(frozen=True, kw_only=True)
class MetaRow:
    """What the table says of one image; ``spacing_mm`` is (vertical, horizontal)."""

    label: str | None = None
    patient: str | None = None
    spacing_mm: tuple[float, float] | None = None


def read_meta(path: Path) -> dict[str, MetaRow]:
    """Id -> row. Raises DataError: unreadable file, unknown or missing column, repeated id, bad number."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            if ";" in (header := file.readline()) and "," not in header:
                raise DataError(f"{path} is separated by semicolons", fix="save it separated by commas")
            file.seek(0)
            reader = csv.DictReader(file, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(path, reader.fieldnames)
            return _read_rows(path, reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path}",
            found=str(error),
            expected="a CSV file in UTF-8 with a header line",
            fix=_QUOTE if "end of data" in str(error) else "",
        ) from error


def _check_columns(path: Path, columns: list[str]) -> None:
    unknown = [column for column in columns if column not in COLUMNS]
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    expected = ", ".join(COLUMNS)
    if "id" not in columns:
        raise DataError(
            f"{path} has no column id", found=", ".join(columns) or "no header", expected=expected
        )
    if unknown or repeated:
        raise DataError(
            f"{path} has an unknown or repeated column",
            found=", ".join(unknown + repeated),
            expected=expected,
            fix="leave those out",
        )
    if ("spacing_y_mm" in columns) != ("spacing_x_mm" in columns):
        raise DataError(f"{path} has only one of the columns spacing_y_mm and spacing_x_mm", fix="give both")
    if "spacing_mm" in columns and "spacing_y_mm" in columns:
        raise DataError(
            f"{path} has spacing_mm beside spacing_y_mm and spacing_x_mm", fix="keep one of the two"
        )


def _read_rows(path: Path, reader: csv.DictReader[str]) -> dict[str, MetaRow]:
    rows: dict[str, MetaRow] = {}
    for line in reader:
        where = f"{path}, line {reader.line_num}"
        if None in line or None in line.values():
            n_columns = len(reader.fieldnames or ())
            raise DataError(f"{where} has too few or too many cells", expected=f"{n_columns} cells")
        for column, cell in line.items():
            if "\0" in cell:
                raise DataError(f"{where} is no text", found=f"a zero byte in {column}")
            if set(cell) & set("\n\r"):
                raise DataError(f"{where}: a cell goes over several lines", found=column, fix=_QUOTE)
        cells = {column: cell.strip() for column, cell in line.items()}
        name = cells["id"]
        if not name or name in rows:
            raise DataError(f"{where}: id is {'repeated' if name else 'empty'}", found=repr(name))
        rows[name] = MetaRow(
            label=cells.get("label") or None,
            patient=cells.get("patient") or None,
            spacing_mm=_spacing(where, cells),
        )
    return rows


def _spacing(where: str, cells: Mapping[str, str]) -> tuple[float, float] | None:
    columns = ("spacing_mm", "spacing_mm") if "spacing_mm" in cells else ("spacing_y_mm", "spacing_x_mm")
    texts = [cells.get(column, "") for column in columns]
    if not any(texts):
        return None
    vertical, horizontal = (
        _millimetres(where, column, text) for column, text in zip(columns, texts, strict=True)
    )
    return vertical, horizontal


def _millimetres(where: str, column: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise DataError(
            f"{where}: {column} is not a length", found=repr(text), expected="millimetres above 0"
        )
    return value
