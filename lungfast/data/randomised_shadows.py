"""What a randomised body puts into the beam: layers drawn once, weighed anew for every exposure.

In: a chest (phantom_anatomy.py) and its pose. Out: :class:`Shadows`, and their weighted sum, the attenuation
(H, W), in which 0 is the open beam and about 1 the chest wall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungfast.data.phantom_anatomy import Chest, Lung
from lungfast.data.phantom_canvas import Layer, Pose, blur, ellipse, smooth_noise
from lungfast.data.phantom_lesions import lesion_layer
from lungfast.data.randomised_body import Bend, haze, random_lines, random_vessels
from lungfast.records import Float32, Float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """Soft layers (H, W), about 0..1 each. ``heights_H1`` are body units below the chest's middle."""

    body_HW: Float32
    rounding_HW: Float32
    left_HW: Float32
    right_HW: Float32
    depth_HW: Float32
    lesions_HW: Float32
    filled_HW: Float32
    net_HW: Float32
    heart_HW: Float32
    abdomen_HW: Float32
    gas_HW: Float32
    vessels_HW: Float32
    breasts_HW: Float32
    folds_HW: Float32
    uneven_HW: Float32
    back_HW: Float32
    front_HW: Float32
    bones_HW: Float32
    airways_HW: Float32
    devices_HW: Float32
    heights_H1: Float32


def draw_shadows(rng: np.random.Generator, pose: Pose, chest: Chest, bend: Bend) -> Shadows:
    """Every layer of one body; the drawing's softness varies with the body."""
    soft = rng.uniform(0.005, 0.015)
    body_HW = Layer(pose).fill([chest.body], 1.0).soft(rng.uniform(0.006, 0.03))
    left_HW = Layer(pose).fill([chest.left.outline_N2], 1.0).soft(soft)
    right_HW = Layer(pose).fill([chest.right.outline_N2], 1.0).soft(soft)
    nothing_HW = np.zeros(pose.size, np.float32)
    back_HW, front_HW, bones_HW = _bones(rng, pose, chest)
    return Shadows(
        body_HW=body_HW,
        rounding_HW=blur(body_HW, rng.uniform(0.1, 0.3) * pose.scale),
        left_HW=left_HW,
        right_HW=right_HW,
        depth_HW=blur(left_HW + right_HW, rng.uniform(0.08, 0.2) * pose.scale),
        lesions_HW=lesion_layer(rng, pose, chest) if rng.random() < 0.5 else nothing_HW,
        filled_HW=_consolidation(rng, pose, chest) if rng.random() < 0.35 else nothing_HW,
        net_HW=smooth_noise(rng, pose.size, rng.uniform(0.015, 0.12) * pose.scale),
        heart_HW=Layer(pose).fill([chest.mediastinum], 1.0).soft(rng.uniform(0.008, 0.035)),
        abdomen_HW=Layer(pose).fill([chest.abdomen], 1.0).soft(rng.uniform(0.006, 0.025)),
        gas_HW=_gas(rng, pose, chest),
        vessels_HW=random_vessels(rng, pose, bend),
        breasts_HW=_breasts(rng, pose, chest),
        folds_HW=_folds(rng, pose) if rng.random() < 0.35 else nothing_HW,
        uneven_HW=smooth_noise(rng, pose.size, rng.uniform(0.15, 0.6) * pose.scale),
        back_HW=back_HW,
        front_HW=front_HW,
        bones_HW=bones_HW,
        airways_HW=Layer(pose).fill(chest.airways, 1.0).soft(rng.uniform(0.01, 0.02)),
        devices_HW=_devices(rng, pose, bend),
        heights_H1=((np.arange(pose.size[0], dtype=np.float32) - pose.centre_xy[1]) / pose.scale)[:, None],
    )


def attenuation(rng: np.random.Generator, shadows: Shadows) -> Float32:
    """One exposure's sum, with weights of its own."""
    body_HW, lungs_HW = shadows.body_HW, np.minimum(shadows.left_HW + shadows.right_HW, 1.0)
    total_HW = body_HW * (0.3 + 0.7 * shadows.rounding_HW) * _between(rng, 0.8, 1.3)
    total_HW -= _air(rng, shadows)
    total_HW += _dense(rng, shadows) * body_HW
    total_HW += _between(rng, 0.04, 0.22) * lungs_HW * shadows.vessels_HW
    total_HW += body_HW * (
        _between(rng, 0.03, 0.4) * shadows.breasts_HW + _between(rng, 0.0, 0.15) * shadows.folds_HW
    )
    total_HW += body_HW * _between(rng, 0.0, 0.1) * shadows.uneven_HW
    fine_HW = _between(rng, 0.15, 0.45) * shadows.back_HW + _between(rng, 0.02, 0.2) * shadows.front_HW
    bones_HW = fine_HW + _between(rng, 0.15, 0.5) * shadows.bones_HW
    total_HW += np.float32(np.exp(rng.uniform(np.log(0.4), np.log(2.2)))) * bones_HW
    total_HW -= _between(rng, 0.0, 0.35) * shadows.airways_HW
    total_HW += _between(rng, 0.2, 1.2) * shadows.devices_HW
    total_HW += np.float32(rng.choice([0.0, 0.0, rng.uniform(0.0, 0.3)]))  # a cushion, a cassette, scatter
    return np.maximum(total_HW, 0.0)


def _between(rng: np.random.Generator, low: float, high: float) -> np.float32:
    return np.float32(rng.uniform(low, high))


def _air(rng: np.random.Generator, shadows: Shadows) -> Float32:
    """The attenuation that the lungs' air takes away; disease takes away air."""
    shares = [rng.uniform(0.92, 1.0), rng.uniform(0.92, 1.0)]
    if rng.random() < 0.12:  # one lung white
        shares[int(rng.integers(2))] = rng.uniform(0.2, 0.9)
    air_HW = np.float32(shares[0]) * shadows.left_HW + np.float32(shares[1]) * shadows.right_HW
    thick = _between(rng, 0.2, 0.5)
    air_HW *= (1 - thick) + thick * shadows.depth_HW
    air_HW *= 1.0 - _between(rng, 0.3, 1.0) * np.minimum(shadows.lesions_HW, 1.0)
    air_HW *= 1.0 - _between(rng, 0.2, 0.95) * shadows.filled_HW
    if rng.random() < 0.35:  # fine nets, ground glass, miliary nodules
        air_HW *= 1.0 - _between(rng, 0.0, 0.3) * np.clip(shadows.net_HW + _between(rng, -0.5, 1.0), 0, 1.5)
    if rng.random() < 0.4:  # darker to the top, the bottom or one side
        slope_y, slope_x = rng.normal(0.0, 0.25, 2)
        x_W = np.linspace(-1, 1, air_HW.shape[1], dtype=np.float32)
        air_HW *= np.clip(
            1.0 + np.float32(slope_y) * shadows.heights_H1 + np.float32(slope_x) * x_W, 0.4, 1.5
        )
    return np.maximum(_between(rng, 0.45, 0.85) * air_HW, 0.0)


def _dense(rng: np.random.Generator, shadows: Shadows) -> Float32:
    """Heart, great vessels and abdomen: they overlap, and the densest counts; gas takes away."""
    dense, top = _between(rng, 0.4, 1.1), _between(rng, 0.25, 0.85)
    heart_HW = shadows.heart_HW * np.clip(top + 0.3 + 0.4 * shadows.heights_H1, top * 0.7, 1.0)
    below_HW = shadows.abdomen_HW * (1.0 - _between(rng, 0.1, 1.0) * shadows.gas_HW)
    return np.asarray(np.maximum(heart_HW * _between(rng, 0.6, 1.0), below_HW) * dense, np.float32)


def _consolidation(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """Where a lobe or a band is filled, or fluid has settled up to a level."""
    lung = chest.left if rng.random() < 0.5 else chest.right
    low, high = lung.outline_N2.min(axis=0), lung.outline_N2.max(axis=0)
    at, size = rng.uniform(low, high), (high - low) * rng.uniform(0.15, 0.55, 2)
    blob = ellipse((float(at[0]), float(at[1])), (float(size[0]), float(size[1])), rng.normal(0, 0.5))
    if rng.random() < 0.4:
        level = high[1] - rng.uniform(0.05, 0.45) * (high[1] - low[1])
        near, far = low[0] - 0.05, high[0] + 0.05
        tilt, floor = rng.normal(0.0, 0.06), high[1] + 1.0
        blob = np.array([(near, level - tilt), (far, level + tilt), (far, floor), (near, floor)])
    return Layer(pose).fill([blob], 1.0).soft(float(np.exp(rng.uniform(np.log(0.01), np.log(0.15)))))


def _gas(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """Stomach bubble and bowel below the domes, up to as dark as lung."""
    layer = Layer(pose)
    if chest.stomach is not None:
        layer.fill([chest.stomach], rng.uniform(0.2, 1.0))
    for lung in (chest.left, chest.right):
        if rng.random() < 0.35:
            for _ in range(int(rng.integers(1, 8))):
                layer.fill([_below(rng, lung)], rng.uniform(0.2, 1.0))
    return layer.soft(rng.uniform(0.008, 0.03))


def _below(rng: np.random.Generator, lung: Lung) -> Float64:
    x, y = lung.dome_N2[int(rng.integers(8, len(lung.dome_N2) - 4))]
    radius = rng.uniform(0.04, 0.16)
    at = (float(x), float(y + radius * 1.3 + rng.uniform(0.0, 0.35)))
    return ellipse(at, (radius * rng.uniform(0.8, 1.8), radius), rng.normal(0.0, 0.5))


def _breasts(rng: np.random.Generator, pose: Pose, chest: Chest) -> Float32:
    """And sometimes a chin."""
    layer = Layer(pose).fill(chest.breasts, rng.uniform(0.3, 1.0))
    if rng.random() < 0.2:
        chin = (rng.normal(0.0, 0.15), rng.uniform(-1.75, -1.2))
        layer.fill([ellipse(chin, (rng.uniform(0.25, 0.4), rng.uniform(0.2, 0.35)))], 1.0)
    return haze(rng, layer.soft(0.01), pose)


def _folds(rng: np.random.Generator, pose: Pose) -> Float32:
    lines = random_lines(rng, int(rng.integers(1, 5)), rng.uniform(0.01, 0.12))
    return haze(rng, Layer(pose).fill(lines, 1.0).soft(), pose)


def _bones(rng: np.random.Generator, pose: Pose, chest: Chest) -> tuple[Float32, Float32, Float32]:
    """Back ribs, front ribs, and the rest, with brighter rims; shoulder blades may cover the lungs."""
    rim, softness = rng.uniform(0.3, 1.0), rng.uniform(0.004, 0.012)
    back = Layer(pose).fill(chest.back_ribs, 0.62 * rim).stroke(chest.back_ribs, 0.009, 1.0).soft(softness)
    front = Layer(pose).fill(chest.front_ribs, 0.7 * rim).stroke(chest.front_ribs, 0.009, 1.0).soft(0.012)
    other = Layer(pose).fill(chest.vertebrae, 0.8 * rim).stroke(chest.vertebrae, 0.014, 1.0)
    inward = np.array([rng.choice([0.0, rng.uniform(0.0, 0.3)]), rng.normal(0.0, 0.08)])
    blades = [one - inward * (np.sign(one[:, 0].mean()), 1.0) for one in chest.shoulder_bones]
    other.fill(blades, 0.3 * rng.uniform(0.5, 1.5)).stroke(blades, 0.012, 0.5)
    lift = np.array([0.0, rng.normal(0.0, 0.05)])
    clavicles = [one + lift for one in chest.clavicles]
    other.fill(clavicles, 0.75 * rim).stroke(clavicles, 0.012, 1.0)
    return back, front, other.soft(softness)


def _devices(rng: np.random.Generator, pose: Pose, bend: Bend) -> Float32:
    """Leads, tubes, a pacemaker, wires, clips and buttons in a third of the bodies."""
    layer = Layer(pose)
    if rng.random() < 0.25:
        layer.fill(
            random_lines(rng, int(rng.integers(1, 6)), rng.uniform(0.003, 0.012)), rng.uniform(0.3, 1.0)
        )
    if rng.random() < 0.15:
        for at in bend(rng.uniform((-1.1, -1.0), (1.1, 1.2), (int(rng.integers(1, 8)), 2))):
            radius = rng.uniform(0.01, 0.05)
            layer.fill([ellipse((float(at[0]), float(at[1])), (radius, radius))], rng.uniform(0.4, 1.0))
    if rng.random() < 0.07:
        at, size = rng.uniform((-0.7, -0.8), (0.7, -0.3)), rng.uniform(0.08, 0.17)
        layer.fill([ellipse((float(at[0]), float(at[1])), (size, size * 0.85))], 1.0)
    if rng.random() < 0.06:
        x, ys = rng.normal(0.0, 0.05), np.arange(-0.5, 0.6, rng.uniform(0.12, 0.22))
        layer.stroke([ellipse((x, float(y)), (0.05, 0.03)) for y in ys], 0.008, 1.0)
    return layer.soft(0.004)
