"""What the cache stores of one image beside its features: made in any thread, before the encoder sees it.

Comes in: a sample with its altered views, the cache's manifest. Goes out: a :class:`PreparedRow`. A view is
to targets and prompts what a sample is, only smaller; native masks and preview are those of the sample alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lungfast.errors import CacheError
from lungfast.frozen import cache_format as fmt
from lungfast.frozen.cache_format import Manifest
from lungfast.frozen.cache_zarr import mask_objects
from lungfast.frozen.mask_summary import MaskSummary, summarise_mask
from lungfast.geometry import Frame, pack_mask, resize_image
from lungfast.records import Bool, EncoderSpec, ImageRecord, Sample, Size, UInt8, View


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedView:
    """One row: its target (packed bits) and what prompts need of its masks."""

    target_hX: UInt8
    summary: MaskSummary

    @classmethod
    def of(cls, masks: Mapping[str, Bool], size: Size, spec: EncoderSpec) -> PreparedView:
        """``size`` is that of the masks; CacheError where there are none."""
        frame = Frame.of(size, spec.input_size, spec.resize)
        union_HW = np.logical_or.reduce([np.asarray(mask, bool) for mask in masks.values()])
        target_hw = frame.target_hw(union_HW, spec.low_size)
        return cls(target_hX=pack_mask(target_hw), summary=summarise_mask(masks))


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRow:
    """All of an image but its features, in stored form; ``masks`` are objects by key, ``views`` its rows."""

    image: ImageRecord
    views: tuple[PreparedView, ...]
    preview_SS: UInt8 | None
    masks: Mapping[str, bytes]
    mask_sha256: tuple[str, ...]

    @classmethod
    def of(
        cls,
        image: ImageRecord,
        *,
        views: Sequence[PreparedView],
        preview_SS: UInt8 | None,
        packed: Mapping[str, UInt8],
    ) -> PreparedRow:
        """``packed`` are the image's structures (H, ceil(W/8)), as :func:`pack_mask` makes them."""
        return cls(
            image=image,
            views=tuple(views),
            preview_SS=preview_SS,
            masks=mask_objects(image.rows[0], np.stack([packed[name] for name in image.structures])),
            mask_sha256=tuple(fmt.mask_hash(packed[name], image.native_size) for name in image.structures),
        )


def prepare_image(
    manifest: Manifest, index: int, sample: Sample, views: Sequence[View], preview_SS: UInt8 | None
) -> PreparedRow:
    """The image at place ``index`` of the listing; its rows lie side by side, the unaltered one first."""
    spec = manifest.spec
    if not sample.masks:
        raise CacheError(f"{sample.id} has no mask", expected="at least one structure")
    _check_views(manifest, sample, views)
    if manifest.pixels and preview_SS is None:
        preview_SS = make_preview(sample.image_HW, spec)
    image = ImageRecord(
        id=sample.id,
        native_size=sample.native_size,
        structures=tuple(sample.masks),
        patient=sample.patient,
        source=sample.source,
        content_sha256=sample.content_sha256,
        label=sample.label,
        spacing_mm=sample.spacing_mm,
        rows=manifest.rows_at(index),
    )
    return PreparedRow.of(
        image,
        views=[
            PreparedView.of(sample.masks, sample.native_size, spec),
            *(PreparedView.of(view.masks, view.mask_size, spec) for view in views),
        ],
        preview_SS=preview_SS,
        packed={name: pack_mask(mask_HW) for name, mask_HW in sample.masks.items()},
    )


def _check_views(manifest: Manifest, sample: Sample, views: Sequence[View]) -> None:
    """As many as the cache holds of every image, each in the frame of the unaltered one."""
    expected = manifest.n_views
    if len(views) != expected - 1:
        raise CacheError(
            f"{sample.id} has another number of views",
            found=str(1 + len(views)),
            expected=f"{expected}, as the cache was begun with",
        )
    input_size, resize = manifest.spec.input_size, manifest.spec.resize
    resized = Frame.of(sample.native_size, input_size, resize).resized_size
    for view in views:
        found = Frame.of(view.size, input_size, resize).resized_size
        if found != resized:
            raise CacheError(
                f"a view of {sample.id} has another shape",
                found=f"{found[0]} x {found[1]} px in the encoder's input",
                expected=f"{resized[0]} x {resized[1]}, as the image itself",
            )


def make_preview(image_HW: UInt8, spec: EncoderSpec) -> UInt8:
    """(S, S) grey at the encoder's input geometry, S = min(512, twice the input size); padding is 0."""
    side = fmt.preview_size(spec.input_size)
    native_size = (int(image_HW.shape[0]), int(image_HW.shape[1]))
    height, width = Frame.of(native_size, side, spec.resize).resized_size
    preview_SS = np.zeros((side, side), np.uint8)
    preview_SS[:height, :width] = resize_image(image_HW, (height, width))
    return preview_SS
