"""A cache through HDF5 comes back byte for byte; a file that is no good is one line and leaves nothing."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from lungfast.errors import CacheError, LungfastError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_hdf5 import export_hdf5, import_hdf5
from lungfast.frozen.cache_objects import LocalObjects, open_objects
from lungfast.frozen.cache_writer import CacheWriter
from tests.frozen.cachekit import FINGERPRINT, SPEC, features, make, sample, tree


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache.open(make(f"{tmp_path}/a.zarr"))


@pytest.fixture
def exported(cache: EmbeddingCache, tmp_path: Path) -> Path:
    export_hdf5(cache, tmp_path / "a.h5")
    return tmp_path / "a.h5"


def test_there_and_back_is_the_same_bytes(cache: EmbeddingCache, tmp_path: Path) -> None:
    steps: list[int] = []
    export_hdf5(cache, tmp_path / "a.h5", steps.append)
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr", steps.append)
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")
    assert steps == [1] * 6
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr")  # nothing to do
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")


def test_a_cache_without_pixels_travels_too(tmp_path: Path) -> None:
    with CacheWriter.open(
        f"{tmp_path}/a.zarr", spec=SPEC, fingerprint=FINGERPRINT, n_images=1, pixels=False
    ) as writer:
        writer.add(0, sample(0), features(0))
        writer.finish()
    export_hdf5(EmbeddingCache.open(f"{tmp_path}/a.zarr"), tmp_path / "a.h5")
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr")
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")
    assert not EmbeddingCache.open(f"{tmp_path}/b.zarr").has_pixels


def test_to_a_remote_place_and_from_it(exported: Path, tmp_path: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/m.zarr"
    import_hdf5(exported, url)
    export_hdf5(EmbeddingCache.open(url), tmp_path / "b.h5")
    import_hdf5(tmp_path / "b.h5", f"{tmp_path}/b.zarr")
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")
    objects = open_objects(url)
    assert {key: objects.get(key) for key in objects.sizes()} == tree(f"{tmp_path}/a.zarr")


def test_other_programs_find_plain_arrays(cache: EmbeddingCache, exported: Path) -> None:
    with h5py.File(exported) as file:
        np.testing.assert_array_equal(file["features"][3].reshape(9, 8), cache.features([3])[0])
        np.testing.assert_array_equal(file["masks/1"][0], cache.packed_mask(1, "left"))
        assert not file["features"][2].any()  # a hole


def test_an_existing_file_is_not_overwritten_unasked(cache: EmbeddingCache, tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("mine")
    with pytest.raises(CacheError, match=r"a\.h5 exists"):
        export_hdf5(cache, tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_text() == "mine"
    export_hdf5(cache, tmp_path / "a.h5", overwrite=True)
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr")


def test_an_export_that_fails_leaves_nothing(
    cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(LungfastError, match=r"cannot write .*a\.h5; found No space left on device"):
        export_hdf5(cache, tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    (tmp_path / "file").write_text("")
    with pytest.raises(LungfastError, match="cannot write"):
        export_hdf5(cache, tmp_path / "file" / "a.h5")


def test_h5pys_own_words_are_not_passed_on(
    cache: EmbeddingCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "Can't write data (file write failed: buf = 0x56348c62c6f8)")

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(LungfastError, match="found No space left on device"):
        export_hdf5(cache, tmp_path / "new" / "a.h5")


def test_a_damaged_cache_is_not_exported(cache: EmbeddingCache, tmp_path: Path) -> None:
    (tmp_path / "a.zarr/features/c.1.0.0.0").unlink()
    with pytest.raises(CacheError, match=r"damaged at features/c\.1"):
        export_hdf5(cache, tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"] = np.zeros(3)


def without_features(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["features"]


def another_blob(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["blobs/head.safetensors"][0] ^= 1


def another_mask(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["masks/1"][0, 0, 0] ^= 1


def another_summary(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["summaries/1"][-5] ^= 1


def flipped_feature(path: Path) -> None:
    content = path.read_bytes()
    wanted = features(3).astype(np.float16).tobytes()
    place = content.index(wanted) + 10
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(b""), "damaged or no HDF5 file"),
        (lambda path: path.write_text("hello"), "damaged or no HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or no HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "damaged or no HDF5 file"),
        (other_hdf5, "is not an exported cache"),
        (without_features, "damaged or no HDF5 file"),
        (another_blob, "blob head.safetensors has another hash"),
        (another_mask, "found other data"),
        (another_summary, "no summary of masks"),
        (flipped_feature, "damaged or no HDF5 file"),
    ],
)
def test_a_file_that_is_no_good_is_one_line(
    spoil: Callable[[Path], object], named: str, exported: Path, tmp_path: Path
) -> None:
    spoil(exported)
    with pytest.raises(CacheError, match=named) as caught:
        import_hdf5(exported, f"{tmp_path}/b.zarr")
    assert "\n" not in str(caught.value)
    with pytest.raises(CacheError, match=r"is incomplete|there is no embedding cache"):
        EmbeddingCache.open(f"{tmp_path}/b.zarr")


def test_a_destination_with_other_data_is_left_alone(exported: Path, tmp_path: Path) -> None:
    url = make(f"{tmp_path}/b.zarr", (1, 2, 3))
    before = tree(url)
    with pytest.raises(CacheError, match="differ; found other data"):
        import_hdf5(exported, url)
    assert tree(url) == before
    url = make(f"{tmp_path}/c.zarr", n_images=6)
    with pytest.raises(CacheError, match="made with other settings; found n_rows 6 against 5"):
        import_hdf5(exported, url)


def test_a_killed_import_goes_on(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = LocalObjects.put

    def put(self: LocalObjects, key: str, content: bytes) -> None:
        if key == "masks/3/zarr.json":
            raise KeyboardInterrupt
        real(self, key, content)

    with monkeypatch.context() as patched:
        patched.setattr(LocalObjects, "put", put)
        with pytest.raises(KeyboardInterrupt):
            import_hdf5(exported, f"{tmp_path}/b.zarr")
    with pytest.raises(CacheError, match="is incomplete"):
        EmbeddingCache.open(f"{tmp_path}/b.zarr")
    import_hdf5(exported, f"{tmp_path}/b.zarr")
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")
