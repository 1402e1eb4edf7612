r"""``tables.tex``: the tables as booktabs, to be ``\input`` into a paper. Neutral tables in, LaTeX out.

Every text is escaped; what Unicode the tables use is spelled out for pdflatex.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lungfast.report.table import MINUS, NOTHING, TIMES, Cell, Table

_ESCAPED = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    MINUS: "$-$",
    TIMES: r"$\times$",
    NOTHING: "--",
    "→": r"$\rightarrow$",
    "†": r"\textsuperscript{\textdagger}",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "\u2009": r"\,",
    "`": r"\textasciigrave{}",
}
_HEAD = r"""% Written by lungfast. In the preamble: \usepackage{booktabs,graphicx,textcomp}
"""


def escape(text: str) -> str:
    """One line of text that LaTeX prints as it stands."""
    return "".join(
        _ESCAPED.get(character, character) for character in " ".join(text.split(" ")).replace("\n", " ")
    )


def latex(tables: Mapping[str, Table]) -> str:
    """Every table with rows; the label is ``tab:`` and its name."""
    return "\n".join([_HEAD, *(_table(name, one) for name, one in tables.items() if one.rows)])


def _table(name: str, one: Table) -> str:
    columns = "".join("r" if one.is_numeric(i) else "l" for i in range(len(one.columns)))
    body = []
    for i, (_, rows) in enumerate(one.groups()):
        body += [r"\addlinespace"] if i else []
        body += [_row(row, is_first=j == 0) for j, row in enumerate(rows)]
    notes = r" \\ ".join(escape(note) for note in one.notes)
    return "\n".join(
        [
            r"\begin{table*}[htbp]",
            r"\centering",
            rf"\caption{{{escape(_unnumbered(one.caption))}}}",
            rf"\label{{tab:{name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _line(map(escape, one.columns)),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\smallskip\begin{minipage}{\linewidth}\footnotesize\raggedright",
            notes,
            r"\end{minipage}",
            r"\end{table*}",
            "",
        ]
    )


def _unnumbered(caption: str) -> str:
    """LaTeX numbers a table itself."""
    return re.sub(r"^Table [IV]+\. ", "", caption)


def _row(row: tuple[Cell, ...], *, is_first: bool) -> str:
    """The group's name stands in its first row alone."""
    return _line([_cell(row[0]) if is_first else "", *map(_cell, row[1:])])


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return rf"\textbf{{{text}}}" if cell.bold else text
