"""Bins between threshold edges: which one does a value lie in?

Comes in: increasing edges. Goes out: the number of edges strictly below a value, exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lungfast.compiled import lean
from lungfast.records import Float32

FIVE = 5
"""Edges compared at once, as many as the paper scans."""
MOST_CELLS = 4096


class Bins(NamedTuple):
    """Edges with -inf before and :data:`FIVE` inf after them; a uniform grid says where to look first."""

    edges: Float32
    first_bin: npt.NDArray[np.int32]
    origin: np.float32
    scale: np.float32
    last_cell: np.float32

    @classmethod
    def of(cls, edges_Q: Float32) -> Bins:
        """The cell of a value is monotone in it, so every edge in an earlier cell is below it: exact."""
        n_cells = min(4 * edges_Q.size, MOST_CELLS)
        origin, span = edges_Q[0], edges_Q[-1] - edges_Q[0]
        scale = np.float32(n_cells / span) if span > 0 else np.float32(0)
        cells_Q = np.minimum((edges_Q - origin) * scale, np.float32(n_cells - 1)).astype(np.int64)
        first_bin = np.searchsorted(cells_Q, np.arange(n_cells), side="left").astype(np.int32)
        edges = np.concatenate([[-np.inf], edges_Q, np.full(FIVE, np.inf)]).astype(np.float32)
        return cls(edges, first_bin, origin, scale, np.float32(n_cells - 1))


@lean
def find(bins: Bins, value: np.float32) -> np.uintp:
    """How many edges lie strictly below the value (unsigned: numba then skips its test for negatives).

    The first step is an addition and not a branch: at 1,001 edges it would be mispredicted every other time.
    """
    position = (value - bins.origin) * bins.scale
    position = max(np.float32(0), min(position, bins.last_cell))
    found = np.uintp(bins.first_bin[np.uintp(np.int32(position))])
    found += np.uintp(bins.edges[found + np.uintp(1)] < value)
    while bins.edges[found + np.uintp(1)] < value:
        found += np.uintp(1)
    return found
