"""``lungfast embed``: one encoder pass over a dataset, into a cache."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands.options import compose, high_res, recipe

if TYPE_CHECKING:
    from lungfast.commands.screen import Screen
    from lungfast.frozen.encoders import Encoder
    from lungfast.records import Listing
    from lungfast.studies.embed import EmbedReport

SHOWN = 5
"""Names of a list in a note."""
folder = click.Path(path_type=Path)

embed_options = compose(
    click.option("-o", "--output", required=True, help="The cache to write: a path or an fsspec URL."),
    click.option("--checkpoint", type=folder, help="A SAM checkpoint; its type is recognised."),
    click.option(
        "--encoder",
        type=click.Choice(["nano", "vit_b", "vit_l", "vit_h"]),
        help="nano, or a SAM type to be found in $LUNGFAST_WEIGHTS. [default: nano, or the checkpoint's]",
    ),
    click.option(
        "--views",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Rows an image: the film itself and altered views of it, for training.",
    ),
    high_res("Also keep nano's finest feature maps, which decoders may read: twice the disk."),
    recipe,
    click.option(
        "--resize",
        type=click.Choice(["longest", "squash"]),
        default="longest",
        show_default=True,
        help="SAM's own (longest side, padded), or the full square.",
    ),
    click.option(
        "--batch",
        "batch_size",
        type=click.IntRange(1),
        help="Images at once. [default: 8 on a GPU, else 1]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float16", "float32", "int8"]),
        default="float16",
        show_default=True,
        help="How features are stored; int8, with a scale per channel, takes half the disk.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="The encoder's arithmetic; auto: bf16 on a GPU (fp16 where it has no bf16), fp32 on a CPU.",
    ),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …"),
    click.option(
        "--pixels/--no-pixels",
        default=True,
        show_default=True,
        help="Keep a small grey preview of every image.",
    ),
    click.option("--fsync", is_flag=True, help="Also survive a power loss (slower)."),
    click.option("--overwrite", is_flag=True, help="Replace the cache at -o."),
)


@click.group(
    "embed", epilog="Example: lungfast embed montgomery DIR -o m.zarr --checkpoint sam_vit_h_4b8939.pth"
)
def command() -> None:
    """Encode every image of a dataset once with the frozen image encoder.

    An interrupted pass goes on where it stopped when the same command is given again.
    """


@command.command(
    "montgomery",
    short_help="The Montgomery County set.",
    epilog="Example: lungfast embed montgomery NLM-MontgomeryCXRSet -o m.zarr",
)
@click.argument("directory", type=folder)
@embed_options
def montgomery(directory: Path, **options: Any) -> None:
    """The Montgomery County set: MontgomerySet/{CXR_png,ManualMask/leftMask,ManualMask/rightMask}."""
    from lungfast.data.datasets import list_montgomery

    run_embed(lambda: list_montgomery(directory), options)


@command.command(
    "shenzhen",
    short_help="The Shenzhen set.",
    epilog="Example: lungfast embed shenzhen ChinaSet_AllFiles --masks shcxr-lung-mask -o s.zarr",
)
@click.argument("directory", type=folder)
@click.option(
    "--masks", type=folder, help="The folder of *_mask.png; by default it is looked for beside the images."
)
@embed_options
def shenzhen(directory: Path, masks: Path | None, **options: Any) -> None:
    """The Shenzhen set: ChinaSet_AllFiles/CXR_png, and its masks in a folder of their own."""
    from lungfast.data.datasets import list_shenzhen

    run_embed(lambda: list_shenzhen(directory, masks), options)


@command.command(
    "kaggle",
    short_help="Kaggle's merged copy of both sets.",
    epilog="Example: lungfast embed kaggle chest-xray-masks-and-labels -o both.zarr",
)
@click.argument("directory", type=folder)
@embed_options
def kaggle(directory: Path, **options: Any) -> None:
    """Kaggle's merged copy (Lung Segmentation/{CXR_png,masks}); repeated pairs are dropped."""
    from lungfast.data.datasets import list_kaggle

    run_embed(lambda: list_kaggle(directory), options)


@command.command(
    "pairs",
    short_help="Any folder of images and masks.",
    epilog="Example: lungfast embed pairs images --masks masks -o mine.zarr --meta patients.csv",
)
@click.argument("images", type=folder)
@click.option(
    "--masks", type=folder, required=True, help="Masks of the same names, or one folder per structure."
)
@click.option("--meta", type=folder, help="A CSV file with id and any of label, patient, spacing_mm.")
@embed_options
def pairs(images: Path, masks: Path, meta: Path | None, **options: Any) -> None:
    """Any folder of images and masks with the same names (or a _mask suffix)."""
    from lungfast.data.datasets import list_pairs

    run_embed(lambda: list_pairs(images, masks, meta), options)


def run_embed(listing_of: Callable[[], Listing], options: dict[str, Any]) -> None:
    """List, encode, report; exit code 1 when a file had to be skipped."""
    from lungfast.commands.screen import Screen
    from lungfast.studies.embed import EmbedConfig, embed

    listing = listing_of()
    encoder = open_encoder(options)
    config = EmbedConfig(
        url=options["output"],
        dtype=options["dtype"],
        batch_size=options["batch_size"] or encoder.usual_batch,
        pixels=options["pixels"],
        fsync=options["fsync"],
        overwrite=options["overwrite"],
        views=views_from(options),
    )
    with Screen() as screen:
        announce(encoder, listing, screen)
        report = embed(listing, encoder, config, screen)
        tell_left_out(report, config.url, screen)
        tell_negatives(report, screen)
    click.echo(embedded(report, config.url, config.views))
    if report.skipped:
        sys.exit(1)


def views_from(options: dict[str, Any]) -> int:
    """``--views``, else those that ``--recipe`` trains on."""
    from lungfast.commands.study import was_given
    from lungfast.studies.recipes import training_recipe

    if options["recipe"] is None or was_given("views"):
        return int(options["views"])
    return training_recipe(options["recipe"]).views


def high_res_from(options: dict[str, Any]) -> bool:
    """``--high-res``, else what ``--recipe`` reads of an encoder that has them."""
    from lungfast.commands.study import was_given
    from lungfast.frozen.encoders import is_nano
    from lungfast.studies.recipes import training_recipe

    if options["recipe"] is None or was_given("high_res"):
        return bool(options["high_res"])
    recipe = training_recipe(options["recipe"])
    return recipe.high_res and is_nano(options["encoder"], options["checkpoint"])


def open_encoder(options: dict[str, Any]) -> Encoder:
    from lungfast.compute import resolve_device, resolve_encoder_precision
    from lungfast.frozen.encoders import load_encoder

    device = resolve_device(options["device"])
    return load_encoder(
        options["encoder"],
        checkpoint=options["checkpoint"],
        resize=options["resize"],
        device=device,
        precision=resolve_encoder_precision(options["precision"], device),
        high_res=high_res_from(options),
    )


def announce(encoder: Encoder, listing: Listing, screen: Screen) -> None:
    from lungfast.frozen.encoders import nano_notice

    for line in listing.notes:
        screen.note(line)
    if encoder.spec.name == "nano":
        screen.note(nano_notice())


def tell_negatives(report: EmbedReport, screen: Screen) -> None:
    """Which films should be turned round."""
    if n := len(report.negatives):
        screen.note(
            f"{n} image{'s look like negatives' if n > 1 else ' looks like a negative'}, with lungs brighter "
            f"than what surrounds them: {some(report.negatives)}; decoders do better on films "
            "that are turned round"
        )


def some(names: Sequence[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def tell_left_out(report: EmbedReport, url: str, screen: Screen) -> None:
    """Which images of the dataset are not in the cache."""
    if report.duplicates:
        screen.note(f"{report.duplicates} images with repeated pixels were dropped")
    if report.skipped:
        screen.note(f"{len(report.skipped)} images could not be read and were left out:")
        for line in report.skipped:
            screen.note(f"  {line}")
    if report.left_out:
        screen.note(
            f"{len(report.left_out)} images of the dataset are not in {url}: {some(report.left_out)}; they "
            "were unreadable or dropped when it was made; --overwrite embeds again"
        )


def embedded(report: EmbedReport, url: str, views: int) -> str:
    kept = f", {report.already} were there already" if report.already else ""
    each = f", {views} views each" if views > 1 else ""
    return f"{url}: {report.embedded} images embedded{kept}{each}"
