"""How fast does a whole data set come out of the cache, and which layout on disk is worth keeping?

    python -m benchmarks.bench_cache [--quick] [--rows 704] [--repeats 5]

Rows of SAM's size (64 x 64 tokens, 256 channels, float16: 2 MiB each) with their targets, as many as both
real sets have images. The limit is numpy.fromfile of the very same files, kept as arrays; once with the files
in the page cache and once with their pages dropped (posix_fadvise), where the record says what share then
came from the disk. Then 64 rows of real nano features in other layouts, codecs and readers (layouts.py).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks import layouts
from benchmarks.caches import SMALL, noise_rows, random_head, sam_spec, write_cache
from benchmarks.common import (
    Target,
    measure_copy_rate,
    medians,
    parser_of,
    print_targets,
    ratio,
    time_interleaved,
    write_record,
)
from benchmarks.disk import bytes_from_disk, drop_pages
from lungfast.compute import cpu_count
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.rows import ResidentRows, StreamedRows

BATCH = 8
STREAM_BYTES = 128_000_000
LIMIT = "numpy.fromfile of the same files, one after another"
OURS = "lungfast: the rows of a training, in memory"
STREAMED = f"lungfast: one epoch in random order, never more than {STREAM_BYTES // 10**6} MB"
ZARR = "zarr-python: array[:], features alone"
LABELS = (LIMIT, OURS, STREAMED, ZARR)


def readers(url: str) -> dict[str, Callable[[], object]]:
    """Each returns what it read, so that all of it is in memory at its end."""
    cache = EmbeddingCache.open(url)
    rows = np.arange(cache.n_rows)
    order = np.random.default_rng(1).permutation(rows)[: cache.n_rows // BATCH * BATCH].reshape(-1, 1, BATCH)
    array: Any = zarr.open_group(url, mode="r")["features"]

    def fromfile() -> object:
        features = [np.fromfile(f"{url}/features/c.{row}.0.0.0", "<f2") for row in rows]
        return features, [np.fromfile(f"{url}/targets/c.{row}.0.0", "u1") for row in rows]

    def streamed() -> object:
        source = StreamedRows(cache, memory_bytes=STREAM_BYTES)
        return sum(batch.features_GBNC.shape[1] for batch in source.stream(order))

    calls = (fromfile, lambda: ResidentRows(cache), streamed, lambda: array[:])
    return dict(zip(LABELS, calls, strict=True))


def measure(url: str, repeats: int) -> tuple[list[dict[str, Any]], list[Target]]:
    """The whole set, by every reader, from the page cache and from the disk."""
    candidates = readers(url)
    folder, n_rows = Path(url), EmbeddingCache.open(url).n_rows
    n_bytes = n_rows * (folder / "features/c.0.0.0.0").stat().st_size
    warm = time_interleaved(candidates, repeats=repeats)
    os.sync()
    started = bytes_from_disk()
    cold = time_interleaved(candidates, repeats=repeats, warmup=0, before=lambda: drop_pages(folder))
    share = (bytes_from_disk() - started) / (len(candidates) * repeats * n_bytes)
    table = []
    for name in candidates:
        line: dict[str, Any] = {"whole set": name}
        for state, seconds in (("page cache", warm), ("disk", cold)):
            line[f"{state}, s"] = round(medians(seconds)[name], 3)
            line[f"{state}, GB/s"] = round(n_bytes / medians(seconds)[name] / 1e9, 2)
            line[f"{state}, rate against fromfile"] = round(ratio(seconds[LIMIT], seconds[name]), 2)
        table.append(line)
    rates = {state: ratio(seconds[LIMIT], seconds[OURS]) for state, seconds in (("", cold), ("-warm", warm))}
    least = {"": 0.8, "-warm": 0.5}
    targets = [Target(f"cache-read{state}", value, at_least=least[state]) for state, value in rates.items()]
    return table, [*targets, Target("cache-read-from-disk", share)]


def measure_batches(url: str, url_8: str, n_batches: int, repeats: int) -> list[dict[str, Any]]:
    """Random batches of rows from the page cache: what a training asks for; rates of what is handed out."""
    cache, cache_8 = EmbeddingCache.open(url), EmbeddingCache.open(url_8)
    rng = np.random.default_rng(1)
    batches = [rng.choice(cache.n_rows, BATCH, replace=False) for _ in range(n_batches)]
    array: Any = zarr.open_group(url, mode="r")["features"]
    out_BNC = np.empty((BATCH, cache.spec.n_tokens, cache.spec.channels), cache.feature_dtype)
    np.testing.assert_array_equal(
        cache.features(batches[0]).ravel(), np.ravel([array[int(row)] for row in batches[0]])
    )

    def fromfile(rows: np.ndarray[Any, Any]) -> object:
        return [np.fromfile(f"{url}/features/c.{row}.0.0.0", "<f2") for row in rows]

    calls: dict[str, Callable[[Any], object]] = {
        "numpy.fromfile, fresh arrays": fromfile,
        "EmbeddingCache.features, a fresh array": cache.features,
        "EmbeddingCache.features_into, an array used again": lambda rows: cache.features_into(rows, out_BNC),
        "the same from 8 bits": lambda rows: cache_8.features_into(rows % cache_8.n_rows, out_BNC),
        "zarr-python, array.oindex[rows]": lambda rows: array.oindex[rows],
    }
    seconds = time_interleaved(
        {name: lambda call=call: [call(rows) for rows in batches] and None for name, call in calls.items()},
        repeats=repeats,
    )
    first, middle = next(iter(calls)), medians(seconds)
    n_bytes = n_batches * BATCH * cache.row_bytes
    return [
        {
            f"batches of {BATCH} random rows, page cache": name,
            "GB/s": round(n_bytes / middle[name] / 1e9, 2),
            "rate against fromfile": round(ratio(seconds[first], seconds[name]), 2),
        }
        for name in calls
    ]


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=704)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    grid, n_rows, n_layout, repeats = (64, options.rows, 64, options.repeats)
    if options.quick:
        grid, n_rows, n_layout, repeats = (8, 16, 4, 2)
    spec = sam_spec(grid)
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/bench.zarr"
        url_8, n_8 = f"{folder}/bench8.zarr", min(n_rows, 8 * BATCH)
        head = random_head(spec)
        write_cache(url, noise_rows(spec, [SMALL] * n_rows), n_rows, spec=spec, head=head)
        write_cache(url_8, noise_rows(spec, [SMALL] * n_8), n_8, spec=spec, head=head, dtype="int8")
        whole, targets = measure(url, repeats)
        batches = measure_batches(url, url_8, 2 if options.quick else 16, repeats)
    compared = layouts.measure(n_layout, max(2, repeats - 2), quick=options.quick)
    content = {
        "title": "Reading the cache",
        "question": f"{n_rows} rows of {grid} x {grid} tokens x 256 channels, float16, with their targets: "
        "how long until they are in memory, from the page cache and from the disk? lungfast reads with "
        f"{cpu_count()} threads; median of {repeats}. Then other layouts, codecs and readers: {n_layout} "
        "rows of nano's features (four images side by side make a row of SAM's size).",
        "copy_rate_gb_s": round(measure_copy_rate(1 << 20 if options.quick else 256 << 20) / 1e9, 2),
        "tables": [whole, batches, compared],
        "targets": targets,
    }
    path = write_record("cache", content, quick=options.quick)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
