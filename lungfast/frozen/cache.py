"""The frozen encoder's work, read back: features, targets, masks, previews of a complete cache.

Comes in: a path or URL that :class:`lungfast.frozen.cache_writer.CacheWriter` filled. Goes out: arrays. Only
a complete cache opens. A local feature chunk is read straight into the caller's array (8 bits by way of
another), without zarr-python, whose single rows came at 1-6 % of numpy.fromfile's rate; every method may be
called from several threads.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lungfast.errors import CacheError
from lungfast.frozen import cache_format as fmt
from lungfast.frozen.cache_format import Completion
from lungfast.frozen.cache_objects import Objects, is_temporary, open_objects
from lungfast.frozen.cache_zarr import read_masks
from lungfast.frozen.fingerprint import Fingerprint
from lungfast.frozen.mask_summary import MaskSummary
from lungfast.frozen.stored_features import Features, StoredFeatures, read_into
from lungfast.geometry import Frame, unpack_mask
from lungfast.records import Bool, EncoderSpec, ImageRecord, Int64, UInt8

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["EmbeddingCache", "Fingerprint"]

Rows = Int64 | Sequence[int]


class EmbeddingCache:
    """Made by :meth:`open`. ``image`` counts complete images; ``row`` is a place in the arrays.

    They differ where images were skipped: such a row stays a hole and reading it raises CacheError.
    """

    def __init__(self, objects: Objects, completion: Completion) -> None:
        self._objects, self._completion = objects, completion
        self._manifest = completion.manifest
        self._row_of_image = np.array([mark.row for mark in completion.marks], np.int64)
        self._image_of_row = np.full(self.n_rows, -1, np.int64)
        for image, mark in enumerate(completion.marks):
            self._image_of_row[list(mark.image.rows)] = image

    @classmethod
    def open(cls, url: str) -> EmbeddingCache:
        """CacheError where nothing, something else, or an incomplete cache is there."""
        objects = open_objects(url)
        content = objects.get(fmt.COMPLETE)
        if content is None or not fmt.is_cache(objects.get(fmt.ROOT)):
            raise _why_not(objects)
        return cls(objects, fmt.parse_completion(content, f"{objects.url}/{fmt.COMPLETE}"))

    @property
    def url(self) -> str:
        return self._objects.url

    @property
    def completion(self) -> Completion:
        """All that the cache says of itself (for export)."""
        return self._completion

    @property
    def spec(self) -> EncoderSpec:
        return self._manifest.spec

    @property
    def fingerprint(self) -> Fingerprint:
        return self._manifest.fingerprint

    @property
    def n_rows(self) -> int:
        """Length of the arrays, holes included."""
        return self._manifest.n_rows

    @property
    def n_views(self) -> int:
        """Rows an image; the first is the unaltered view."""
        return self._manifest.n_views

    @property
    def has_pixels(self) -> bool:
        return self._manifest.pixels

    @cached_property
    def images(self) -> tuple[ImageRecord, ...]:
        """The complete images, in row order."""
        return tuple(mark.image for mark in self._completion.marks)

    @property
    def feature_dtype(self) -> np.dtype[Any]:
        """As read: float16 for features stored in 8 bits."""
        return self._manifest.feature_dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row's features, as read."""
        return self._manifest.row_bytes

    @property
    def read_bytes(self) -> int:
        """What reading a row takes beside :attr:`row_bytes`: nothing, or its 8 bits."""
        return self._manifest.row_bytes // 2 if self._manifest.has_scales else 0

    def row_of_image(self, image: int) -> int:
        """The row of an image's unaltered view."""
        return int(self._row_of_image[image])

    def image_of_row(self, row: int) -> int:
        self._check_rows(np.array([row]))
        return int(self._image_of_row[row])

    def images_of_rows(self) -> Int64:
        """(rows,) the image of every row, altered views included; -1 at holes."""
        return self._image_of_row.copy()

    # --- rows --------------------------------------------------------------------------------------

    def features(self, rows_B: Rows) -> Features:
        """(B, N, C) of :attr:`feature_dtype`, freshly allocated."""
        out_BNC = np.empty((len(rows_B), self.spec.n_tokens, self.spec.channels), self.feature_dtype)
        self.features_into(rows_B, out_BNC)
        return out_BNC

    def features_into(self, rows_B: Rows, out_BNC: npt.NDArray[Any]) -> None:
        """As :meth:`features`, into a C-contiguous array of that dtype."""
        shape = (len(rows_B), self.spec.n_tokens, self.spec.channels)
        if out_BNC.shape != shape or out_BNC.dtype != self.feature_dtype or not out_BNC.flags.c_contiguous:
            raise ValueError(
                f"features_into needs a C-contiguous {self.feature_dtype} array of shape {shape}"
            )
        if self._manifest.has_scales:
            read_into(self.stored_features(rows_B), out_BNC)
        else:
            self._read("features", rows_B, out_BNC.reshape(len(rows_B), shape[1] * shape[2]).view(np.uint8))

    def stored_features(self, rows_B: Rows) -> StoredFeatures:
        """The same as they lie on the disk."""
        n, spec, manifest = len(rows_B), self.spec, self._manifest
        values_BX = np.empty((n, spec.n_tokens * spec.channels), manifest.row_dtype)
        self._read("features", rows_B, values_BX.view(np.uint8))
        values_BNC = values_BX.reshape(n, spec.n_tokens, spec.channels)
        if not manifest.has_scales:
            return StoredFeatures(values_BNC)
        scales_BC = np.empty((n, spec.channels), "<f4")
        self._read("scales", rows_B, scales_BC.view(np.uint8))
        return StoredFeatures(values_BNC, scales_BC)

    def targets(self, rows_B: Rows) -> Bool:
        """(B, h, w): the low-resolution training targets, False on padding."""
        height, packed = self._manifest.target_shape
        packed_BX = np.empty((len(rows_B), height * packed), np.uint8)
        self._read("targets", rows_B, packed_BX)
        width = self.spec.low_size[1]
        packed_BhX = packed_BX.reshape(len(rows_B), height, packed)
        return np.unpackbits(packed_BhX, axis=-1, count=width).view(np.bool_)

    def _read(self, array: fmt.RowArray, rows_B: Rows, out_BX: UInt8) -> None:
        rows = np.asarray(rows_B, np.int64)
        self._check_rows(rows)
        self._objects.read_into([fmt.row_key(array, row) for row in rows.tolist()], out_BX)

    def _check_rows(self, rows: Int64) -> None:
        outside = (rows < 0) | (rows >= self.n_rows)
        missing = rows[outside] if outside.any() else rows[self._image_of_row[rows] < 0]
        if missing.size:
            raise CacheError(
                f"{self.url} has no row {missing[0]}", expected=f"one of its {len(self.images)} complete rows"
            )

    # --- images ------------------------------------------------------------------------------------

    def packed_mask(self, image: int, structure: str | None = None) -> UInt8:
        """(H, ceil(W/8)) bits as numpy.packbits at native size; the OR of all structures by default.

        What was read is checked against the hash taken when it was written.
        """
        mark = self._completion.marks[image]
        try:
            packed_SHX = read_masks(self._store, mark.row)
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(f"masks/{mark.row}", str(error)) from error
        hashes = tuple(fmt.mask_hash(packed_HX, mark.image.native_size) for packed_HX in packed_SHX)
        if hashes != mark.mask_sha256:
            raise self._damaged(f"masks/{mark.row}", "another hash than when it was written")
        if structure is None:
            return np.asarray(np.bitwise_or.reduce(packed_SHX, axis=0))
        if structure not in mark.image.structures:
            known = ", ".join(mark.image.structures)
            raise CacheError(f"{mark.image.id} has no mask of {structure!r}", found=known)
        return np.asarray(packed_SHX[mark.image.structures.index(structure)])

    def mask(self, image: int, structure: str | None = None) -> Bool:
        """(H, W) at native size."""
        return unpack_mask(self.packed_mask(image, structure), self.images[image].native_size[1])

    def summary(self, image: int) -> MaskSummary:
        """What prompts need of the image's masks; CacheError where it is damaged."""
        return self.summary_of_row(self.row_of_image(image))

    def summary_of_row(self, row: int) -> MaskSummary:
        """The same of any view."""
        key = fmt.summary_key(row)
        try:
            return MaskSummary.from_bytes(self._objects.get(key) or b"")
        except ValueError as error:
            raise self._damaged(key, str(error)) from error

    def preview(self, image: int) -> UInt8:
        """(S, S) grey at the encoder's input geometry, padding 0."""
        if not self.has_pixels:
            raise CacheError(f"{self.url} holds no pixels", fix="run embed again without --no-pixels")
        side = self._manifest.preview_size
        out_BX = np.empty((1, side * side), np.uint8)
        self._read("previews", [self.row_of_image(image)], out_BX)
        return out_BX.reshape(side, side)

    def picture(self, image: int) -> UInt8:
        """The preview without its padding."""
        preview_SS = self.preview(image)
        height, width = Frame.of(
            self.images[image].native_size, len(preview_SS), self.spec.resize
        ).resized_size
        return np.ascontiguousarray(preview_SS[:height, :width])

    def frame(self, image: int) -> Frame:
        """How the image sits in the encoder's input."""
        return Frame.of(self.images[image].native_size, self.spec.input_size, self.spec.resize)

    @cached_property
    def _store(self) -> Store:
        return self._objects.zarr_store()

    # --- the rest ----------------------------------------------------------------------------------

    def blob(self, name: str) -> bytes:
        """Bytes that the writer put beside the rows, such as ``head.safetensors``; checked by their hash."""
        expected = self._completion.blobs.get(name)
        if expected is None:
            known = ", ".join(sorted(self._completion.blobs)) or "none"
            raise CacheError(f"{self.url} has no blob {name}", found=known)
        content = self._objects.get(f"blobs/{name}")
        if content is None or hashlib.sha256(content).hexdigest() != expected:
            raise self._damaged(f"blobs/{name}", "no object" if content is None else "another hash")
        return content

    def _damaged(self, key: str, found: str) -> CacheError:
        return CacheError(
            f"{self.url} is damaged at {key}", found=found, fix="run embed again with --overwrite"
        )

    def info(self) -> dict[str, Any]:
        """What ``lungfast cache info`` says: contents, settings, bytes by kind. Lists every object."""
        parts: Counter[str] = Counter()
        for key, size in self._objects.sizes().items():
            parts[key.partition("/")[0] if "/" in key else "metadata"] += size
        return {
            "url": self.url,
            "images": len(self.images),
            "rows": self.n_rows,
            "patients": len({image.patient for image in self.images}),
            "sources": dict(Counter(image.source for image in self.images)),
            "labels": dict(Counter(image.label or "unknown" for image in self.images)),
            "structures": sorted({name for image in self.images for name in image.structures}),
            "pixels": self.has_pixels,
            "grid": list(self.spec.grid),
            "channels": self.spec.channels,
            "feature_maps": list(self.spec.feature_maps),
            "bytes": sum(parts.values()),
            "bytes_by_kind": dict(sorted(parts.items())),
            "blobs": sorted(self._completion.blobs),
            **self.fingerprint.as_dict(),
        }


def _why_not(objects: Objects) -> CacheError:
    """The reason why a location is not a complete cache."""
    if fmt.is_cache(objects.get(fmt.ROOT)) or objects.held():
        if objects.held():
            return CacheError(f"{objects.url} is being written", fix="wait for embed to finish")
        return CacheError(
            f"{objects.url} is incomplete",
            fix="give the same embed or cache import again: it goes on where it stopped",
        )
    if Path(objects.url).is_file():
        made = "lungfast embed, or of an exported one: lungfast cache import"
        return CacheError(f"{objects.url} is a file, not an embedding cache", fix=f"make one with: {made}")
    if not all(is_temporary(key) for key in objects.sizes()):
        return CacheError(f"{objects.url} is not an embedding cache", fix="make one with: lungfast embed")
    return CacheError(f"there is no embedding cache at {objects.url}", fix="make one with: lungfast embed")
