"""X-rays as they should not be: inverted, turned, cut off, badly exposed, noisy, compressed, blurred.

Comes in: an 8-bit image and its mask, or a reference to a sample. Goes out: both as the perturbed film would
show them. :data:`PERTURBATIONS` are what a quality flag is tried on, :data:`ROBUSTNESS` what may well happen
to a film that is to be segmented all the same. Each is deterministic in the image and a seed. Distances are
shares of the longer side, so that a perturbation is the same at every size.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from lungfast.data.images import content_sha256, read_image
from lungfast.records import Bool, Sample, SampleRef, UInt8

Film = tuple[UInt8, Bool]
Change = Callable[[UInt8, Bool, np.random.Generator], Film]
LABEL = 0.02
"""Height of a burned-in label, a share of the shorter side; it is twice as wide."""


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


def _deep(image_HW: UInt8, mask_HW: Bool, rng: np.random.Generator) -> Film:
    """A 16-bit file, written and read as any is: 12 bits of anatomy in a window, a label at full scale."""
    values_HW = image_HW.astype(np.uint16) * np.uint16(11) + np.uint16(700)
    values_HW += rng.integers(0, 11, image_HW.shape, np.uint16)
    label = max(1, round(LABEL * min(image_HW.shape)))
    values_HW[:label, -2 * label :] = np.iinfo(np.uint16).max
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.png"
        Image.fromarray(values_HW).save(path)
        return read_image(path), mask_HW


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
_LIKELY: Mapping[str, Change] = {
    "rotated 5°": _rotated(5),
    "rotated 10°": _rotated(10),
    "rotated 20°": _rotated(20),
    "shifted 5 %": _shifted(0.05),
    "shifted 10 %": _shifted(0.1),
    "cropped 5 %": _cropped(0.05),
    "cropped 10 %": _cropped(0.1),
    "darker (gamma 1.7)": _exposed(1.7),
    "brighter (gamma 0.6)": _exposed(0.6),
    "inverted": _inverted,
    "noisy (10 levels)": _noisy(10),
    "noisy (25 levels)": _noisy(25),
    "JPEG quality 30": _compressed(30),
    "JPEG quality 10": _compressed(10),
    "16-bit file": _deep,
}
PERTURBATIONS, ROBUSTNESS = (
    tuple(Perturbation(name=name, change=change) for name, change in changes.items())
    for changes in (_CHANGES, _LIKELY)
)


@dataclass(frozen=True, kw_only=True)
class PerturbedRef:
    """A sample that is perturbed when it is loaded; its lungs become one structure."""

    ref: SampleRef
    perturbation: Perturbation

    @property
    def id(self) -> str:
        return self.ref.id

    @property
    def facts(self) -> str:
        return f"{self.ref.facts}\t{self.perturbation.name}"

    def load(self) -> Sample:
        """Raises what the sample itself raises."""
        sample = self.ref.load()
        lungs_HW = np.logical_or.reduce(list(sample.masks.values()))
        seed = zlib.crc32(sample.id.encode(errors="surrogateescape"))
        image_HW, mask_HW = self.perturbation.apply(sample.image_HW, lungs_HW, seed)
        return replace(
            sample,
            image_HW=image_HW,
            masks={"lungs": mask_HW},
            content_sha256=content_sha256(image_HW),
            spacing_mm=None,
        )
