"""The one way into a cache: rows that count only once their mark stands, and a completion mark at the end.

Comes in: samples with their features, in any order, from one writer at a time. Goes out: a folder (or fsspec
location) laid out as :mod:`lungfast.frozen.cache_format` says. A writer that dies at any point leaves marked
rows that are whole and leftovers that nobody counts; the next one with the same settings goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from lungfast.errors import CacheError
from lungfast.frozen import cache_format as fmt
from lungfast.frozen.cache_format import Completion, Manifest, Mark
from lungfast.frozen.cache_objects import Objects, is_temporary, open_objects
from lungfast.frozen.cache_prepared import PreparedRow, prepare_image
from lungfast.frozen.cache_zarr import skeleton
from lungfast.frozen.fingerprint import Fingerprint
from lungfast.frozen.stored_features import Features, StoredFeatures, store
from lungfast.records import EncoderSpec, Sample, UInt8, View


class CacheWriter:
    """Made by :meth:`open`, which holds the lock of a local folder for its life."""

    def __init__(self, objects: Objects, manifest: Manifest) -> None:
        self._objects, self._manifest = objects, manifest
        self._marks: dict[int, Mark] = {}
        self._ids: set[str] = set()
        self._completion: Completion | None = None

    @classmethod
    @contextmanager
    def open(
        cls,
        url: str,
        *,
        spec: EncoderSpec,
        fingerprint: Fingerprint,
        n_images: int,
        pixels: bool = True,
        fsync: bool = False,
        overwrite: bool = False,
    ) -> Iterator[CacheWriter]:
        """Create a cache, or go on with an unfinished one of the same settings.

        ``n_images`` is the length of the listing, skipped images included; ``fingerprint.views`` the rows of
        each. Raises CacheError where something
        else is there (``overwrite`` removes a cache, and only a cache) and LungfastError where another
        process writes, naming its pid, or the disk refuses.
        """
        objects = open_objects(url, fsync=fsync)
        manifest = Manifest(
            fingerprint=fingerprint, spec=spec, n_rows=n_images * fingerprint.views, pixels=pixels
        )
        _refuse_foreign(objects)  # before the lock too: nothing is left in a folder that is not ours
        with objects.hold():
            _refuse_foreign(objects)
            if overwrite:
                _clear(objects)
            writer = cls(objects, manifest)
            writer._begin()
            yield writer

    @property
    def complete(self) -> bool:
        """True where the cache was finished, now or before: there is nothing to add."""
        return self._completion is not None

    @property
    def marks(self) -> Mapping[int, Mark]:
        """What counts so far, by row."""
        return self._marks

    @property
    def done(self) -> frozenset[str]:
        """Ids of the images that count."""
        return frozenset(self._ids)

    @property
    def content_hashes(self) -> frozenset[str]:
        """Hashes of the decoded pixels of the images that count."""
        return frozenset(mark.image.content_sha256 for mark in self._marks.values())

    def _begin(self) -> None:
        root = self._objects.get(fmt.ROOT)
        if root is not None:
            self._refuse_other_settings(fmt.parse_manifest(root, f"{self._objects.url}/{fmt.ROOT}"))
        content = self._objects.get(fmt.COMPLETE)
        if content is not None:
            self._completion = fmt.parse_completion(content, f"{self._objects.url}/{fmt.COMPLETE}")
            for mark in self._completion.marks:
                self._remember(mark)
            return
        for key, metadata in skeleton(self._manifest).items():
            self._objects.put(key, metadata)
        self._read_marks()
        self._remove_leftovers()

    def _remember(self, mark: Mark) -> None:
        self._marks[mark.row] = mark
        self._ids.add(mark.image.id)

    def _refuse_other_settings(self, known: Manifest) -> None:
        differs = known.difference(self._manifest)
        if differs:
            raise CacheError(
                f"{self._objects.url} was made with other settings",
                found=differs,
                fix="choose another place for the cache, or embed with --overwrite",
            )

    def _read_marks(self) -> None:
        for key in self._objects.sizes():
            if key.startswith("marks/") and not is_temporary(key):
                mark = fmt.parse_mark(self._objects.get(key) or b"", f"{self._objects.url}/{key}")
                self._remember(mark)

    def _remove_leftovers(self) -> None:
        """What a killed writer left: objects of rows without a mark, temporary files."""
        leftovers = []
        for key in self._objects.sizes():
            row = fmt.row_of_key(key)
            if is_temporary(key) or (row is not None and self._manifest.first_row(row) not in self._marks):
                leftovers.append(key)
        self._objects.delete(leftovers)

    def add(self, index: int, sample: Sample, features_NC: Features, preview_SS: UInt8 | None = None) -> None:
        """Store one image of a cache without altered views: :meth:`prepare` and :meth:`put`."""
        self.put(self.prepare(index, sample, preview_SS), features_NC[None])

    def prepare(
        self, index: int, sample: Sample, preview_SS: UInt8 | None = None, *, views: Sequence[View] = ()
    ) -> PreparedRow:
        """What the image at ``index`` (its place in the listing) stores beside features; in any thread.

        ``preview_SS`` None: made from the sample. ``views`` are the altered ones alone.
        """
        return prepare_image(self._manifest, index, sample, views, preview_SS)

    def put(self, prepared: PreparedRow, features_VNC: Features) -> None:
        """Store all rows of an image; they count once its mark stands.

        ``features_VNC`` are the encoder's tokens of its views, row-major over (Eh, Ew), stored in the
        fingerprint's dtype; values that are not finite there raise CacheError.
        """
        self.put_stored(prepared, self._stored(prepared.image.id, features_VNC))

    def put_stored(self, prepared: PreparedRow, stored: StoredFeatures) -> None:
        """As :meth:`put`, of features that lie in the fingerprint's dtype already (for import).

        CacheError where their shapes or dtype are not this cache's, or they are not finite.
        """
        self._check_stored(prepared.image.id, stored)
        mark = Mark(image=prepared.image, mask_sha256=prepared.mask_sha256)
        self._refuse_collision(mark)
        put, manifest = self._objects.put, self._manifest
        for v, (row, view) in enumerate(zip(prepared.image.rows, prepared.views, strict=True)):
            put(fmt.row_key("features", row), stored.values_VNC[v].tobytes())
            if stored.scales_VC is not None:
                put(fmt.row_key("scales", row), stored.scales_VC[v].tobytes())
            put(fmt.row_key("targets", row), _checked_bytes(view.target_hX, manifest.target_shape, "target"))
            put(fmt.summary_key(row), view.summary.to_bytes())
        if manifest.pixels and prepared.preview_SS is not None:
            shape = (manifest.preview_size,) * 2
            put(fmt.row_key("previews", mark.row), _checked_bytes(prepared.preview_SS, shape, "preview"))
        for key, content in prepared.masks.items():
            put(key, content)
        put(fmt.mark_key(mark.row), fmt.to_json(mark.as_dict()))
        self._remember(mark)

    def _stored(self, sample_id: str, features_VNC: Features) -> StoredFeatures:
        spec, dtype = self._manifest.spec, self._manifest.fingerprint.dtype
        shape = (self._manifest.n_views, spec.n_tokens, spec.channels)
        if np.size(features_VNC) != np.prod(shape):
            raise CacheError(
                f"the features of {sample_id} have another shape",
                found=str(np.shape(features_VNC)),
                expected=str(shape),
            )
        stored = store(features_VNC.reshape(shape), dtype)
        if not stored.is_finite:
            fits = bool(np.isfinite(features_VNC).all())
            raise CacheError(
                f"the features of {sample_id} are not finite in {dtype}",
                found=f"up to {np.abs(features_VNC).max():.4g}"
                if fits
                else "NaN or infinity from the encoder",
                fix="use --dtype float32" if fits else "check the weights and --precision",
            )
        return stored

    def _check_stored(self, sample_id: str, stored: StoredFeatures) -> None:
        manifest, spec, scales_VC = self._manifest, self._manifest.spec, stored.scales_VC
        found = (
            stored.values_VNC.dtype,
            stored.values_VNC.shape,
            None if scales_VC is None else scales_VC.shape,
        )
        shape = (manifest.n_views, spec.n_tokens, spec.channels)
        expected = (manifest.row_dtype, shape, (shape[0], shape[2]) if manifest.has_scales else None)
        if found != expected or not stored.is_finite:
            raise CacheError(
                f"the stored features of {sample_id} are not this cache's",
                found="numbers that are not finite" if found == expected else _in_words(*found),
                expected=_in_words(*expected),
            )

    def _refuse_collision(self, mark: Mark) -> None:
        if self.complete:
            raise CacheError(f"{self._objects.url} is complete", fix="choose another -o, or --overwrite")
        taken = self._marks.get(mark.row)
        if not 0 <= mark.row < self._manifest.n_rows or taken is not None or mark.image.id in self._ids:
            raise CacheError(
                f"row {mark.row} of {self._objects.url} cannot take {mark.image.id}",
                found=f"{taken.image.id} there" if taken else "the id, or the row, beyond the listing",
                expected="the listing that the cache was begun with",
                fix="if the images changed, use --overwrite",
            )

    def put_blob(self, name: str, content: bytes) -> None:
        """Bytes that travel with the cache, before :meth:`finish`; a blob of the same name is replaced."""
        if not self.complete:
            self._objects.put(f"blobs/{name}", content)

    def finish(self) -> None:
        """Write the completion mark; rows that were never added stay holes."""
        if self.complete:
            return
        if not self._marks:
            raise CacheError(f"{self._objects.url} would be empty", found="no image", expected="at least one")
        blobs = {}
        for key in self._objects.sizes():
            if key.startswith("blobs/") and not is_temporary(key):
                content = self._objects.get(key) or b""
                blobs[key.removeprefix("blobs/")] = hashlib.sha256(content).hexdigest()
        completion = Completion.of(self._manifest, self._marks.values(), blobs)
        self._objects.put(fmt.COMPLETE, fmt.to_json(completion.as_dict()))
        self._completion = completion


def _in_words(dtype: np.dtype[Any], shape: tuple[int, ...], scales: tuple[int, ...] | None) -> str:
    return f"{dtype} {shape}" + (f" with scales {scales}" if scales else "")


def _checked_bytes(array: UInt8, shape: tuple[int, ...], name: str) -> bytes:
    if array.shape != shape:
        raise CacheError(
            f"the {name} of a row has another shape", found=str(array.shape), expected=str(shape)
        )
    return array.tobytes()


def _refuse_foreign(objects: Objects) -> None:
    """CacheError where something lies that is not a cache, not even the beginning of one."""
    if fmt.is_cache(objects.get(fmt.ROOT)):
        return
    others = sorted(key for key in objects.sizes() if not is_temporary(key))
    if others:
        raise CacheError(
            f"{objects.url} is not an embedding cache",
            found=f"{len(others)} other files, such as {others[0]}",
            fix="choose another -o",
        )


def _clear(objects: Objects) -> None:
    """Remove a cache: what makes it count first, what makes it recognisable last, other files never."""
    order = (fmt.COMPLETE, "marks/", "", fmt.ROOT)
    keys = {key for key in objects.sizes() if fmt.is_ours(key) or is_temporary(key)}
    for prefix in order:
        now = {key for key in keys if key.startswith(prefix) and (prefix or key != fmt.ROOT)}
        objects.delete(sorted(now))
        keys -= now
