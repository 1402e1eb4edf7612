"""How fast do random rows come out of the cache, against reading the bare files?

Batches of 8 rows of SAM's size (64 x 64 tokens, 256 channels, float16: 2 MiB each), page cache warm, one
thread. The limit is numpy.fromfile into fresh arrays of the very same chunk files; the peer is zarr-python's
own indexing.

    python -m benchmarks.bench_cache [--quick] [--rows N] [--repeats N]
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.common import measure_copy_rate, medians, parser_of, ratio, time_interleaved, write_record
from lungfast.frozen.cache import EmbeddingCache, Fingerprint
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.checkpoints import head_bytes
from lungfast.frozen.nano import sam_head_modules
from lungfast.records import EncoderSpec, Sample

BATCH = 8


def sam_spec(grid: int) -> EncoderSpec:
    return EncoderSpec(
        name="generated",
        input_size=16 * grid,
        grid=(grid, grid),
        channels=256,
        resize="longest",
        weights_sha256="0" * 64,
    )


def sample(index: int) -> Sample:
    mask_HW = np.zeros((240, 200 + index % 80), bool)
    mask_HW[60:200, 40:150] = True
    return Sample(
        id=f"row{index}",
        image_HW=np.zeros(mask_HW.shape, np.uint8),
        masks={"lungs": mask_HW},
        source="generated",
        patient=f"row{index}",
        content_sha256=f"{index:064x}",
    )


def random_head(spec: EncoderSpec) -> bytes:
    """SAM's prompt encoder and mask decoder as initialised, so that the cache can be trained on."""
    modules = zip(
        ("prompt_encoder", "mask_decoder"), sam_head_modules(spec.grid, spec.input_size), strict=True
    )
    return head_bytes(
        {f"{room}.{name}": value for room, module in modules for name, value in module.state_dict().items()}
    )


def make_cache(url: str, grid: int, n_rows: int, after: Callable[[int], None] = lambda _: None) -> None:
    """``n_rows`` rows of seeded noise; ``after`` is called with each row once it is committed."""
    spec = sam_spec(grid)
    fingerprint = Fingerprint.of(spec, dtype="float16", compute_dtype="float32", device_class="cpu")
    noise_NC = np.random.default_rng(0).normal(size=(spec.n_tokens, 256)).astype(np.float32)
    with CacheWriter.open(url, spec=spec, fingerprint=fingerprint, n_images=n_rows, pixels=False) as writer:
        writer.put_blob("head.safetensors", random_head(spec))
        for row in range(n_rows):
            writer.add(row, sample(row), np.roll(noise_NC, row, axis=0))
            after(row)
        writer.finish()


def measure(url: str, n_batches: int, repeats: int) -> dict[str, list[float]]:
    """Seconds for ``n_batches`` batches, per candidate and repeat; every candidate reads the same rows."""
    cache = EmbeddingCache.open(url)
    rng = np.random.default_rng(1)
    batches = [rng.choice(cache.n_rows, BATCH, replace=False) for _ in range(n_batches)]
    array: Any = zarr.open_group(url, mode="r")["features"]
    out_BNC = np.empty((BATCH, cache.spec.n_tokens, cache.spec.channels), cache.feature_dtype)

    def fromfile() -> None:
        for rows in batches:
            _ = [np.fromfile(f"{url}/features/c.{row}.0.0.0", "<f2") for row in rows]

    def ours() -> None:
        for rows in batches:
            cache.features(rows)

    def ours_into() -> None:
        for rows in batches:
            cache.features_into(rows, out_BNC)

    def zarr_python() -> None:
        for rows in batches:
            array.oindex[rows]

    candidates = {"fromfile": fromfile, "ours": ours, "ours_into": ours_into, "zarr_python": zarr_python}
    np.testing.assert_array_equal(
        cache.features(batches[0]).ravel(), np.ravel([array[int(row)] for row in batches[0]])
    )
    return time_interleaved(candidates, repeats=repeats)


LABELS = {
    "fromfile": "numpy.fromfile, fresh arrays (the limit)",
    "ours": "EmbeddingCache.features, a fresh array",
    "ours_into": "EmbeddingCache.features_into, an array used again",
    "zarr_python": "zarr-python, array.oindex[rows]",
}


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    grid, n_rows, n_batches, repeats = (64, options.rows, 16, options.repeats)
    if options.quick:
        grid, n_rows, n_batches, repeats = (8, 16, 2, 3)
    with tempfile.TemporaryDirectory() as folder:
        url = f"{folder}/bench.zarr"
        make_cache(url, grid, n_rows)
        seconds = measure(url, n_batches, repeats)
    middle = medians(seconds)
    n_bytes = n_batches * BATCH * grid * grid * 256 * 2
    table = [
        {
            "reader": LABELS[name],
            "GB/s": round(n_bytes / middle[name] / 1e9, 2),
            "ms a batch of 8": round(1e3 * middle[name] / n_batches, 2),
            "rate against fromfile": round(ratio(seconds["fromfile"], seconds[name]), 2),
        }
        for name in LABELS
    ]
    for line in table:
        print(line)
    content = {
        "title": "Random rows from the cache",
        "question": f"Batches of {BATCH} random rows of {n_rows}, {grid} x {grid} tokens x 256 channels, "
        f"float16, page cache warm, one thread; median of {repeats}; at least 0.5 of fromfile is asked.",
        "copy_rate_gb_s": round(measure_copy_rate() / 1e9, 2),
        "tables": [table],
    }
    return write_record("cache", content, quick=options.quick)


if __name__ == "__main__":
    main()
