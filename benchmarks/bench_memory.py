"""Does a run stay under its memory bound whatever the number of images?

Anonymous memory (RssAnon: neither the page cache nor shared mappings), twice. A whole ``lungfast grid``
process, imports included: one decoder, one epoch, validation and scores. And a fresh process that reads
every row of a cache once, in random order, in batches of 8, through ``open_rows``; for 100 and for 5,000 rows
of SAM's size (0.2 and 10.5 GB) under the same bounds. Every row is committed by CacheWriter; then its chunk
file is replaced by a hard link to that of one of the first 32 rows, so that 5,000 rows fit on a small disk:
readers open 5,000 names, and the page cache serves them from 64 MiB.

    python -m benchmarks.bench_memory [--quick]
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.caches import SMALL, noise_rows, random_head, sam_spec, write_cache
from benchmarks.common import parser_of, write_record
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.rows import open_rows

DISTINCT = 32
BATCH = 8


def anonymous_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(r"RssAnon:\s*(\d+) kB", text)
    if match is None:
        raise RuntimeError("this benchmark needs Linux: /proc/self/status has no RssAnon")
    return int(match.group(1)) * 1024


class Peak:
    """The highest anonymous memory while the block ran, looked at every 2 ms."""

    def __enter__(self) -> Peak:
        self.bytes, self._done = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self.bytes = max(self.bytes, anonymous_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def read_everything(url: str, memory_bytes: int) -> dict[str, Any]:
    """Run in a child: one epoch; bytes are counted from before the cache is opened."""
    gc.collect()
    start = anonymous_bytes()
    began = time.perf_counter()
    with Peak() as peak:
        cache = EmbeddingCache.open(url)
        source = open_rows(cache, memory_bytes)
        order = np.random.default_rng(0).permutation(cache.n_rows)
        used = order[: cache.n_rows // BATCH * BATCH].reshape(-1, 1, BATCH)
        rows = sum(batch.features_GBNC[..., :1, :1].size for batch in source.stream(used))
    seconds = time.perf_counter() - began
    return {
        "source": type(source).__name__,
        "rows": rows,
        "peak_bytes": peak.bytes - start,
        "base_bytes": start,
        "seconds": seconds,
    }


def in_child(url: str, memory_bytes: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_memory", "--child", url, str(memory_bytes)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


PROBE = """
import sys
from benchmarks.bench_memory import Peak
from lungfast.commands import main
with Peak() as peak:
    try:
        main(sys.argv[1:])
    except SystemExit as stopped:
        code = stopped.code
sys.stderr.write(f"peak_bytes={peak.bytes}\\n")
sys.exit(code)
"""


def grid_line(url: str, n_rows: int, bound: int, out: str) -> dict[str, Any]:
    """One epoch of one decoder as a user would start it."""
    command = ["grid", url, "--lr", "1e-4", "--wd", "0", "--epochs", "1", "--folds", "5", "--overwrite"]
    command += ["--memory", str(bound), "-o", out]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
    )
    found = re.search(r"peak_bytes=(\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(done.stdout + done.stderr)
    peak = int(found.group(1))
    return {
        "rows": n_rows,
        "--memory, MB": round(bound / 1e6),
        "peak anonymous memory, MB": round(peak / 1e6),
        "within": peak <= bound,
        "seconds": round(time.perf_counter() - began),
    }


def linked(url: str) -> Callable[[int], None]:
    """Replaces a committed row's chunk file by a hard link to that of an earlier row."""

    def link(row: int) -> None:
        if row >= DISTINCT:
            path = Path(url, f"features/c.{row}.0.0.0")
            path.unlink()
            path.hardlink_to(Path(url, f"features/c.{row % DISTINCT}.0.0.0"))

    return link


def measure(
    grid: int, sizes: Sequence[int], bounds: Sequence[int], run_bound: int
) -> list[list[dict[str, Any]]]:
    runs, table = [], []
    for n_rows in sizes:
        with tempfile.TemporaryDirectory() as folder:
            url = f"{folder}/bench.zarr"
            spec = sam_spec(grid)
            rows = noise_rows(spec, [SMALL] * n_rows)
            write_cache(url, rows, n_rows, spec=spec, head=random_head(spec), after=linked(url))
            runs.append(grid_line(url, n_rows, run_bound, f"{folder}/run"))
            print(runs[-1])
            for bound in bounds:
                found = in_child(url, bound)
                line = {
                    "rows": n_rows,
                    "features, MB": round(n_rows * grid * grid * 512 / 1e6),
                    "--memory, MB": round(bound / 1e6),
                    "source": found["source"],
                    "peak anonymous memory, MB": round(found["peak_bytes"] / 1e6, 1),
                    "within": found["peak_bytes"] <= bound,
                    "GB/s": round(found["rows"] * grid * grid * 512 / found["seconds"] / 1e9, 2),
                }
                print(line)
                table.append(line)
    return [runs, table]


def main(arguments: Sequence[str] | None = None) -> Path | None:
    parser = parser_of(__doc__)
    parser.add_argument("--child", nargs=2, metavar=("URL", "BYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(read_everything(options.child[0], int(options.child[1]))))
        return None
    grid, sizes, bounds, run_bound = 64, (100, 5000), (64_000_000, 128_000_000, 512_000_000), 1_500_000_000
    if options.quick:
        grid, sizes, bounds = 8, (20, 60), (64_000_000,)
    content = {
        "title": "Anonymous memory under a bound",
        "question": f"First: the peak of a whole `lungfast grid` process, imports included, one decoder and "
        f"one epoch. Then: rows alone, above the process's start, one epoch in batches of {BATCH}. "
        f"Rows beyond {DISTINCT} are hard links (see the script).",
        "tables": measure(grid, sizes, bounds, run_bound),
    }
    return write_record("memory", content, quick=options.quick)


if __name__ == "__main__":
    main()
