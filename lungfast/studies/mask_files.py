"""A predicted mask as files: a PNG at native size, an overlay to look at, the contour as polygons.

Comes in: an image, its frame, low-resolution logits and their threshold. Goes out: bytes and polygons. The
overlay and the polygons come from the logits, not from the native mask: a film of 4020x4892 is drawn at
1,024 px, and a contour has hundreds of points and not ten thousand steps of one pixel.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from lungfast.geometry import Frame, resize_image
from lungfast.records import Bool, Float32, Float64, UInt8
from lungfast.scored.kernels import predict_mask
from lungfast.scored.quality import logit_of

OVERLAY_SIDE = 1024
TINT, TINT_SHARE, LINE = np.array([0, 150, 255]), 0.25, np.array([255, 200, 0])
SAMPLES = 2
"""Points of a contour's grid per low-resolution pixel: bilinear contours are curved, polygons are not."""
_OUTSIDE = -1e6
_LEAST_AREA = 1.0


def mask_png(mask_HW: Bool) -> bytes:
    """0 and 255, 8 bit."""
    return _png(mask_HW.astype(np.uint8) * np.uint8(255))


def overlay_png(image_HW: UInt8, frame: Frame, logits_hw: Float32, threshold: float) -> bytes:
    """The image with the mask tinted and outlined, its longer side at most 1,024 px."""
    scale = min(1.0, OVERLAY_SIDE / max(image_HW.shape))
    height, width = (max(1, round(side * scale)) for side in image_HW.shape)
    mask_hw = predict_mask(logits_hw, replace(frame, native_size=(height, width)), threshold)
    edge_hw = mask_hw & ~ndimage.binary_erosion(mask_hw, iterations=max(1, round(max(height, width) / 500)))
    picture_hw3 = np.repeat(resize_image(image_HW, (height, width))[..., None], 3, axis=2).astype(np.float32)
    picture_hw3[mask_hw] = (1 - TINT_SHARE) * picture_hw3[mask_hw] + TINT_SHARE * TINT
    picture_hw3[edge_hw] = LINE
    return _png(picture_hw3.round().astype(np.uint8))


def polygons(frame: Frame, logits_hw: Float32, threshold: float) -> list[dict[str, Any]]:
    """Closed outlines ``{hole, points}`` of (x, y) in native pixels from the image's top-left corner.

    They follow the mask to about a pixel of the encoder's input. Regions under one native pixel are left out.
    """
    from contourpy import LineType, contour_generator

    field_yx, y, x = _field(frame, logits_hw - np.float32(logit_of(threshold)))
    lines: Any = contour_generator(x, y, field_yx, line_type=LineType.Separate).lines(0.0)
    height, width = frame.native_size
    found = []
    for line_N2 in lines:
        points_N2 = np.clip(line_N2, 0, (width, height))
        area = _signed_area(points_N2)
        if abs(area) >= _LEAST_AREA:
            # contourpy keeps the higher side on the left, so that only a hole's area is negative
            found.append({"hole": area < 0, "points": points_N2.round(2).tolist()})
    return found


def _field(frame: Frame, logits_hw: Float32) -> tuple[Float64, Float64, Float64]:
    """The bilinear logits on the image, framed by a hair of "outside" so that every outline closes."""
    weights, positions = [], []
    for axis in (0, 1):
        resized, native = frame.resized_size[axis], frame.native_size[axis]
        cell = frame.input_size / logits_hw.shape[axis]
        at = np.linspace(0, resized, max(2, round(SAMPLES * resized / cell) + 1))
        weights.append(_bilinear(at / cell - 0.5, logits_hw.shape[axis]))
        hair = native * 1e-9
        positions.append(np.concatenate([[-hair], at * native / resized, [native + hair]]))
    inner_yx = weights[0] @ logits_hw.astype(np.float64) @ weights[1].T
    return np.pad(inner_yx, 1, constant_values=_OUTSIDE), positions[0], positions[1]


def _bilinear(places_N: Float64, n: int) -> Float64:
    """(N, n) weights of n samples at fractional places; beyond the ends the end counts."""
    places = np.clip(places_N, 0, n - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(n)[None])), np.float64)


def _signed_area(points_N2: Float64) -> float:
    x, y = points_N2.T
    return float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) / 2)


def _png(values: UInt8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()
