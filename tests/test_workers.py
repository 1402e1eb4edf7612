"""Jobs side by side: results in order, errors handed on, torch's threads as before."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
import time

import pytest
import torch

from lungfast import workers
from lungfast.workers import MOST, Workers


def test_results_come_in_the_order_of_the_jobs() -> None:
    def late(n: int) -> int:
        time.sleep(0.02 * (3 - n))
        return n

    assert Workers(3, 1).map(late, range(3)) == [0, 1, 2]


def test_one_worker_is_the_caller_itself() -> None:
    assert Workers(1, 2).map(lambda _: threading.current_thread(), [0]) == [threading.current_thread()]


def test_each_has_its_own_torch_threads_and_the_caller_keeps_its() -> None:
    before = torch.get_num_threads()
    assert set(Workers(2, 1).map(lambda _: torch.get_num_threads(), range(4))) == {1}
    assert torch.get_num_threads() == before


def test_an_error_comes_out_and_leaves_the_caller_s_threads() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        Workers(2, 1).map(lambda n: 1 // n, [1, 0])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("threads", "n", "inner"), [(1, 1, 1), (2, 2, 1), (MOST, MOST, 1), (3 * MOST, MOST, 3)]
)
def test_as_many_as_torch_may_use(monkeypatch: pytest.MonkeyPatch, threads: int, n: int, inner: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    workers = Workers.of(torch.device("cpu"))
    assert (workers.n, workers._inner) == (n, inner)
    assert Workers.of(torch.device("cuda")).n == 1


FAULTS = """
import resource, torch
from lungfast.workers import Workers
def activation(_):
    return float(torch.ones(2 << 20).sum())
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    Workers(2, 1).map(activation, range(20))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_a_worker_frees_the_next_one_uses() -> None:
    """20 activations of 8 MB are 40,960 pages where each is asked for anew."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 5000


def test_without_glibc_freed_memory_goes_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    workers._pool.cache_clear()
    assert Workers(2, 1).map(str, [1, 2]) == ["1", "2"]
