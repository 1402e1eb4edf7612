"""Generated caches to read and to train on, written by one function.

Comes in: an encoder's spec, its head, rows. Goes out: a complete cache without pixels. Rows are seeded noise
under two ellipses for lungs, or whatever a benchmark makes itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lungfast.frozen.cache import Fingerprint
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.checkpoints import head_bytes
from lungfast.frozen.nano import sam_head_modules
from lungfast.frozen.stored_features import Features
from lungfast.records import Bool, EncoderSpec, Sample, Size

Rows = Iterable[tuple[Sample, Features]]
Film = tuple[Size, tuple[str, ...]]
"""Native size, and the names of the masks."""
SMALL: Film = (240, 220), ("lungs",)


def write_cache(
    url: str,
    rows: Rows,
    n_rows: int,
    *,
    spec: EncoderSpec,
    head: bytes,
    dtype: str = "float16",
    after: Callable[[int], None] = lambda _: None,
) -> None:
    """``after`` is called with each row's number once it is committed."""
    fingerprint = Fingerprint.of(spec, dtype=dtype, compute_dtype="float32", device_class="cpu")
    with CacheWriter.open(url, spec=spec, fingerprint=fingerprint, n_images=n_rows, pixels=False) as writer:
        writer.put_blob("head.safetensors", head)
        for row, (sample, features_NC) in enumerate(rows):
            writer.add(row, sample, features_NC)
            after(row)
        writer.finish()


def sam_spec(grid: int) -> EncoderSpec:
    """SAM's geometry at ``grid`` x ``grid`` tokens (64 is SAM's own)."""
    return EncoderSpec(
        name="generated",
        input_size=16 * grid,
        grid=(grid, grid),
        channels=256,
        resize="longest",
        weights_sha256="0" * 64,
    )


def random_head(spec: EncoderSpec) -> bytes:
    """SAM's prompt encoder and mask decoder as initialised, so that the cache can be trained on."""
    modules = zip(
        ("prompt_encoder", "mask_decoder"), sam_head_modules(spec.grid, spec.input_size), strict=True
    )
    return head_bytes(
        {f"{room}.{name}": value for room, module in modules for name, value in module.state_dict().items()}
    )


def noise_rows(spec: EncoderSpec, films: Iterable[Film]) -> Iterator[tuple[Sample, Features]]:
    """One row a film: the same noise, rolled by a token a row."""
    noise_NC = np.random.default_rng(0).normal(size=(spec.n_tokens, spec.channels)).astype(np.float32)
    for row, film in enumerate(films):
        yield ellipses(row, *film), np.roll(noise_NC, row, axis=0)


def ellipses(row: int, size: Size, structures: tuple[str, ...]) -> Sample:
    """A black film of ``size``; both lungs as one structure, or one structure each."""
    return Sample(
        id=f"image-{row}",
        image_HW=np.zeros(size, np.uint8),
        masks=_lungs(size, structures),
        source="generated",
        patient=f"patient-{row}",
        content_sha256=f"{row:064x}",
    )


@functools.lru_cache(maxsize=4)
def _lungs(size: Size, structures: tuple[str, ...]) -> dict[str, Bool]:
    y, x = np.ogrid[0 : size[0], 0 : size[1]]
    left_HW, right_HW = (
        ((x / size[1] - centre) / 0.14) ** 2 + ((y / size[0] - 0.48) / 0.3) ** 2 < 1 for centre in (0.3, 0.7)
    )
    if len(structures) == 1:
        return {structures[0]: left_HW | right_HW}
    return dict(zip(structures, (left_HW, right_HW), strict=True))
