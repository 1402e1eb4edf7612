"""Where the trainer's rows come from: all in memory, or read ahead in threads under a memory bound.

Comes in: a cache, a number of bytes, row numbers (G, B) in the order in which they will be used. Goes out:
one :class:`RowBatch` after another in that order, the same from either source. A read that fails raises in
the consumer, and leaving the iterator early ends its threads.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from lungfast.compute import cpu_count
from lungfast.errors import CacheError, UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.records import Bool, Int64, RowBatch, RowSource

READ_THREADS = 4
"""At most: readers wait for the disk, but share the cores with the trainer."""
PREFETCH = 4
"""Batches read ahead, memory permitting: enough to ride out one slow read, few enough to stay small."""


IMAGE_BYTES = 2048
"""What the cache's own table costs an image: 9.2 MB for 5,000 images, see bench_memory."""


def open_rows(cache: EmbeddingCache, memory_bytes: int, *, batch_rows: int = 8, views: int = 1) -> RowSource:
    """Resident where everything fits into ``memory_bytes``, otherwise streamed within them.

    ``batch_rows`` is G*B of the batches that will be asked for: two of them exist when one follows another.
    ``views`` of each image will be asked for, the first ones.
    """
    if fits(cache, memory_bytes, batch_rows=batch_rows, views=views):
        return ResidentRows(cache, views=views)
    return StreamedRows(cache, memory_bytes=memory_bytes - len(cache.images) * IMAGE_BYTES)


def fits(cache: EmbeddingCache, memory_bytes: int, *, batch_rows: int, views: int = 1) -> bool:
    """Whether the rows of so many views of every image, and two batches, may be in memory."""
    needed = resident_bytes(cache, views=views) + 2 * batch_rows * _batch_row_bytes(cache)
    return needed + len(cache.images) * IMAGE_BYTES <= memory_bytes


def resident_bytes(cache: EmbeddingCache, *, views: int = 1) -> int:
    """What :class:`ResidentRows` holds; other rows cost nothing, their pages are never touched."""
    height, width = cache.spec.low_size
    return views * len(cache.images) * (cache.row_bytes + height * width)


def _batch_row_bytes(cache: EmbeddingCache) -> int:
    """One row of a batch: features, target, valid, and what reading the first two takes meanwhile."""
    height, width = cache.spec.low_size
    return cache.row_bytes + cache.read_bytes + 3 * height * width


def _mapped(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array whose pages go back to the system the moment it dies.

    From malloc, several threads' arenas kept freed batches: 142 MB under a bound of 128 MB, see bench_memory.
    """
    n_bytes = max(1, int(np.prod(shape)) * dtype.itemsize)
    buffer = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)  # 8 page faults for a batch of 16 MB instead of 4,096
    return np.frombuffer(buffer, dtype, count=int(np.prod(shape))).reshape(shape)


class _Valid:
    """Which low-resolution pixels of a row lie on the image: two numbers a row instead of a mask."""

    def __init__(self, cache: EmbeddingCache) -> None:
        self._low_size = cache.spec.low_size
        self._extent_R2 = np.zeros((cache.n_rows, 2), np.int64)
        for image, record in enumerate(cache.images):
            extent = cache.frame(image).valid_extent(self._low_size)
            self._extent_R2[list(record.rows)] = extent

    def of(self, rows_GB: Int64) -> Bool:
        """(G, B, h, w)"""
        extent_GB2 = self._extent_R2[rows_GB]
        height, width = self._low_size
        rows_GBh = np.arange(height) < extent_GB2[..., :1]
        columns_GBw = np.arange(width) < extent_GB2[..., 1:]
        return np.asarray(rows_GBh[..., :, None] & columns_GBw[..., None, :])


class ResidentRows:
    """The first ``views`` rows of every image in memory, as the cache hands them out."""

    def __init__(self, cache: EmbeddingCache, *, views: int = 1) -> None:
        spec = cache.spec
        self.views = views
        self._valid = _Valid(cache)
        self._known = np.zeros(cache.n_rows, bool)
        self._features_RNC: npt.NDArray[Any] = np.empty(
            (cache.n_rows, spec.n_tokens, spec.channels), cache.feature_dtype
        )
        self._targets_Rhw = np.zeros((cache.n_rows, *spec.low_size), bool)

        def load(row: int) -> None:
            cache.features_into([row], self._features_RNC[row : row + 1])
            self._targets_Rhw[row] = cache.targets([row])[0]
            self._known[row] = True

        rows = [row for image in cache.images for row in image.rows[:views]]
        with ThreadPoolExecutor(min(READ_THREADS, cpu_count())) as pool:
            deque(pool.map(load, rows), maxlen=0)

    @property
    def n_rows(self) -> int:
        return len(self._known)

    def stream(self, rows_GB: Iterable[Int64]) -> Iterator[RowBatch]:
        for rows in rows_GB:
            if not self._known[rows].all():
                raise CacheError(f"the cache has no row {rows[~self._known[rows]][0]}")
            yield RowBatch(
                rows_GB=rows,
                features_GBNC=self._features_RNC[rows],
                targets_GBhw=self._targets_Rhw[rows],
                valid_GBhw=self._valid.of(rows),
            )


class StreamedRows:
    """Rows read when they are due, a few batches ahead of the consumer."""

    def __init__(self, cache: EmbeddingCache, *, memory_bytes: int, prefetch: int = PREFETCH) -> None:
        self._cache, self._memory_bytes, self._prefetch = cache, memory_bytes, prefetch
        self._valid = _Valid(cache)

    @property
    def n_rows(self) -> int:
        return self._cache.n_rows

    def stream(self, rows_GB: Iterable[Int64]) -> Iterator[RowBatch]:
        """UsageError where not even two batches fit into the memory: one in use, one being read."""
        source = iter(rows_GB)
        due = next(source, None)
        waiting: deque[Future[RowBatch]] = deque()
        sizes: deque[int] = deque()  # rows of the batch in the consumer's hands, then of those waiting
        sizes.append(0)
        pool = ThreadPoolExecutor(min(READ_THREADS, cpu_count()))
        try:
            while due is not None or waiting:
                while due is not None and len(waiting) <= self._prefetch and self._fits(sizes, due.size):
                    waiting.append(pool.submit(self._batch, due))
                    sizes.append(due.size)
                    due = next(source, None)
                yield waiting.popleft().result()
                sizes.popleft()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _fits(self, sizes: deque[int], n_rows: int) -> bool:
        row_bytes = _batch_row_bytes(self._cache)
        needed = (sum(sizes) + n_rows) * row_bytes
        if needed > self._memory_bytes and len(sizes) == 1:
            raise UsageError(
                "--memory is too small to stream",
                found=f"{self._memory_bytes / 1e6:.1f} MB for rows",
                expected=f"at least two batches of {n_rows * row_bytes / 1e6:.1f} MB",
                fix="raise --memory or lower --batch-size",
            )
        return needed <= self._memory_bytes

    def _batch(self, rows_GB: Int64) -> RowBatch:
        rows = rows_GB.ravel()
        spec = self._cache.spec
        features = _mapped((rows.size, spec.n_tokens, spec.channels), self._cache.feature_dtype)
        self._cache.features_into(rows, features)
        targets = self._cache.targets(rows)
        return RowBatch(
            rows_GB=rows_GB,
            features_GBNC=features.reshape(*rows_GB.shape, *features.shape[1:]),
            targets_GBhw=targets.reshape(*rows_GB.shape, *targets.shape[1:]),
            valid_GBhw=self._valid.of(rows_GB),
        )
