"""Threads that run torch beside each other, each with as few threads inside as leaves them alone.

Comes in: independent jobs. Goes out: their results in order. Why: a decoder's step is some four hundred small
operations an image. Shared out inside every one of them, two cores wait for each other at each end (1.3 to
1.4 times the time), and where another process takes a core, the waiting thread spins (5 to 10 times).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
        """
        if self.n == 1 or not jobs or (elementwise and len(jobs) == 1):
            return [function(job) for job in jobs]
        with _threads(self._inner):
            return list(_pool(self.n, self._inner).map(function, jobs))


@cache
def _pool(n: int, inner: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, "lungfast", torch.set_num_threads, (inner,))


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """The caller's own setting, which a new thread also starts from."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
