"""The part of a cache that zarr-python writes: array metadata, and the compressed native masks.

Comes in: a manifest, packed masks. Goes out: objects by key, for the writer to PUT. zarr-python only ever
writes into memory here, so that how an object reaches the disk (whole, or not at all) is decided in one place
and not by the version of zarr that is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lungfast.frozen.cache_format import ROOT, Manifest
from lungfast.records import UInt8

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

# one flat folder an array: row R of the features is the file features/c.R.0.0.0
_FLAT_KEYS: Any = {"name": "default", "separator": "."}


def skeleton(manifest: Manifest) -> dict[str, bytes]:
    """Root group and array metadata, no data; the root, which makes a folder recognisable, comes first."""
    n_rows, (height, packed_width) = manifest.n_rows, manifest.target_shape

    def build(group: zarr.Group) -> None:
        group.attrs["lungfast"] = manifest.as_dict()
        _rows(group, "features", (n_rows, *manifest.row_shape), manifest.row_dtype, ("row", "Eh", "Ew", "C"))
        if manifest.has_scales:
            _rows(group, "scales", (n_rows, manifest.spec.channels), np.dtype("<f4"), ("row", "C"))
        _rows(group, "targets", (n_rows, height, packed_width), np.dtype("u1"), ("row", "h", "w_bits"))
        if manifest.pixels:
            side = manifest.preview_size
            _rows(group, "previews", (n_rows, side, side), np.dtype("u1"), ("row", "y", "x"))
        group.create_group("masks")

    objects = _staged(build)
    return {ROOT: objects.pop(ROOT), **objects}


def _rows(
    group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], dimensions: tuple[str, ...]
) -> None:
    """One uncompressed chunk a row: zstd saved 8 % of float16 features and cost most of the reading rate."""
    group.create_array(
        name,
        shape=shape,
        chunks=(1, *shape[1:]),
        dtype=dtype,
        compressors=None,
        filters=None,
        fill_value=0,
        chunk_key_encoding=_FLAT_KEYS,
        dimension_names=dimensions,
    )


def mask_objects(row: int, packed_SHX: UInt8) -> dict[str, bytes]:
    """The array ``masks/ROW`` with its chunks, one a structure (zstd: 2.4 MB of bits become about 10 kB)."""
    from zarr.codecs import ZstdCodec

    def build(group: zarr.Group) -> None:
        array = group.create_array(
            f"masks/{row}",
            shape=packed_SHX.shape,
            chunks=(1, *packed_SHX.shape[1:]),
            dtype="u1",
            compressors=ZstdCodec(level=3),
            fill_value=0,
            chunk_key_encoding=_FLAT_KEYS,
            dimension_names=("structure", "H", "W_bits"),
            config={"write_empty_chunks": True},
        )
        array[:] = packed_SHX

    prefix = f"masks/{row}/"
    return {key: content for key, content in _staged(build).items() if key.startswith(prefix)}


def _staged(build: Callable[[zarr.Group], None]) -> dict[str, bytes]:
    import zarr
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    objects: dict[str, Buffer] = {}
    build(zarr.create_group(MemoryStore(objects)))
    return {key: content.to_bytes() for key, content in objects.items()}


def read_masks(store: Store, row: int) -> UInt8:
    """(S, H, ceil(W/8)) of one image; FileNotFoundError or ValueError where it is damaged."""
    import zarr

    array = zarr.open_array(store, path=f"masks/{row}", mode="r")
    return np.asarray(array[:], np.uint8)
