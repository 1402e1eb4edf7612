"""Grey pictures and their masks as a U-Net takes them: standardised, augmented, padding told apart.

Comes in: pictures of one side length, targets and the extent of each image in its square. Goes out: batches
on the device. Padding is zero after standardising, whatever it held, and counts in no loss. Augmentation
derives from (seed, the image's id, epoch), never from its place in a batch; it moves image, target and
validity together.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.errors import UsageError
from lungfast.records import Bool, Float64, Int64, UInt8

FLATTEST = 1e-3
"""The least standard deviation of grey values in 0…1 to divide by: a constant picture stays constant."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far a training picture may be changed, uniformly up to each bound and either way; 0: not at all.

    ``scale`` and ``shift`` are shares of the image's size; ``gamma`` is in powers of two. There are no flips:
    the heart is on the left.
    """

    rotation_deg: float = 10.0
    scale: float = 0.15
    shift: float = 0.1
    gamma: float = 0.5

    def __post_init__(self) -> None:
        for name, high in {"rotation_deg": 180, "scale": 0.9, "shift": 1, "gamma": 4}.items():
            if not 0 <= getattr(self, name) <= high:
                raise UsageError(
                    f"augmentation {name} is out of range",
                    found=str(getattr(self, name)),
                    expected=f"0 to {high}",
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """N images at one low-resolution size; ``extent_N2`` are the rows and columns that are no padding."""

    ids: Sequence[str]
    grey_Nhw: UInt8
    target_Nhw: Bool
    extent_N2: Int64

    @property
    def size(self) -> int:
        return int(self.grey_Nhw.shape[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureBatch:
    """``image_B1hw`` float32, of mean 0 and standard deviation 1 on the image and 0 on padding."""

    image_B1hw: Tensor
    target_Bhw: Tensor
    valid_Bhw: Tensor


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One change of one picture."""

    angle: float
    scale: float
    shift: tuple[float, float]
    gamma: float

    @classmethod
    def of(cls, augmentation: Augmentation, identity: str, *, seed: int, epoch: int) -> Draw:
        rng = np.random.default_rng([seed, epoch, zlib.crc32(identity.encode())])
        angle, scale, right, down, gamma = rng.uniform(-1, 1, 5)
        return cls(
            angle=float(np.deg2rad(angle * augmentation.rotation_deg)),
            scale=float(1 + scale * augmentation.scale),
            shift=(float(right * augmentation.shift), float(down * augmentation.shift)),
            gamma=float(2 ** (gamma * augmentation.gamma)),
        )

    def matrix(self, extent: Int64, size: int) -> Float64:
        """(2, 3): from a place in the new picture to its source, both in -1…1 over the square, (x, y).

        Turned and scaled about the centre of the image, which is not that of the padded square.
        """
        height, width = extent / size
        centre = np.array([width - 1, height - 1])
        turn = np.array([[np.cos(self.angle), -np.sin(self.angle)], [np.sin(self.angle), np.cos(self.angle)]])
        shift = 2 * np.array(self.shift) * (width, height)
        inverse = turn / self.scale
        return np.column_stack([inverse, centre - inverse @ (centre + shift)])


def plain_batch(pictures: Pictures, images_B: Int64, device: torch.device) -> PictureBatch:
    """The pictures as they are."""
    return _standardised(_planes(pictures, images_B, device))


def augmented_batch(
    pictures: Pictures, images_B: Int64, device: torch.device, draws_B: Sequence[Draw]
) -> PictureBatch:
    """The pictures changed by ``draws_B``; what comes from outside an image is not valid."""
    extents = pictures.extent_N2[images_B]
    matrices = [draw.matrix(extent, pictures.size) for draw, extent in zip(draws_B, extents, strict=True)]
    planes = _planes(pictures, images_B, device)
    theta = torch.from_numpy(np.stack(matrices).astype(np.float32)).to(device)
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    gamma = torch.tensor([draw.gamma for draw in draws_B], device=device)
    grey = moved[:, 0].clamp(0, 1) ** gamma[:, None, None]
    return _standardised(torch.stack([grey, moved[:, 1], moved[:, 2]], dim=1))


def _planes(pictures: Pictures, images_B: Int64, device: torch.device) -> Tensor:
    """(B, 3, h, w) float32 in 0…1: grey, target, validity."""
    size = torch.arange(pictures.size)
    rows, columns = torch.from_numpy(pictures.extent_N2[images_B]).unbind(1)
    valid = (size[:, None] < rows[:, None, None]) & (size < columns[:, None, None])
    grey = torch.from_numpy(pictures.grey_Nhw[images_B]).float() / 255
    target = torch.from_numpy(pictures.target_Nhw[images_B])
    return torch.stack([grey * valid, (target & valid).float(), valid.float()], dim=1).to(device)


def _standardised(planes: Tensor) -> PictureBatch:
    grey, target, share = planes.unbind(1)
    valid = share > 0.5
    n = valid.sum((1, 2), keepdim=True).clamp(min=1)
    mean = (grey * valid).sum((1, 2), keepdim=True) / n
    centred = (grey - mean) * valid
    std = (centred.square().sum((1, 2), keepdim=True) / n).sqrt().clamp(min=FLATTEST)
    return PictureBatch(
        image_B1hw=(centred / std)[:, None], target_Bhw=(target > 0.5) & valid, valid_Bhw=valid
    )
