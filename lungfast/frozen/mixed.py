"""SAM's image encoder in fp32, bf16 or fp16: the same weights, nothing computed or moved that need not be.

Comes in: segment-anything's ``ImageEncoderViT``. Goes out: a module with its forward's shapes, whose products
and attentions run in the type asked for: in float32 equal to stock's to rounding (1e-6). As under autocast,
the residual stream, layer norms and softmax are float32. Against stock (under autocast):

* weights are cast once instead of in every forward pass;
* attention is torch's own (no logits in memory); for the decomposed relative positions one product of all
  queries with all 2h-1 + 2w-1 distances, of which every query then sees its own. On a CPU they are the
  attention's bias; on a GPU they ride in widened queries and keys;
* windows are cut out of the projected queries, keys and values, so that the padding of 64x64 tokens to 70x70
  (SAM's windows are 14x14) is never multiplied: a padded token's projection is the bias;
* on a CPU what is large is made a part at a time, in memory used again: half of stock's time goes into page
  faults and into arrays that leave the cache between two operations;
* on a GPU what lies between two products is one compiled pass (passes.py): a residual sum and the layer
  norm after it; windows cut out, and queries and keys widened.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from lungfast.frozen import passes
from lungfast.frozen.mixed_blocks import Block, CpuBlock, Space


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
        kind = Block if patch.weight.is_cuda else CpuBlock
        self._blocks = [kind(block, self._grid, dtype) for block in vit.blocks.children()]
        narrow, first, spatial, second = vit.neck.children()
        self._narrow = narrow.weight.to(dtype).flatten(1)
        self._spatial = spatial.weight.to(dtype, memory_format=torch.channels_last)
        self._norms = [(norm.weight, norm.bias, norm.eps) for norm in (first, second)]

    def forward(self, images_B3SS: Tensor) -> Tensor:
        batch = len(images_B3SS)
        rows_RC = F.linear(self._patches(images_B3SS), self._patch_weight, self._patch_bias).float()
        if self._position is not None:
            rows_RC = (rows_RC.view(batch, -1, rows_RC.shape[-1]) + self._position).flatten(0, 1)
        add_norm: AddNorm = passes.add_norm if rows_RC.device.type == "cuda" else _add_norm_here
        space = Space(rows_RC, self._dtype)
        first = self._blocks[0]
        normed_RC = F.layer_norm(rows_RC, rows_RC.shape[-1:], *first.norm1).to(self._dtype)
        for block, after in zip(self._blocks, [*self._blocks[1:], None], strict=True):
            rows_RC, normed_RC = add_norm(rows_RC, block.attend(normed_RC, batch, space), *block.norm2)
            update_RC = block.think(normed_RC, space)
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


AddNorm = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]


def _add_norm_here(
    rows_RC: Tensor, update_RC: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The same in place: on a CPU half the time."""
    rows_RC.add_(update_RC)
    return rows_RC, F.layer_norm(rows_RC, rows_RC.shape[-1:], weight_C, bias_C, eps).to(update_RC.dtype)
