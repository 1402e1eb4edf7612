"""SAM's image encoder in bf16 or fp16: the same weights, with nothing computed or moved that need not be.

Comes in: segment-anything's ``ImageEncoderViT``. Goes out: a module with its forward's shapes, whose products
and attentions run in the reduced type. As under autocast, the residual stream, layer norms and softmax are
float32. Against stock under autocast:

* weights are cast once instead of in every forward pass;
* attention is torch's own (no logits in memory); for the decomposed relative positions one product of all
  queries with all 2h-1 + 2w-1 distances, of which every query then picks its own. On a CPU they are the
  attention's bias; on a GPU they ride in widened queries and keys (18.7 -> 16.8 ms an image, vit_h, H200);
* windows are cut out of the projected queries, keys and values, so that the padding of 64x64 tokens to 70x70
  (SAM's windows are 14x14) is never multiplied: a padded token's projection is the bias;
* on a GPU a residual sum and the layer norm after it are one compiled pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos
from torch import Tensor, nn

CPU_BIAS_BYTES = 40 << 20
"""Relative positions of so many heads at once: one head of 64x64 tokens is 34 MB in bf16."""
CUDA_BIAS_BYTES = 2 << 30
"""The same on a GPU: 4 images of vit_h's 16 heads."""
_ALIGNED = 8
"""Attention kernels read biases in 16 bytes: rows of 196 are laid out 200 apart."""


class MixedEncoder(nn.Module):
    """(B, 3, S, S) normalised images -> (B, C, Eh, Ew) float32, as ``ImageEncoderViT.forward``."""

    def __init__(self, vit: ImageEncoderViT, dtype: torch.dtype) -> None:
        """Takes the weights over: what ``vit`` held in float32 is freed with it."""
        super().__init__()
        self._dtype = dtype
        patch = vit.patch_embed.proj
        self._patch = int(patch.kernel_size[0])
        self._patch_weight, self._patch_bias = patch.weight.to(dtype).flatten(1), patch.bias.to(dtype)
        self._position = None if vit.pos_embed is None else vit.pos_embed[0].flatten(0, 1)
        side = vit.img_size // self._patch
        self._grid = (side, side)
        self._blocks = [_Block(block, self._grid, dtype) for block in vit.blocks.children()]
        narrow, first, spatial, second = vit.neck.children()
        self._narrow = narrow.weight.to(dtype).flatten(1)
        self._spatial = spatial.weight.to(dtype, memory_format=torch.channels_last)
        self._norms = [(norm.weight, norm.bias, norm.eps) for norm in (first, second)]

    def forward(self, images_B3SS: Tensor) -> Tensor:
        batch = len(images_B3SS)
        rows_RC = F.linear(self._patches(images_B3SS), self._patch_weight, self._patch_bias).float()
        if self._position is not None:
            rows_RC = (rows_RC.view(batch, -1, rows_RC.shape[-1]) + self._position).flatten(0, 1)
        add_norm = _compiled if rows_RC.device.type == "cuda" else _add_norm
        first = self._blocks[0]
        normed_RC = F.layer_norm(rows_RC, rows_RC.shape[-1:], *first.norm1).to(self._dtype)
        for block, after in zip(self._blocks, [*self._blocks[1:], None], strict=True):
            rows_RC, normed_RC = add_norm(rows_RC, block.attend(normed_RC, batch), *block.norm2)
            update_RC = block.think(normed_RC)
            if after is None:
                rows_RC = rows_RC + update_RC
            else:
                rows_RC, normed_RC = add_norm(rows_RC, update_RC, *after.norm1)
        return self._neck(rows_RC.to(self._dtype), batch)

    def _patches(self, images_B3SS: Tensor) -> Tensor:
        """(B*N, 3*P*P): the convolution's stride is its kernel, so it is a product."""
        (rows, columns), side = self._grid, self._patch
        cells = images_B3SS.to(self._dtype).view(-1, 3, rows, side, columns, side)
        return cells.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3 * side * side)

    def _neck(self, rows_RC: Tensor, batch: int) -> Tensor:
        (first, first_bias, first_eps), (second, second_bias, second_eps) = self._norms
        narrow_RC = F.linear(rows_RC, self._narrow).float()
        shape = narrow_RC.shape[-1:]
        narrow_RC = F.layer_norm(narrow_RC, shape, first, first_bias, first_eps).to(self._dtype)
        maps_BCEE = narrow_RC.view(batch, *self._grid, -1).permute(0, 3, 1, 2)  # channels last: no copy
        maps_BEEC = F.conv2d(maps_BCEE, self._spatial, padding=1).permute(0, 2, 3, 1).float()
        return F.layer_norm(maps_BEEC, shape, second, second_bias, second_eps).permute(0, 3, 1, 2)


class _Block:
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
        self._table_DT = _relative_table(attention, self._extent, dtype) if attention.use_rel_pos else None
        self._gelu = block.mlp.act

    def think(self, normed_RC: Tensor) -> Tensor:
        """The perceptron."""
        return F.linear(self._gelu(F.linear(normed_RC, *self._mlp1)), *self._mlp2)

    def attend(self, normed_RC: Tensor, batch: int) -> Tensor:
        """Attention over the whole grid, or within windows."""
        weight, bias = self._qkv
        if not self._window:
            return F.linear(self._attention(F.linear(normed_RC, weight, bias), batch), *self._proj)
        into, back = _window_rows(self._grid, self._window, batch, normed_RC.device)
        qkv = normed_RC.new_empty(len(normed_RC) + 1, len(weight))
        torch.addmm(bias, normed_RC, weight.t(), out=qkv[:-1])
        qkv[-1] = bias  # of a padded token, which is zero after the norm
        samples = into.numel() // self._window**2
        merged = self._attention(qkv.index_select(0, into), samples)
        return F.linear(merged.index_select(0, back), *self._proj)

    def _attention(self, qkv_R3C: Tensor, samples: int) -> Tensor:
        """Attention within each sample (an image or a window): (R, 3C) -> (R, C)."""
        rows, n = len(qkv_R3C), len(qkv_R3C) // samples
        q, k, v = qkv_R3C.view(samples, n, 3, self._heads, -1).permute(2, 0, 3, 1, 4)  # (S, heads, n, d)
        if qkv_R3C.is_cuda and self._table_DT is not None:
            wide = _widen(q, k, v, self._near(q, self._table_DT), self._extent)
            scale = q.shape[-1] ** -0.5
            found = F.scaled_dot_product_attention(*wide, scale=scale)[..., : q.shape[-1]]
            return found.transpose(1, 2).reshape(rows, -1)
        out = torch.empty_like(q.transpose(1, 2)).transpose(1, 2)  # heads side by side in a row
        for part in self._parts(samples, n, qkv_R3C.device):
            bias = None if self._table_DT is None else self._relative(q[part], self._table_DT)
            out[part] = F.scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=bias)
        return out.transpose(1, 2).reshape(rows, -1)

    def _parts(self, samples: int, n: int, device: torch.device) -> list[tuple[slice, slice]]:
        """Samples, then heads, so that the bias of a part stays within its bound."""
        limit = CUDA_BIAS_BYTES if device.type == "cuda" else CPU_BIAS_BYTES
        fit = max(1, limit // (2 * n * n))
        heads, many = min(self._heads, fit), max(1, fit // self._heads)
        return [
            (slice(s, s + many), slice(h, h + heads))
            for s in range(0, samples, many)
            for h in range(0, self._heads, heads)
        ]

    def _relative(self, q_ShND: Tensor, table_DT: Tensor) -> Tensor:
        """(S, heads, n, n): what the distance in rows and in columns adds, as ``add_decomposed_rel_pos``."""
        samples, heads, n, _ = q_ShND.shape
        height, width = self._extent
        rows_k, columns_k = self._near(q_ShND, table_DT)
        stride = -(-n // _ALIGNED) * _ALIGNED
        bias = q_ShND.new_empty(heads, samples, n, stride)[..., :n]
        grids = torch.unflatten(torch.unflatten(bias, 3, (height, width)), 2, (height, width))
        torch.add(rows_k[..., None], columns_k[..., None, :], out=grids)
        return bias.transpose(0, 1)

    def _near(self, q_ShND: Tensor, table_DT: Tensor) -> tuple[Tensor, Tensor]:
        """What every query adds for each row of keys (heads, S, h, w, h), and for each column."""
        samples, heads, n, d = q_ShND.shape
        height, width = self._extent
        rows = q_ShND.transpose(0, 1).reshape(heads, samples * n, d)
        near = torch.bmm(rows, table_DT.expand(heads, -1, -1)).view(heads, samples, height, width, -1)
        by_row, by_column = _distances(self._extent, q_ShND.device)
        rows_k = near.take_along_dim(by_row[None, None, :, None], -1)
        return rows_k, near.take_along_dim(by_column[None, None, None], -1)


def _widen(
    q: Tensor, k: Tensor, v: Tensor, near: tuple[Tensor, Tensor], extent: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (S, heads, n, D) of which plain attention is attention with the bias.

    A query carries what it adds for every row and column, a key a one where its own row and column are; on
    an H200 cheaper than a bias, which would be written and read (n, n) a head.
    """
    samples, heads, n, d = q.shape
    height, width = extent
    channels = -(-(d + height + width) // _ALIGNED) * _ALIGNED
    wide = q.new_zeros(3, samples, n, heads, channels).transpose(2, 3)  # as the rows lie: heads side by side
    for place, value in zip(wide, (q, k, v), strict=True):
        place[..., :d] = value
    scale = d**0.5  # attention divides the whole product by it
    for first, part in zip((d, d + height), near, strict=True):
        torch.mul(part.flatten(2, 3).transpose(0, 1), scale, out=wide[0, ..., first : first + part.shape[-1]])
    wide[1, ..., d : d + height + width] = _own_place(extent, q.device)
    return wide[0], wide[1], wide[2]


@cache
def _own_place(extent: tuple[int, int], device: torch.device) -> Tensor:
    """(n, h + w): ones at a key's row and at its column."""
    height, width = extent
    rows, columns = torch.eye(height, device=device), torch.eye(width, device=device)
    spread = (rows[:, None].expand(-1, width, -1), columns[None].expand(height, -1, -1))
    return torch.cat(spread, -1).flatten(0, 1)


def _linear(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight and bias; zeros where there is none."""
    weight: Tensor = module.weight.to(dtype)
    return weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias.to(dtype)


def _relative_table(attention: Any, extent: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """(d, 2h-1 + 2w-1): the embedding of every distance in rows, then in columns."""
    tables = []
    for size, embedding in zip(extent, (attention.rel_pos_h, attention.rel_pos_w), strict=True):
        picked = get_rel_pos(size, size, embedding)  # resized where the checkpoint's grid was another
        # distance q - k + size - 1: first the ones of query 0 (falling), then of the last query
        tables.append(torch.cat([picked[0].flip(0), picked[1:, 0]]))
    return torch.cat(tables).to(dtype).t().contiguous()


@cache
def _distances(extent: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Columns of the relative table: (h, h) by rows of query and key, (w, w) by columns."""
    height, width = extent
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    by_row = rows[:, None] - rows + height - 1
    return by_row, columns[:, None] - columns + width - 1 + 2 * height - 1


@cache
def _window_rows(
    grid: tuple[int, int], window: int, batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Which row each window's token is (B*N: padding), and where each row's token lies in the windows."""
    height, width = grid
    n = height * width
    rows = torch.arange(batch * n).view(batch, height, width)
    pad = (0, -width % window, 0, -height % window)
    padded = F.pad(rows, pad, value=batch * n)
    cells = torch.unflatten(torch.unflatten(padded, 2, (-1, window)), 1, (-1, window))
    into = cells.transpose(2, 3).flatten()
    back = torch.empty(batch * n + 1, dtype=torch.long)
    back[into] = torch.arange(into.numel())
    return into.to(device), back[:-1].to(device)


AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def _add_norm(
    rows_RC: Tensor, update_RC: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual sum in float32, and its layer norm in the update's type."""
    rows_RC = rows_RC + update_RC
    return rows_RC, F.layer_norm(rows_RC, rows_RC.shape[-1:], weight_C, bias_C, eps).to(update_RC.dtype)


class _Compiled:
    """:func:`_add_norm` compiled, or as it is where the compiler (which needs triton) raises."""

    def __init__(self) -> None:
        self._run: AddNorm | None = None
        self._lock = Lock()

    def __call__(
        self, rows_RC: Tensor, update_RC: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        if self._run is None:
            with self._lock:
                self._run = self._run or self._settle(rows_RC, update_RC, weight_C, bias_C, eps)
        return self._run(rows_RC, update_RC, weight_C, bias_C, eps)

    @staticmethod
    def _settle(*sample: Any) -> AddNorm:
        compiled: AddNorm = torch.compile(_add_norm)
        try:
            compiled(*sample)
        except Exception:  # whatever the compiler raises, eager computes the same
            return _add_norm
        return compiled


_compiled = _Compiled()
