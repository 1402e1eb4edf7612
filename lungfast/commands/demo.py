"""``lungfast demo``: the whole chain on generated X-rays."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from lungfast.errors import UsageError

NEXT = """
Next, with real X-rays (see the README for where to get them):

  lungfast embed montgomery DIR -o m.zarr                                     # nano, on a laptop
  lungfast embed montgomery DIR -o m.zarr --checkpoint sam_vit_h_4b8939.pth   # SAM, on a GPU
  lungfast grid m.zarr --lr 1e-5,1e-4,1e-3 --wd 0,1e-1,1e-3 -o runs/grid
  lungfast cv m.zarr --prompt points --lr 1e-3 --epochs 60 --folds 5 -o runs/cv
  lungfast reproduce --montgomery m.zarr --shenzhen s.zarr -o runs/paper"""
SETS = ("montgomery", "shenzhen")


@click.command("demo", epilog="Example: lungfast demo -o /tmp/demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("lungfast-demo"),
    show_default=True,
    help="A new or empty folder.",
)
@click.option("--quick", is_flag=True, help="The same chain with fewer images and epochs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(output: Path, seed: int, *, quick: bool) -> None:
    """Generate two sets of chest X-rays, embed them, run the whole paper, and say what to type next.

    Needs no download, no GPU and no compiler.
    """
    from lungfast.commands.embed import run_embed
    from lungfast.commands.reproduce import run_reproduction, show
    from lungfast.commands.screen import Screen
    from lungfast.data.datasets import list_montgomery, list_shenzhen
    from lungfast.report.further import duration

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", fix="choose a new folder for -o")
    started = time.monotonic()
    n_images, epochs = (6, 1) if quick else (14, 4)
    phantoms = output / "phantoms"
    click.echo(f"1/3  two sets of {n_images} generated chest X-rays with lung masks -> {phantoms}")
    _draw(phantoms, n_images, seed)
    click.echo(f"2/3  their embeddings, once -> {output}/m.zarr, {output}/s.zarr")
    run_embed(lambda: list_montgomery(phantoms), _embed_options(output / "m.zarr"))
    run_embed(lambda: list_shenzhen(phantoms, None), _embed_options(output / "s.zarr"))
    click.echo(f"3/3  every table and figure of the paper on them -> {output}/paper")
    caches = {name: str(output / f"{name[0]}.zarr") for name in SETS}
    with Screen() as screen:
        run_reproduction(caches, _reproduce_options(output / "paper", epochs), screen)
    show(output / "paper")
    spent = duration(time.monotonic() - started)
    click.echo(f"Done in {spent}. Open {output}/paper/report.html; everything is in {output}/.{NEXT}")


def _draw(folder: Path, n_images: int, seed: int) -> None:
    from lungfast.commands.screen import Screen
    from lungfast.data.phantoms import write_montgomery, write_shenzhen
    from lungfast.files import writing

    with Screen() as screen, writing(folder):
        screen.phase("drawing", 2 * n_images)
        write_montgomery(folder, n_images, seed=seed, progress=screen.advance)
        write_shenzhen(folder, n_images, seed=seed, progress=screen.advance)


def _embed_options(url: Path) -> dict[str, Any]:
    return {
        "checkpoint": None,
        "batch_size": None,
        "output": str(url),
        "encoder": "nano",
        "resize": "longest",
        "dtype": "float16",
        "precision": "auto",
        "device": "auto",
        "pixels": True,
        "views": 1,
        "high_res": False,
        "recipe": None,
        "fsync": False,
        "overwrite": False,
    }


def _reproduce_options(output: Path, epochs: int) -> dict[str, Any]:
    return {
        "output": output,
        "epochs": {"": epochs},
        "unet_epochs": None,
        "quick": True,
        "seeds": 1,
        "best": False,
        "surface": False,
        "clean": False,
        "checkpoint": None,
        "device": "auto",
        "precision": "auto",
        "compile_": "off",
        "exact": False,
        "memory": "auto",
        "resume": False,
        "overwrite": False,
    }
