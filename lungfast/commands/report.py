"""``lungfast report``: the tables, claims and figures of finished studies, on one page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click


@click.command(
    "report",
    epilog="Examples: lungfast report runs/paper; lungfast report runs/cv --cache m.zarr -o cv-report",
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder to write into; by default FOLDER itself.",
)
@click.option("--cache", metavar="CACHE", help="Where the cache of a cv run is, if it has moved.")
def command(folder: Path, output: Path | None, cache: str | None) -> None:
    """Write report.html, report.md, tables.tex and tables.csv from FOLDER.

    FOLDER is what reproduce wrote, or a single run. No figure is computed again; the best, median and worst
    masks of a cv run are predicted once, from its cache, and kept in the run. A report with masks of real
    X-rays shows images of patients, and says so.
    """
    from lungfast.report.writing import write_report
    from lungfast.studies.examples import complete_examples
    from lungfast.studies.reading import read_material

    complete_examples(folder, cache=cache, note=partial(click.echo, err=True))
    material = read_material(folder)
    for path in write_report(material, output or folder):
        click.echo(str(path))
    if material.shows_patients:
        click.echo("report.html shows X-rays of patients: pass it on only where you may")
