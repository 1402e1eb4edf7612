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
  lungfast cv m.zarr --prompt points --lr 1e-3 --epochs 60 --folds 5 -o runs/cv"""


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
    """Generate chest X-rays, embed them, cross-validate, and say what to type next.

    Needs no download, no GPU and no compiler.
    """
    from lungfast.commands.embed import run_embed
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import run
    from lungfast.data.datasets import list_montgomery
    from lungfast.report.terminal import cv_table
    from lungfast.studies.cv import cross_validate

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty", fix="choose a new folder for -o")
    started = time.monotonic()
    n_images, folds, epochs = (12, 3, 2) if quick else (40, 5, 15)
    click.echo(f"1/3  {n_images} generated chest X-rays with lung masks -> {output}/phantoms")
    _draw(output / "phantoms", n_images, seed)
    click.echo(f"2/3  their embeddings, once -> {output}/m.zarr")
    run_embed(lambda: list_montgomery(output / "phantoms"), _embed_options(output / "m.zarr"))
    click.echo(f"3/3  {folds} folds, each its own decoder, trained at once -> {output}/cv")
    config, options = _cv_options(output / "cv", folds=folds, epochs=epochs, seed=seed)
    content = run(
        "cv", str(output / "m.zarr"), config, options, lambda *given: cross_validate(config, *given)
    )
    console = plain_or_terminal()
    console.print(cv_table(content))
    seconds = time.monotonic() - started
    console.print(f"Done in {seconds:.0f} s. Everything is in {output}/.{NEXT}", soft_wrap=True)


def _draw(folder: Path, n_images: int, seed: int) -> None:
    from lungfast.commands.screen import Screen
    from lungfast.data.phantoms import write_montgomery

    with Screen() as screen:
        screen.phase("drawing", n_images)
        write_montgomery(folder, n_images, seed=seed, progress=screen.advance)


def _embed_options(url: Path) -> dict[str, Any]:
    return {
        "checkpoint": None,
        "batch_size": 1,
        "output": str(url),
        "encoder": "nano",
        "resize": "longest",
        "dtype": "float16",
        "precision": "fp32",
        "device": "auto",
        "pixels": True,
        "fsync": False,
        "overwrite": False,
    }


def _cv_options(output: Path, *, folds: int, epochs: int, seed: int) -> tuple[Any, dict[str, Any]]:
    from lungfast.frozen.prompts import PromptConfig
    from lungfast.studies.cv import CvConfig

    config = CvConfig(prompts=(PromptConfig(kind="points"),), lrs=(1e-3,), folds=folds, seeds=(seed,))
    options = {
        "output": output,
        "epochs": epochs,
        "batch_size": 8,
        "schedule": "onecycle",
        "val_every": 1,
        "patience": 0,
        "keep": "best",
        "device": "auto",
        "precision": "auto",
        "compile_": "off",
        "memory": "auto",
        "save_logits": False,
        "thresholds": "fine",
        "resume": False,
        "overwrite": False,
    }
    return config, options
