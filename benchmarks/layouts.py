"""The same rows of features in other layouts and codecs, read by other libraries: whole, and a few at random.

Comes in: how many rows. Goes out: a table with the bytes on disk and the rates of decoded bytes, from the
page cache and from the disk. tensorstore and zarrs take part where they are installed (extra ``bench``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec, ZstdCodec

from benchmarks.common import medians, not_installed, time_interleaved, told_missing
from benchmarks.disk import drop_pages
from lungfast.data.phantoms import MONTGOMERY, render_phantom
from lungfast.frozen.encoders import load_encoder

PICKED = 8
DISTINCT = 16
SHARD = 32
FILES, FILE, HDF5 = "bare, a file a row", "bare, one file", "HDF5, a chunk a row"
SHARDS = f"Zarr raw, shards of {SHARD} rows"
CODECS: dict[str, Any] = {
    "Zarr raw, a chunk a row": None,
    "Zarr zstd, a chunk a row": ZstdCodec(level=3),
    "Zarr bitshuffle + lz4, a chunk a row": BloscCodec(
        typesize=2, cname="lz4", clevel=5, shuffle="bitshuffle"
    ),
    "Zarr bitshuffle + zstd, a chunk a row": BloscCodec(
        typesize=2, cname="zstd", clevel=3, shuffle="bitshuffle"
    ),
}
"""By layout; a layout's name is that of its file or folder."""
Reader = tuple[Callable[[], object], Callable[[Any], object]]
"""All rows, and some rows by their numbers."""


def nano_rows(n_rows: int, *, quick: bool) -> np.ndarray[Any, Any]:
    """(R, tokens, C) float16: features of generated X-rays, four images a row; 16 rows, repeated."""
    encoder = load_encoder("nano", device=torch.device("cpu"))
    distinct = min(n_rows, 1 if quick else DISTINCT)
    rows = []
    for row in range(distinct):
        films = [render_phantom(MONTGOMERY, 4 * row + i, (512, 424)).image_HW for i in range(4)]
        rows.append(encoder.encode(films).reshape(-1, encoder.spec.channels).astype(np.float16))
    return np.stack([rows[row % distinct] for row in range(n_rows)])


def write_layouts(folder: Path, rows_RNC: np.ndarray[Any, Any]) -> None:
    """Every layout under its own name."""
    n_rows, *shape = rows_RNC.shape
    rows_RNC.tofile(folder / FILE)
    with h5py.File(folder / HDF5, "w") as file:
        file.create_dataset("features", data=rows_RNC, chunks=(1, *shape))
    files = folder / FILES
    files.mkdir()
    for row, features_NC in enumerate(rows_RNC):
        features_NC.tofile(files / str(row))
    for name, codec in CODECS.items():
        _write_zarr(folder / name, rows_RNC, compressors=codec)
    _write_zarr(folder / SHARDS, rows_RNC, compressors=None, shards=(min(SHARD, n_rows), *shape))


def _write_zarr(path: Path, rows_RNC: np.ndarray[Any, Any], **options: Any) -> None:
    array = zarr.create_array(
        str(path), shape=rows_RNC.shape, chunks=(1, *rows_RNC.shape[1:]), dtype="float16", **options
    )
    array[:] = rows_RNC


def plain_readers(folder: Path, rows_RNC: np.ndarray[Any, Any]) -> dict[tuple[str, str], Reader]:
    """numpy on bare files, mapped files, h5py."""
    files, one = folder / FILES, folder / FILE

    def mapped(row: int) -> np.ndarray[Any, Any]:
        return np.array(np.memmap(files / str(row), np.float16, "r"))

    def mapped_one(rows: Any) -> object:
        return np.array(np.memmap(one, np.float16, "r", shape=rows_RNC.shape)[rows])

    def hdf5(rows: Any) -> object:
        with h5py.File(folder / HDF5) as file:
            return file["features"][rows if isinstance(rows, slice) else np.sort(rows)]

    def read(rows: Any) -> object:
        return [np.fromfile(files / str(row), np.float16) for row in rows]

    everything = range(len(rows_RNC))
    return {
        (FILES, "numpy.fromfile"): (lambda: read(everything), read),
        (FILES, "mapped, then copied"): (
            lambda: [mapped(row) for row in everything],
            lambda rows: [mapped(row) for row in rows],
        ),
        (FILE, "mapped, then copied"): (lambda: mapped_one(slice(None)), mapped_one),
        (FILE, "numpy.fromfile"): (lambda: np.fromfile(one, np.float16), mapped_one),
        (HDF5, "h5py"): (lambda: hdf5(slice(None)), hdf5),
    }


def zarr_readers(folder: Path) -> dict[tuple[str, str], Reader]:
    """zarr-python with its own codecs and with those of zarrs, and tensorstore."""
    found: dict[tuple[str, str], Reader] = {}
    for package in ("zarrs", "tensorstore"):
        if not find_spec(package):
            told_missing(f"the reader {package}", not_installed(package))
    for name in (*CODECS, SHARDS):
        path = str(folder / name)
        found[name, "zarr-python"] = _of_zarr(zarr.open_array(path, mode="r"))
        if find_spec("zarrs"):
            with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
                found[name, "zarr-python + zarrs"] = _of_zarr(zarr.open_array(path, mode="r"))
        if find_spec("tensorstore"):
            found[name, "tensorstore"] = _of_tensorstore(path)
    return found


def _of_zarr(array: Any) -> Reader:
    return lambda: array[:], lambda rows: array.oindex[rows]


def _of_tensorstore(path: str) -> Reader:
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    store = tensorstore.open(spec, read=True, open=True).result()
    return lambda: store.read().result(), lambda rows: store[rows].read().result()


def measure(n_rows: int, repeats: int, *, quick: bool) -> list[dict[str, Any]]:
    rows_RNC = nano_rows(n_rows, quick=quick)
    picked = np.random.default_rng(0).choice(n_rows, min(PICKED, n_rows), replace=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_layouts(folder, rows_RNC)
        readers = plain_readers(folder, rows_RNC) | zarr_readers(folder)
        for (layout, reader), (whole, _) in readers.items():
            if not np.array_equal(np.asarray(whole()).ravel(), rows_RNC.ravel()):
                raise SystemExit(f"{layout} by {reader}: other values than were written")
        keys = {" / ".join(key): key for key in readers}
        all_rows = {name: readers[key][0] for name, key in keys.items()}
        few_rows = {name: (lambda key=key: readers[key][1](picked)) for name, key in keys.items()}
        warm = medians(time_interleaved(all_rows, repeats=repeats))
        few = medians(time_interleaved(few_rows, repeats=repeats))
        os.sync()
        cold = medians(
            time_interleaved(all_rows, repeats=repeats, warmup=0, before=lambda: drop_pages(folder))
        )
        sizes = {name: _bytes(folder / layout) for name, (layout, _) in keys.items()}
    return [
        {
            "layout": layout,
            "reader": reader,
            "bytes on disk": round(sizes[name] / rows_RNC.nbytes, 3),
            "GB/s, all rows, page cache": round(rows_RNC.nbytes / warm[name] / 1e9, 2),
            "GB/s, all rows, disk": round(rows_RNC.nbytes / cold[name] / 1e9, 2),
            f"GB/s, {len(picked)} rows, page cache": round(rows_RNC[picked].nbytes / few[name] / 1e9, 2),
        }
        for name, (layout, reader) in keys.items()
    ]


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
