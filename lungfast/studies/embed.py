"""One pass of the frozen encoder over a dataset, into a cache that every other study reads.

Comes in: a :class:`Listing`, an encoder, a destination. Goes out: a complete cache and an account of what was
embedded, skipped or dropped. Decoding, resizing and packing run ahead of the encoder in threads, the encoder
ahead of the writer; an unreadable file costs one row and is reported at the end, never the pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch

from lungfast.data.polarity import looks_negative
from lungfast.data.views import MOST_VIEWS, ViewConfig, make_views
from lungfast.errors import DataError, LungfastError, UsageError
from lungfast.frozen.cache_prepared import PreparedRow
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.encoders import Encoder
from lungfast.frozen.fingerprint import Fingerprint
from lungfast.records import Float32, Listing, SampleRef, UInt8
from lungfast.studies.ahead import in_batches, work_ahead

MASK_SAMPLES = 4
"""Of an altered view's mask, a side of a target's cell."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Where to, in which dtype, how many images at once, and what else to store.

    ``views`` rows an image: the unaltered one, and altered ones as ``altered`` says.
    """

    url: str
    dtype: str = "float16"
    batch_size: int = 1
    pixels: bool = True
    fsync: bool = False
    overwrite: bool = False
    views: int = 1
    altered: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.views <= MOST_VIEWS:
            raise UsageError("--views is out of range", found=str(self.views), expected=f"1 to {MOST_VIEWS}")


@dataclass(kw_only=True)
class EmbedReport:
    """What happened to every image of the listing."""

    embedded: int = 0
    already: int = 0
    duplicates: int = 0
    left_out: list[str] = field(default_factory=list)
    """Images of the listing that a cache completed earlier does not hold."""
    skipped: list[str] = field(default_factory=list)
    """One line per unreadable image."""
    negatives: list[str] = field(default_factory=list)
    """Images whose lungs are brighter than what surrounds them."""


class EmbedListener(Protocol):
    def phase(self, name: str, total: int) -> None: ...

    def advance(self, n: int = 1) -> None: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ready:
    """The views of an image as the encoder takes them, and the rest of its rows."""

    views: tuple[UInt8, ...]
    row: PreparedRow
    negative: bool


def embed(listing: Listing, encoder: Encoder, config: EmbedConfig, listener: EmbedListener) -> EmbedReport:
    """Fill the cache at ``config.url``; resumes an unfinished one of the same settings.

    Raises CacheError (other settings, another writer, non-finite features) or LungfastError (disk full);
    rows that were committed before stay committed.
    """
    report = EmbedReport()
    listener.phase("embedding", len(listing.refs))
    with CacheWriter.open(
        config.url,
        spec=encoder.spec,
        fingerprint=_fingerprint(listing, encoder, config),
        n_images=len(listing.refs),
        pixels=config.pixels,
        fsync=config.fsync,
        overwrite=config.overwrite,
    ) as writer:
        todo = [
            (ref.id, partial(_ready, index, ref, writer, encoder, config))
            for index, ref in enumerate(listing.refs)
            if ref.id not in writer.done
        ]
        report.already = len(listing.refs) - len(todo)
        listener.advance(report.already)
        if writer.complete:
            report.left_out = [name for name, _ in todo]
            return report
        writer.put_blob("head.safetensors", encoder.head)
        seen = set(writer.content_hashes)

        def batches() -> Iterator[tuple[tuple[list[PreparedRow], int], Callable[[], Float32]]]:
            for batch in in_batches(work_ahead(todo), max(1, config.batch_size // config.views)):
                items = [item for _, item in batch]
                usable = _usable(items, seen, report, drop_duplicates=listing.drop_duplicates)
                images = [view for ready in usable for view in ready.views]
                rows = [ready.row for ready in usable]
                yield (rows, len(batch)), partial(_encode, encoder, images, config.batch_size)

        for (rows, n_seen), features_BNC in work_ahead(batches(), threads=1):
            if isinstance(features_BNC, DataError):
                raise features_BNC
            for row, features_VNC in zip(rows, _by_image(features_BNC, config.views), strict=True):
                writer.put(row, features_VNC)
            report.embedded += len(rows)
            listener.advance(n_seen)
        if not (report.embedded or report.already):
            raise DataError("no image could be read", found=report.skipped[0] if report.skipped else "none")
        writer.finish()
    return report


def _fingerprint(listing: Listing, encoder: Encoder, config: EmbedConfig) -> Fingerprint:
    settings = Fingerprint.of(
        encoder.spec,
        dtype=config.dtype,
        compute_dtype=encoder.precision,
        device_class=encoder.device.type,
    )
    scale = _mask_scale(encoder)
    altered = f"{config.altered}, masks x{scale}" if config.views > 1 else ""
    return replace(settings, dataset_listing=_digest(listing), views=config.views, view_settings=altered)


def _digest(listing: Listing) -> str:
    """Another dataset, or other patients, must not pass for the one that the cache was made from."""
    return hashlib.sha256("\n".join(ref.facts for ref in listing.refs).encode()).hexdigest()


def _ready(index: int, ref: SampleRef, writer: CacheWriter, encoder: Encoder, config: EmbedConfig) -> _Ready:
    sample = ref.load()
    image_HW = encoder.prepare(sample.image_HW)
    size = int(image_HW.shape[0]), int(image_HW.shape[1])
    altered = make_views(sample, config.views, size, config.altered, mask_scale=_mask_scale(encoder))
    return _Ready(
        views=(image_HW, *(view.image_HW for view in altered)),
        row=writer.prepare(index, sample, views=altered),
        negative=looks_negative(sample.image_HW, np.logical_or.reduce(list(sample.masks.values()))),
    )


def _mask_scale(encoder: Encoder) -> int:
    """So that a view's mask has at least four samples a side of a target's cell.

    With two, as nano's views have pixels, a third of the cells on a contour are exactly half full, and count
    as empty: chosen thresholds then lay at 0.40.
    """
    return max(1, round(MASK_SAMPLES * encoder.spec.low_size[0] / encoder.spec.input_size))


def _encode(encoder: Encoder, images: Sequence[UInt8], at_once: int) -> Float32:
    """(images, N, C), ``at_once`` of them a pass."""
    if not images:
        return np.empty((0, encoder.spec.n_tokens, encoder.spec.channels), np.float32)
    try:
        starts = range(0, len(images), at_once)
        parts = [encoder.encode(images[i : i + at_once], at_once=at_once) for i in starts]
    except torch.OutOfMemoryError as error:
        raise LungfastError(
            f"the GPU's memory is too small for {min(at_once, len(images))} images at once",
            fix="use --batch 1",
        ) from error
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _by_image(features_BNC: Float32, n_views: int) -> Float32:
    """(images, views, N, C)"""
    return features_BNC.reshape(-1, n_views, *features_BNC.shape[1:])


def _usable(
    batch: Sequence[_Ready | DataError], seen: set[str], report: EmbedReport, *, drop_duplicates: bool
) -> list[_Ready]:
    """The readable images of a batch, without repeated pixels where the source is known to repeat them."""
    usable = []
    for item in batch:
        if isinstance(item, DataError):
            report.skipped.append(str(item))
        elif drop_duplicates and item.row.image.content_sha256 in seen:
            report.duplicates += 1
        else:
            seen.add(item.row.image.content_sha256)
            usable.append(item)
            if item.negative:
                report.negatives.append(item.row.image.id)
    return usable
