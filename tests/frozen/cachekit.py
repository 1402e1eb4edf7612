"""Small caches for the cache's tests: everything is tiny, sizes are odd, masks touch every edge."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lungfast.frozen.cache import Fingerprint
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.geometry import Frame
from lungfast.records import EncoderSpec, Float32, Sample, View

SPEC = EncoderSpec(
    name="tiny", input_size=48, grid=(3, 3), channels=8, resize="longest", weights_sha256="ab" * 32
)
FINGERPRINT = Fingerprint.of(SPEC, dtype="float16", compute_dtype="float32", device_class="cpu")
SIZES = ((37, 53), (53, 37), (40, 40), (1, 9))
INDICES = (0, 2)
"""Rows of the cache that is killed and resumed; row 1 was skipped."""
HEAD = b"prompt encoder and decoder"


def sample(index: int, size: tuple[int, int] | None = None) -> Sample:
    height, width = size or SIZES[index % len(SIZES)]
    rng = np.random.default_rng(index)
    left_HW = rng.random((height, width)) < 0.3
    right_HW = np.zeros((height, width), bool)
    right_HW[height // 3 :, width // 2 :] = True
    return Sample(
        id=f"caf\u00e9 {index}",
        image_HW=rng.integers(0, 256, (height, width), np.uint8),
        masks={"left": left_HW, "right": right_HW},
        source="montgomery",
        patient=f"p{index // 2}",
        content_sha256=f"{index:064x}",
        label=None if index % 2 else "normal",
        spacing_mm=(0.1, 0.3) if index % 2 else None,
    )


def features(index: int) -> Float32:
    shape = (SPEC.n_tokens, SPEC.channels)
    return np.random.default_rng(100 + index).normal(size=shape).astype(np.float32)


N_VIEWS = 3
VIEWED = replace(FINGERPRINT, views=N_VIEWS, view_settings="as the tests like them")


def views(index: int) -> list[View]:
    """Altered views of :func:`sample`, in the encoder's own size, another mask each."""
    made = sample(index)
    size = Frame.of(made.native_size, SPEC.input_size, SPEC.resize).resized_size
    rng = np.random.default_rng([7, index])
    return [
        View(
            image_HW=rng.integers(0, 256, size, np.uint8),
            masks={name: rng.random(size) < 0.4 for name in made.masks},
        )
        for _ in range(N_VIEWS - 1)
    ]


def fill_views(writer: CacheWriter, indices: Iterable[int]) -> None:
    """As :func:`fill`, with altered views."""
    writer.put_blob("head.safetensors", HEAD)
    for index in indices:
        if sample(index).id not in writer.done:
            features_VNC = np.stack([features(index + 10 * view) for view in range(N_VIEWS)])
            writer.put(writer.prepare(index, sample(index), views=views(index)), features_VNC)
    writer.finish()


def opened_for_views(url: str, n_images: int = 4) -> AbstractContextManager[CacheWriter]:
    return CacheWriter.open(url, spec=SPEC, fingerprint=VIEWED, n_images=n_images)


def make_with_views(url: str, indices: Iterable[int] = (0, 1, 3), n_images: int = 4) -> str:
    """A complete cache of three views an image; image 2 is a hole unless told otherwise."""
    with opened_for_views(url, n_images) as writer:
        fill_views(writer, indices)
    return url


def opened(
    url: str, n_images: int = 3, *, overwrite: bool = False, dtype: str = "float16"
) -> AbstractContextManager[CacheWriter]:
    fingerprint = replace(FINGERPRINT, dtype=dtype)
    return CacheWriter.open(url, spec=SPEC, fingerprint=fingerprint, n_images=n_images, overwrite=overwrite)


def fill(writer: CacheWriter, indices: Iterable[int]) -> None:
    """What embed does: the rows that are not done, the head, the end."""
    writer.put_blob("head.safetensors", HEAD)
    for index in indices:
        if sample(index).id not in writer.done:
            writer.add(index, sample(index), features(index))
    writer.finish()


def make(url: str, indices: Iterable[int] = (0, 1, 3), n_images: int = 5, *, dtype: str = "float16") -> str:
    """A complete cache; rows 2 and 4 are holes unless told otherwise."""
    with opened(url, n_images, dtype=dtype) as writer:
        fill(writer, indices)
    return url


def tree(folder: str | Path) -> dict[str, bytes]:
    """Every file but the lock, by relative name."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lungfast.lock"
    }
