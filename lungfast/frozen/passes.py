"""Passes over memory between an encoder's products, each compiled into one on a GPU.

Comes in: rows of image tokens. Goes out: what the next product or attention reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.compute import keep_compiled

_ALIGNED = 8
"""Attention kernels read rows in 16 bytes."""


_P = ParamSpec("_P")
_R = TypeVar("_R")


class OnGpu(Generic[_P, _R]):
    """A function of tensors that changes none, compiled where the first one lies on a GPU, for every shape.

    Where the compiler (it needs triton) raises, plain operations compute the same; ``note`` then says why.
    """

    def __init__(self, function: Callable[_P, _R]) -> None:
        self._plain = function
        self._run: Callable[_P, _R] | None = None
        self._lock = Lock()
        self.note = "not compiled"

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        first: Any = args[0]
        if first.device.type != "cuda":
            return self._plain(*args, **kwargs)
        if self._run is None:
            with self._lock:
                if self._run is None:
                    return self._settle(*args, **kwargs)
        return self._run(*args, **kwargs)

    def _settle(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The first call decides."""
        keep_compiled()
        try:
            compiled: Callable[_P, _R] = torch.compile(self._plain, dynamic=False)
            found = compiled(*args, **kwargs)
        except torch.OutOfMemoryError:  # no fault of the compiler's
            raise
        except Exception as error:  # whatever the compiler raises, eager computes the same
            self._run, self.note = self._plain, f"eager: {error}"
            return self._plain(*args, **kwargs)
        self._run, self.note = compiled, "compiled"
        return found


@OnGpu
def add_norm(
    rows_RC: Tensor, update_RC: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual sum in float32, and its layer norm in the update's type."""
    rows_RC = rows_RC + update_RC
    return rows_RC, F.layer_norm(rows_RC, rows_RC.shape[-1:], weight_C, bias_C, eps).to(update_RC.dtype)


@OnGpu
def widened(
    rows_R3hd: Tensor, near_hRT: Tensor, into: Tensor, places: tuple[Tensor, Tensor], *, narrow: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (S, h, n, d + X) of which plain attention is attention with positions.

    ``rows`` are queries, keys and values, ``near`` what each query says of every distance, ``into`` (S*n,)
    the row of each sample's token. A query carries what it adds for every row and column of keys, a key a
    one where its own row and column are (:func:`places_of`): cheaper than a bias, which would be written and
    read (n, n) a head. Values stay (S, h, n, d) where they are ``narrow``.
    """
    sees_nX, own_nX = places
    n, d = len(sees_nX), rows_R3hd.shape[-1]
    into_Sn = into.view(-1, n)
    q, k, v = (rows_R3hd[into_Sn, part] for part in range(3))  # apart: each is read where it is written
    near_ShnX = near_hRT[:, into_Sn[..., None], sees_nX].permute(1, 2, 0, 3)
    wide_q = torch.cat([q, near_ShnX * d**0.5], -1)  # attention divides the whole product by it
    wide_k = torch.cat([k, own_nX[:, None].expand(near_ShnX.shape)], -1)
    wide_v = v if narrow else F.pad(v, (0, own_nX.shape[1]))
    return wide_q.transpose(1, 2), wide_k.transpose(1, 2), wide_v.transpose(1, 2)


@cache
def places_of(
    extent: tuple[int, int], channels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Of each of n tokens: which distances a query sees for each row and column of keys, and the ones of a
    key, both (n, X). X fills ``channels`` + h + w up to a multiple of 8; what fills it are zeros of the key.

    Distances are those of :func:`mixed_blocks._relative_table`: key - query from 1 - h up, then those of
    columns.
    """
    height, width = extent
    row, column = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    far_row = torch.arange(height) + height - 1 - row[:, None]
    far_column = torch.arange(width) + 2 * height - 1 + width - 1 - column[:, None]
    fill = (0, -(channels + height + width) % _ALIGNED)
    own = torch.cat([F.one_hot(row, height), F.one_hot(column, width)], 1)
    sees = torch.cat([far_row, far_column], 1)
    return F.pad(sees, fill).to(device), F.pad(own, fill).to(device, dtype)
