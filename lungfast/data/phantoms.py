"""Chest X-rays made from nothing: for tests, the demo, and trying the commands before the download ends.

In: a style, a seed, a size. Out: an 8-bit image with the masks of both lungs, or whole folders in the
official Montgomery and Shenzhen layouts. Attenuations of soft tissue, air, bones and lesions are added
(phantom_anatomy.py, phantom_lesions.py) and developed like a film (Montgomery) or a digital detector with
local contrast (Shenzhen). They are no substitute for real X-rays: figures measured on them mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from lungfast.data.phantom_anatomy import Chest, make_chest
from lungfast.data.phantom_canvas import Layer, Pose, blur, mask_of, rotated, smooth_noise
from lungfast.data.phantom_film import (
    MONTGOMERY,
    SHENZHEN,
    Border,
    PhantomStyle,
    annotate,
    border,
    collimate,
    develop,
)
from lungfast.data.phantom_lesions import lesion_layer, vessel_layer
from lungfast.records import GENERATED_MARK, Bool, Float32, Size, UInt8

__all__ = [
    "MONTGOMERY",
    "SHENZHEN",
    "Phantom",
    "PhantomStyle",
    "render_phantom",
    "write_montgomery",
    "write_shenzhen",
]

Label = Literal["normal", "tuberculosis"]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One generated X-ray: 8-bit grey, and boolean masks of the patient's left and right lung."""

    image_HW: UInt8
    left_HW: Bool
    right_HW: Bool
    label: Label


def render_phantom(style: PhantomStyle, seed: int, size: Size) -> Phantom:
    """Generate one X-ray of ``size`` (height, width); odd seeds have tuberculosis. The same seed, style and
    size give the same pixels. About 0.1 s at 512 px."""
    rng = np.random.default_rng([seed, *style.name.encode()])
    label: Label = "tuberculosis" if seed % 2 else "normal"
    chest = make_chest(rng)
    collimation = border(rng, style)
    pose = _pose(rng, chest, size, collimation)
    left_HW, right_HW = mask_of(pose, chest.left.outline_N2), mask_of(pose, chest.right.outline_N2)
    left_HW &= ~right_HW
    lesions_HW = lesion_layer(rng, pose, chest) if label == "tuberculosis" else None
    attenuation_HW = _attenuation(rng, style, pose, chest, lesions_HW)
    image_HW = develop(rng, style, pose, attenuation_HW)
    annotate(rng, style, image_HW)
    collimate(image_HW, collimation)
    return Phantom(image_HW=image_HW, left_HW=left_HW, right_HW=right_HW, label=label)


def write_montgomery(
    folder: Path,
    n: int,
    *,
    seed: int = 0,
    long_side: int = 512,
    progress: Callable[[], None] | None = None,
) -> Path:
    """Write ``folder/MontgomerySet`` with ``n`` images, left and right masks and readings; returns it.

    Image i depends on (seed, i) only; ``long_side`` in px; ``progress`` is called after each image.
    """
    root = folder / "MontgomerySet"
    places = [root / "ManualMask/leftMask", root / "ManualMask/rightMask"]
    for place in (root / "CXR_png", root / "ClinicalReadings", *places):
        place.mkdir(parents=True, exist_ok=True)
    _say_generated(root)
    for i in range(n):
        phantom = _ith(MONTGOMERY, seed, i, long_side)
        name = f"MCUCXR_{i + 1:04d}_{int(phantom.label != 'normal')}"
        for place, mask_HW in zip(places, (phantom.left_HW, phantom.right_HW), strict=True):
            _save_mask(place / f"{name}.png", mask_HW)
        reading = f"Patient's Sex: {'FM'[i % 2]}\nPatient's Age: {20 + i * 7 % 60:03d}Y\n{phantom.label}\n"
        (root / "ClinicalReadings" / f"{name}.txt").write_text(reading, encoding="utf-8")
        Image.fromarray(phantom.image_HW).save(root / "CXR_png" / f"{name}.png", compress_level=1)
        if progress:
            progress()
    return root


def write_shenzhen(
    folder: Path,
    n: int,
    *,
    seed: int = 0,
    long_side: int = 512,
    n_without_mask: int = 0,
    progress: Callable[[], None] | None = None,
) -> Path:
    """Write ``folder/ChinaSet_AllFiles`` and ``folder/shcxr-lung-mask/mask``; returns the former.

    ``n`` images (RGB with equal channels), of which the last ``n_without_mask`` have no mask; otherwise as
    :func:`write_montgomery`.
    """
    root, masks = folder / "ChinaSet_AllFiles", folder / "shcxr-lung-mask" / "mask"
    for place in (root / "CXR_png", masks):
        place.mkdir(parents=True, exist_ok=True)
    _say_generated(root)
    for i in range(n):
        phantom = _ith(SHENZHEN, seed, i, long_side)
        name = f"CHNCXR_{i + 1:04d}_{int(phantom.label != 'normal')}"
        if i < n - n_without_mask:
            _save_mask(masks / f"{name}_mask.png", phantom.left_HW | phantom.right_HW)
        colour = Image.fromarray(phantom.image_HW).convert("RGB")
        colour.save(root / "CXR_png" / f"{name}.png", compress_level=1)
        if progress:
            progress()
    return root


def _ith(style: PhantomStyle, seed: int, i: int, long_side: int) -> Phantom:
    height, width = style.sizes[i % len(style.sizes)]
    # an even stride keeps the parity of i: normal and tuberculosis alternate whatever the seed
    return render_phantom(style, seed * 1_000_000 + i, (round(height * long_side), round(width * long_side)))


def _say_generated(root: Path) -> None:
    (root / GENERATED_MARK).write_text("Generated by lungfast: no patient is shown.\n", "utf-8")


def _save_mask(path: Path, mask_HW: Bool) -> None:
    Image.fromarray(mask_HW.astype(np.uint8) * np.uint8(255)).save(path, compress_level=1)


def _pose(rng: np.random.Generator, chest: Chest, size: Size, collimation: Border) -> Pose:
    """Fit the lungs into the open field, with room for neck and abdomen, and place them at random."""
    height, width = size
    top, bottom, left, right = collimation
    rotation = rng.normal(0.0, 0.025)
    outline = rotated(np.concatenate([chest.left.outline_N2, chest.right.outline_N2]), rotation)
    low, high = outline.min(axis=0), outline.max(axis=0)
    field = np.array([width * (1 - left - right), height * (1 - top - bottom)])
    fill = np.array([rng.uniform(0.72, 0.88), rng.uniform(0.68, 0.86)])
    scale = float((field * fill / (high - low)).min())
    spare = field - scale * (high - low)
    at = np.array([left * width, top * height]) + spare * (rng.uniform(0.38, 0.62), rng.uniform(0.3, 0.55))
    centre = at - scale * low
    return Pose(size=size, scale=scale, rotation=rotation, centre_xy=(float(centre[0]), float(centre[1])))


def _attenuation(
    rng: np.random.Generator, style: PhantomStyle, pose: Pose, chest: Chest, lesions_HW: Float32 | None
) -> Float32:
    """Sum of everything in the beam's way; 0 is the open beam, about 1 the chest wall, (H, W)."""
    body_HW = Layer(pose).fill([chest.body], 1.0).soft(0.012)
    lungs_HW = Layer(pose).fill([chest.left.outline_N2, chest.right.outline_N2], 1.0).soft(0.009)
    air_HW = lungs_HW * (0.62 + 0.38 * blur(lungs_HW, 0.14 * pose.scale))
    if lesions_HW is not None:
        air_HW *= 1.0 - 0.85 * lesions_HW
    total_HW = body_HW * (0.3 + 0.7 * blur(body_HW, 0.16 * pose.scale)) * rng.uniform(0.9, 1.1)
    total_HW -= rng.uniform(0.62, 0.78) * air_HW
    total_HW += _dense_organs(rng, pose, chest) * body_HW
    total_HW += rng.uniform(0.10, 0.16) * lungs_HW * vessel_layer(rng, pose, chest)
    total_HW += rng.uniform(0.05, 0.16) * Layer(pose).fill(chest.breasts, 1.0).soft(0.03)
    total_HW += body_HW * 0.035 * smooth_noise(rng, pose.size, 0.25 * pose.scale)
    total_HW += lungs_HW * 0.012 * smooth_noise(rng, pose.size, 0.03 * pose.scale)
    total_HW += style.bone * rng.uniform(0.8, 1.2) * _bones(pose, chest)
    total_HW -= 0.22 * Layer(pose).fill(chest.airways, 1.0).soft(0.012)
    return np.maximum(total_HW, 0.0)


def _dense_organs(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """Heart, great vessels and abdomen: they overlap, and the densest counts, (H, W)."""
    dense = rng.uniform(0.65, 0.95)
    y_HW = (np.arange(pose.size[0], dtype=np.float32) - pose.centre_xy[1])[:, None] / pose.scale
    # the upper mediastinum is thinner than the heart, which is as dense as the abdomen where they meet
    heart_HW = Layer(pose).fill([chest.mediastinum], 1.0).soft(0.018)
    heart_HW *= dense * np.clip(0.68 + 0.4 * y_HW, 0.3, 0.98)
    abdomen = Layer(pose).fill([chest.abdomen], 1.0)
    if chest.stomach is not None:
        abdomen.fill([chest.stomach], rng.uniform(0.3, 0.7))
    below_HW = abdomen.soft(0.012) * dense * np.clip(0.98 + 0.12 * (y_HW - 0.8), 0.95, 1.1)
    return np.asarray(np.maximum(heart_HW, below_HW), np.float32)


def _bones(pose: Pose, chest: Chest) -> Float32:
    """Bones with brighter rims; ribs are faint in front and strong at the back."""
    back = Layer(pose).fill(chest.back_ribs, 0.62).stroke(chest.back_ribs, 0.009, 1.0).soft(0.006)
    front = Layer(pose).fill(chest.front_ribs, 0.7).stroke(chest.front_ribs, 0.009, 1.0).soft(0.012)
    other = Layer(pose).fill(chest.vertebrae, 0.8).stroke(chest.vertebrae, 0.014, 1.0)
    other.fill(chest.shoulder_bones, 0.3).stroke(chest.shoulder_bones, 0.012, 0.5)
    other.fill(chest.clavicles, 0.75).stroke(chest.clavicles, 0.012, 1.0)
    return np.asarray(0.2 * back + 0.1 * front + 0.34 * other.soft(0.012), np.float32)
