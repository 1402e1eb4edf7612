"""How a set of X-rays looks: exposure, contrast, noise, burned-in labels and collimation.

In: attenuation (H, W) from the phantom renderer. Out: 8-bit grey, developed like a film (Montgomery: flat,
dark, black surround) or like a digital detector with local contrast (Shenzhen: brighter, bones clear).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lungfast.data.phantom_canvas import Pose, blur, smooth_noise
from lungfast.records import Float32, UInt8

Border = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class PhantomStyle:
    """How a set of X-rays looks.

    ``sizes``: (height, width) relative to the long side, taken in turn. ``exposure`` and ``gamma``: ranges
    of the film curve 1 - exp(-exposure * attenuation), then ** gamma. ``local_contrast``: strength of the
    detector's unsharp mask (0 is film). ``floor`` and ``white``: grey of the open
    beam and of full attenuation. ``noise``: deviation in grey
    levels. ``border``: largest collimation, as a share of a side. ``bone``: weight of bones.
    """

    name: str
    sizes: tuple[tuple[float, float], ...]
    exposure: tuple[float, float]
    gamma: tuple[float, float]
    local_contrast: tuple[float, float]
    floor: tuple[float, float]
    white: tuple[float, float]
    noise: tuple[float, float]
    border: float
    bone: float
    markers: tuple[str, ...]


MONTGOMERY = PhantomStyle(
    name="montgomery",
    sizes=((1.0, 4020 / 4892), (4020 / 4892, 1.0), (1.0, 1.0), (1.0, 4020 / 4892)),
    exposure=(0.95, 1.35),
    gamma=(1.3, 1.9),
    local_contrast=(0.0, 0.1),
    floor=(0.0, 4.0),
    white=(235.0, 255.0),
    noise=(1.0, 2.5),
    border=0.09,
    bone=0.75,
    markers=("R", "PA\nERECT"),
)
SHENZHEN = PhantomStyle(
    name="shenzhen",
    sizes=((0.97, 1.0), (1.0, 1.0), (1.0, 0.93), (0.99, 1.0)),
    exposure=(0.9, 1.3),
    gamma=(0.8, 1.1),
    local_contrast=(0.5, 0.9),
    floor=(15.0, 45.0),
    white=(205.0, 240.0),
    noise=(2.0, 4.5),
    border=0.025,
    bone=1.15,
    markers=("L", "R"),
)


def border(rng: np.random.Generator, style: PhantomStyle) -> Border:
    """Collimated share at the top, bottom, left and right; each side has one or none."""
    top, bottom, left, right = rng.uniform(0.0, style.border, 4) * (rng.random(4) < 0.5)
    return top * 0.4, bottom, left * 0.5, right * 0.5


def develop(rng: np.random.Generator, style: PhantomStyle, pose: Pose, attenuation_HW: Float32) -> UInt8:
    """Attenuation -> grey: film curve, local contrast, vignette, quantum noise."""
    grey_HW = 1.0 - np.exp(-np.float32(rng.uniform(*style.exposure)) * attenuation_HW)
    grey_HW = grey_HW ** np.float32(rng.uniform(*style.gamma))
    detail = rng.uniform(*style.local_contrast)
    grey_HW += np.float32(detail) * (grey_HW - blur(grey_HW, 0.22 * pose.scale))
    shade = smooth_noise(rng, pose.size, max(pose.size) / 2)
    floor = rng.uniform(*style.floor)
    grey_HW = floor + (rng.uniform(*style.white) - floor) * grey_HW * (1.0 + 0.03 * shade)
    grain_HW = rng.standard_normal(pose.size, np.float32)
    grain_HW = np.float32(0.6) * grain_HW + np.float32(1.2) * blur(
        rng.standard_normal(pose.size, np.float32), 0.7
    )
    grey_HW += np.float32(rng.uniform(*style.noise)) * grain_HW
    return np.asarray(np.clip(np.rint(grey_HW), 0, 255), np.uint8)


def annotate(rng: np.random.Generator, style: PhantomStyle, image_HW: UInt8) -> None:
    """Burn in film labels: R on the image's left, everything else on its right. Changes the image."""
    height, width = image_HW.shape
    canvas = Image.fromarray(image_HW)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(6.0, 0.04 * max(height, width)))
    for marker in style.markers:
        if rng.random() < 0.35:
            continue
        x = rng.uniform(0.03, 0.1) if marker == "R" else rng.uniform(0.78, 0.84)
        at = (x * width, rng.uniform(0.02, 0.1) * height)
        if len(marker) > 1:
            box = draw.multiline_textbbox(at, marker, font=font)
            draw.rectangle(box, fill=250)
        draw.multiline_text(at, marker, font=font, fill=5 if len(marker) > 1 else 245)
    image_HW[:] = np.asarray(canvas)


def collimate(image_HW: UInt8, border: Border) -> None:
    """Black out the border. Changes the image."""
    height, width = image_HW.shape
    top, bottom, left, right = border
    image_HW[: round(top * height)] = 0
    image_HW[height - round(bottom * height) :] = 0
    image_HW[:, : round(left * width)] = 0
    image_HW[:, width - round(right * width) :] = 0
