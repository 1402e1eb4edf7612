"""``lungfast unet``: a U-Net on the very folds of the decoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands import options as opt
from lungfast.errors import TrainingError, UsageError

if TYPE_CHECKING:
    from lungfast.trained.unet import UnetConfig

OF_THE_PRESET = ("epochs", "batch_size", "lr")


@click.command(
    "unet",
    epilog="Examples: lungfast unet m.zarr -o runs/unet; "
    "lungfast unet m.zarr --size full --against runs/cv -o runs/unet-full",
)
@click.argument("cache")
@click.option(
    "--size",
    default="small",
    show_default=True,
    metavar="small|full|PX",
    help="small: 256 px, for 2 cores; full: 512 px and twice the channels, for a GPU; "
    "a number: small at that many px.",
)
@click.option(
    "--epochs", type=click.IntRange(1), help="Passes over the training images.  [default: the size's]"
)
@click.option("--batch-size", type=click.IntRange(1), help="Images a step.  [default: the size's]")
@click.option("--lr", type=float, help="Peak learning rate.  [default: the size's]")
@click.option("--loss", type=click.Choice(opt.LOSSES), default="dicefocal", show_default=True)
@click.option(
    "--folds", type=click.IntRange(3), default=5, show_default=True, help="Parts of the data, as in cv."
)
@click.option(
    "--split-seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Who is in which fold, as in cv.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="First weights, order of images, augmentation.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="A finished cv run on the same images and folds: adds the paired differences, decoders minus U-Net.",
)
@opt.output
@click.option("--resume", is_flag=True, help="Go on with an unfinished run: finished folds are kept.")
@click.option("--overwrite", is_flag=True, help="Replace the run at -o.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="Training arithmetic; validation and scores are always fp32.",
)
@click.option("--memory", default="auto", show_default=True, help="Memory bound, such as 8GB.")
def command(cache: str, against: Path | None, **options: Any) -> None:
    """Train and test a U-Net (MONAI's) on CACHE's folds, from its previews.

    Folds, scoring at native size, and the choice of epoch and threshold on validation images are those of
    `lungfast cv` with the same --folds and --split-seed.
    """
    from lungfast.commands.screen import Screen, plain_or_terminal
    from lungfast.commands.study import report_where
    from lungfast.compute import parse_memory, resolve_device
    from lungfast.report.terminal import cv_table, fold_table
    from lungfast.studies.session import Request
    from lungfast.studies.unet import UnetStudyConfig, run_unet, unet_settings
    from lungfast.studies.workspace import Workspace

    model = model_from(options)
    request = Request(
        study="unet",
        config=UnetStudyConfig(model=model, folds=options["folds"], split_seed=options["split_seed"]),
        settings=unet_settings(
            model, memory_bytes=parse_memory(options["memory"]), precision=options["precision"]
        ),
        output=options["output"],
        resume=options["resume"],
        overwrite=options["overwrite"],
    )
    workspace = Workspace(cache, device=resolve_device(options["device"]))
    with Screen() as screen:
        content = run_unet(request, workspace, screen, against=against)
    console = plain_or_terminal()
    (row,) = content["rows"]
    console.print(fold_table(row))
    console.print(cv_table(content))
    for line in lines_of(content):
        console.print(line, soft_wrap=True)
    console.print(report_where(options["output"]), soft_wrap=True)
    if row["status"] != "done":
        raise TrainingError("the U-Net of a fold diverged", fix="try a smaller --lr")


def model_from(options: Mapping[str, Any]) -> UnetConfig:
    """A preset or ``small`` at another side length, with what was asked to differ."""
    from dataclasses import replace

    from lungfast.trained.unet import PRESETS

    size = options["size"]
    if size not in PRESETS and not size.isdecimal():
        raise UsageError("--size is unknown", found=size, expected="small, full or a side length in px")
    asked = {name: options[name] for name in OF_THE_PRESET if options[name] is not None}
    if size not in PRESETS:
        asked["size"] = int(size)
    base = PRESETS.get(size, PRESETS["small"])
    return replace(base, loss=options["loss"], seed=options["seed"], **asked)


def lines_of(content: Mapping[str, Any]) -> list[str]:
    """The network, and each paired difference, in a line."""
    from lungfast.report.table import counted

    model = content["rows"][0]["model"]
    lines = [
        f"{model['name']}: {model['size']} px, {model['parameters']:,} parameters, "
        f"{counted(model['epochs'], 'epoch')}, lr {model['lr']:g}, batch {model['batch_size']}"
    ]
    for one in content["comparisons"]:
        interval = "" if one["ci95"] is None else f" [95 % {one['ci95'][0]:+.4f} to {one['ci95'][1]:+.4f}]"
        lines.append(f"{one['name']}: F1 {one['difference']:+.4f}{interval}, n = {one['n']}")
    return lines
