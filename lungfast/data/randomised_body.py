"""Bodies of the randomised X-rays: builds, poses and deformations far wider than the phantoms'.

In: a random generator and the image's size. Out: a chest (phantom_anatomy.py), bent as a whole, and its pose.
Covered: children to barrel chests, deep to poor inspiration, large hearts, raised domes, a shifted
mediastinum, a turned or leaning patient, a bent spine, projections PA and AP (a higher clavicle, shoulder
blades over the lungs), close and wide framing, lungs cut by the image's edge.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lungfast.data.phantom_anatomy import Build, Chest, Lung
from lungfast.data.phantom_canvas import Layer, Pose, blur, ribbon, rotated
from lungfast.records import Float32, Float64, Size

N_MODES = 5


@dataclass(frozen=True, kw_only=True)
class Bend:
    """A smooth map of the body plane: stretch, barrel, turn, shifted middle, bent spine, random waves."""

    stretch: float
    barrel: float
    turn: float
    shift: float
    curve: tuple[float, float]
    waves_M2: Float64
    phases_M: Float64
    moves_M2: Float64
    mirrored: bool

    def __call__(self, points_N2: Float64) -> Float64:
        x, y = points_N2[:, 0], points_N2[:, 1]
        waves_N2 = np.sin(points_N2 @ self.waves_M2.T + self.phases_M) @ self.moves_M2
        new_x = x * (1.0 + self.barrel * np.clip(y, -1.2, 1.2)) + self.turn * (np.sqrt(x * x + 0.04) - 0.2)
        new_x = (
            new_x + self.shift * np.exp(-((x / 0.5) ** 2)) + self.curve[0] * np.sin(1.4 * y + self.curve[1])
        )
        bent_N2 = np.stack([new_x, y * self.stretch], axis=1) + waves_N2
        return bent_N2 * (-1.0, 1.0) if self.mirrored else bent_N2


def bent(chest: Chest, bend: Bend) -> Chest:
    """The chest with every outline bent, all in one go."""
    outlines: list[Float64] = []

    def keep(value: Any) -> Any:
        """The value with its arrays replaced by their places in ``outlines``."""
        if isinstance(value, np.ndarray):
            outlines.append(value)
            return len(outlines) - 1
        return tuple(keep(one) for one in value)

    lungs = {
        side: keep((lung.medial_N2, lung.dome_N2)) for side, lung in zip(_SIDES, _lungs(chest), strict=True)
    }
    parts = {name: keep(getattr(chest, name)) for name in _PARTS if getattr(chest, name) is not None}
    ends = np.cumsum([len(one) for one in outlines])[:-1]
    moved = np.split(bend(np.concatenate(outlines)), ends)

    def taken(place: Any) -> Any:
        return tuple(taken(one) for one in place) if isinstance(place, tuple) else moved[place]

    changed: dict[str, Any] = {name: taken(place) for name, place in parts.items()}
    for side, (medial, dome) in lungs.items():
        lung = replace(getattr(chest, side), medial_N2=moved[medial], dome_N2=moved[dome])
        changed[side] = lung
    return replace(chest, **changed)


def _lungs(chest: Chest) -> tuple[Lung, Lung]:
    return chest.left, chest.right


_SIDES = ("left", "right")
_PARTS = tuple(field.name for field in fields(Chest) if field.name not in _SIDES)


def random_build(rng: np.random.Generator) -> Build:
    """From the child's wide heart and high domes to the barrel chest's low flat ones."""
    return Build(
        width=rng.normal(1.0, 0.06),
        breath=rng.normal(-0.03, 0.14),
        heart=rng.uniform(0.65, 1.6),
        apex=rng.normal(0.0, 0.06),
        dome=rng.normal(0.09, 0.09),
    )


def random_bend(rng: np.random.Generator) -> Bend:
    waves_M2 = rng.normal(0.0, 1.0, (N_MODES, 2))
    waves_M2 *= (rng.uniform(1.2, 4.5, N_MODES) / np.hypot(*waves_M2.T))[:, None]
    sizes_M = rng.uniform(0.02, 0.11) / np.hypot(*waves_M2.T)
    return Bend(
        stretch=float(np.exp(rng.normal(0.04, 0.14))),
        barrel=rng.normal(0.0, 0.06),
        turn=rng.normal(0.0, 0.06),
        shift=rng.normal(0.0, 0.035),
        curve=(rng.normal(0.0, 0.025), rng.uniform(0.0, 2 * np.pi)),
        waves_M2=waves_M2,
        phases_M=rng.uniform(0.0, 2 * np.pi, N_MODES),
        moves_M2=rng.normal(0.0, 1.0, (N_MODES, 2)) * sizes_M[:, None],
        mirrored=bool(rng.random() < 0.03),
    )


def random_pose(rng: np.random.Generator, chest: Chest, size: Size) -> Pose:
    """The lungs take 45 to 95 % of the image's tighter side; one body in ten hangs over an edge."""
    rotation = rng.normal(0.0, 0.05)
    if rng.random() < 0.1:
        rotation = rng.uniform(-0.35, 0.35)
    outline_N2 = rotated(np.concatenate([chest.left.outline_N2, chest.right.outline_N2]), rotation)
    low, high = outline_N2.min(axis=0), outline_N2.max(axis=0)
    field = np.array([size[1], size[0]], float)
    fill = rng.uniform(0.45, 0.95) if rng.random() < 0.3 else rng.uniform(0.7, 0.92)
    scale = float((field * fill / (high - low)).min())
    spare = field - scale * (high - low)
    share = rng.uniform((0.3, 0.15), (0.7, 0.75))
    if rng.random() < 0.1:
        share = rng.uniform(-0.3, 1.3, 2)
    centre = spare * share - scale * low
    return Pose(size=size, scale=scale, rotation=rotation, centre_xy=(float(centre[0]), float(centre[1])))


def random_vessels(rng: np.random.Generator, pose: Pose, bend: Bend) -> Float32:
    """Branching, tapering vessels from both hila and the hila's soft shadows; about 0..1, (H, W).

    As phantom_lesions.vessel_layer, but all branches of a generation at once: 3 ms instead of 20.
    """
    n_trunks = int(rng.integers(5, 11))
    side_N = np.repeat([1.0, -1.0], n_trunks)
    hila_N2 = np.repeat(np.array([[0.27, -0.05], [-0.27, -0.05]]) + rng.normal(0, 0.03, (2, 2)), n_trunks, 0)
    heading_N = np.tile(np.linspace(-1.35, 1.3, n_trunks), 2) + rng.normal(0.0, 0.17, 2 * n_trunks)
    start_N2, length_N = hila_N2, rng.uniform(0.35, 0.8, 2 * n_trunks)
    layer, thick = Layer(pose), rng.uniform(0.8, 1.6)
    steps = 12
    for depth in (3, 2, 1, 0):
        turns = heading_N[:, None] + np.cumsum(rng.normal(0.02, 0.15, (len(side_N), steps)), axis=1)
        moves = np.stack([side_N[:, None] * np.cos(turns), np.sin(turns)], axis=-1)
        lines_NS2 = start_N2[:, None] + np.cumsum(moves, axis=1) * (length_N / steps)[:, None, None]
        width = thick * (0.004, 0.006, 0.010, 0.017)[depth]
        drawn_NS2 = bend(lines_NS2.reshape(-1, 2)).reshape(lines_NS2.shape)
        layer.fill(_bands(drawn_NS2, np.linspace(width, width * 0.3, steps)), 0.25 + 0.18 * depth)
        if depth:
            many = np.repeat(np.arange(len(side_N)), 2)
            at = rng.integers(2, steps - 2, len(many))
            start_N2, side_N = lines_NS2[many, at], side_N[many]
            fork = rng.choice([-1.0, 1.0], len(many)) * rng.uniform(0.35, 0.8, len(many))
            heading_N = turns[many, at] + fork
            length_N = length_N[many] * rng.uniform(0.35, 0.55, len(many))
    roots = Layer(pose)
    for hilum in hila_N2[[0, -1]]:
        spots_N2 = bend(hilum + rng.normal(0.0, 1.0, (6, 2)) * (0.035, 0.085))
        spread = rng.uniform(0.025, 0.06)
        ring = spread * np.stack([np.cos(_TURN), 1.4 * np.sin(_TURN)], axis=1)
        roots.fill(list(spots_N2[:, None] + ring), 1.0)
    return layer.soft(0.008) + np.float32(rng.uniform(0.3, 1.3)) * roots.soft(0.05)


_TURN = np.linspace(0.0, 2 * np.pi, 20, endpoint=False)


def _bands(lines_NS2: Float64, half_width_S: Float64) -> list[Float64]:
    """phantom_canvas.ribbon for many lines of equal length."""
    step = np.diff(lines_NS2, axis=1, append=2 * lines_NS2[:, -1:] - lines_NS2[:, -2:-1])
    normal = step[..., ::-1] * (-1.0, 1.0)
    normal *= (half_width_S / np.maximum(np.hypot(step[..., 0], step[..., 1]), 1e-9))[..., None]
    return list(np.concatenate([lines_NS2 + normal, (lines_NS2 - normal)[:, ::-1]], axis=1))


def haze(rng: np.random.Generator, layer_HW: Float32, pose: Pose) -> Float32:
    """A layer blurred by 0.02 to 0.2 body units: fat, folds, breasts, a blanket."""
    return blur(layer_HW, float(np.exp(rng.uniform(np.log(0.02), np.log(0.2)))) * pose.scale)


def random_lines(rng: np.random.Generator, n: int, width: float) -> list[Float64]:
    """Soft curves right across the body: leads, tubes, seams, folds of a shirt."""
    lines = []
    for _ in range(n):
        start, heading = rng.uniform((-1.2, -1.3), (1.2, 1.2)), rng.uniform(0.0, 2 * np.pi)
        turns = heading + np.cumsum(rng.normal(0.0, 0.12, 24))
        step = rng.uniform(0.03, 0.12)
        line_N2 = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=1) * step, axis=0)
        lines.append(ribbon(line_N2, np.full(24, width)))
    return lines
