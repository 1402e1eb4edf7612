"""Several views an image: what comes back, what is refused, what a killed writer leaves, and HDF5."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lungfast.errors import CacheError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_hdf5 import export_hdf5, import_hdf5
from lungfast.frozen.cache_objects import LocalObjects
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.mask_summary import summarise_mask
from lungfast.frozen.rows import ResidentRows, StreamedRows, open_rows, resident_bytes
from lungfast.geometry import Frame
from lungfast.records import View
from tests.frozen.cachekit import (
    FINGERPRINT,
    N_VIEWS,
    SPEC,
    VIEWED,
    features,
    fill_views,
    make,
    make_with_views,
    opened_for_views,
    sample,
    tree,
    views,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingCache:
    return EmbeddingCache.open(make_with_views(str(tmp_path_factory.mktemp("views") / "m.zarr")))


def test_every_view_comes_back_with_its_own_target_and_boxes(cache: EmbeddingCache) -> None:
    assert (cache.n_rows, cache.n_views) == (12, 3)
    assert [record.rows for record in cache.images] == [(0, 1, 2), (3, 4, 5), (9, 10, 11)]
    for image, index in enumerate((0, 1, 3)):
        made = [sample(index), *views(index)]
        for number, (row, one) in enumerate(zip(cache.images[image].rows, made, strict=True)):
            expected = features(index + 10 * number).astype(np.float16)
            np.testing.assert_array_equal(cache.features([row])[0], expected)
            frame = Frame.of(one.masks["left"].shape, SPEC.input_size, SPEC.resize)  # type: ignore[arg-type]
            union_HW = one.masks["left"] | one.masks["right"]
            np.testing.assert_array_equal(cache.targets([row])[0], frame.target_hw(union_HW, SPEC.low_size))
            boxes_S4 = summarise_mask(one.masks).boxes_S4
            np.testing.assert_array_equal(cache.summary_of_row(row).boxes_S4, boxes_S4)
            assert cache.image_of_row(row) == image


def test_what_is_native_stays_that_of_the_unaltered_view(cache: EmbeddingCache, tmp_path: Path) -> None:
    plain = EmbeddingCache.open(make(f"{tmp_path}/plain.zarr", (0, 1, 3), 4))
    for image in range(3):
        np.testing.assert_array_equal(cache.mask(image), plain.mask(image))
        np.testing.assert_array_equal(cache.preview(image), plain.preview(image))
        assert cache.summary(image).packed == plain.summary(image).packed
    assert cache.fingerprint.data_sha256 == plain.fingerprint.data_sha256
    assert cache.info()["views"] == N_VIEWS
    assert (cache.images_of_rows() == [0, 0, 0, 1, 1, 1, -1, -1, -1, 2, 2, 2]).all()


@pytest.mark.parametrize("place", range(0, 34, 3))
def test_a_killed_writer_is_resumed_to_the_same_bytes(
    place: int, cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image counts with all its views or not at all."""
    url, whole, count = f"{tmp_path}/m.zarr", tree(cache.url), iter(range(999))
    real = LocalObjects.put

    def put(self: LocalObjects, key: str, content: bytes) -> None:
        if next(count) == place:
            raise KeyboardInterrupt
        real(self, key, content)

    with monkeypatch.context() as patched:
        patched.setattr(LocalObjects, "put", put)
        with pytest.raises(KeyboardInterrupt), opened_for_views(url) as writer:
            fill_views(writer, (0, 1, 3))
    marked = {int(path.stem) for path in Path(url).glob("marks/*.json")}
    assert all(row % N_VIEWS == 0 for row in marked)
    with opened_for_views(url) as writer:
        assert len(writer.done) == len(marked)
        assert not tree(url).keys() - whole.keys()
        fill_views(writer, (0, 1, 3))
    assert tree(url) == whole


def test_there_and_back_through_hdf5(cache: EmbeddingCache, tmp_path: Path) -> None:
    export_hdf5(cache, tmp_path / "a.h5")
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr")
    assert tree(f"{tmp_path}/b.zarr") == tree(cache.url)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"views": 8}, "views 3 against 8"),
        ({"view_settings": "others"}, "view_settings 'as the tests like them' against 'others'"),
    ],
)
def test_another_number_or_kind_of_views_is_one_line(
    change: dict[str, object], named: str, cache: EmbeddingCache
) -> None:
    other = pytest.raises(CacheError, match=f"made with other settings; found {named} -> choose another")
    fingerprint = replace(VIEWED, **change)  # type: ignore[arg-type]
    with other, CacheWriter.open(cache.url, spec=SPEC, fingerprint=fingerprint, n_images=4):
        raise AssertionError("accepted")


def test_views_of_another_number_or_shape_are_one_line(tmp_path: Path) -> None:
    with opened_for_views(f"{tmp_path}/m.zarr") as writer:
        with pytest.raises(CacheError, match="another number of views; found 2; expected 3"):
            writer.prepare(0, sample(0), views=views(0)[:1])
        turned = [
            View(image_HW=one.image_HW.T, masks={name: mask.T for name, mask in one.masks.items()})
            for one in views(0)
        ]
        with pytest.raises(CacheError, match="a view of café 0 has another shape; found 48 x 34 px"):
            writer.prepare(0, sample(0), views=turned)
        with pytest.raises(CacheError, match=r"features of café 0 have another shape; found \(2, 9, 8\)"):
            writer.put(writer.prepare(0, sample(0), views=views(0)), np.zeros((2, 9, 8), np.float32))
        assert not writer.done


def test_memory_holds_the_views_that_are_asked_for(cache: EmbeddingCache) -> None:
    assert resident_bytes(cache, views=3) == 3 * resident_bytes(cache)
    rows_GB = np.array([[0, 2, 10]])
    resident = open_rows(cache, 1 << 20, views=3)
    assert isinstance(resident, ResidentRows)
    (found,) = resident.stream([rows_GB])
    (streamed,) = StreamedRows(cache, memory_bytes=1 << 20).stream([rows_GB])
    np.testing.assert_array_equal(found.features_GBNC, streamed.features_GBNC)
    np.testing.assert_array_equal(found.targets_GBhw, streamed.targets_GBhw)
    np.testing.assert_array_equal(found.valid_GBhw, streamed.valid_GBhw)
    np.testing.assert_array_equal(found.valid_GBhw[0, 0], found.valid_GBhw[0, 1])
    with pytest.raises(CacheError, match="the cache has no row 2"):
        next(open_rows(cache, 1 << 20).stream([rows_GB]))


def test_a_cache_without_altered_views_keeps_its_rows(tmp_path: Path) -> None:
    plain = EmbeddingCache.open(make(f"{tmp_path}/plain.zarr"))
    assert [record.rows for record in plain.images] == [(0,), (1,), (3,)]
    assert plain.fingerprint == replace(FINGERPRINT, data_sha256=plain.fingerprint.data_sha256)
