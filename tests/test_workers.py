"""Jobs side by side: results in order, errors handed on, torch's threads as before."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

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


def test_jobs_of_a_job_run_where_they_are_called() -> None:
    def outer(_: int) -> bool:
        return (
            Workers(2, 1).map(lambda _: threading.current_thread(), [0, 1])
            == [threading.current_thread()] * 2
        )

    assert all(Workers(2, 2).map(outer, range(4)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    code = (
        "import os, sys, time; from lungfast.workers import Workers, _pool;"
        "Workers(2, 1).map(abs, [1, 2]); time.sleep(0.2);"
        "child = os.fork();"
        "child or os._exit(_pool(2, 1).submit(int).result(timeout=20));"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[1], check=False
    )
    assert done.returncode == 0


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
import resource, sys, torch
from lungfast import workers

if sys.argv[1] == "given back":
    workers._keep_freed_memory = lambda: None

def step(_):
    held = [torch.ones((1 + n % 4) << 20) for n in range(24)]  # 4 to 16 MB each
    del held[::2]
    more = [torch.ones((1 + n % 3) << 20) for n in range(12)]
    return float(held[0].sum() + more[0].sum())

for turn in range(10):
    workers.Workers(2, 1).map(step, range(2))
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if turn == 0:
        first = faults
print(faults - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_what_is_freed_is_used_again_with_fewer_page_faults() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, what], capture_output=True, check=True).stdout)
        for what in ("kept", "given back")
    )
    assert kept < 0.7 * given_back, (kept, given_back)


def test_without_glibc_freed_memory_goes_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    workers._pool.cache_clear()
    assert Workers(2, 1).map(str, [1, 2]) == ["1", "2"]
