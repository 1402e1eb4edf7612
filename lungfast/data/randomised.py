"""Domain-randomised chest X-rays with the masks of eight structures: what nano is pretrained on.

In: a seed, a number, a side in px. Out: an 8-bit image whose long side is that, and its structures. Where the
phantoms imitate two sets, these imitate none: builds, projections, exposures, diseases, devices and borders
are drawn far wider than any hospital's (J. Tobin et al., 2017, call this domain randomisation), so that real
X-rays are one more variation. Drawing a body takes three times as long as exposing it, so that each is
exposed twice, with other weights of all its shadows. The lungs' masks are anatomical: disease stays inside;
what lies outside the collimation is no part of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lungfast.data.phantom_anatomy import Chest, make_chest
from lungfast.data.phantom_canvas import Layer, Pose, mask_of
from lungfast.data.randomised_body import bent, random_bend, random_build, random_pose
from lungfast.data.randomised_film import develop_randomly
from lungfast.data.randomised_shadows import Shadows, attenuation, draw_shadows
from lungfast.records import Bool, Size, UInt8

STRUCTURES = ("left", "right", "mediastinum", "abdomen", "body", "ribs", "shoulders", "spine")
"""``left`` is the lung on the image's right, as in the phantoms, whether or not the film was mirrored."""
FILMS = 2
"""X-rays of one body, one after the other."""


@dataclass(frozen=True, kw_only=True)
class GeneratedXray:
    """8-bit grey (H, W) and boolean masks (S, H, W) in the order of :data:`STRUCTURES`."""

    image_HW: UInt8
    masks_SHW: Bool


def generate_xray(seed: int, index: int, side: int) -> GeneratedXray:
    """X-ray ``index`` of stream ``seed``; the same three numbers give the same pixels. ``side`` in px."""
    shadows, pose, masks_SHW = _body(seed, index // FILMS, side)
    rng = np.random.default_rng([seed, index])
    image_HW, visible_HW = develop_randomly(rng, attenuation(rng, shadows), pose)
    return GeneratedXray(image_HW=image_HW, masks_SHW=masks_SHW & visible_HW)


@lru_cache(maxsize=2)
def _body(seed: int, number: int, side: int) -> tuple[Shadows, Pose, Bool]:
    rng = np.random.default_rng([seed, number, FILMS])
    bend = random_bend(rng)
    chest = bent(make_chest(rng, random_build(rng)), bend)
    pose = random_pose(rng, chest, _size(rng, side))
    return draw_shadows(rng, pose, chest, bend), pose, _masks(pose, chest, mirrored=bend.mirrored)


def _size(rng: np.random.Generator, side: int) -> Size:
    short = side if rng.random() < 0.5 else round(side * rng.uniform(0.72, 1.0))
    return (side, short) if rng.random() < 0.5 else (short, side)


def _masks(pose: Pose, chest: Chest, *, mirrored: bool) -> Bool:
    left_HW, right_HW = mask_of(pose, chest.left.outline_N2), mask_of(pose, chest.right.outline_N2)
    left_HW &= ~right_HW
    lungs_HW, abdomen_HW = left_HW | right_HW, mask_of(pose, chest.abdomen)
    body_HW = mask_of(pose, chest.body)
    groups = (
        (*chest.back_ribs, *chest.front_ribs),
        (*chest.clavicles, *chest.shoulder_bones),
        chest.vertebrae,
    )
    bones = [Layer(pose).fill(group, 1.0).soft() > 0.5 for group in groups]
    sides = [right_HW, left_HW] if mirrored else [left_HW, right_HW]
    middle_HW = mask_of(pose, chest.mediastinum) & ~lungs_HW & ~abdomen_HW
    return np.stack([*sides, middle_HW, abdomen_HW & body_HW & ~lungs_HW, body_HW, *bones])
