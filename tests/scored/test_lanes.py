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
from lungfast.scored.lanes import Pair, above_lanes, count_pair_above
from lungfast.scored.stretch import LANES

many = settings(max_examples=30 if os.environ.get("NUMBA_DISABLE_JIT") == "1" else 300, deadline=None)


@many
@given(
    blocks=st.integers(1, 3),
    n_rows=st.integers(1, 6),
    n_edges=st.integers(1, 10),
    level=st.sampled_from([-30.0, 0.0, 30.0]),
    lead=st.integers(0, 7),
    first_byte=st.integers(0, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_blocks_below_above_and_between(blocks, n_rows, n_edges, level, lead, first_byte, seed) -> None:
    rng, n = np.random.default_rng(seed), blocks * LANES
    base_W = (level + 5 * rng.normal(size=n)).astype(np.float32)
    slope_W = (5 * rng.normal(size=n)).astype(np.float32)
    base_W[:lead], slope_W[:lead] = -np.inf, 0
    weights = np.sort(rng.random(n_rows)).astype(np.float32)
    edges_Q = np.sort(rng.normal(size=n_edges)).astype(np.float32)
    truth_HW = rng.random((n_rows, 8 * first_byte + n + 3)) < 0.5
    above_Q = np.zeros(10, np.int64)
    truth = Truth.of(pack_mask(truth_HW))
    count_pair_above(Pair(base_W, slope_W, weights), truth, 8 * first_byte, Bins.of(edges_Q).edges, above_Q)
    values_YW = base_W + weights[:, None] * slope_W
    true_YW = truth_HW[:, 8 * first_byte :][:, :n]
    for edge, above in zip(edges_Q, above_Q.tolist(), strict=False):
        found_YW = values_YW > edge
        assert (above & 0xFFFFFFFF, above >> 32) == (found_YW.sum(), (found_YW & true_YW).sum())


def test_the_comparison_is_strict() -> None:
    base_W, slope_W = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    base_W[3], base_W[5] = 1, np.nextafter(np.float32(1), np.float32(2))
    assert call(base_W, slope_W, 1.0) == 1 << 5


def call(base_W: np.ndarray, slope_W: np.ndarray, edge: float) -> int:
    """The intrinsic from Python, through a function that is compiled where it is."""
    import numba

    @numba.njit
    def run(base_W, slope_W, edge):
        return above_lanes(base_W, slope_W, 0, np.float32(0.5), edge)

    return int(run(base_W, slope_W, np.float32(edge)))


@pytest.mark.skipif(os.environ.get("NUMBA_DISABLE_JIT") == "1", reason="no compiler to refuse it")
def test_arrays_with_gaps_are_refused() -> None:
    with pytest.raises(TypingError, match="contiguous float32"):
        call(np.zeros(2 * LANES, np.float32)[::2], np.zeros(LANES, np.float32), 0.0)
