"""Pixels above few edges, a block at a time, equal a comparison of every pixel."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba.core.errors import TypingError

from lungfast.geometry import pack_mask
from lungfast.scored.bins import Bins
from lungfast.scored.bits import Truth
from lungfast.scored.lanes import Mixture, Pair, Span, Stretched, above_lanes, count_pair_above
from lungfast.scored.stretch import LANES

many = settings(max_examples=30 if os.environ.get("NUMBA_DISABLE_JIT") == "1" else 300, deadline=None)


@many
@given(
    blocks=st.integers(1, 3),
    n_rows=st.integers(1, 6),
    n_edges=st.integers(1, 10),
    level=st.sampled_from([-30.0, 0.0, 30.0]),
    ends=st.tuples(st.integers(0, 7), st.integers(0, LANES - 1)),
    first_byte=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_below_above_and_between(blocks, n_rows, n_edges, level, ends, first_byte, seed) -> None:
    """Columns ``ends`` of a span do not count, whatever their values."""
    rng, begin = np.random.default_rng(seed), 8 * first_byte
    n = blocks * LANES
    span = Span(begin, begin + ends[0], max(begin + ends[0] + 1, begin + n - ends[1]))
    rows_YW = (level + 5 * rng.normal(size=(3, begin + n))).astype(np.float32)
    upper, lower = Mixture(0, 1, np.float32(rng.random())), Mixture(1, 2, np.float32(rng.random()))
    weights = np.sort(rng.random(n_rows)).astype(np.float32)
    edges_Q = np.sort(rng.normal(size=n_edges)).astype(np.float32)
    truth_HW = rng.random((n_rows + 1, begin + n + 3)) < 0.5
    above_Q = np.zeros(10, np.int64)
    stretched = Stretched(rows_YW, np.empty(LANES, np.float32), np.empty(LANES, np.float32))
    truth, edges = Truth.of(pack_mask(truth_HW)), Bins.of(edges_Q).edges
    count_pair_above(stretched, Pair(upper, lower, weights), truth, 1, span, edges, above_Q)
    base_W, other_W = (
        rows_YW[row.first] + row.weight * (rows_YW[row.second] - rows_YW[row.first]) for row in (upper, lower)
    )
    values_YW = (base_W + weights[:, None] * (other_W - base_W))[:, span.first : span.last]
    true_YW = truth_HW[1:, span.first : span.last]
    for edge, above in zip(edges_Q, above_Q.tolist(), strict=False):
        found_YW = values_YW > edge
        assert (above & 0xFFFFFFFF, above >> 32) == (found_YW.sum(), (found_YW & true_YW).sum())


def test_the_comparison_is_strict() -> None:
    base_L, slope_L = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    base_L[3], base_L[5] = 1, np.nextafter(np.float32(1), np.float32(2))
    assert call(base_L, slope_L, 1.0) == 1 << 5


def call(base_L: np.ndarray, slope_L: np.ndarray, edge: float) -> int:
    """The intrinsic from Python, through a function that is compiled where it is."""
    import numba

    @numba.njit
    def run(base_L, slope_L, edge):
        return above_lanes(base_L, slope_L, np.float32(0.5), edge)

    return int(run(base_L, slope_L, np.float32(edge)))


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="no compiler to refuse it")
def test_arrays_with_gaps_are_refused() -> None:
    with pytest.raises(TypingError, match="contiguous float32"):
        call(np.zeros(2 * LANES, np.float32)[::2], np.zeros(LANES, np.float32), 0.0)
