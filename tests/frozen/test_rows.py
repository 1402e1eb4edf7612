"""Resident and streamed rows are the same rows, in order, within their memory, and never hang."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.errors import CacheError, UsageError
from lungfast.frozen import rows as rows_module
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.rows import ResidentRows, StreamedRows, open_rows, resident_bytes
from lungfast.records import Int64, RowBatch
from tests.frozen.cachekit import SPEC, make

ROWS = (0, 1, 3, 4, 5)
ROW_BYTES = SPEC.n_tokens * SPEC.channels * 2 + 3 * 12 * 12


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCache:
    """Six rows, row 2 a hole; portrait, landscape, square."""
    return EmbeddingCache.open(make(str(tmp_path_factory.mktemp("rows") / "m.zarr"), ROWS, n_images=6))


def naive(cache: EmbeddingCache, rows_GB: Int64) -> RowBatch:
    """Row by row through the cache's own methods."""
    flat = rows_GB.ravel().tolist()
    valid = [cache.frame(cache.image_of_row(row)).valid_hw(SPEC.low_size) for row in flat]
    return RowBatch(
        rows_GB=rows_GB,
        features_GBNC=np.stack([cache.features([row])[0] for row in flat]).reshape(*rows_GB.shape, 9, 8),
        targets_GBhw=np.stack([cache.targets([row])[0] for row in flat]).reshape(*rows_GB.shape, 12, 12),
        valid_GBhw=np.stack(valid).reshape(*rows_GB.shape, 12, 12),
    )


def assert_same(found: RowBatch, expected: RowBatch) -> None:
    for name in ("rows_GB", "features_GBNC", "targets_GBhw", "valid_GBhw"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


shapes = st.tuples(st.integers(1, 3), st.integers(1, 4))
batches = st.lists(
    shapes.flatmap(
        lambda shape: st.lists(
            st.sampled_from(ROWS), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]
        ).map(lambda flat: np.array(flat, np.int64).reshape(shape))
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(asked=batches, memory_rows=st.integers(24, 100), prefetch=st.integers(0, 6))
def test_both_sources_give_what_was_asked_in_order(
    cache: EmbeddingCache, asked: list[Int64], memory_rows: int, prefetch: int
) -> None:
    streamed = StreamedRows(cache, memory_bytes=memory_rows * ROW_BYTES, prefetch=prefetch)
    for source in (ResidentRows(cache), streamed):
        assert source.n_rows == 6
        found = list(source.stream(iter(asked)))
        assert len(found) == len(asked)
        for batch, rows_GB in zip(found, asked, strict=True):
            assert_same(batch, naive(cache, rows_GB))


def test_memory_decides(cache: EmbeddingCache) -> None:
    needed = resident_bytes(cache)
    assert needed == 5 * (9 * 8 * 2 + 144)
    for batch_rows in (4, 8):
        total = needed + 5 * rows_module.IMAGE_BYTES + 2 * batch_rows * ROW_BYTES
        assert isinstance(open_rows(cache, total, batch_rows=batch_rows), ResidentRows)
        assert isinstance(open_rows(cache, total - 1, batch_rows=batch_rows), StreamedRows)


@pytest.mark.parametrize(("memory_rows", "expected"), [(8, 8), (12, 12), (20, 20), (1000, 4 + 4 + 16)])
def test_streamed_rows_stay_in_their_memory_and_use_it(
    cache: EmbeddingCache, memory_rows: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts the batches that exist at once, the consumer's own included: batches of 4 rows, prefetch 4."""
    alive, peak, lock = 0, 0, threading.Lock()

    def died() -> None:
        nonlocal alive
        with lock:
            alive -= 4

    class Counted(StreamedRows):
        def _batch(self, rows_GB: Int64) -> RowBatch:
            nonlocal alive, peak
            with lock:
                alive += 4
                peak = max(peak, alive)
            batch = super()._batch(rows_GB)
            weakref.finalize(batch, died)
            return batch

    monkeypatch.setattr(rows_module, "cpu_count", lambda: 4)
    source = Counted(cache, memory_bytes=memory_rows * ROW_BYTES, prefetch=4)
    for _ in source.stream(np.array([[0, 1, 3, 4]]) for _ in range(30)):
        time.sleep(0.002)
    assert expected - 4 <= peak <= expected  # whether the change of batches is caught depends on the clock


def test_a_batch_that_never_fits_is_one_line(cache: EmbeddingCache) -> None:
    source = StreamedRows(cache, memory_bytes=4 * ROW_BYTES - 1)
    with pytest.raises(UsageError, match=r"--memory is too small to stream.*lower --batch-size"):
        list(source.stream([np.array([[0, 1]])] * 2))


def sources(cache: EmbeddingCache) -> Iterator[Any]:
    yield ResidentRows(cache)
    yield StreamedRows(cache, memory_bytes=100 * ROW_BYTES)


def test_a_hole_is_refused_by_both(cache: EmbeddingCache) -> None:
    for source in sources(cache):
        with pytest.raises(CacheError, match="has no row 2"):
            list(source.stream([np.array([[0, 2]])]))


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("ThreadPool")}


@pytest.mark.parametrize("how", ["break", "close", "error", "never started"])
def test_a_consumer_that_leaves_early_leaves_no_thread(cache: EmbeddingCache, how: str) -> None:
    before = threads()
    pulled = []

    def forever() -> Iterator[Int64]:
        while True:
            pulled.append(1)
            yield np.array([[0, 1]])

    stream = StreamedRows(cache, memory_bytes=100 * ROW_BYTES).stream(forever())
    if how == "break":
        for _ in stream:
            break
        del stream
        gc.collect()
    elif how == "close":
        next(stream)
        stream.close()
    elif how == "error":
        with contextlib.suppress(ZeroDivisionError):
            for batch in stream:
                _ = batch.rows_GB / (1 / 0)
        del stream
        gc.collect()
    else:
        stream.close()
    assert threads() == before
    assert len(pulled) <= 6


def test_a_failed_read_surfaces_in_its_turn(tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr"))
    (tmp_path / "m.zarr/features/c.3.0.0.0").unlink()
    before = threads()
    stream = StreamedRows(cache, memory_bytes=100 * ROW_BYTES).stream(
        np.array([[row]]) for row in (0, 1, 3, 0)
    )
    assert next(stream).rows_GB == [[0]]
    assert next(stream).rows_GB == [[1]]
    with pytest.raises(CacheError, match=r"damaged at features/c\.3"):
        next(stream)
    assert threads() == before
    assert list(stream) == []
    with pytest.raises(CacheError, match=r"damaged at features/c\.3"):
        ResidentRows(cache)
    assert threads() == before


def test_an_error_of_the_one_who_asks_surfaces(cache: EmbeddingCache) -> None:
    def failing() -> Iterator[Int64]:
        yield np.array([[0]])
        raise LookupError("no more orders")

    before = threads()
    for source in sources(cache):
        with pytest.raises(LookupError, match="no more orders"):
            list(source.stream(failing()))
    assert threads() == before


def test_nothing_asked_is_nothing_given(cache: EmbeddingCache) -> None:
    for source in sources(cache):
        assert list(source.stream([])) == []
