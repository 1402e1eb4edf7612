"""``lungfast quality``: calibrate the flag of ``predict``, and say how far it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lungfast.commands import options as opt

path = click.Path(path_type=Path)


@click.command(
    "quality",
    epilog="Examples: lungfast quality runs/cv m.zarr; "
    "lungfast quality runs/cv m.zarr --transfer s.zarr --prompt box-auto",
)
@click.argument("run", type=path)
@click.argument("cache")
@click.option(
    "--transfer", "others", multiple=True, metavar="CACHE", help="Try the flag on this cache too; repeatable."
)
@click.option("--prompt", "key", help="A row of the run's table. [default: the preferred one]")
@click.option(
    "--checkpoint", type=path, help="The SAM checkpoint, for perturbed images, if not in $LUNGFAST_WEIGHTS."
)
@click.option(
    "--perturbed",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Test images to spoil in every way (0: none).",
)
@click.option("--overwrite", is_flag=True, help="Replace a calibration of RUN.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@opt.memory
def command(run: Path, cache: str, others: tuple[str, ...], checkpoint: Path | None, **options: Any) -> None:
    """Write quality.json into RUN, which was trained on CACHE: where predict flags a mask, and how well.

    The cut is chosen on validation images and tried on test images, other caches, and images that are
    inverted, turned, cropped, badly exposed, noisy or blurred. A mask is bad where F1 is below .90. Test
    images of a fold are tried with the cut that the other validation images give.
    """
    from lungfast.commands.screen import Screen, plain_or_terminal
    from lungfast.compute import parse_memory, resolve_device
    from lungfast.studies.judged import QUALITY, require_uncalibrated
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.quality import QualityConfig, calibrate
    from lungfast.studies.workspace import Workspace

    device = resolve_device(options["device"])
    finished = FinishedRun.open(run)
    if not options["overwrite"]:
        require_uncalibrated(finished)
    workspace = Workspace(cache, device=device)
    with Screen() as screen:
        content = calibrate(
            finished,
            workspace,
            QualityConfig(key=options["key"], perturbed=options["perturbed"]),
            others={name_of(url): Workspace(url, device=device) for url in others},
            checkpoint=checkpoint,
            memory_bytes=parse_memory(options["memory"]),
            listener=screen,
        )
    console = plain_or_terminal()
    console.print(table(content))
    console.print(f"{run / QUALITY}: flagged below {content['calibration']['threshold']:.4f}", soft_wrap=True)


def name_of(url: str) -> str:
    return url.rstrip("/").rsplit("/", maxsplit=1)[-1].removesuffix(".zarr")


def table(content: dict[str, Any]) -> Any:
    """Recall and precision of the flag, row by row."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    grid = Table(title=f"the quality flag, prompt {content['key']}", title_justify="left", box=SIMPLE_HEAD)
    for name in ("on", "n", "F1", "bad", "flagged", "recall", "precision", ""):
        grid.add_column(name, justify="left" if name in {"on", ""} else "right", overflow="fold")
    for row in content["rows"]:
        shares = [_share(row[name]) for name in ("recall", "precision")]
        counts = [str(row[name]) for name in ("n_bad", "n_flagged")]
        grid.add_row(row["on"], str(row["n"]), f"{row['f1']:.3f}", *counts, *shares, row["note"])
    return grid


def _share(share: dict[str, Any] | None) -> str:
    if share is None:
        return "-"
    low, high = share["ci95"]
    return f"{share['value']:.2f} [{low:.2f} to {high:.2f}]"
