"""Drawing for the phantoms: shapes in body coordinates come in, soft float layers of the image's size go out.

Body coordinates are isotropic: (0, 0) is the middle of the chest, x grows to the image's right (the
patient's left), y grows downwards, and 1 is half the inner width of the chest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import CubicSpline

from lungfast.records import Bool, Float32, Float64, Size

SUPERSAMPLING = 2
"""Layers are drawn at twice the size and averaged: thin ribs and vessels get smooth edges."""

BLUR_CELLS = 2.0
"""A wide blur works on a reduced image where its sigma is this many cells: 40 ms become 2 at 512 px."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the body lies in the image: pixels per body unit, rotation in radians, centre (x, y) in px."""

    size: Size
    scale: float
    rotation: float
    centre_xy: tuple[float, float]

    def pixels(self, points_N2: Float64) -> Float64:
        """Body coordinates -> pixel coordinates (x, y), both (N, 2)."""
        return np.asarray(self.scale * rotated(points_N2, self.rotation) + np.asarray(self.centre_xy))


def rotated(points_N2: Float64, radians: float) -> Float64:
    """Points turned about the origin."""
    cosine, sine = np.cos(radians), np.sin(radians)
    return np.asarray(points_N2 @ np.array([[cosine, sine], [-sine, cosine]]))


def smooth_curve(controls_N2: Float64, n_points: int = 60) -> Float64:
    """A natural cubic spline through control points, evenly sampled in chord length; (n_points, 2)."""
    steps = np.hypot(*np.diff(controls_N2, axis=0).T)
    chord = np.concatenate([[0.0], np.cumsum(steps)])
    spline = CubicSpline(chord, controls_N2, bc_type="natural")
    return np.asarray(spline(np.linspace(0.0, chord[-1], n_points)))


def ellipse(centre_xy: tuple[float, float], radii_xy: tuple[float, float], turn: float = 0.0) -> Float64:
    """A closed outline of 40 points; ``turn`` in radians."""
    angle = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    outline = np.stack([radii_xy[0] * np.cos(angle), radii_xy[1] * np.sin(angle)], axis=1)
    return np.asarray(rotated(outline, turn) + np.asarray(centre_xy))


def ribbon(line_N2: Float64, half_width_N: Float64) -> Float64:
    """The outline of a band around a line, (2N, 2)."""
    step = np.diff(line_N2, axis=0, append=2 * line_N2[-1:] - line_N2[-2:-1])
    normal = step[:, ::-1] * (-1.0, 1.0)
    normal *= (half_width_N / np.maximum(np.hypot(step[:, 0], step[:, 1]), 1e-9))[:, None]
    return np.concatenate([line_N2 + normal, (line_N2 - normal)[::-1]])


def mask_of(pose: Pose, outline_N2: Float64) -> Bool:
    """Pixels inside an outline, (H, W)."""
    canvas = Image.new("L", (pose.size[1], pose.size[0]))
    ImageDraw.Draw(canvas).polygon(_flat(pose.pixels(outline_N2)), fill=1)
    return np.asarray(canvas).astype(bool)


class Layer:
    """A grey canvas to draw body shapes on, 0..1; later shapes cover earlier ones."""

    def __init__(self, pose: Pose) -> None:
        self._pose = pose
        height, width = pose.size
        self._canvas = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
        self._draw = ImageDraw.Draw(self._canvas)

    def fill(self, outlines: Iterable[Float64], value: float) -> Layer:
        """Fill closed outlines (N, 2) with one value."""
        for points in self._points(outlines):
            self._draw.polygon(points, fill=round(255 * value))
        return self

    def stroke(self, lines: Iterable[Float64], width: float, value: float) -> Layer:
        """Draw lines of one width in body units."""
        pixels = max(1, round(width * self._pose.scale * SUPERSAMPLING))
        for points in self._points(lines):
            self._draw.line(points, fill=round(255 * value), width=pixels, joint="curve")
        return self

    def soft(self, sigma: float = 0.0) -> Float32:
        """The layer as floats in 0..1, (H, W), blurred by ``sigma`` body units."""
        layer_HW = np.asarray(self._canvas.reduce(SUPERSAMPLING), np.float32) * np.float32(1 / 255)
        return blur(layer_HW, sigma * self._pose.scale)

    def _points(self, lines: Iterable[Float64]) -> Iterator[list[float]]:
        """Each line's pixel coordinates; all are placed at once, as one by one costs 17 us each."""
        given = list(lines)
        if not given:
            return
        flat = _flat(self._pose.pixels(np.concatenate(given)) * SUPERSAMPLING)
        start = 0
        for line_N2 in given:
            yield flat[start : start + 2 * len(line_N2)]
            start += 2 * len(line_N2)


def blur(image_HW: Float32, sigma_px: float) -> Float32:
    """Gaussian blur; wide ones on a reduced image (see BLUR_CELLS)."""
    if sigma_px < 0.2:
        return image_HW
    factor = int(sigma_px / BLUR_CELLS)
    if factor < 2:
        return np.asarray(ndimage.gaussian_filter(image_HW, sigma_px, truncate=2.5, mode="nearest"))
    reduced = Image.fromarray(image_HW).reduce(factor)
    soft = ndimage.gaussian_filter(np.asarray(reduced), sigma_px / factor, truncate=2.5, mode="nearest")
    return _resized(soft, (image_HW.shape[0], image_HW.shape[1]))


def smooth_noise(rng: np.random.Generator, size: Size, cell_px: float) -> Float32:
    """Noise of mean 0 and deviation about 1 whose features are ``cell_px`` wide, (H, W)."""
    grid = tuple(max(2, round(side / cell_px)) for side in size)
    return _resized(rng.standard_normal(grid, np.float32), size)


def _resized(image_HW: Float32, size: Size) -> Float32:
    return np.array(Image.fromarray(image_HW).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def _flat(points_N2: Float64) -> list[float]:
    values: list[float] = points_N2.ravel().tolist()
    return values
