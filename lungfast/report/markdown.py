"""``report.md``: the summary, the tables and the claims as GitHub's Markdown. Neutral parts in, text out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from lungfast.report.claims import Claim
from lungfast.report.table import Cell, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|&~$])")


def escape(text: str) -> str:
    """Text as text: no markup, no HTML, one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code_or_escape(text: str) -> str:
    """As :func:`escape`, but a command between single backticks stays code."""
    parts = re.split(r"(`lungfast [a-z ]+`)", " ".join(text.split()))
    return "".join(part if i % 2 else _SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


def markdown(
    title: str,
    summary: Sequence[str],
    tables: Mapping[str, Table],
    found: Sequence[Claim],
    notes: Iterable[str],
) -> str:
    parts = [f"# {escape(title)}", "\n".join(f"{i}. {escape(line)}" for i, line in enumerate(summary, 1))]
    parts += ["## The paper's claims", claims_list(found), "## Tables"]
    parts += [table(one) for one in tables.values()]
    lines = [f"* {escape(note)}" for note in notes]
    if lines:
        parts += ["## Chosen by us", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def claims_list(found: Sequence[Claim]) -> str:
    return "\n".join(
        "\n".join(
            [
                f"* **{escape(claim.text)}** ({escape(claim.where)}): **{claim.verdict}**",
                f"  * {escape(claim.rule)}",
                *(f"  * {escape(figure)}" for figure in claim.figures),
            ]
        )
        for claim in found
    )


def table(one: Table) -> str:
    lines = [f"### {escape(one.caption)}", ""]
    if one.columns:
        rules = ["--:" if one.is_numeric(i) else ":--" for i in range(len(one.columns))]
        lines += [_line(map(escape, one.columns)), _line(rules)]
        lines += [_line(map(_cell, row)) for row in one.rows]
        lines.append("")
    return "\n".join([*lines, *(f"* {code_or_escape(note)}" for note in one.notes)])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"**{text}**" if cell.bold else text
