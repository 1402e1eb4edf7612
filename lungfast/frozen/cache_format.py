"""What a cache looks like on disk: its keys and its JSON.

    zarr.json            root group; attributes hold the Manifest (written first: it marks the folder as ours)
    features/c.R.0.0.0   row R: (Eh, Ew, C), little-endian, uncompressed: the file *is* the array
    scales/c.R.0         row R: (C,) float32, the size of a step of its features (in 8 bits alone)
    targets/c.R.0.0      row R: (h, ceil(w/8)) bits packed as numpy.packbits, uncompressed
    previews/c.R.0.0     row R: (S, S) grey at the encoder's input geometry (absent without pixels)
    masks/R/             a Zarr array (structures, H, ceil(W/8)) of packed bits, compressed
    summaries/R.bin      what prompts need of row R's masks (mask_summary.py)
    marks/R.json         what is known of row R's image; its rows count by this object alone
    blobs/NAME           bytes that travel with the cache (SAM's prompt encoder and initial decoder)
    complete.json        the manifest, every mark, the blobs' hashes; written last

The V views of image i are the rows i*V to i*V + V-1, the unaltered one first; previews, masks and marks stand
at that first row. Strings are JSON: Zarr's variable-length dtypes have no stable specification yet.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from lungfast.errors import CacheError
from lungfast.frozen.fingerprint import Fingerprint, tuples
from lungfast.frozen.stored_features import INT8, handed_out
from lungfast.records import EncoderSpec, ImageRecord, Size, UInt8

T = TypeVar("T")

ROOT, COMPLETE = "zarr.json", "complete.json"
PREVIEW_SIZE = 512
RowArray = Literal["features", "scales", "targets", "previews"]
_AXES: Mapping[RowArray, int] = {"features": 3, "scales": 1, "targets": 2, "previews": 2}
_ROW_OF_KEY = re.compile(r"(?:(?:features|scales|targets|previews)/c\.|masks/|summaries/)(\d+)[./]")
_OURS = re.compile(
    r"zarr\.json|complete\.json|(features|scales|targets|previews|masks|summaries|marks|blobs)/.*"
)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The settings of a cache, fixed when it is created."""

    fingerprint: Fingerprint
    spec: EncoderSpec
    n_rows: int
    pixels: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        return cls(
            fingerprint=Fingerprint.from_json(content["fingerprint"]),
            spec=EncoderSpec(**tuples(content["spec"])),
            n_rows=int(content["n_rows"]),
            pixels=bool(content["pixels"]),
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def difference(self, other: Manifest) -> str:
        """As :meth:`Fingerprint.difference`, then the rows, the pixels, what the encoder gives."""
        if found := self.fingerprint.difference(other.fingerprint):
            return found
        for name in ("n_rows", "pixels"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)!r} against {getattr(other, name)!r}"
        if self.spec.has_high_res != other.spec.has_high_res:
            return " against ".join(
                "high-resolution features (--high-res)" if spec.has_high_res else "none (--no-high-res)"
                for spec in (self.spec, other.spec)
            )
        mine, theirs = asdict(self.spec), asdict(other.spec)
        differing = [name for name in mine if mine[name] != theirs[name]]
        return "".join(f"{name} {mine[name]} against {theirs[name]}" for name in differing[:1])

    @property
    def n_views(self) -> int:
        return self.fingerprint.views

    @property
    def n_images(self) -> int:
        """Length of the listing, holes included."""
        return self.n_rows // self.n_views

    def rows_at(self, index: int) -> tuple[int, ...]:
        """The rows of the image at a place of the listing."""
        return tuple(range(index * self.n_views, (index + 1) * self.n_views))

    def first_row(self, row: int) -> int:
        """The row of the unaltered view of the same image."""
        return row - row % self.n_views

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """(Eh, Ew, C)."""
        return (*self.spec.grid, self.spec.channels)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """As stored."""
        return np.dtype(self.fingerprint.dtype).newbyteorder("<")

    @property
    def feature_dtype(self) -> np.dtype[Any]:
        """As read."""
        return handed_out(self.fingerprint.dtype)

    @property
    def has_scales(self) -> bool:
        return self.fingerprint.dtype == INT8

    @property
    def row_bytes(self) -> int:
        """Of a row as read."""
        return int(np.prod(self.row_shape)) * self.feature_dtype.itemsize

    @property
    def target_shape(self) -> Size:
        """(h, ceil(w/8)): packed."""
        height, width = self.spec.low_size
        return height, packed_width(width)

    @property
    def preview_size(self) -> int:
        return preview_size(self.spec.input_size)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What stands in ``marks/R.json``: the image, and the hash of each of its packed masks."""

    image: ImageRecord
    mask_sha256: tuple[str, ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Mark:
        return cls(image=ImageRecord(**tuples(content["image"])), mask_sha256=tuple(content["mask_sha256"]))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def row(self) -> int:
        return self.image.rows[0]


def _fold_facts(image: ImageRecord) -> tuple[str, ...]:
    return image.id, image.content_sha256, image.patient, image.source, image.label or ""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """What stands in ``complete.json``; ``marks`` are in row order."""

    manifest: Manifest
    marks: tuple[Mark, ...]
    blobs: Mapping[str, str]

    @classmethod
    def of(cls, manifest: Manifest, marks: Iterable[Mark], blobs: Mapping[str, str]) -> Completion:
        """Adds the data's hash to the fingerprint: pixels, masks and what decides the folds."""
        ordered = tuple(sorted(marks, key=lambda mark: mark.row))
        facts = sorted((*_fold_facts(mark.image), mark.mask_sha256) for mark in ordered)
        known = replace(manifest.fingerprint, data_sha256=hashlib.sha256(to_json(facts)).hexdigest())
        return cls(manifest=replace(manifest, fingerprint=known), marks=ordered, blobs=dict(blobs))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Completion:
        manifest = Manifest.from_json(content["manifest"])
        marks = tuple(Mark.from_json(mark) for mark in content["marks"])
        for mark in marks:
            rows = mark.image.rows
            if len(rows) != manifest.n_views or not 0 <= min(rows) <= max(rows) < manifest.n_rows:
                raise ValueError(f"rows {rows} of {mark.image.id}, of {manifest.n_rows}")
        return cls(manifest=manifest, marks=marks, blobs=dict(content["blobs"]))

    def as_dict(self) -> dict[str, Any]:
        return {
            "manifest": self.manifest.as_dict(),
            "marks": [mark.as_dict() for mark in self.marks],
            "blobs": self.blobs,
        }


def to_json(content: Any) -> bytes:
    """One line of strict ASCII JSON (a file name that is no valid Unicode survives as an escape)."""
    return json.dumps(content, allow_nan=False, sort_keys=True).encode() + b"\n"


def parse_json(content: bytes, where: str) -> Any:
    """CacheError where the bytes are no JSON object."""
    try:
        found = json.loads(content)
    except ValueError as error:
        raise CacheError(f"{where} is damaged", found=str(error), expected="JSON") from None
    if not isinstance(found, dict):
        raise CacheError(f"{where} is damaged", found=type(found).__name__, expected="a JSON object")
    return found


def is_cache(root: bytes | None) -> bool:
    """True for a root ``zarr.json`` that lungfast wrote, in whatever format."""
    try:
        return "lungfast" in parse_json(root or b"", "")["attributes"]
    except (CacheError, KeyError, TypeError):
        return False


def parse_manifest(root: bytes, where: str) -> Manifest:
    """The manifest in a root ``zarr.json`` that :func:`is_cache`."""
    return _read(Manifest.from_json, parse_json(root, where)["attributes"]["lungfast"], where)


def parse_completion(content: bytes, where: str) -> Completion:
    return _read(Completion.from_json, parse_json(content, where), where)


def parse_mark(content: bytes, where: str) -> Mark:
    return _read(Mark.from_json, parse_json(content, where), where)


def _read(read: Callable[[Any], T], content: Any, where: str) -> T:
    """CacheError where the fields are not what they should be, or are those of another lungfast."""
    try:
        return read(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"{where} is damaged", found=f"{type(error).__name__} {error}") from None


def row_key(array: RowArray, row: int) -> str:
    return f"{array}/c.{row}" + ".0" * _AXES[array]


def summary_key(row: int) -> str:
    return f"summaries/{row}.bin"


def mark_key(row: int) -> str:
    return f"marks/{row}.json"


def row_of_key(key: str) -> int | None:
    """The row a data object belongs to; None for marks, metadata, blobs and anything else."""
    match = _ROW_OF_KEY.match(key)
    return int(match.group(1)) if match else None


def is_ours(key: str) -> bool:
    """True for a key that a cache may hold."""
    return _OURS.fullmatch(key) is not None


def preview_size(input_size: int) -> int:
    """Side of a preview in px: twice the input (nano's 256 px are too few to look at), at most 512."""
    return min(PREVIEW_SIZE, 2 * input_size)


def packed_width(width: int) -> int:
    return -(-width // 8)


def mask_hash(packed_HX: UInt8, native_size: Size) -> str:
    return hashlib.sha256(f"{native_size}".encode() + packed_HX.tobytes()).hexdigest()
