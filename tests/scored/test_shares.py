"""Every row of an image is counted once, whoever comes, and nobody waits for a thread that came too late."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from lungfast.scored.shares import LEAST_ROWS, SHARES, Shares, all_done, finish, take


@numba.njit(nogil=True)  # not cached: it would outlive a change of what it calls
def take_all(shares: Shares, taken_n: np.ndarray) -> None:
    share = take(shares)
    while share >= 0:
        taken_n[share] += 1
        finish(shares, 1)
        share = take(shares)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_take_every_share_once(threads: int) -> None:
    shares = Shares.of(10_000, threads)
    taken_n = np.zeros(shares.n, np.int64)
    with ThreadPoolExecutor(threads) as pool:
        for one in [pool.submit(take_all, shares, taken_n) for _ in range(threads)]:
            one.result()
    assert taken_n.tolist() == [1] * (1 if threads == 1 else SHARES * threads)
    assert all_done(shares, 1)


@pytest.mark.parametrize(("height", "threads"), [(1, 3), (7, 1), (50, 2), (51, 50)])
def test_shares_hold_every_row_once(height: int, threads: int) -> None:
    bounds_n = Shares.of(height, threads).bounds_n
    assert bounds_n[0] == 0
    assert bounds_n[-1] == height
    assert np.all(np.diff(bounds_n) >= min(height, LEAST_ROWS // 2))


def test_looks_in_vain_end() -> None:
    shares = Shares.of(1000, 2)
    finish(shares, shares.n - 1)
    assert not all_done(shares, 1000)
    finish(shares, 1)
    assert all_done(shares, 1)
    assert not all_done(shares, 0)
