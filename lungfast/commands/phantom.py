"""``lungfast phantom``: generated chest X-rays in the official layouts."""

from __future__ import annotations

from pathlib import Path

import click

from lungfast.errors import UsageError


@click.command(
    "phantom", epilog="Example: lungfast phantom -o phantoms --montgomery 60 --shenzhen 80 --seed 1"
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option("--montgomery", "n_montgomery", type=click.IntRange(0), default=30, show_default=True)
@click.option("--shenzhen", "n_shenzhen", type=click.IntRange(0), default=30, show_default=True)
@click.option(
    "--without-mask",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Shenzhen images without a mask.",
)
@click.option("--size", type=click.IntRange(64), default=512, show_default=True, help="Long side in pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def command(
    output: Path, n_montgomery: int, n_shenzhen: int, without_mask: int, size: int, seed: int
) -> None:
    """Write two different-looking sets of generated chest X-rays with lung masks.

    They stand in the layouts of the official Montgomery and Shenzhen downloads, so that every command can be
    tried without patient data.
    """
    from lungfast.commands.screen import Screen
    from lungfast.data.phantoms import write_montgomery, write_shenzhen
    from lungfast.files import writing

    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is no folder", fix="choose a new folder for -o")
    if output.is_dir() and any(output.iterdir()):
        raise UsageError(f"{output} is not empty", fix="choose a new folder for -o")
    if not n_montgomery + n_shenzhen:
        raise UsageError("there is nothing to draw", found="0 X-rays", fix="give --montgomery or --shenzhen")
    with Screen() as screen, writing(output):
        screen.phase("drawing", n_montgomery + n_shenzhen + without_mask)
        write_montgomery(output, n_montgomery, seed=seed, long_side=size, progress=screen.advance)
        write_shenzhen(
            output,
            n_shenzhen + without_mask,
            seed=seed,
            long_side=size,
            n_without_mask=without_mask,
            progress=screen.advance,
        )
    click.echo(f"lungfast embed montgomery {output} -o m.zarr")
    click.echo(f"lungfast embed shenzhen {output} --masks {output}/shcxr-lung-mask -o s.zarr")
