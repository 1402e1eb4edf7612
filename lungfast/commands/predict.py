"""``lungfast predict``: a trained model on images without a truth."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands.options import PROMPTS

if TYPE_CHECKING:
    from lungfast.commands.screen import Screen

SHOWN = 10
"""Names listed on the terminal; predictions.csv has all."""
path = click.Path(path_type=Path)


@click.command(
    "predict",
    epilog="Examples: lungfast predict runs/cv films/ -o masks; "
    "lungfast predict runs/cv a.png b.tif -o masks --decoder points; "
    "lungfast predict runs/box films/ -o masks --boxes boxes.csv; "
    "lungfast predict runs/box films/ -o masks --prompt box-auto",
)
@click.argument("run", type=path)
@click.argument("images", type=path, nargs=-1, required=True)
@click.option("-o", "--output", type=path, required=True, help="The folder to write.")
@click.option(
    "--checkpoint",
    type=path,
    help="The SAM checkpoint that made the embeddings, if not in $LUNGFAST_WEIGHTS.",
)
@click.option(
    "--boxes", type=path, help="A CSV file with image,x0,y0,x1,y1 in pixels: boxes for a run that takes them."
)
@click.option(
    "--prompt", type=click.Choice(PROMPTS), help="Another prompt of the same kind, such as box-auto."
)
@click.option(
    "--decoder", help="One decoder, or a row of the table. [default: all folds of the preferred prompt]"
)
@click.option(
    "--test-views",
    type=click.IntRange(1),
    help="Views of every image that are encoded and averaged; fewer are faster. [default: those of the run]",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@click.option(
    "--batch", "batch_size", type=click.IntRange(1), default=1, show_default=True, help="Images at once."
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished pass over the same images.")
@click.option("--overwrite", is_flag=True, help="Replace the results at -o.")
def command(run: Path, images: tuple[Path, ...], device: str, **options: Any) -> None:
    """Segment IMAGES (files or folders: PNG, JPEG, TIFF) with the decoders of RUN.

    All folds vote as an ensemble. Writes masks, overlays, contours and predictions.csv, with the areas of
    both lungs and a flag for masks that someone should look at. A file that cannot be read is skipped and
    listed at the end (exit code 1). In a standard film the patient's right lung is on the image's left.
    """
    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device
    from lungfast.studies.predict import Request, predict

    request = Request(run=run, images=images, **options)
    with Screen() as screen:
        content = predict(request, device=resolve_device(device), listener=screen)
        report(content, screen)
    if content["rows"]:
        click.echo(f"masks, overlays, contours and predictions.csv: {request.output}")
    if content["skipped"]:
        sys.exit(1)


def report(content: Mapping[str, Any], screen: Screen) -> None:
    """How many, which to look at, which were skipped."""
    from lungfast.studies.judged import LOOK, UNKNOWN

    flagged = [row for row in content["rows"] if row["flag"] == LOOK]
    unknown = any(row["flag"] == UNKNOWN for row in content["rows"])
    screen.note(
        f"{_images(len(content['rows']))} segmented, {len(flagged)} to look at"
        + (" by plain rules; the quality of the others was not judged" if unknown else "")
    )
    for row in flagged[:SHOWN]:
        screen.note(f"  {row['image']}: {row['note']}")
    if len(flagged) > SHOWN:
        screen.note(f"  … and {len(flagged) - SHOWN} more")
    skipped = content["skipped"]
    if skipped:
        screen.note(f"{_images(len(skipped))} {'was' if len(skipped) == 1 else 'were'} skipped:")
        for line in skipped:
            screen.note(f"  {line}")


def _images(n: int) -> str:
    return f"{n} image{'s' * (n != 1)}"
