"""A report's files: :class:`Material` in, report.html, report.md, tables.tex and tables.csv out, each whole.

The same material gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path

from lungfast.files import write_atomic
from lungfast.report.claims import claims
from lungfast.report.further import further_tables
from lungfast.report.latex import latex
from lungfast.report.markdown import markdown
from lungfast.report.material import Material
from lungfast.report.page import page
from lungfast.report.spreadsheet import spreadsheet
from lungfast.report.summary import summary
from lungfast.report.tables import paper_tables


def write_report(material: Material, out: Path) -> list[Path]:
    """Write the four files into ``out`` and return their paths, the page first."""
    tables, further, found = paper_tables(material), further_tables(material), claims(material)
    lines = summary(material, found)
    every = {**tables, **further}
    chosen = material.recipe.get("chosen_by_us") or ()
    texts = {
        "report.html": page(material, lines, found, tables, further),
        "report.md": markdown(material.title, [*lines, *material.left_out], every, found, chosen),
        "tables.tex": latex(every),
        "tables.csv": spreadsheet(every),
    }
    for name, text in texts.items():
        write_atomic(out / name, text.encode())
    return [out / name for name in texts]
