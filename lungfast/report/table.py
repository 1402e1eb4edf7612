"""A table that is neither text nor page yet: cells in, one neutral object out, for every way of writing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

ORACLE = "†"
ORACLE_NOTE = f"{ORACLE} The box comes from the ground truth, which is not there in use."
MINUS, TIMES, NOTHING = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
PRINTED = 3
"""Digits of a score, unless said otherwise."""
Summary = Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is printed, and the number behind it where there is one."""

    text: str
    value: float | None = None
    bold: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """``heads`` leading columns name the row; the first of them groups rows that share it."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...] = ()
    notes: tuple[str, ...] = ()
    heads: int = 2

    def as_dict(self) -> dict[str, Any]:
        """JSON: rows by column, as printed; ``values`` has the numbers, unrounded."""
        return {
            "caption": self.caption,
            "columns": list(self.columns),
            "rows": [{name: cell.text for name, cell in self._named(row)} for row in self.rows],
            "values": [
                {name: cell.value for name, cell in self._named(row) if cell.value is not None}
                for row in self.rows
            ],
            "notes": list(self.notes),
        }

    def _named(self, row: tuple[Cell, ...]) -> Iterator[tuple[str, Cell]]:
        return zip(self.columns, row, strict=True)

    def is_numeric(self, column: int) -> bool:
        """True where the column holds numbers, which are set flush right."""
        return column >= self.heads and any(row[column].value is not None for row in self.rows)

    def groups(self) -> Iterator[tuple[str, list[tuple[Cell, ...]]]]:
        """Runs of rows with the same first cell."""
        run: list[tuple[Cell, ...]] = []
        for row in self.rows:
            if run and row[0].text != run[0][0].text:
                yield run[0][0].text, run
                run = []
            run.append(row)
        if run:
            yield run[0][0].text, run

    def without_empty_columns(self) -> Table:
        """Without the columns in which no row says anything."""
        kept = [
            i
            for i in range(len(self.columns))
            if i < self.heads or any(row[i].text != NOTHING for row in self.rows)
        ]
        return replace(
            self,
            columns=tuple(self.columns[i] for i in kept),
            rows=tuple(tuple(row[i] for i in kept) for row in self.rows),
        )


def absent(caption: str, command: str) -> Table:
    """The table of a study that was not run."""
    return Table(caption=caption, columns=(), notes=(f"Not run: {command} fills this table.",))


# --- cells -----------------------------------------------------------------------------------------


def words(value: object) -> Cell:
    return Cell(text=NOTHING if value in {None, ""} else str(value))


def number(value: float | None, digits: int = PRINTED) -> Cell:
    return Cell(text=plain(value, digits), value=value)


def count(value: int | None) -> Cell:
    return Cell(text=NOTHING if value is None else f"{value:,}".replace(",", "\u2009"), value=value)


def spread(summary: Summary) -> Cell:
    """Mean ± std over folds."""
    if summary is None:
        return Cell(text=NOTHING)
    return Cell(text=mean_std(summary["mean"], summary["std"]), value=summary["mean"])


def over_images(summary: Summary, digits: int = PRINTED) -> Cell:
    """Mean over images with its interval."""
    if summary is None:
        return Cell(text=NOTHING)
    return Cell(text=plain(summary["mean"], digits) + bracket(summary["ci95"], digits), value=summary["mean"])


def difference(value: float | None, digits: int = PRINTED) -> Cell:
    return Cell(text=signed(value, digits), value=value)


def probability(value: float | None) -> Cell:
    return Cell(text=p_text(value), value=value)


# --- text ------------------------------------------------------------------------------------------


def plain(value: float | None, digits: int = PRINTED) -> str:
    """What rounds to zero has no sign."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", MINUS)


def mean_std(mean: float, std: float | None, digits: int = PRINTED) -> str:
    return plain(mean, digits) + ("" if std is None else f" ± {plain(std, digits)}")


def signed(value: float | None, digits: int = PRINTED) -> str:
    """With its sign; what rounds to zero has none."""
    if value is None:
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def bracket(ci95: Sequence[float] | None, digits: int = PRINTED) -> str:
    """`` [low, high]``, empty where the spread is not known."""
    return "" if ci95 is None else f" [{plain(ci95[0], digits)}, {plain(ci95[1], digits)}]"


def p_text(value: float | None) -> str:
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def counted(n: int, thing: str) -> str:
    """1 fold, 5 folds."""
    return f"{n} {thing}{'s' * (n != 1)}"


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def embolden(rows: list[list[Cell]], row: int, column: int) -> None:
    rows[row][column] = replace(rows[row][column], bold=True)
