"""Threads that run torch beside each other, each with as few threads inside as leaves them alone.

Comes in: independent jobs. Goes out: their results in order. Why: a decoder's step is some four hundred small
operations an image. Shared out inside every one of them, two cores wait for each other at each end (1.3 to
1.4 times the time), and where another process takes a core, the waiting thread spins (5 to 10 times).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

MOST = 8
"""Beyond this the interpreter, which only one thread holds at a time, would be what they wait for."""

Job = TypeVar("Job")
Result = TypeVar("Result")


class Workers:
    """``n`` threads; with one, jobs run where they are called and use all of torch's threads."""

    def __init__(self, n: int, inner: int) -> None:
        self.n, self._inner = n, inner

    @classmethod
    def of(cls, device: torch.device) -> Workers:
        """As many as torch may use threads on a CPU, one for a GPU."""
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        n = min(threads, MOST)
        return cls(n, threads // n)

    def map(
        self, function: Callable[[Job], Result], jobs: Sequence[Job], *, elementwise: bool = False
    ) -> list[Result]:
        """Results in the order of the jobs; torch's thread-local settings (``no_grad``) are not theirs.

        A single ``elementwise`` job, whose bytes do not depend on how it is shared out, takes all threads.
        Jobs of a job run one after another: its siblings have the other threads.
        """
        if self.n == 1 or _here.works or not jobs or (elementwise and len(jobs) == 1):
            return [function(job) for job in jobs]
        with _threads(self._inner):
            return list(_pool(self.n, self._inner).map(function, jobs))


class _Here(threading.local):
    works = False
    """Whether this thread is one of a pool's."""


_here = _Here()


@cache
def _pool(n: int, inner: int) -> ThreadPoolExecutor:
    _keep_freed_memory()
    return ThreadPoolExecutor(n, "lungfast", _begin, (inner,))


def _begin(inner: int) -> None:
    _here.works = True
    torch.set_num_threads(inner)


if hasattr(os, "register_at_fork"):  # a forked process has the pools, but none of their threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """The caller's own setting, which a new thread also starts from."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """What an operation frees is kept for the next one, up to 1 GB, by all threads together (glibc only).

    By default glibc gives every thread a heap of its own and each freed activation back to the system, which
    hands it out again page by page, zeroed: a tenth of a training step. Arrays above 64 MB still go back.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # as malloc.h numbers them
        if mallopt(mmap_threshold, 64 << 20) or mallopt(mmap_threshold, 32 << 20):  # 32: the older ones' most
            mallopt(trim_threshold, 1 << 30)
            mallopt(arena_max, 1)
