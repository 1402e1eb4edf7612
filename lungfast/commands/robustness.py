"""``lungfast robustness``: F1 of finished runs on perturbed films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands import options as opt
from lungfast.commands.lists import not_an_option

if TYPE_CHECKING:
    from lungfast.studies.fitting import Listener
    from lungfast.studies.session import ScoreBody
    from lungfast.studies.workspace import Workspace

path = click.Path(path_type=Path)


@click.command(
    "robustness",
    epilog="Example: lungfast robustness runs/paper runs/best --from montgomery DIR -o runs/robustness",
)
@click.argument("runs", type=path, nargs=-1, required=True)
@click.option(
    "--from",
    "source",
    nargs=2,
    required=True,
    metavar="SET DIR",
    callback=not_an_option,
    help="Where the images lie: montgomery, shenzhen, kaggle or pairs, and the folder given to embed.",
)
@click.option("--masks", type=path, help="The folder of masks, as it was given to embed.")
@click.option("--images", type=click.IntRange(1), default=40, show_default=True, help="Test images, at most.")
@click.option("--checkpoint", type=path, help="The SAM checkpoint that made the embeddings.")
@click.option("--cache", help="Where the runs' cache is, if it has moved.")
@opt.scoring_options
def command(runs: tuple[Path, ...], **options: Any) -> None:
    """F1 of RUNs when films are turned, moved, cut, badly exposed, inverted, noisy, compressed, of 16 bit.

    Films are perturbed at native size and embedded again, into caches inside -o. Every image is judged by
    decoders that did not train on it. All RUNs must come from the same encoder and images: say, one of the
    paper's recipe and one of the best.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import run_scoring
    from lungfast.data.datasets import list_set
    from lungfast.report.terminal import robustness_table
    from lungfast.studies.robustness import RobustnessConfig, Sources, most_asking, opened_by_name, robustness

    opened = opened_by_name(runs)
    widest = most_asking(opened.values())
    name, folder = options["source"]
    listing = list_set(name, Path(folder), options["masks"])
    config = RobustnessConfig.of(opened, images=options["images"])

    def body_of(workspace: Workspace, memory_bytes: int, listener: Listener) -> ScoreBody:
        sources = Sources.of(
            widest,
            listing,
            device=workspace.device,
            listener=listener,
            checkpoint=options["checkpoint"],
            overwrite=options["overwrite"],
        )
        return robustness(config, opened, workspace, sources, memory_bytes)

    content = run_scoring("robustness", options["cache"] or widest.cache_url, config, options, body_of)
    console = plain_or_terminal()
    console.print(robustness_table(content))
    console.print(f"results: {options['output']}/results.json", soft_wrap=True)
