"""The perceptual hash finds copies that were stored, exposed or cut another way, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungfast.data.phantoms import MONTGOMERY, render_phantom
from lungfast.frozen.cache import EmbeddingCache
from lungfast.records import UInt8
from lungfast.studies.lookalikes import CLOSEST, look_alikes, perceptual_hash


def jpeg(image_HW: UInt8) -> UInt8:
    content = io.BytesIO()
    height, width = image_HW.shape
    Image.fromarray(image_HW).resize((width // 2, height // 2)).save(content, "JPEG", quality=50)
    return np.asarray(Image.open(content))


def darker(image_HW: UInt8) -> UInt8:
    return np.asarray(255 * (image_HW / 255.0) ** 1.2).astype(np.uint8)


def shifted(image_HW: UInt8) -> UInt8:
    return np.roll(image_HW, 2, axis=1)


@pytest.fixture(scope="module")
def films() -> list[UInt8]:
    return [render_phantom(MONTGOMERY, seed, (256, 240)).image_HW for seed in range(6)]


@pytest.mark.parametrize("copy", [jpeg, darker, shifted])
def test_a_copy_is_close(films: list[UInt8], copy: object) -> None:
    for film in films:
        assert np.count_nonzero(perceptual_hash(film) != perceptual_hash(copy(film))) <= CLOSEST  # type: ignore[operator]


def test_others_are_far(films: list[UInt8]) -> None:
    hashes = [perceptual_hash(film) for film in films]
    distances = [np.count_nonzero(a != b) for i, a in enumerate(hashes) for b in hashes[i + 1 :]]
    assert min(distances) > CLOSEST


def test_the_very_same_pixels_are_no_look_alikes(nano_cache: str) -> None:
    cache = EmbeddingCache.open(nano_cache)
    assert look_alikes(cache, cache) == []


def test_no_previews_no_answer(phantoms: Path, nano_cache: str, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from lungfast.commands import main

    url = str(tmp_path / "bare.zarr")
    done = CliRunner().invoke(main, ["embed", "shenzhen", str(phantoms), "-o", url, "--no-pixels"])
    assert done.exit_code == 0, done.output
    assert look_alikes(EmbeddingCache.open(url), EmbeddingCache.open(nano_cache)) is None
