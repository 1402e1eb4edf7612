"""``lungfast jitter``: how good must a box be?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lungfast.commands import options as opt
from lungfast.commands.lists import Numbers


@click.command("jitter", epilog="Example: lungfast jitter runs/cv --pixels 0,10,40 -o runs/jitter")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--cache", metavar="CACHE", help="Where RUN's cache is, if it has moved.")
@click.option(
    "--pixels",
    type=Numbers(least=0, whole=True),
    default="0,5,10,20,40,80,160",
    show_default=True,
    metavar="LIST",
    help="Largest move of a box's side, in pixels of a 1024-pixel frame.",
)
@opt.scoring_options
def command(run: Path, cache: str | None, pixels: tuple[float, ...], **options: Any) -> None:
    """Test F1 of RUN's box-prompted decoders with boxes that are moved by up to so many pixels.

    Every side moves inward or outward at random, the same for an image in every row.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import run_scoring
    from lungfast.report.terminal import jitter_table
    from lungfast.studies.jitter import JitterConfig, box_jitter
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.rescoring import identity

    finished = FinishedRun.open(run)
    config = JitterConfig(
        run=str(run), results_sha256=identity(finished), pixels=tuple(int(number) for number in pixels)
    )
    content = run_scoring(
        "jitter",
        cache or finished.cache_url,
        config,
        options,
        lambda *given: box_jitter(config, finished, *given),
    )
    console = plain_or_terminal()
    console.print(jitter_table(content))
    console.print(f"results: {options['output']}/results.json", soft_wrap=True)
