"""One epoch of images from the disk, more and more of them, under a fixed memory bound.

Comes in: the side of the token grid, numbers of images. Goes out: a table and a plot. The cache is written
once, at its largest; pages of its files are dropped ahead of every pass.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_memory import Peak, anonymous_bytes
from benchmarks.caches import SMALL, noise_rows, random_head, sam_spec, write_cache
from benchmarks.common import Plot, medians, time_interleaved
from benchmarks.disk import drop_pages
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.rows import READ_THREADS, StreamedRows

BOUND, BATCH = 128_000_000, 8


def images(grid: int, counts: Sequence[int], repeats: int) -> tuple[list[dict[str, Any]], Plot]:
    """Seconds of one epoch by each route."""
    lines: dict[str, list[tuple[float, float]]] = {"lungfast": [], "numpy.fromfile": [], "limit": []}
    table: list[dict[str, Any]] = []
    spec = sam_spec(grid)
    with tempfile.TemporaryDirectory() as name:
        url, folder = f"{name}/bench.zarr", Path(name)
        films = [SMALL] * counts[-1]
        write_cache(url, noise_rows(spec, films), len(films), spec=spec, head=random_head(spec))
        os.sync()
        cache, base = EmbeddingCache.open(url), anonymous_bytes()
        for count in counts:
            order = np.random.default_rng(0).permutation(count)
            calls = (epoch_of(cache, order), one_by_one(url, order), in_threads(url, order, cache.row_bytes))
            with Peak() as peak:
                seconds = medians(
                    time_interleaved(
                        dict(zip(lines, calls, strict=True)),
                        repeats=repeats,
                        warmup=0,
                        before=lambda: drop_pages(folder),
                    )
                )
            for line, points in lines.items():
                points.append((count, seconds[line]))
            table.append(
                {
                    "images": count,
                    "GB": round(count * cache.row_bytes / 1e9, 2),
                    **{f"{line}, s": round(seconds[line], 3) for line in lines},
                    "peak anonymous memory, MB": round((peak.bytes - base) / 1e6, 1),
                }
            )
    title = f"One epoch from the disk, at most {BOUND // 10**6} MB in memory"
    return table, Plot(name="images", title=title, x="images", y="s", lines=lines)


def epoch_of(cache: EmbeddingCache, order: np.ndarray[Any, Any]) -> Callable[[], None]:
    batches = order[: len(order) // BATCH * BATCH].reshape(-1, 1, BATCH)

    def read() -> None:
        for _ in StreamedRows(cache, memory_bytes=BOUND).stream(batches):
            pass

    return read


def one_by_one(url: str, order: np.ndarray[Any, Any]) -> Callable[[], None]:
    def read() -> None:
        for row in order:
            np.fromfile(f"{url}/features/c.{row}.0.0.0", "<f2")

    return read


def in_threads(url: str, order: np.ndarray[Any, Any], row_bytes: int) -> Callable[[], None]:
    """As little as reading can be: every thread reads its files into one piece of memory."""
    parts = np.array_split(order, READ_THREADS)

    def read_part(rows: np.ndarray[Any, Any]) -> None:
        buffer = bytearray(row_bytes)
        for row in rows:
            with Path(f"{url}/features/c.{row}.0.0.0").open("rb", buffering=0) as file:
                file.readinto(buffer)

    def read() -> None:
        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(read_part, parts))

    return read


def most_images(grid: int) -> int:
    """What takes four fifths of the temporary folder's free space."""
    return int(0.8 * shutil.disk_usage(tempfile.gettempdir()).free) // (grid * grid * 256 * 2)
