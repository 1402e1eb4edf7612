"""nano's image encoder: convolutions where pixels are many, transformer blocks where they are few.

Comes in: grey X-rays as SAM's encoder takes them, (B, 3, S, S) normalised, padded with zeros. Goes out: one
embedding of 256 channels a token, (B, 256, S/8, S/8), with the fine detail of the pixels under it; if asked
for, also the finest maps themselves, (B, 64, S/4, S/4), for decoders with a conv_s1 (trained/parameters.py).

A convolutional stem, residual stages at 1/4, 1/8 and 1/16 of the size, transformer blocks on the coarsest,
and a U-Net's way back up. The finest maps are folded into the tokens (four neighbours side
by side) rather than averaged: an embedding knows where in its 8 x 8 pixels an edge lies. Group norm instead
of batch norm: nothing remembers the statistics of the images it was trained on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from lungfast.frozen.nano import HybridConfig

if TYPE_CHECKING:
    from torch import Tensor

GROUP = 32
"""Channels a group of the group norms."""


class HybridEncoder(nn.Module):
    """See the module's text."""

    def __init__(self, config: HybridConfig, *, high_res: bool = False) -> None:
        super().__init__()
        self.high_res = high_res
        half, fine, middle, coarse = config.widths
        self.fold, self.patch = config.fold, 16
        self.stem = nn.Sequential(
            _conv(3, half, stride=2), _norm(half), nn.ReLU(), _conv(half, fine, stride=2)
        )
        self.fine = _stage(fine, config.blocks[0])
        self.down1 = _down(fine, middle)
        self.middle = _stage(middle, config.blocks[1])
        self.down2 = _down(middle, coarse)
        self.coarse = _stage(coarse, config.blocks[2])
        side = config.input_size // self.patch
        self.positions = nn.Parameter(torch.randn(1, coarse, side, side) * 0.02)
        self.layers = nn.ModuleList(_Block(coarse, config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(coarse)
        self.up1 = nn.Conv2d(coarse, middle, 1)
        self.fuse1 = _stage(middle, 1)
        self.up2 = nn.Conv2d(middle, fine, 1)
        self.fuse2 = _stage(fine, 1)
        folded = fine * config.fold**2
        self.neck = nn.Conv2d(folded + (middle if config.fold == 2 else 0), 256, 1)
        self.neck_norm = nn.LayerNorm(256)

    def forward(self, images_B3SS: Tensor) -> Tensor:
        """(B, 256, Eh, Ew); with ``high_res`` the finest maps' channels follow, cell by cell of a token."""
        channels = grey_channels(images_B3SS).to(self.neck.weight.dtype)
        fine = self.fine(self.stem(channels))
        middle = self.middle(self.down1(fine))
        coarse = self.coarse(self.down2(middle))
        rows = (coarse + self._positions_at(coarse.shape[2:])).flatten(2).transpose(1, 2)
        for layer in self.layers:
            rows = layer(rows)
        coarse = self.norm(rows).transpose(1, 2).unflatten(2, coarse.shape[2:])
        middle = self.fuse1(middle + _larger(self.up1(coarse)))
        fine = self.fuse2(fine + _larger(self.up2(middle)))
        parts = [F.pixel_unshuffle(fine, self.fold), middle] if self.fold == 2 else [fine]
        tokens_BEEC = self.neck(torch.cat(parts, dim=1)).permute(0, 2, 3, 1)
        embeddings_BCEE: Tensor = self.neck_norm(tokens_BEEC).permute(0, 3, 1, 2)
        if not self.high_res:
            return embeddings_BCEE
        cells = torch.unflatten(F.pixel_unshuffle(fine, self.fold), 1, (fine.shape[1], -1))
        return torch.cat([embeddings_BCEE, cells.transpose(1, 2).flatten(1, 2)], dim=1)

    def _positions_at(self, size: torch.Size) -> Tensor:
        """Positions for a coarsest map of another size, as in training, which begins with small images."""
        if size == self.positions.shape[2:]:
            return self.positions
        return F.interpolate(self.positions, size=tuple(size), mode="bilinear", align_corners=False)


class ReducedHybrid(nn.Module):
    """The encoder with its products in ``dtype``; norms and the embeddings stay float32."""

    def __init__(self, encoder: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self._encoder, self._dtype = encoder, dtype

    def forward(self, images_B3SS: Tensor) -> Tensor:
        with torch.autocast(images_B3SS.device.type, self._dtype):
            embeddings_BCEE: Tensor = self._encoder(images_B3SS)
        return embeddings_BCEE.float()


def grey_channels(images_B3SS: Tensor) -> Tensor:
    """(B, 3, S, S): grey without the image's own brightness and contrast, grey without those of its
    surroundings, and where the image is. Padding is exactly zero in SAM's input, which no grey level is."""
    grey = images_B3SS.float().mean(dim=1, keepdim=True)
    inside = (grey != 0).float()
    count = inside.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = grey.sum(dim=(2, 3), keepdim=True) / count
    centred = (grey - mean) * inside
    spread = (centred.square().sum(dim=(2, 3), keepdim=True) / count).sqrt()
    even = centred / (spread + 1e-2)
    small = F.avg_pool2d(torch.cat([even, even.square(), inside], dim=1), 4)
    window = 2 * (small.shape[-1] // 10) + 1
    near = F.avg_pool2d(small, window, stride=1, padding=window // 2, count_include_pad=False)
    near = near / near[:, 2:].clamp(min=0.05)
    near = torch.cat([near[:, :1], (near[:, 1:2] - near[:, :1].square()).clamp(min=0).sqrt()], dim=1)
    near = F.interpolate(near, size=grey.shape[-2:], mode="bilinear", align_corners=False)
    local = (even - near[:, :1]) / (near[:, 1:] + 0.1) * inside
    return torch.cat([even, local, inside], dim=1)


class _Block(nn.Module):
    """A pre-norm transformer block with attention among all tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, rows_BNC: Tensor) -> Tensor:
        batch, n, width = rows_BNC.shape
        qkv = self.qkv(self.norm1(rows_BNC)).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # 256 tokens: on a CPU torch's fused attention takes three times as long backwards as two products
        logits = (qkv[0] * qkv.shape[-1] ** -0.5) @ qkv[1].transpose(-2, -1)
        mixed = logits.softmax(dim=-1) @ qkv[2]
        rows_BNC = rows_BNC + self.proj(mixed.transpose(1, 2).reshape(batch, n, width))
        updated: Tensor = rows_BNC + self.mlp(self.norm2(rows_BNC))
        return updated


class _Residual(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3, and the input added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _norm(width), nn.ReLU(), _conv(width, width), _norm(width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, maps: Tensor) -> Tensor:
        added: Tensor = maps + self.body(maps)
        return added


def _stage(width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(_Residual(width) for _ in range(blocks)))


def _down(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(_norm(width), nn.ReLU(), _conv(width, out, stride=2))


def _conv(width: int, out: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, out, 3, stride=stride, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, width // GROUP), width)


def _larger(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)
