"""What varies inside a phantom's lungs: vessels in every image, and the shadows of tuberculosis in some.

In: a pose, one lung's mask and outline, a random generator. Out: layers of added attenuation (H, W), which
the renderer weighs with the lung; the anatomical mask stays as it was, so lesions make the task harder.
"""

from __future__ import annotations

import numpy as np

from lungfast.data.phantom_anatomy import Chest, Lung
from lungfast.data.phantom_canvas import Layer, Pose, blur, ellipse, ribbon, smooth_noise
from lungfast.records import Float32, Float64


def vessel_layer(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """Branching, tapering vessels from both hila, with the soft shadow of the hila; about 0..1, (H, W)."""
    layer, roots = Layer(pose), Layer(pose)
    for side, lung in ((1, chest.left), (-1, chest.right)):
        hilum = np.array([side * 0.27, -0.05]) + rng.normal(0.0, 0.02, 2)
        spread = rng.uniform(0.03, 0.05)
        blobs = hilum + rng.normal(0.0, 1.0, (7, 2)) * (0.035, 0.085)
        roots.fill([ellipse((float(x), float(y)), (spread, spread * 1.4)) for x, y in blobs], 1.0)
        reach = float(np.abs(lung.medial_N2[:, 0]).max())
        for heading in np.linspace(-1.35, 1.3, 9) + rng.normal(0.0, 0.17, 9):
            _branch(rng, layer, hilum, (side, float(heading)), rng.uniform(0.4, 0.85) * reach, depth=3)
    return layer.soft(0.008) + np.float32(0.9) * roots.soft(0.05)


def _branch(
    rng: np.random.Generator,
    layer: Layer,
    start: Float64,
    direction: tuple[int, float],
    length: float,
    depth: int,
) -> None:
    """One vessel and its branches; ``direction`` is (side, heading in radians from the horizontal)."""
    side, heading = direction
    steps = 14
    turns = heading + np.cumsum(rng.normal(0.02, 0.16, steps))
    line = start + np.cumsum(np.stack([side * np.cos(turns), np.sin(turns)], axis=1), axis=0) * length / steps
    width = (0.004, 0.006, 0.010, 0.017)[depth]
    layer.fill([ribbon(line, np.linspace(width, width * 0.3, steps))], 0.25 + 0.18 * depth)
    if depth == 0:
        return
    for _ in range(2):
        at = int(rng.integers(2, steps - 2))
        fork = float(turns[at] + rng.choice([-1, 1]) * rng.uniform(0.35, 0.8))
        _branch(rng, layer, line[at], (side, fork), length * rng.uniform(0.35, 0.55), depth - 1)


def lesion_layer(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """One to three kinds of lesions in one or both lungs; 0 where there is none, up to about 1, (H, W)."""
    layer_HW = np.zeros(pose.size, np.float32)
    kinds = rng.choice(4, size=int(rng.integers(1, 4)), replace=False)
    for kind in kinds:
        lung = chest.left if rng.random() < 0.5 else chest.right
        layer_HW += (_infiltrate, _nodules, _cavity, _effusion)[kind](rng, pose, lung)
    return np.minimum(layer_HW, np.float32(1.1))


def _place(rng: np.random.Generator, lung: Lung, low: float, high: float) -> tuple[float, float]:
    """A point inside a lung, between two heights (0 is the apex, 1 the rim angle)."""
    outline = lung.outline_N2
    top, bottom = outline[:, 1].min(), outline[:, 1].max()
    y = top + (bottom - top) * rng.uniform(low, high)
    x_near = outline[np.abs(outline[:, 1] - y) < 0.06, 0]
    share = rng.uniform(0.25, 0.75)
    return float(x_near.min() * (1 - share) + x_near.max() * share), float(y)


def _infiltrate(rng: np.random.Generator, pose: Pose, lung: Lung) -> Float32:
    """A patchy cloud, mostly in the upper half; the densest hide the lung."""
    at, layer = np.array(_place(rng, lung, 0.12, 0.6)), Layer(pose)
    for x, y in at + rng.normal(0.0, 0.13, (9, 2)):
        radius = rng.uniform(0.04, 0.13)
        layer.fill([ellipse((x, y), (radius, radius * rng.uniform(0.6, 1.4)), rng.uniform(0, 3))], 1.0)
    cloud = layer.soft(0.055)
    texture = 0.5 * smooth_noise(rng, pose.size, 0.1 * pose.scale)
    texture += 0.3 * smooth_noise(rng, pose.size, 0.045 * pose.scale)
    texture += 0.2 * smooth_noise(rng, pose.size, 0.02 * pose.scale)
    return np.asarray(rng.uniform(0.5, 1.1) * cloud * np.clip(0.8 + 0.6 * texture, 0.1, 1.4), np.float32)


def _nodules(rng: np.random.Generator, pose: Pose, lung: Lung) -> Float32:
    layer = Layer(pose)
    for _ in range(int(rng.integers(3, 22))):
        radius = rng.uniform(0.012, 0.04)
        layer.fill([ellipse(_place(rng, lung, 0.1, 0.85), (radius, radius * rng.uniform(0.8, 1.2)))], 1.0)
    return np.asarray(rng.uniform(0.4, 0.8) * layer.soft(0.012), np.float32)


def _cavity(rng: np.random.Generator, pose: Pose, lung: Lung) -> Float32:
    """A ring of thick wall around air, in a haze."""
    radius, wall = rng.uniform(0.06, 0.14), rng.uniform(0.018, 0.04)
    at, turn = _place(rng, lung, 0.12, 0.45), rng.uniform(0, 3)
    ring = Layer(pose).fill([ellipse(at, (radius + wall, (radius + wall) * 0.85), turn)], 1.0)
    ring.fill([ellipse(at, (radius, radius * 0.8), turn)], 0.12)
    layer_HW = ring.soft(0.012)
    return np.asarray(rng.uniform(0.5, 0.8) * layer_HW + 0.25 * blur(layer_HW, 0.1 * pose.scale), np.float32)


def _effusion(rng: np.random.Generator, pose: Pose, lung: Lung) -> Float32:
    """Fluid in the rim angle, its surface rising to the outside."""
    rim, side = lung.dome_N2[0], np.sign(lung.dome_N2[0, 0])
    height = rng.uniform(0.12, 0.4)
    t = np.linspace(0.0, 1.0, 20)
    x = rim[0] + side * 0.08 - side * t * rng.uniform(0.5, 0.85)
    surface = np.stack([x, rim[1] - 0.08 - height * (1 - t) ** 2.2], axis=1)
    floor = np.array([[x[-1], rim[1] + 0.3], [rim[0] + side * 0.08, rim[1] + 0.3]])
    return np.asarray(0.95 * Layer(pose).fill([np.concatenate([surface, floor])], 1.0).soft(0.02), np.float32)
