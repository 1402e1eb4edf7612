"""A row of a cache before its features are there: everything that comes from the image and its masks.

Comes in: a sample, or what another cache stored. Goes out: a :class:`PreparedRow`, made in any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lungfast.errors import CacheError
from lungfast.frozen import cache_format as fmt
from lungfast.frozen.cache_zarr import mask_objects
from lungfast.frozen.mask_summary import MaskSummary, summarise_mask
from lungfast.geometry import Frame, pack_mask, resize_image
from lungfast.records import EncoderSpec, ImageRecord, Sample, UInt8


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedRow:
    """All of a row but its features, in stored form; ``masks`` are objects by key."""

    image: ImageRecord
    target_hX: UInt8
    preview_SS: UInt8 | None
    masks: Mapping[str, bytes]
    mask_sha256: tuple[str, ...]
    summary: MaskSummary

    @classmethod
    def of(
        cls,
        image: ImageRecord,
        *,
        target_hX: UInt8,
        preview_SS: UInt8 | None,
        packed: Mapping[str, UInt8],
        summary: MaskSummary,
    ) -> PreparedRow:
        """``packed`` are the image's structures (H, ceil(W/8)), as :func:`pack_mask` makes them."""
        return cls(
            image=image,
            target_hX=target_hX,
            preview_SS=preview_SS,
            masks=mask_objects(image.rows[0], np.stack([packed[name] for name in image.structures])),
            mask_sha256=tuple(fmt.mask_hash(packed[name], image.native_size) for name in image.structures),
            summary=summary,
        )

    @classmethod
    def of_sample(
        cls, index: int, sample: Sample, spec: EncoderSpec, preview_SS: UInt8 | None
    ) -> PreparedRow:
        """Row ``index`` of a cache of ``spec``; CacheError for a sample without a mask."""
        if not sample.masks:
            raise CacheError(f"{sample.id} has no mask", expected="at least one structure")
        frame = Frame.of(sample.native_size, spec.input_size, spec.resize)
        union_HW = np.logical_or.reduce([np.asarray(mask, bool) for mask in sample.masks.values()])
        packed = {name: pack_mask(mask_HW) for name, mask_HW in sample.masks.items()}
        image = ImageRecord(
            id=sample.id,
            native_size=sample.native_size,
            structures=tuple(packed),
            patient=sample.patient,
            source=sample.source,
            content_sha256=sample.content_sha256,
            label=sample.label,
            spacing_mm=sample.spacing_mm,
            rows=(index,),
        )
        return cls.of(
            image,
            target_hX=pack_mask(frame.target_hw(union_HW, spec.low_size)),
            preview_SS=preview_SS,
            packed=packed,
            summary=summarise_mask(sample.masks),
        )


def make_preview(image_HW: UInt8, spec: EncoderSpec) -> UInt8:
    """(S, S) grey at the encoder's input geometry, S = min(512, input size); padding is 0."""
    side = min(fmt.PREVIEW_SIZE, spec.input_size)
    native_size = (int(image_HW.shape[0]), int(image_HW.shape[1]))
    height, width = Frame.of(native_size, side, spec.resize).resized_size
    preview_SS = np.zeros((side, side), np.uint8)
    preview_SS[:height, :width] = resize_image(image_HW, (height, width))
    return preview_SS
