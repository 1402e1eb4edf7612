"""``lungfast report``: the tables, claims and figures of finished studies, on one page."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "report",
    epilog="Examples: lungfast report runs/paper; lungfast report runs/cv -o cv-report",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write into; by default FOLDER itself.",
)
def command(folder: Path, output: Path | None) -> None:
    """Write report.html, report.md, tables.tex and tables.csv from FOLDER.

    FOLDER is what reproduce wrote, or a single run. Nothing is computed again. A report with masks of real
    X-rays shows images of patients, and says so.
    """
    from lungfast.report.writing import write_report
    from lungfast.studies.reading import read_material

    material = read_material(folder)
    for path in write_report(material, output or folder):
        click.echo(str(path))
    if material.shows_patients:
        click.echo("report.html shows X-rays of patients: pass it on only where you may")
