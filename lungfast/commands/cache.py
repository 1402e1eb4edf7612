"""``lungfast cache``: look at a cache, or carry it as one HDF5 file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


@click.group("cache")
def command() -> None:
    """Look at an embedding cache, or carry it as one HDF5 file."""


@command.command("info", epilog="Example: lungfast cache info m.zarr --json")
@click.argument("cache")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def info(cache: str, *, as_json: bool) -> None:
    """Say what CACHE holds and what it was made with."""
    from lungfast.files import dump_json
    from lungfast.frozen.cache import EmbeddingCache

    content = EmbeddingCache.open(cache).info()
    if as_json:
        click.echo(dump_json(content), nl=False)
        return
    for name, value in content.items():
        if text := _shown(value):
            click.echo(f"{name:>16}  {text}")


def _shown(value: Any) -> str:
    """Lists and counts in words; nothing where there is nothing to say."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {n:,}" for name, n in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@command.command("export", epilog="Example: lungfast cache export m.zarr m.h5")
@click.argument("cache")
@click.argument("file", type=click.Path(path_type=Path))
def export(cache: str, file: Path) -> None:
    """Write CACHE into one portable HDF5 FILE."""
    from lungfast.commands.screen import Screen
    from lungfast.frozen.cache import EmbeddingCache
    from lungfast.frozen.cache_hdf5 import export_hdf5

    opened = EmbeddingCache.open(cache)
    with Screen() as screen:
        screen.phase("exporting", opened.n_rows)
        export_hdf5(opened, file, progress=screen.advance)
    click.echo(f"{file}: {file.stat().st_size / 1e6:.1f} MB, {opened.n_rows} rows")


@command.command("import", epilog="Example: lungfast cache import m.h5 m.zarr")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("cache")
def import_(file: Path, cache: str) -> None:
    """Make CACHE from an HDF5 FILE that `cache export` wrote."""
    from lungfast.commands.screen import Screen
    from lungfast.frozen.cache import EmbeddingCache
    from lungfast.frozen.cache_hdf5 import import_hdf5

    with Screen() as screen:
        screen.phase("importing", 0)
        import_hdf5(file, cache, progress=screen.advance)
    click.echo(f"{cache}: {EmbeddingCache.open(cache).n_rows} rows")
