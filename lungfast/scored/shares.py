"""The rows of an image, handed out in shares: each goes to whichever thread asks first.

Comes in: an image's height, how many threads there are, numbers that they share. Goes out: a share that
nobody has; whether all are done. Why: a sleeping thread takes a tenth of an image to wake, now and then as
long as several images; who comes too late finds nothing left, and nobody waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.extending import intrinsic

from lungfast.compiled import IS_COMPILED, compiled, lean
from lungfast.records import Int64

SHARES = 12
"""Of each thread: as long as one takes, another may have to wait at the end."""
LEAST_ROWS = 32
"""Of a share: those that mix the same low-resolution rows are begun anew at its first."""
LOOKS = 1 << 18
"""How often a thread looks whether all is done before it sleeps: a millisecond or so."""
TAKEN, DONE = 0, 1
_PLAIN = threading.Lock()


class Shares(NamedTuple):
    """Share n holds rows ``bounds_n[n]`` to ``bounds_n[n + 1]``; so many are ``TAKEN``, so many ``DONE``."""

    bounds_n: Int64
    counters_2: Int64

    @property
    def n(self) -> int:
        return int(self.bounds_n.size) - 1

    @classmethod
    def of(cls, height: int, threads: int) -> Shares:
        """One for a single thread."""
        n = min(-(-height // LEAST_ROWS), SHARES * threads) if threads > 1 else 1
        return cls(np.linspace(0, height, n + 1).astype(np.int64), np.zeros(2, np.int64))


def _add_plain(counters_2: Int64, which: int, n: int) -> int:
    with _PLAIN:
        before = int(counters_2[which])
        counters_2[which] += n
        return before


@intrinsic
def _add(context: Any, counters_2: Any, which: Any, n: Any) -> Any:
    """One atomic addition, no lock; what was written before it is seen by whoever sees it."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        counters, place, added = arguments
        data = context.make_array(signature.args[0])(context, builder, counters).data
        return builder.atomic_rmw("add", builder.gep(data, [place]), added, "seq_cst")

    return types.int64(counters_2, types.intp, types.int64), build


add: Callable[..., Any] = _add if IS_COMPILED else _add_plain
"""(counters_2, which, n): adds to a counter, returns what it was."""


@lean
def take(shares: Shares) -> int:
    """The number of a share for whoever asks; -1 where none is left."""
    share = int(add(shares.counters_2, TAKEN, 1))
    return share if share < shares.bounds_n.size - 1 else -1


@lean
def finish(shares: Shares, n: int) -> None:
    """So many shares are counted, and what came of them is written down."""
    add(shares.counters_2, DONE, n)


@compiled
def all_done(shares: Shares, looks: int) -> bool:
    """Looks for a while whether every share is done: quicker than to sleep and to be woken."""
    while looks > 0 and add(shares.counters_2, DONE, 0) < shares.bounds_n.size - 1:
        looks -= 1
    return looks > 0
