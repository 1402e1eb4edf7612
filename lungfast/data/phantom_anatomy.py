"""The phantoms' anatomy: a varying shape model of the chest as seen in a frontal X-ray.

In: a random generator. Out: outlines and lines in body coordinates (see phantom_canvas.py). "Left" is the
patient's left, which lies on the image's right. The mean shape was drawn by hand after textbook anatomy:
the right dome stands higher, the left lung has the cardiac notch and the aortic knob, ribs are ellipses
tilted forwards whose back halves are bright and whose front halves are faint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungfast.data.phantom_canvas import ellipse, ribbon, smooth_curve
from lungfast.records import Float64

_RIGHT_MEDIAL = ((0.16, 0.72), (0.27, 0.50), (0.29, 0.28), (0.20, 0.02), (0.18, -0.25), (0.14, -0.52))
_LEFT_MEDIAL = (
    (0.55, 0.76),
    (0.50, 0.50),
    (0.37, 0.24),
    (0.24, 0.02),
    (0.23, -0.15),
    (0.25, -0.36),
    (0.16, -0.55),
)
_APEX = ((0.15, -0.78), (0.25, -0.97), (0.43, -1.06), (0.63, -0.96))
_LATERAL = ((0.80, -0.68), (0.91, -0.32), (0.965, 0.10), (0.985, 0.52), (0.975, 0.84))
_RIB_REACH = (0.46, 0.68, 0.83, 0.92, 0.985, 1.01, 1.03, 1.035, 1.03, 1.0)


@dataclass(frozen=True, kw_only=True)
class Lung:
    """One lung: ``medial_N2`` runs from the cardiophrenic angle up, over the apex and down to the rim angle
    (``n_medial`` of its points lie on the inner side), ``dome_N2`` from there back along the diaphragm."""

    medial_N2: Float64
    dome_N2: Float64
    n_medial: int

    @property
    def outline_N2(self) -> Float64:
        return np.concatenate([self.medial_N2, self.dome_N2])


@dataclass(frozen=True, kw_only=True)
class Chest:
    """Everything that casts a shadow, as outlines (closed) and lines (open) in body coordinates."""

    left: Lung
    right: Lung
    body: Float64
    mediastinum: Float64
    abdomen: Float64
    back_ribs: tuple[Float64, ...]
    front_ribs: tuple[Float64, ...]
    clavicles: tuple[Float64, ...]
    shoulder_bones: tuple[Float64, ...]
    vertebrae: tuple[Float64, ...]
    airways: tuple[Float64, ...]
    breasts: tuple[Float64, ...]
    stomach: Float64 | None


@dataclass(frozen=True, kw_only=True)
class Build:
    """What tells one chest from another at large, as factors (``width``, ``heart``) and shifts in body units.

    ``breath`` lowers both domes, ``apex`` both lung tips; ``dome`` is how much higher the right dome stands.
    """

    width: float
    breath: float
    heart: float
    apex: float
    dome: float


def usual_build(rng: np.random.Generator) -> Build:
    """Adults who stand upright and breathe in."""
    width, breath = rng.normal(1.0, 0.035), rng.normal(0.0, 0.07)
    heart, apex = rng.uniform(0.78, 1.3), rng.normal(0.0, 0.04)
    return Build(width=width, breath=breath, heart=heart, apex=apex, dome=rng.uniform(0.04, 0.14))


def make_chest(rng: np.random.Generator, build: Build | None = None) -> Chest:
    """Draw one chest from the shape model; of a usual build where none is given."""
    build = build or usual_build(rng)
    width, modes = build.width, (build.width, build.heart, build.apex)
    right = _lung(rng, _RIGHT_MEDIAL, -1, modes, build.breath - build.dome / 2)
    left = _lung(rng, _LEFT_MEDIAL, 1, modes, build.breath + build.dome / 2)
    is_female = rng.random() < 0.45
    back, front = _ribs(rng, width)
    stomach = None
    if rng.random() < 0.75:
        middle = left.dome_N2[len(left.dome_N2) // 2 + 8]
        at = (float(middle[0]) - rng.uniform(0.0, 0.12), float(middle[1]) + rng.uniform(0.12, 0.2))
        stomach = ellipse(at, (rng.uniform(0.08, 0.17), rng.uniform(0.05, 0.09)), rng.normal(0.0, 0.3))
    return Chest(
        left=left,
        right=right,
        body=_body(rng, width),
        mediastinum=_mediastinum(left, right),
        abdomen=np.concatenate([right.dome_N2, left.dome_N2[::-1], [[1.2, 3.0], [-1.2, 3.0]]]),
        back_ribs=back,
        front_ribs=front,
        clavicles=_clavicles(rng),
        shoulder_bones=_shoulder_bones(rng, width),
        vertebrae=_vertebrae(rng),
        airways=_airways(rng),
        breasts=_breasts(rng) if is_female else (),
        stomach=stomach,
    )


def _lung(
    rng: np.random.Generator,
    medial: tuple[tuple[float, float], ...],
    side: int,
    modes: tuple[float, float, float],
    dome_shift: float,
) -> Lung:
    """``modes``: chest width, heart size, apex height; ``side`` is +1 for the patient's left."""
    width, heart, apex = modes
    inner = np.array(medial)
    # the heart bulges in the lower half of the chest only
    inner[:, 0] *= 1.0 + (heart - 1.0) * np.clip((inner[:, 1] + 0.25) / 0.5, 0.0, 1.0)
    inner[:, 1] += dome_shift * np.clip(inner[:, 1] + 0.2, 0.0, 1.0)
    outer = np.array(_APEX + _LATERAL)
    outer[:, 0] *= width * rng.normal(1.0, 0.02)
    outer[: len(_APEX), 1] += apex + rng.normal(0.0, 0.02)
    points = np.concatenate([inner, outer])
    points += rng.normal(0.0, 0.011, points.shape)
    rim = np.array([outer[-1, 0] - rng.uniform(0.0, 0.03), 0.99 + dome_shift + rng.normal(0.0, 0.03)])
    points = np.concatenate([points, rim[None]]) * (side, 1.0)
    medial_N2 = smooth_curve(points, 130)
    top = int(np.argmin(medial_N2[:, 1]))
    return Lung(medial_N2=medial_N2, dome_N2=_dome(rng, points[-1], points[0]), n_medial=top)


def _mediastinum(left: Lung, right: Lung) -> Float64:
    """Between the lungs, and 0.15 into the abdomen: edges that merely met would leave a dark seam."""
    ends = np.array([right.medial_N2[0], left.medial_N2[0]]) + np.array([0.0, 0.15])
    sides = (left.medial_N2[: left.n_medial], right.medial_N2[: right.n_medial][::-1])
    return np.concatenate([*sides, ends])


def _dome(rng: np.random.Generator, rim: Float64, heart_end: Float64) -> Float64:
    """The diaphragm from the rim angle (low, outside) to the heart (high, inside), bulging upwards."""
    t = np.linspace(0.0, 1.0, 7)
    bulge = rng.uniform(0.18, 0.26) * abs(heart_end[0] - rim[0]) * np.sin(np.pi * t**0.8)
    line = rim + (heart_end - rim) * t[:, None]
    line[:, 1] -= bulge + rng.normal(0.0, 0.015) * np.sin(2 * np.pi * t)
    return smooth_curve(line, 50)


def _body(rng: np.random.Generator, width: float) -> Float64:
    """Neck, shoulders, arms and trunk as one outline."""
    fat = rng.uniform(1.1, 1.24) * width
    shoulder, neck = rng.normal(-1.12, 0.05), rng.uniform(0.26, 0.34)
    half = np.array(
        [
            *((neck, -2.6), (neck, -1.62), (neck + 0.06, -1.42), (0.72, shoulder - 0.08), (1.15, shoulder)),
            *((1.45, shoulder + 0.12), (1.72, shoulder + 0.5), (2.0, 0.3), (1.8, 0.5), (1.5, 0.02)),
            *(
                (fat + 0.1, -0.32),
                (fat + 0.02, -0.1),
                (fat, 0.4),
                (fat * 0.98, 1.0),
                (fat * 1.03, 1.7),
                (fat, 3.0),
            ),
        ]
    )
    curve = smooth_curve(half, 90)
    return np.concatenate([curve, curve[::-1] * (-1.0, 1.0)])


def _ribs(rng: np.random.Generator, width: float) -> tuple[tuple[Float64, ...], tuple[Float64, ...]]:
    """Bands of the back and the front halves. A rib is an ellipse from spine to sternum, tilted forwards:
    at angle a, x = reach * sin(a) and y sinks by ``drop`` on the way."""
    pitch, first = rng.normal(0.188, 0.006), rng.normal(-1.0, 0.02)
    thickness = rng.uniform(0.026, 0.034)
    back, front = [], []
    for side in (-1, 1):
        for k, reach in enumerate(_RIB_REACH):
            drop = (0.22 + 0.052 * k) * rng.normal(1.0, 0.04)
            top = first + k * pitch * (1.0 - 0.012 * k) + rng.normal(0.0, 0.006)
            angle = np.linspace(0.1, 0.80 * np.pi, 60)
            x = side * width * (0.06 + (reach - 0.06) * np.sin(angle))
            y = top + drop * (1 - np.cos(angle)) * 0.62 - 0.05 * np.sin(2 * angle)
            line_N2 = np.stack([x, y], axis=1)
            band = thickness * (0.8 + 0.25 * np.sin(angle))
            back.append(ribbon(line_N2[:37], band[:37]))
            if k < 7:
                front.append(ribbon(line_N2[35:], band[35:] * np.linspace(1.0, 1.45, 25)))
    return tuple(back), tuple(front)


def _clavicles(rng: np.random.Generator) -> tuple[Float64, ...]:
    lift = rng.normal(0.0, 0.05)
    bands = []
    for side in (-1, 1):
        tilt = lift + rng.normal(0.0, 0.025)
        knots = (
            (0.10, -0.68),
            (0.32, -0.80),
            (0.62, -0.89 - tilt),
            (0.90, -1.02 - tilt),
            (1.18, -1.08 - tilt),
        )
        line_N2 = smooth_curve(np.array(knots) * (side, 1.0), 40)
        bands.append(ribbon(line_N2, 0.034 + 0.018 * np.cos(np.linspace(0, 2 * np.pi, 40))))
    return tuple(bands)


def _shoulder_bones(rng: np.random.Generator, width: float) -> tuple[Float64, ...]:
    """Shoulder blades (over the chest's upper outer rim) and the upper arms."""
    bones = []
    for side in (-1, 1):
        out = rng.normal(0.02, 0.04) + width - 1.0
        blade = (
            (0.93, -0.82),
            (1.12, -1.0),
            (1.3, -0.92),
            (1.22, -0.6),
            (1.08, -0.12),
            (1.0, 0.02),
            (0.95, -0.3),
        )
        bones.append(smooth_curve((np.array(blade) + np.array([out, 0.0])) * (side, 1.0), 50))
        bones.append(ellipse((side * (1.42 + out), -0.95), (0.12, 0.13)))
        arm = smooth_curve(
            np.array([(1.46 + out, -0.9), (1.62 + out, -0.5), (1.85 + out, 0.1)]) * (side, 1.0), 20
        )
        bones.append(ribbon(arm, np.full(20, 0.075)))
    return tuple(bones)


def _vertebrae(rng: np.random.Generator) -> tuple[Float64, ...]:
    """Vertebral bodies along a slightly bent column, growing downwards."""
    bend, phase = rng.normal(0.0, 0.02), rng.uniform(0, np.pi)
    outlines, y = [], -1.75
    while y < 2.2:
        half_height, half_width = 0.052 + 0.012 * (y + 1.75) / 3, 0.085 + 0.03 * (y + 1.75) / 3
        x = bend * np.sin(1.5 * y + phase)
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        # a superellipse: a box with round corners and a slight waist
        cosine, sine = np.cos(angle), np.sin(angle)
        box = np.stack(
            [np.sign(cosine) * np.abs(cosine) ** 0.35, np.sign(sine) * np.abs(sine) ** 0.35], axis=1
        )
        box[:, 0] *= 1.0 - 0.14 * (1.0 - np.abs(box[:, 1]))
        outlines.append(box * (half_width, half_height) + (x, y))
        y += 2 * half_height + 0.028
    return tuple(outlines)


def _airways(rng: np.random.Generator) -> tuple[Float64, ...]:
    """Windpipe and the two main bronchi as bands."""
    shift = rng.normal(0.0, 0.015)
    fork = (shift + 0.01, -0.33)
    trunk = smooth_curve(np.array([(0.0, -1.7), (shift, -1.0), (shift + 0.01, -0.6), fork]), 30)
    right = smooth_curve(np.array([fork, (-0.09, -0.22), (-0.2, -0.08)]), 15)
    left = smooth_curve(np.array([fork, (0.12, -0.24), (0.25, -0.12)]), 15)
    bronchi = [ribbon(line, np.linspace(0.036, 0.022, 15)) for line in (right, left)]
    return (ribbon(trunk, np.full(30, 0.05)), *bronchi)


def _breasts(rng: np.random.Generator) -> tuple[Float64, ...]:
    size, low = rng.uniform(0.26, 0.4), rng.uniform(0.25, 0.55)
    return tuple(ellipse((side * 0.66, low + rng.normal(0, 0.03)), (size * 1.15, size)) for side in (-1, 1))
