"""``lungfast robustness``: F1 of finished runs on perturbed films."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands import options as opt

if TYPE_CHECKING:
    from lungfast.records import Listing

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
    help="Where the images lie: montgomery, shenzhen, kaggle or pairs, and the folder given to embed.",
)
@click.option("--masks", type=path, help="The folder of masks, as it was given to embed.")
@click.option("--images", type=click.IntRange(1), default=40, show_default=True, help="Test images, at most.")
@click.option("--checkpoint", type=path, help="The SAM checkpoint that made the embeddings.")
@click.option("--cache", help="Where the runs' cache is, if it has moved.")
@opt.scoring_options
def command(runs: tuple[Path, ...], **options: Any) -> None:
    """F1 of RUNs when films are turned, moved, cut, badly exposed, inverted, noisy, compressed, of 12 bit.

    Films are perturbed at native size and embedded again, into caches inside -o. Every image is judged by
    decoders that did not train on it. All RUNs must come from the same encoder and images: say, one of the
    paper's recipe and one of the best.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import run_scoring
    from lungfast.compute import resolve_device
    from lungfast.report.terminal import robustness_table
    from lungfast.studies.ensemble import run_encoder
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.rescoring import identity
    from lungfast.studies.robustness import RobustnessConfig, Sources, robustness, run_names

    opened = dict(zip(run_names(runs), map(FinishedRun.open, runs), strict=True))
    first = next(iter(opened.values()))
    name, folder = options["source"]
    listing = listing_of(name, Path(folder), options["masks"])
    encoder = run_encoder(first, options["checkpoint"], device=resolve_device(options["device"]))
    config = RobustnessConfig(
        runs=tuple(map(str, runs)),
        results_sha256=tuple(identity(one) for one in opened.values()),
        images=options["images"],
    )
    content = run_scoring(
        "robustness",
        options["cache"] or first.cache_url,
        config,
        options,
        lambda workspace, memory_bytes, listener: robustness(
            config,
            opened,
            workspace,
            Sources(
                listing=listing,
                encoder=encoder,
                batch_size=encoder.usual_batch,
                listener=listener,
                overwrite=options["overwrite"],
            ),
            memory_bytes,
        ),
    )
    console = plain_or_terminal()
    console.print(robustness_table(content))
    console.print(f"results: {options['output']}/results.json", soft_wrap=True)


def listing_of(name: str, folder: Path, masks: Path | None) -> Listing:
    """The dataset, listed as embed lists it; UsageError for a set that is not known."""
    from lungfast.data import datasets
    from lungfast.errors import UsageError

    known = {
        "montgomery": lambda: datasets.list_montgomery(folder),
        "shenzhen": lambda: datasets.list_shenzhen(folder, masks),
        "kaggle": lambda: datasets.list_kaggle(folder),
        "pairs": lambda: datasets.list_pairs(folder, masks or folder, None),
    }
    if name not in known:
        raise UsageError("--from names no set", found=name, expected=", ".join(known))
    if name == "pairs" and masks is None:
        raise UsageError("--from pairs needs --masks", fix="give the folder that embed was given")
    return known[name]()
