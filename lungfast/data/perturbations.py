"""X-rays as they should not be: inverted, turned, cut off, badly exposed, noisy, compressed, blurred.

Comes in: an 8-bit image and its mask. Goes out: both as the perturbed film would show them. They are what a
quality flag is tried on; each is deterministic in the image and a seed. Distances are shares of the longer
side, so that a perturbation is the same at every size.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from lungfast.records import Bool, UInt8

Film = tuple[UInt8, Bool]
Change = Callable[[UInt8, Bool, np.random.Generator], Film]


@dataclass(frozen=True, kw_only=True)
class Perturbation:
    """A named way to spoil a film."""

    name: str
    change: Change

    def apply(self, image_HW: UInt8, mask_HW: Bool, seed: int) -> Film:
        return self.change(image_HW, mask_HW, np.random.default_rng(seed))


def _exposed(gamma: float) -> Change:
    curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    return lambda image_HW, mask_HW, _: (curve[image_HW], mask_HW)


def _inverted(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
    return 255 - image_HW, mask_HW


def _rotated(degrees: float) -> Change:
    """About the middle, corners black; what leaves the frame is lost."""

    def rotated(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
        image = Image.fromarray(image_HW).rotate(degrees, Image.Resampling.BILINEAR)
        mask = Image.fromarray(mask_HW.astype(np.uint8)).rotate(degrees, Image.Resampling.NEAREST)
        return np.asarray(image), np.asarray(mask) > 0

    return rotated


def _sideways(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
    return np.ascontiguousarray(np.rot90(image_HW)), np.ascontiguousarray(np.rot90(mask_HW))


def _shifted(share: float) -> Change:
    """Moved to the right and down: that much of the film is cut off, the rest of the frame black."""

    def shifted(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
        step = round(share * max(image_HW.shape))
        moved_HW, moved_mask_HW = np.zeros_like(image_HW), np.zeros_like(mask_HW)
        moved_HW[step:, step:] = image_HW[:-step, :-step]
        moved_mask_HW[step:, step:] = mask_HW[:-step, :-step]
        return moved_HW, moved_mask_HW

    return shifted


def _cropped(share: float) -> Change:
    """The middle of the film alone."""

    def cropped(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
        rows, columns = (slice(round(share * side), round((1 - share) * side)) for side in image_HW.shape)
        return np.ascontiguousarray(image_HW[rows, columns]), np.ascontiguousarray(mask_HW[rows, columns])

    return cropped


def _noisy(sigma: float) -> Change:
    def noisy(image_HW: UInt8, mask_HW: Bool, rng: np.random.Generator) -> Film:
        values_HW = image_HW + rng.normal(0, sigma, image_HW.shape)
        return np.clip(values_HW.round(), 0, 255).astype(np.uint8), mask_HW

    return noisy


def _compressed(quality: int) -> Change:
    def compressed(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
        buffer = io.BytesIO()
        Image.fromarray(image_HW).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer)), mask_HW

    return compressed


def _blurred(share: float) -> Change:
    def blurred(image_HW: UInt8, mask_HW: Bool, _: np.random.Generator) -> Film:
        radius = share * max(image_HW.shape)
        return np.asarray(Image.fromarray(image_HW).filter(ImageFilter.GaussianBlur(radius))), mask_HW

    return blurred


_CHANGES: Mapping[str, Change] = {
    "inverted": _inverted,
    "rotated 15°": _rotated(15),
    "sideways": _sideways,
    "shifted 20 %": _shifted(0.2),
    "cropped 12 %": _cropped(0.12),
    "underexposed": _exposed(3.0),
    "overexposed": _exposed(0.33),
    "noisy": _noisy(40),
    "JPEG quality 5": _compressed(5),
    "blurred": _blurred(0.02),
}
PERTURBATIONS: tuple[Perturbation, ...] = tuple(
    Perturbation(name=name, change=change) for name, change in _CHANGES.items()
)
