"""A cache as one portable HDF5 file, and back, byte for byte.

Comes in: a complete cache, or a file that :func:`export_hdf5` wrote. Goes out: the other. The arrays are
plain datasets with one chunk a row and a checksum each (``features``, ``scales``, ``targets``, ``previews``,
``masks/R``), then ``summaries/R`` and ``blobs/NAME``; ``complete.json`` holds every string and setting.
A file is whole or absent; a cache that is not complete goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungfast.errors import CacheError
from lungfast.files import disk_error
from lungfast.frozen import cache_format as fmt
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_format import Completion, Mark
from lungfast.frozen.cache_prepared import PreparedRow, PreparedView
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.fingerprint import FORMAT
from lungfast.frozen.mask_summary import MaskSummary
from lungfast.frozen.stored_features import StoredFeatures
from lungfast.geometry import pack_mask

if TYPE_CHECKING:
    import h5py

Progress = Callable[[int], object]
"""Called with 1 after each row."""


def export_hdf5(
    cache: EmbeddingCache, path: Path, progress: Progress | None = None, *, overwrite: bool = False
) -> None:
    """Write ``cache`` to ``path``, through a temporary sibling. An existing file raises CacheError."""
    import h5py

    if path.exists() and not overwrite:
        raise CacheError(f"{path} exists", fix="choose another name, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(temporary, "w", libver="v110") as file:
            _write(file, cache, progress)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # h5py says RuntimeError where closing finds the disk full
        number = getattr(error, "errno", None)  # in whose words h5py tells places in memory
        raise disk_error(path, OSError(number, os.strerror(number)) if number else error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write(file: h5py.File, cache: EmbeddingCache, progress: Progress | None) -> None:
    manifest, n_rows = cache.completion.manifest, cache.n_rows
    file.attrs["lungfast_format"] = FORMAT
    file["complete.json"] = np.frombuffer(fmt.to_json(cache.completion.as_dict()), np.uint8)
    arrays = {
        "features": (manifest.row_shape, manifest.row_dtype),
        "targets": (manifest.target_shape, np.dtype(np.uint8)),
    }
    if manifest.has_scales:
        arrays["scales"] = ((manifest.spec.channels,), np.dtype(np.float32))
    if manifest.pixels:
        arrays["previews"] = ((manifest.preview_size,) * 2, np.dtype(np.uint8))
    for name, (shape, dtype) in arrays.items():
        file.create_dataset(name, shape=(n_rows, *shape), chunks=(1, *shape), dtype=dtype, fletcher32=True)
    for name in cache.completion.blobs:
        file[f"blobs/{name}"] = np.frombuffer(cache.blob(name), np.uint8)
    for image, mark in enumerate(cache.completion.marks):
        for row in mark.image.rows:
            stored = cache.stored_features([row])
            file["features"][row] = stored.values_VNC.reshape(manifest.row_shape)
            if stored.scales_VC is not None:
                file["scales"][row] = stored.scales_VC[0]
            file["targets"][row] = pack_mask(cache.targets([row])[0])
            file[f"summaries/{row}"] = np.frombuffer(cache.summary_of_row(row).to_bytes(), np.uint8)
        row = mark.row
        if manifest.pixels:
            file["previews"][row] = cache.preview(image)
        packed_SHX = np.stack([cache.packed_mask(image, name) for name in mark.image.structures])
        file.create_dataset(f"masks/{row}", data=packed_SHX, compression="gzip", fletcher32=True)
        if progress:
            progress(1)


def import_hdf5(path: Path, url: str, progress: Progress | None = None) -> None:
    """Make the cache at ``url`` from ``path``; an import that was killed goes on where it stopped.

    CacheError where the file is truncated, damaged or something else, or where ``url`` holds anything other.
    """
    with _opened(path) as file:
        content = fmt.parse_completion(bytes(file["complete.json"][()]), f"{path}:complete.json")
        settings = content.manifest
        with CacheWriter.open(
            url,
            spec=settings.spec,
            fingerprint=replace(settings.fingerprint, data_sha256=None),
            n_images=settings.n_images,
            pixels=settings.pixels,
        ) as writer:
            if not writer.complete:
                _read(file, content, writer, progress)
            found = Completion.of(settings, writer.marks.values(), content.blobs)
            if found != content:
                raise CacheError(f"{url} and {path} differ", found="other data", fix="choose another place")
            writer.finish()


def _read(file: h5py.File, content: Completion, writer: CacheWriter, progress: Progress | None) -> None:
    for name, expected in content.blobs.items():
        blob = file[f"blobs/{name}"][()].tobytes()
        if hashlib.sha256(blob).hexdigest() != expected:
            raise ValueError(f"blob {name} has another hash than when it was written")
        writer.put_blob(name, blob)
    for mark in content.marks:
        if mark.row not in writer.marks:
            _read_row(file, mark, writer)
        if progress:
            progress(1)


def _read_row(file: h5py.File, mark: Mark, writer: CacheWriter) -> None:
    row = mark.row
    packed_SHX = file[f"masks/{row}"][()]
    rows = list(mark.image.rows)
    views = [
        PreparedView(
            target_hX=file["targets"][view],
            summary=MaskSummary.from_bytes(file[f"summaries/{view}"][()].tobytes()),
        )
        for view in rows
    ]
    prepared = PreparedRow.of(
        mark.image,
        views=views,
        preview_SS=file["previews"][row] if "previews" in file else None,
        packed=dict(zip(mark.image.structures, packed_SHX, strict=True)),
    )
    values = file["features"][rows]
    stored = StoredFeatures(
        values.reshape(len(rows), -1, values.shape[-1]),
        file["scales"][rows] if "scales" in file else None,
    )
    writer.put_stored(prepared, stored)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, with h5py's many ways of saying that it is no good turned into one line.

    Errors of writing the cache are LungfastErrors already and pass through.
    """
    import h5py

    if not path.is_file():
        raise CacheError(f"there is no file {path}", fix="write one with: lungfast cache export")
    expected = "a file that lungfast cache export wrote"
    try:
        with h5py.File(path, "r") as file:
            if "lungfast_format" not in file.attrs:
                raise CacheError(f"{path} is not an exported cache", expected=expected)
            yield file
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CacheError(f"{path} is damaged or no HDF5 file", found=str(error), expected=expected) from error
