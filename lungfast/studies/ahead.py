"""Work on images in threads, a few ahead of whoever takes it, in order; a bad file is an item, not the end.

Comes in: things to do, each with what identifies its image. Goes out: the same in order, with the result or
the :class:`DataError` that says why there is none. ``embed`` decodes files and encodes images so, ``predict``
also writes them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from lungfast.compute import cpu_count
from lungfast.errors import DataError

MAX_THREADS = 16
"""Decoders at work, with a film each: 60 MB with its masks at 4020x4892."""

Key = TypeVar("Key")
Item = TypeVar("Item")


class PassListener(Protocol):
    """What a command may show of a pass over images."""

    def note(self, line: str) -> None: ...

    def phase(self, name: str, total: int) -> None: ...

    def advance(self, n: int = 1) -> None: ...


def work_ahead(
    todo: Iterable[tuple[Key, Callable[[], Item]]], *, threads: int | None = None
) -> Iterator[tuple[Key, Item | DataError]]:
    """Results in order, made in threads; leaving the iterator early drops what is not begun."""
    threads = threads or min(MAX_THREADS, cpu_count())
    waiting: deque[tuple[Key, Future[Item]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for key, do in todo:
            waiting.append((key, pool.submit(do)))
            if len(waiting) > 2 * threads:
                first, future = waiting.popleft()
                yield first, _result(future)
        while waiting:
            first, future = waiting.popleft()
            yield first, _result(future)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(future: Future[Any]) -> Any:
    try:
        return future.result()
    except DataError as error:
        return error


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
