"""What a writer meets when it opens a location, and which rows it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from lungfast import files
from lungfast.errors import CacheError, LungfastError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_prepared import make_preview
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.records import EMBEDDING, HIGH_RES
from tests.frozen.cachekit import FINGERPRINT, INDICES, SPEC, features, fill, make, opened, sample, tree


def test_a_complete_cache_has_nothing_to_do(tmp_path: Path) -> None:
    url = make(f"{tmp_path}/m.zarr", INDICES, n_images=3)
    before = tree(url)
    with opened(url) as writer:
        assert writer.complete
        assert writer.done == {sample(0).id, sample(2).id}
        assert writer.content_hashes == {sample(0).content_sha256, sample(2).content_sha256}
        writer.put_blob("head.safetensors", b"another")
        writer.finish()
        with pytest.raises(CacheError, match="is complete"):
            writer.add(1, sample(1), features(1))
    assert tree(url) == before


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fingerprint": replace(FINGERPRINT, dtype="float32")}, "dtype 'float16' against 'float32'"),
        ({"fingerprint": replace(FINGERPRINT, weights_sha256="cd")}, "weights_sha256 'abab"),
        ({"spec": replace(SPEC, channels=4)}, f"channels {SPEC.channels} against 4"),
        (
            {"spec": replace(SPEC, feature_maps=(EMBEDDING, HIGH_RES))},
            r"none \(--no-high-res\) against high-res",
        ),
        ({"n_images": 4}, "n_rows 3 against 4"),
        ({"pixels": False}, "pixels True against False"),
    ],
)
def test_other_settings_are_refused_by_name(
    complete: bool, change: dict[str, object], named: str, tmp_path: Path
) -> None:
    url = f"{tmp_path}/m.zarr"
    with opened(url) as writer:
        writer.add(0, sample(0), features(0))
        if complete:
            writer.finish()
    before = tree(url)
    arguments = {"spec": SPEC, "fingerprint": FINGERPRINT, "n_images": 3} | change
    other = pytest.raises(CacheError, match=f"made with other settings; found {named}.*choose another place")
    with other, CacheWriter.open(url, **arguments):
        raise AssertionError("accepted")
    assert tree(url) == before
    with CacheWriter.open(url, **arguments, overwrite=True) as writer:
        assert not writer.done


def test_a_folder_that_is_no_cache_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    zarr.create_group(tmp_path / "group.zarr", attributes={"someone": "else"})
    for place in (tmp_path, tmp_path / "group.zarr"):
        before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for overwrite in (False, True):
            foreign = pytest.raises(
                CacheError, match=r"is not an embedding cache; found [12] other files, such as"
            )
            with foreign, opened(str(place), overwrite=overwrite):
                raise AssertionError("accepted")
        assert before == {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "m.zarr").mkdir()
    assert EmbeddingCache.open(make(f"{tmp_path}/m.zarr")).n_rows == 5


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "m.zarr").write_text("x")
    with pytest.raises(LungfastError, match=r"cannot write .*m\.zarr; found File exists"):
        make(f"{tmp_path}/m.zarr")
    with pytest.raises(LungfastError, match=r"cannot write .*m\.zarr"):
        make(f"{tmp_path}/m.zarr/below.zarr")


def test_overwrite_replaces_a_cache_and_spares_what_is_not_of_it(tmp_path: Path) -> None:
    whole = tree(make(f"{tmp_path}/whole.zarr", INDICES, n_images=3))
    url = make(f"{tmp_path}/m.zarr", (0, 1, 2, 3), n_images=4)
    (tmp_path / "m.zarr/notes.txt").write_text("mine")
    with opened(url, overwrite=True) as writer:
        fill(writer, INDICES)
    assert tree(url) == whole | {"notes.txt": b"mine"}


def test_two_writers_in_one_process(tmp_path: Path) -> None:
    url = f"{tmp_path}/m.zarr"
    with opened(url), pytest.raises(LungfastError, match=f"found pid {os.getpid()}"), opened(url):
        raise AssertionError("two writers")
    with opened(url) as writer:
        fill(writer, INDICES)


# --- rows that are refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "index", "named"),
    [
        (0, 1, "row 0 of .* cannot take café 1; found café 0 there"),
        (1, 0, "row 1 of .* cannot take café 0; found the id"),
        (3, 1, "beyond the listing"),
        (-1, 1, "beyond the listing"),
    ],
)
def test_a_listing_that_changed_is_found(row: int, index: int, named: str, tmp_path: Path) -> None:
    with opened(f"{tmp_path}/m.zarr") as writer:
        writer.add(0, sample(0), features(0))
        before = tree(f"{tmp_path}/m.zarr")
        with pytest.raises(CacheError, match=f"{named}.*use --overwrite"):
            writer.add(row, sample(index), features(index))
        assert tree(f"{tmp_path}/m.zarr") == before


@pytest.mark.parametrize(
    ("value", "dtype", "named"),
    [
        (1e5, "float16", r"up to 1e\+05 -> use --dtype float32"),
        (np.nan, "float16", "NaN or infinity from the encoder"),
        (np.inf, "float32", "NaN or infinity from the encoder"),
    ],
)
def test_features_that_are_not_finite_are_refused(
    value: float, dtype: str, named: str, tmp_path: Path
) -> None:
    features_NC = features(0)
    features_NC[3, 2] = value
    fingerprint = replace(FINGERPRINT, dtype=dtype)
    with CacheWriter.open(f"{tmp_path}/m.zarr", spec=SPEC, fingerprint=fingerprint, n_images=1) as writer:
        with pytest.raises(CacheError, match=f"features of café 0 are not finite in {dtype}; found {named}"):
            writer.add(0, sample(0), features_NC)
        assert not writer.done
    assert not list((tmp_path / "m.zarr").glob("features/c.*"))


def test_float32_takes_what_float16_cannot(tmp_path: Path) -> None:
    fingerprint = replace(FINGERPRINT, dtype="float32")
    with CacheWriter.open(f"{tmp_path}/m.zarr", spec=SPEC, fingerprint=fingerprint, n_images=1) as writer:
        writer.add(0, sample(0), features(0) * 1e5)
        writer.finish()
    found_BNC = EmbeddingCache.open(f"{tmp_path}/m.zarr").features([0])
    np.testing.assert_array_equal(found_BNC[0], features(0) * np.float32(1e5))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda writer: writer.add(0, replace(sample(0), masks={}), features(0)), "café 0 has no mask"),
        (
            lambda writer: writer.add(0, sample(0), features(0), np.zeros((3, 3), np.uint8)),
            r"preview.*\(96, 96\)",
        ),
        (lambda writer: writer.finish(), "would be empty"),
    ],
)
def test_what_cannot_be_stored_is_refused(
    call: Callable[[CacheWriter], None], named: str, tmp_path: Path
) -> None:
    with opened(f"{tmp_path}/m.zarr") as writer:
        with pytest.raises(CacheError, match=named):
            call(writer)
        assert not writer.done
    assert not (tmp_path / "m.zarr/complete.json").exists()


def test_a_preview_that_is_given_is_the_one_stored(tmp_path: Path) -> None:
    preview_SS = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)
    with opened(f"{tmp_path}/m.zarr") as writer:
        writer.add(0, sample(0), features(0), preview_SS)
        writer.finish()
    np.testing.assert_array_equal(EmbeddingCache.open(f"{tmp_path}/m.zarr").preview(0), preview_SS)


def test_a_preview_lies_at_the_top_left_as_the_encoder_sees_it() -> None:
    image_HW = np.full((100, 50), 200, np.uint8)
    preview_SS = make_preview(image_HW, SPEC)
    assert (preview_SS[:, :48] == 200).all()
    assert (preview_SS[:, 48:] == 0).all()
    assert make_preview(image_HW, replace(SPEC, input_size=1024)).shape == (512, 512)
    assert (make_preview(image_HW, replace(SPEC, resize="squash")) == 200).all()


def test_fsync_reaches_every_file_and_every_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    with CacheWriter.open(
        f"{tmp_path}/m.zarr", spec=SPEC, fingerprint=FINGERPRINT, n_images=3, fsync=True
    ) as writer:
        fill(writer, INDICES)
    root = tmp_path / "m.zarr"
    folders = {path.parent for path in root.rglob("*")} - {root / "masks"} | {root / "masks"}
    assert set(synced) == folders
