"""Global attention of SAM's image encoder on a CPU, without the (heads, N, N) matrix in memory.

Comes in: segment-anything's ``Attention`` modules. Goes out: the same modules, whose forward takes one head
and 1,024 queries at a time: the same operations on the same rows, equal to rounding (1e-5). Stock writes
four arrays of 0.8 GB per global block of vit_b (1.1 GB of vit_h); half its time goes into page faults. On one
thread: 2.7 s a global block against 1.05 s here; peak memory of a vit_b process 3.9 GB against 1.4 GB.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_QUERIES = 1024  # x 4096 float32 is 16 MB: below malloc's mmap limit; 2048 take 1.7 times as long
_LEAST_TOKENS = 2048  # an encoder of 1,024 tokens is faster in the stock order


def make_lean(encoder: nn.Module, grid_tokens: int) -> None:
    """Give every global attention block of an ``ImageEncoderViT`` the chunked forward, in place."""
    if grid_tokens < _LEAST_TOKENS:
        return
    for block in encoder.get_submodule("blocks").children():
        if getattr(block, "window_size", None) == 0:
            attention = block.get_submodule("attn")
            attention.forward = partial(_attend, attention)


def _attend(attention: Any, tokens_BEhEwC: Tensor) -> Tensor:
    """segment-anything's ``Attention.forward`` (decomposed relative positions included), in chunks."""
    import torch

    batch, height, width, _ = tokens_BEhEwC.shape
    n, heads = height * width, attention.num_heads
    qkv = attention.qkv(tokens_BEhEwC).reshape(batch, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, batch * heads, n, -1).unbind(0)
    bias = _relative(attention, q, (height, width)) if attention.use_rel_pos else None
    out = torch.empty_like(v)
    for head in range(batch * heads):
        for start in range(0, n, _QUERIES):
            rows = slice(start, start + _QUERIES)
            logits = (q[head, rows] * attention.scale) @ k[head].transpose(0, 1)
            if bias is not None:
                # in this order, as segment-anything adds them: the sums round alike
                grid = logits.view(-1, height, width)
                grid.add_(bias[0][head, rows, :, None]).add_(bias[1][head, rows, None, :])
            out[head, rows] = logits.softmax(dim=-1).to(v.dtype) @ v[head]
    merged = out.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4)
    projected: Tensor = attention.proj(merged.reshape(batch, height, width, -1))
    return projected


def _relative(attention: Any, q: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(heads, N, Eh) and (heads, N, Ew): what each query adds for a key's row and for its column."""
    import torch
    from segment_anything.modeling.image_encoder import get_rel_pos

    height, width = size
    grid = q.reshape(q.shape[0], height, width, -1)
    rows = get_rel_pos(height, height, attention.rel_pos_h)
    columns = get_rel_pos(width, width, attention.rel_pos_w)
    by_row = torch.einsum("bhwc,hkc->bhwk", grid, rows)
    by_column = torch.einsum("bhwc,wkc->bhwk", grid, columns)
    return by_row.flatten(1, 2), by_column.flatten(1, 2)
