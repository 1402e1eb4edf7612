"""Predictions of rows become predictions of images, in whatever order the rows come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lungfast.data.views import ViewConfig, mean_on_film
from lungfast.errors import CacheError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.records import Float32
from lungfast.studies.averaging import averaged
from tests.frozen.cachekit import N_VIEWS, SPEC, VIEWED, fill_views


def cache_of(folder: Path, settings: str) -> EmbeddingCache:
    """Four images in three views each."""
    url = str(folder / "c.zarr")
    made_with = replace(VIEWED, view_settings=settings)
    with CacheWriter.open(url, spec=SPEC, fingerprint=made_with, n_images=4) as writer:
        fill_views(writer, range(4))
    return EmbeddingCache.open(url)


def rows_of(cache: EmbeddingCache, images: list[int], seed: int) -> dict[int, Float32]:
    rng = np.random.default_rng(seed)
    rows = [row for image in images for row in cache.images[image].rows]
    return {row: rng.normal(size=SPEC.low_size).astype(np.float32) for row in rows}


def test_an_image_is_answered_once_all_its_views_are_seen(tmp_path: Path) -> None:
    cache, config = cache_of(tmp_path, str(ViewConfig())), ViewConfig()
    logits = {k: rows_of(cache, [2, 0], seed=k) for k in (0, 1)}
    shuffled = [(k, row) for k in (0, 1) for row in logits[k]]
    np.random.default_rng(5).shuffle(shuffled)

    def of_rows() -> Iterator[tuple[int, int, Float32]]:
        for k, row in shuffled:
            yield k, row, logits[k][row]

    found = {(k, image): mean_hw for k, image, mean_hw in averaged(cache, of_rows(), [N_VIEWS, N_VIEWS])}
    assert set(found) == {(k, image) for k in (0, 1) for image in (0, 2)}
    for (k, image), mean_hw in found.items():
        record = cache.images[image]
        stacked = np.stack([logits[k][row] for row in record.rows])
        expected_hw = mean_on_film(stacked, record.id, cache.frame(image), config)
        np.testing.assert_array_equal(mean_hw, expected_hw)


def test_one_view_passes_as_it_is(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, "whatever")
    logits_hw = np.ones(SPEC.low_size, np.float32)
    ((k, image, same_hw),) = averaged(cache, iter([(0, cache.row_of_image(3), logits_hw)]), [1])
    assert (k, image) == (0, 3)
    assert same_hw is logits_hw


def test_views_that_are_not_described_cannot_be_averaged(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, "as the tests like them")
    with pytest.raises(CacheError, match=r"does not say how its views lie .* -> embed again"):
        list(averaged(cache, iter([]), [N_VIEWS]))
