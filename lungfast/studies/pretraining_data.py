"""Generated X-rays with prompts, as training takes them; drawn when asked for, and never stored.

Comes in: a configuration and a number. Goes out: the padded image, soft masks of every structure at the
decoder's resolution, and a prompt whose answer is one of them: both lungs mostly, else one lung or the
mediastinum. All prompts of a batch are of one kind, which follows from the batch's number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lungfast.data.randomised import STRUCTURES, GeneratedXray, generate_xray
from lungfast.geometry import Frame, tight_box
from lungfast.records import Bool, Float32, Float64, Int64, Size, UInt8

if TYPE_CHECKING:
    import torch

    from lungfast.trained.promptable import PromptableBatch

POSITIVE, NEGATIVE, CORNERS, NONE = 1, 0, (2, 3), -1
PROMPTED = 2
"""One of so many X-rays of a batch gets a prompt, and with it a turn of the decoder."""
CELL = 2
"""Pixels of a low-resolution cell's side."""
KINDS = ("points", "point", "negative", "box", "both")
KIND_SHARES = (0.45, 0.1, 0.1, 0.15, 0.2)
_LUNGS, _MIDDLE = ("left", "right"), "mediastinum"


@dataclass(frozen=True, kw_only=True)
class PromptedXray:
    """One example: uint8 arrays (``soft_Shw`` is 255 times the share of a cell), prompt in input pixels."""

    padded_SS: UInt8
    size: Size
    soft_Shw: UInt8
    target: tuple[int, ...]
    """The structures whose union the prompt asks for."""
    points_P2: Float32
    labels_P: Int64


def prompted_xray(seed: int, index: int, batch: int, side: int, frame: int) -> PromptedXray:
    """Example ``index``, ``side`` px large; its kind of prompt is that of batch ``index // batch``.

    The prompt is in pixels of a frame of ``frame`` px, the model's full input.
    """
    xray = generate_xray(seed, index, side)
    rng = np.random.default_rng([seed, index, 1])
    kind = str(np.random.default_rng([seed, index // batch, 2]).choice(KINDS, p=KIND_SHARES))
    target = _target(rng, kind, xray)
    points_P2, labels_P = random_prompt(rng, kind, [xray.masks_SHW[s] for s in target])
    height, width = xray.image_HW.shape
    padded_SS = np.zeros((side, side), np.uint8)
    padded_SS[:height, :width] = xray.image_HW
    return PromptedXray(
        padded_SS=padded_SS,
        size=(height, width),
        soft_Shw=_soft(xray.masks_SHW, side, side // CELL),
        target=target,
        points_P2=((points_P2 + 0.5) * frame / side - 0.5).astype(np.float32),
        labels_P=labels_P,
    )


def _target(rng: np.random.Generator, kind: str, xray: GeneratedXray) -> tuple[int, ...]:
    """A single point means the structure it lies in; otherwise 70 % are both lungs."""
    sides = tuple(STRUCTURES.index(name) for name in _LUNGS)
    alone = [*sides, STRUCTURES.index(_MIDDLE)]
    if kind != "point" and rng.random() < 0.7:
        return sides
    seen = [s for s in alone if xray.masks_SHW[s].any()]
    return (int(rng.choice(seen)),) if seen else sides


def random_prompt(rng: np.random.Generator, kind: str, masks: list[Bool]) -> tuple[Float64, Int64]:
    """Points (P, 2) in pixels and their labels for the union of ``masks`` (H, W); P depends on kind alone."""
    union_HW = np.logical_or.reduce(masks)
    height, width = union_HW.shape
    parts = masks if len(masks) > 1 else masks * (1 if kind == "point" else 2)
    points = [] if kind == "box" else [_inside(rng, part_HW) for part_HW in parts]
    labels = [POSITIVE] * len(points)
    if kind == "negative":
        points.append(_inside(rng, ~union_HW))
        labels.append(NEGATIVE)
    if kind in {"box", "both"}:
        box = tight_box(union_HW)
        box = np.array([0.0, 0.0, 1.0, 1.0]) if box is None else box
        jitter = rng.normal(0.0, rng.uniform(0.0, 0.03), 4)
        corners = (box + jitter).clip(0, 1).reshape(2, 2) * (width, height) - 0.5
        points.extend(corners)
        labels.extend(CORNERS)
    else:  # as segment-anything, which ends points without a box with an empty one
        points.append(np.zeros(2))
        labels.append(NONE)
    return np.array(points), np.array(labels, np.int64)


def _inside(rng: np.random.Generator, mask_HW: Bool) -> Float64:
    """A pixel of the mask (anywhere or near its middle), moved by up to some 4 % of the image."""
    height, width = mask_HW.shape
    at = np.flatnonzero(mask_HW)
    if not at.size:
        return rng.uniform(0.0, 1.0, 2) * (width, height)
    rows, columns = np.divmod(rng.choice(at, 4), width)
    pixels = np.stack([columns, rows], axis=1).astype(float)
    # the mean of four pixels lies nearer to the middle than one does
    point = pixels.mean(axis=0) if rng.random() < 0.5 else pixels[0]
    point = point + rng.normal(0.0, 0.02, 2) * (width, height)
    return np.asarray(point.clip(0, (width - 1, height - 1)))


def _soft(masks_SHW: Bool, side: int, low: int) -> UInt8:
    """Area averages over the padded square, times 255."""
    structures, height, width = masks_SHW.shape
    padded = np.zeros((structures, side, side), np.uint8)
    padded[:, :height, :width] = masks_SHW
    cell = side // low
    total = padded.reshape(structures, low, cell, low, cell).sum(axis=(2, 4), dtype=np.uint16)
    return np.asarray(total * 255 // cell**2, np.uint8)


def collate(examples: list[PromptedXray]) -> PromptableBatch:
    """Examples -> tensors, normalised as every encoder's input (records.EncoderSpec); half are prompted."""
    import torch

    from lungfast.trained.promptable import PromptableBatch

    side = examples[0].padded_SS.shape[0]
    low = side // CELL
    inside = np.zeros((len(examples), side, side), bool)
    valid = np.zeros((len(examples), low, low), bool)
    for b, one in enumerate(examples):
        inside[b, : one.size[0], : one.size[1]] = True
        valid[b] = Frame(native_size=one.size, resized_size=one.size, input_size=side).valid_hw((low, low))
    prompted = examples[: -(-len(examples) // PROMPTED)]
    structures_BShw = torch.from_numpy(np.stack([one.soft_Shw for one in examples])).float() / 255
    return PromptableBatch(
        images_B3SS=_normalised(np.stack([one.padded_SS for one in examples]), inside),
        points_BP2=torch.from_numpy(np.stack([one.points_P2 for one in prompted])),
        labels_BP=torch.from_numpy(np.stack([one.labels_P for one in prompted])),
        target_Bhw=torch.stack(
            [
                maps[list(one.target)].sum(dim=0).clamp(max=1)
                for maps, one in zip(structures_BShw, prompted, strict=False)
            ]
        ),
        structures_BShw=structures_BShw,
        valid_Bhw=torch.from_numpy(valid),
    )


def _normalised(grey_BSS: UInt8, inside_BSS: Bool) -> torch.Tensor:
    import torch

    from lungfast.frozen.encoders import normalised

    return normalised(torch.from_numpy(grey_BSS), torch.from_numpy(inside_BSS))


class Examples:
    """A map-style data set for torch's DataLoader; the first ``small`` batches have half the side."""

    def __init__(self, *, seed: int, n: int, batch: int, side: int, small: int = 0) -> None:
        self._seed, self._n, self._batch, self._side, self._small = seed, n, batch, side, small

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> PromptedXray:
        side = self._side // 2 if index // self._batch < self._small else self._side
        return prompted_xray(self._seed, index, self._batch, side, self._side)
