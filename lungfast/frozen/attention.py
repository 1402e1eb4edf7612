"""Global attention with decomposed relative positions on a CPU: heads in threads, logits in the cache.

Comes in: queries, keys and values of all heads, and what gives positions. Goes out: the values, mixed. torch
would take the positions as an array, 67 MB a head of 64x64 tokens. Here 256 queries at a time meet all keys,
and their logits (4 MB) become weights while they lie in the cache (weighing.py): on 2 cores 231 ms a global
block of vit_b in fp32, 283 with torch's own attention called the same way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lungfast.frozen.weighing import weigh
from lungfast.workers import Workers

LOGIT_BYTES = 4 << 20
"""Logits of a thread at once: 256 queries of 64x64 tokens in fp32, 512 in bf16."""
Near = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Queries (1, 1, N, d) -> what they add for each row of keys (1, 1, h, w, h), and for each column."""


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor, near: Near, out: Tensor) -> None:
    """Fill ``out``; all are (S, heads, N, d) of float32 or bfloat16, in any order of memory."""
    samples, heads = q.shape[:2]
    scale = q.shape[-1] ** -0.5

    @torch.inference_mode()
    def attend(job: tuple[int, int]) -> None:
        queries, keys, values = (one[job].contiguous() for one in (q, k, v))
        rows, columns = (one.reshape(len(queries), -1).float().numpy() for one in near(queries[None, None]))
        at_once = max(1, LOGIT_BYTES // (len(keys) * keys.element_size()))
        weights_QN = queries.new_empty(at_once, len(keys))
        for first in range(0, len(queries), at_once):
            part = slice(first, min(first + at_once, len(queries)))
            these_QN = weights_QN[: part.stop - first]
            torch.mm(queries[part], keys.t(), out=these_QN)
            bits = these_QN if these_QN.dtype == torch.float32 else these_QN.view(torch.uint16)
            sums_Q = weigh(bits.numpy(), scale, rows[part], columns[part])
            out[job][part] = torch.mm(these_QN, values) / torch.from_numpy(sums_Q)[:, None]

    Workers.of(q.device).map(attend, [(s, h) for s in range(samples) for h in range(heads)])
