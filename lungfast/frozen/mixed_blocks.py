"""Transformer blocks of :class:`lungfast.frozen.mixed.MixedEncoder`: on a GPU, and on a CPU.

Comes in: a block of segment-anything's ``ImageEncoderViT``, rows of image tokens. Goes out: what its
attention and its perceptron add to them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor
from torch.nn.attention import SDPBackend

from lungfast.frozen.attention import attend_by_heads
from lungfast.frozen.passes import places_of, widened
from lungfast.workers import Workers

WINDOW_BYTES = 4 << 20
"""Relative positions of windows that a thread attends in at once on a CPU: 2 windows of vit_b in fp32."""
LARGE = 1024
"""Tokens from which attention on a CPU is that of attention.py."""
_ALIGNED = 8
"""Attention kernels read biases in 16 bytes: rows of 196 are laid out 200 apart."""


class Space:
    """Arrays of one forward pass, used again by every block: each would be new pages otherwise."""

    def __init__(self, rows_RC: Tensor, dtype: torch.dtype) -> None:
        self._rows_RC, self._dtype = rows_RC, dtype
        self._arrays: dict[tuple[str, int, int], Tensor] = {}

    def of(self, name: str, rows: int, columns: int) -> Tensor:
        """As it was left."""
        key = name, rows, columns
        if key not in self._arrays:
            self._arrays[key] = self._rows_RC.new_empty(rows, columns, dtype=self._dtype)
        return self._arrays[key]


class Block:
    """One transformer block's weights; rows are the image tokens of a batch, (B*N, C)."""

    def __init__(self, block: Any, grid: tuple[int, int], dtype: torch.dtype) -> None:
        attention = block.attn
        self.norm1 = (block.norm1.weight, block.norm1.bias, block.norm1.eps)
        self.norm2 = (block.norm2.weight, block.norm2.bias, block.norm2.eps)
        self._grid, self._window, self._heads = grid, int(block.window_size), int(attention.num_heads)
        self._extent = (self._window, self._window) if self._window else grid
        self._qkv = _linear(attention.qkv, dtype)
        self._proj = _linear(attention.proj, dtype)
        self._mlp1, self._mlp2 = _linear(block.mlp.lin1, dtype), _linear(block.mlp.lin2, dtype)
        self._is_relative = bool(attention.use_rel_pos)
        self._table_DT = (
            _relative_table(attention, self._extent, dtype) if self._is_relative else self._qkv[1]
        )

    def think(self, normed_RC: Tensor, space: Space) -> Tensor:
        """The perceptron."""
        return F.linear(F.gelu(F.linear(normed_RC, *self._mlp1)), *self._mlp2)

    def attend(self, normed_RC: Tensor, batch: int, space: Space) -> Tensor:
        """Attention over the whole grid, or within windows."""
        weight, bias = self._qkv
        into, back = _window_rows(self._grid, self._window, batch, normed_RC.device)
        qkv = normed_RC.new_empty(len(normed_RC) + 1, len(weight))
        torch.addmm(bias, normed_RC, weight.t(), out=qkv[:-1])
        qkv[-1] = bias  # of a padded token, which is zero after the norm
        merged = self._attention(qkv, into)
        return F.linear(merged.index_select(0, back) if self._window else merged, *self._proj)

    def _attention(self, qkv_R3C: Tensor, into: Tensor) -> Tensor:
        """Attention among the rows ``into`` of each sample (an image or a window): (S*n, C)."""
        samples = into.numel() // (self._extent[0] * self._extent[1])
        if not self._is_relative:
            found = F.scaled_dot_product_attention(*self._split(qkv_R3C.index_select(0, into), samples))
        else:
            rows_R3hd = torch.unflatten(qkv_R3C, 1, (3, self._heads, -1))
            d = rows_R3hd.shape[-1]
            near_hRT = torch.bmm(rows_R3hd[:, 0].transpose(0, 1), self._table_DT.expand(self._heads, -1, -1))
            places = places_of(self._extent, d, qkv_R3C.dtype, qkv_R3C.device)
            narrow = _may_be_narrow(qkv_R3C.device, qkv_R3C.dtype, d + places[1].shape[1], d)
            q, k, v = widened(rows_R3hd, near_hRT, into, places, narrow=narrow)
            found = F.scaled_dot_product_attention(q, k, v, scale=d**-0.5)[..., :d]
        return found.transpose(1, 2).reshape(len(into), -1)

    def _split(self, qkv_R3C: Tensor, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (S, heads, n, d)."""
        q, k, v = qkv_R3C.view(samples, -1, 3, self._heads, len(self._qkv[0]) // 3 // self._heads).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class CpuBlock(Block):
    """On a CPU: heads and windows go to threads, and what is large is written where it was before."""

    def think(self, normed_RC: Tensor, space: Space) -> Tensor:
        hidden = self._into(space.of("hidden", len(normed_RC), len(self._mlp1[0])), normed_RC, self._mlp1)
        torch.ops.aten.gelu.out(hidden, out=hidden)
        return self._into(space.of("update", *normed_RC.shape), hidden, self._mlp2)

    def attend(self, normed_RC: Tensor, batch: int, space: Space) -> Tensor:
        rows, channels = normed_RC.shape
        qkv, merged = space.of("qkv", rows + 1, 3 * channels), space.of("merged", rows + 1, channels)
        self._into(qkv[:-1], normed_RC, self._qkv)
        if self._window:
            qkv[-1] = self._qkv[1]  # of a padded token, which is zero after the norm
            self._within_windows(qkv, batch, merged)
        elif rows // batch >= LARGE and self._is_relative:
            out = merged[:-1].view(batch, -1, self._heads, channels // self._heads).transpose(1, 2)
            attend_by_heads(*self._split(qkv[:-1], batch), self._near, out)
        else:
            merged[:-1] = self._together(qkv[:-1], batch)
        return self._into(space.of("update", rows, channels), merged[:-1], self._proj)

    @staticmethod
    def _into(out: Tensor, rows: Tensor, linear: tuple[Tensor, Tensor]) -> Tensor:
        weight, bias = linear
        return torch.addmm(bias, rows, weight.t(), out=out)

    def _within_windows(self, qkv: Tensor, batch: int, merged: Tensor) -> None:
        """A few windows a thread at a time; a padded token's place is the last row."""
        into, _ = _window_rows(self._grid, self._window, batch, qkv.device)
        size = self._window**2
        bias_bytes = self._heads * size * size * qkv.element_size()

        @torch.inference_mode()
        def attend(rows: Tensor) -> None:
            merged[rows] = self._together(qkv.index_select(0, rows), len(rows) // size)

        step = max(1, WINDOW_BYTES // bias_bytes) * size
        parts = [into[first : first + step] for first in range(0, len(into), step)]
        Workers.of(qkv.device).map(attend, parts)

    def _together(self, qkv_R3C: Tensor, samples: int) -> Tensor:
        """As :meth:`_attention`, relative positions as a bias."""
        q, k, v = self._split(qkv_R3C, samples)
        bias = self._bias(self._near(q)) if self._is_relative else None
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return found.transpose(1, 2).reshape(len(qkv_R3C), -1)

    def _near(self, q_ShND: Tensor) -> tuple[Tensor, Tensor]:
        """What every query adds for each row of keys (heads, S, h, w, h), and for each column.

        A query's own distances lie side by side in its products with all: views, one place further a row.
        """
        samples, heads, n, d = q_ShND.shape
        height, width = self._extent
        rows = q_ShND.transpose(0, 1).reshape(heads, samples * n, d)
        near = torch.bmm(rows, self._table_DT.expand(heads, -1, -1))
        wide = near.shape[-1]
        outer, row = (heads, samples, height, width), width * wide
        steps = (samples * n * wide, n * wide)
        by_row = near.as_strided((*outer, height), (*steps, row - 1, wide, 1), height - 1)
        from_column = 2 * height - 1 + width - 1
        return by_row, near.as_strided((*outer, width), (*steps, row, wide - 1, 1), from_column)

    def _bias(self, near: tuple[Tensor, Tensor]) -> Tensor:
        """(S, heads, n, n): what the distance in rows and in columns adds, as ``add_decomposed_rel_pos``."""
        rows_k, columns_k = near
        (height, width), n = self._extent, self._extent[0] * self._extent[1]
        stride = -(-n // _ALIGNED) * _ALIGNED
        bias = rows_k.new_empty(*rows_k.shape[:2], n, stride)[..., :n]
        grids = torch.unflatten(torch.unflatten(bias, 3, (height, width)), 2, (height, width))
        torch.add(rows_k[..., None], columns_k[..., None, :], out=grids)
        return bias.transpose(0, 1)


def _linear(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias; zeros where there is none."""
    weight: Tensor = module.weight.to(dtype)
    return weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias.to(dtype)


def _relative_table(attention: Any, extent: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """(d, 2h-1 + 2w-1): the embedding of every distance in rows, then in columns, from far below up.
    On a GPU zeros follow, up to a multiple of 8."""
    tables = []
    for size, embedding in zip(extent, (attention.rel_pos_h, attention.rel_pos_w), strict=True):
        picked = get_rel_pos(size, size, embedding)  # resized where the checkpoint's grid was another
        # key - query from 1 - size: first what the last query sees, then the first one's keys further on
        tables.append(torch.cat([picked[-1], picked[0, 1:]]))
    table_DT = torch.cat(tables).to(dtype).t()
    spare = -table_DT.shape[1] % _ALIGNED if table_DT.is_cuda else 0  # products of odd widths are slow there
    return F.pad(table_DT, (0, spare)).contiguous()


@cache
def _may_be_narrow(device: torch.device, dtype: torch.dtype, channels: int, narrow: int) -> bool:
    """Whether torch would give values narrower than queries to cuDNN: 2.5 ms a global block of 8 images
    instead of 3.3 (vit_h, H200). Flash attention, elsewhere the quickest, takes one width alone."""
    if device.type != "cuda":
        return True
    q, v = (torch.empty(1, 1, 256, width, device=device, dtype=dtype) for width in (channels, narrow))
    return bool(torch._fused_sdp_choice(q, q, v) == SDPBackend.CUDNN_ATTENTION.value)


@cache
def _window_rows(
    grid: tuple[int, int], window: int, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which row each window's token is (B*N: padding), and where each row's token lies in the windows.

    Window 0 is the whole grid.
    """
    height, width = grid
    n = height * width
    if not window:
        all_rows = torch.arange(batch * n, device=device)
        return all_rows, all_rows
    rows = torch.arange(batch * n).view(batch, height, width)
    pad = (0, -width % window, 0, -height % window)
    padded = F.pad(rows, pad, value=batch * n)
    cells = torch.unflatten(torch.unflatten(padded, 2, (-1, window)), 1, (-1, window))
    into = cells.transpose(2, 3).flatten()
    back = torch.empty(batch * n + 1, dtype=torch.long)
    back[into] = torch.arange(into.numel())
    return into.to(device), back[:-1].to(device)
