"""How randomised X-rays are exposed, developed, cut, labelled and stored: every scanner, and none.

In: attenuation (H, W) and the body's extent. Out: 8-bit grey. Ranges cover film and digital detectors, over-
and underexposure, strong local contrast, windowing that crushes lungs or bones, uneven fields, grids, noise,
blur, JPEG, inversion, turned collimation, printed letters, black or white margins.
"""

from __future__ import annotations

import io
import string
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lungfast.data.phantom_canvas import Pose, blur, smooth_noise
from lungfast.records import Bool, Float32, UInt8


def develop_randomly(rng: np.random.Generator, attenuation_HW: Float32, pose: Pose) -> tuple[UInt8, Bool]:
    """Attenuation -> grey: tone, local contrast, window, field, noise, blur; then what is added later.

    Also where it shows the body: not outside the collimation, nor where the edge is painted over.
    """
    visible_HW = np.ones(attenuation_HW.shape, bool)
    grey_HW = _tone(rng, attenuation_HW)
    if rng.random() < 0.6:
        reach = float(np.exp(rng.uniform(np.log(0.06), np.log(0.5)))) * pose.scale
        grey_HW = grey_HW + np.float32(rng.uniform(0.1, 1.4)) * (grey_HW - blur(grey_HW, reach))
    grey_HW = _window(rng, grey_HW)
    if rng.random() < 0.5:
        field_HW = smooth_noise(rng, pose.size, max(pose.size) / rng.uniform(1.0, 3.0))
        grey_HW = grey_HW * (1.0 + np.float32(rng.uniform(0.0, 0.1)) * field_HW)
    grey_HW = _detector(rng, grey_HW)
    image_HW = np.asarray(np.clip(np.rint(255 * grey_HW), 0, 255), np.uint8)
    if rng.random() < 0.6:
        image_HW = _letters(rng, image_HW)
    if rng.random() < 0.45:
        image_HW = _collimate(rng, image_HW, visible_HW)
    if rng.random() < 0.12:
        image_HW = np.uint8(255) - image_HW
    if rng.random() < 0.2:
        _margin(rng, image_HW, visible_HW)
    return _stored(rng, image_HW), visible_HW


def _tone(rng: np.random.Generator, attenuation_HW: Float32) -> Float32:
    """A film's saturating curve, a detector's logarithm (straight), or one between; then a gamma."""
    exposure = np.float32(np.exp(rng.uniform(np.log(0.5), np.log(2.6))))
    curved = 1.0 - np.exp(-exposure * attenuation_HW)
    straight = attenuation_HW / np.float32(1.6)
    share = np.float32(rng.choice([0.0, 1.0, rng.random()]))
    grey_HW = np.maximum(share * curved + (1 - share) * straight, 0)
    return np.asarray(grey_HW ** np.float32(np.exp(rng.normal(0.05, 0.4))), np.float32)


def _window(rng: np.random.Generator, grey_HW: Float32) -> Float32:
    """Stretch between two percentiles, which cut off up to 6 % of dark and 12 % of bright; then a floor."""
    low, high = np.percentile(grey_HW[::4, ::4], [rng.uniform(0.0, 6.0), 100 - rng.uniform(0.0, 12.0)])
    grey_HW = np.clip((grey_HW - low) / max(high - low, 0.05), 0.0, 1.0)
    floor, white = (rng.uniform(0.0, 0.25), rng.uniform(0.75, 1.0)) if rng.random() < 0.6 else (0.0, 1.0)
    if rng.random() < 0.15:  # a weak print
        floor, white = rng.uniform(0.1, 0.45), rng.uniform(0.55, 0.9)
    return np.asarray(floor + (white - floor) * grey_HW, np.float32)


def _detector(rng: np.random.Generator, grey_HW: Float32) -> Float32:
    """Blur, noise of two grains, sometimes the lines of a grid."""
    if rng.random() < 0.35:
        grey_HW = blur(grey_HW, rng.uniform(0.3, 1.5))
    noise = np.float32(np.exp(rng.uniform(np.log(0.002), np.log(0.035))))
    grain_HW = rng.standard_normal(grey_HW.shape, np.float32)
    if rng.random() < 0.5:
        grain_HW = 2 * blur(grain_HW, rng.uniform(0.5, 1.2))
    grey_HW = grey_HW + noise * grain_HW
    if rng.random() < 0.06:
        lines_W = np.sin(np.arange(grey_HW.shape[1], dtype=np.float32) * np.float32(rng.uniform(0.8, 3.0)))
        grey_HW = grey_HW + np.float32(rng.uniform(0.005, 0.03)) * lines_W
    return np.asarray(grey_HW, np.float32)


def _letters(rng: np.random.Generator, image_HW: UInt8) -> UInt8:
    """One to four burned-in labels near the edges, bare or on a plate."""
    height, width = image_HW.shape
    canvas = Image.fromarray(image_HW)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 5))):
        word = str(rng.choice(["R", "L", "PA", "AP", "ERECT", "PORTABLE", "SUPINE", "SITTING", ""]))
        word = word or "".join(rng.choice(list(string.ascii_uppercase + string.digits), rng.integers(2, 12)))
        font = _font(round(float(rng.uniform(0.025, 0.085)) * height))
        side = rng.choice([rng.uniform(0.0, 0.16), rng.uniform(0.72, 0.95)])
        at = (
            float(side * width),
            float(rng.choice([rng.uniform(0.0, 0.2), rng.uniform(0.0, 0.95)]) * height),
        )
        ink = int(rng.choice([0, 255, int(rng.integers(0, 256))]))
        if rng.random() < 0.25:
            draw.rectangle(draw.textbbox(at, word, font=font), fill=255 - ink)
        draw.text(at, word, font=font, fill=ink)
    return np.array(canvas)


_FONTS: dict[int, ImageFont.FreeTypeFont | ImageFont.ImageFont] = {}


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if size not in _FONTS:
        _FONTS[size] = ImageFont.load_default(size=float(max(6, size)))
    return _FONTS[size]


def _collimate(rng: np.random.Generator, image_HW: UInt8, visible_HW: Bool) -> UInt8:
    """Everything outside a slightly turned rectangle (rarely a circle) becomes one grey."""
    height, width = image_HW.shape
    inner = Image.new("L", (width, height))
    draw = ImageDraw.Draw(inner)
    cut = rng.uniform(0.0, 0.16, 4) * (rng.random(4) < 0.5) - 0.02
    left, top, right, bottom = cut[0] * width, cut[1] * height, (1 - cut[2]) * width, (1 - cut[3]) * height
    if rng.random() < 0.06:
        draw.ellipse((left, top, right, bottom), fill=255)
    else:
        lean = rng.normal(0.0, 0.02, 8).reshape(4, 2) * (width, height)
        corners = np.array(
            [(left, top), (right, top), (right, bottom), (left, bottom)]
        ) + lean * rng.integers(2)
        draw.polygon([float(value) for value in corners.ravel()], fill=255)
    soft = blur(
        np.asarray(inner, np.float32) * np.float32(1 / 255), float(rng.choice([0.0, rng.uniform(0.3, 3.0)]))
    )
    visible_HW &= soft > 0.5
    outside = np.float32(rng.choice([0, rng.uniform(0, 40), 255], p=[0.6, 0.3, 0.1]))
    return np.asarray(np.rint(image_HW * soft + outside * (1 - soft)), np.uint8)


def _margin(rng: np.random.Generator, image_HW: UInt8, visible_HW: Bool) -> None:
    """The edge painted over, as where films are mounted or padded to a square. Changes the arrays."""
    height, width = image_HW.shape
    ink = int(rng.choice([0, 255, int(rng.integers(0, 256))], p=[0.6, 0.2, 0.2]))
    for side in range(4):
        if rng.random() < 0.4:
            share = rng.uniform(0.0, 0.09)
            rows, columns = round(share * height), round(share * width)
            cut = (
                (slice(0, rows), slice(None)),
                (slice(height - rows, height), slice(None)),
                (slice(None), slice(0, columns)),
                (slice(None), slice(width - columns, width)),
            )[side]
            image_HW[cut], visible_HW[cut] = ink, False


def _stored(rng: np.random.Generator, image_HW: UInt8) -> UInt8:
    """Few grey levels, a smaller copy enlarged again, or JPEG's blocks; half are left alone."""
    ways: tuple[Callable[[np.random.Generator, UInt8], UInt8] | None, ...] = (
        _jpeg,
        _small,
        _levels,
        None,
        None,
        None,
    )
    way = ways[int(rng.integers(len(ways)))]
    return image_HW if way is None else way(rng, image_HW)


def _jpeg(rng: np.random.Generator, image_HW: UInt8) -> UInt8:
    with io.BytesIO() as buffer:
        Image.fromarray(image_HW).save(buffer, "JPEG", quality=int(rng.integers(20, 91)))
        return np.array(Image.open(buffer))


def _small(rng: np.random.Generator, image_HW: UInt8) -> UInt8:
    height, width = image_HW.shape
    share = rng.uniform(0.45, 0.95)
    small = Image.fromarray(image_HW).resize((round(share * width), round(share * height)))
    return np.array(small.resize((width, height)))


def _levels(rng: np.random.Generator, image_HW: UInt8) -> UInt8:
    step = int(rng.integers(2, 10))
    return np.asarray((image_HW // step) * step + (255 % step) // 2, np.uint8)
