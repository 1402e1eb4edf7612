"""What is written is what is read, locally and remotely, and nothing incomplete or damaged opens."""

from __future__ import annotations

import json
import uuid
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.errors import CacheError, UsageError
from lungfast.frozen.cache import EmbeddingCache, Fingerprint
from lungfast.frozen.cache_objects import open_objects
from lungfast.frozen.cache_prepared import make_preview
from lungfast.frozen.cache_writer import CacheWriter
from lungfast.frozen.mask_summary import summarise_mask
from lungfast.geometry import Frame
from lungfast.records import Sample
from tests.frozen.cachekit import FINGERPRINT, HEAD, SPEC, features, make, sample, tree


@pytest.fixture(params=["local", "file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return {
        "local": f"{tmp_path}/m.zarr",
        "file": f"file://{tmp_path}/m.zarr",
        "memory": f"memory://{uuid.uuid4().hex}/m.zarr",
    }[request.param]


def test_everything_comes_back(url: str) -> None:
    cache = EmbeddingCache.open(make(url))
    assert (cache.n_rows, cache.has_pixels, cache.spec) == (5, True, SPEC)
    assert replace(cache.fingerprint, data_sha256=None) == FINGERPRINT
    assert [record.rows for record in cache.images] == [(0,), (1,), (3,)]
    assert cache.blob("head.safetensors") == HEAD
    for image, index in enumerate((0, 1, 3)):
        made, record = sample(index), cache.images[image]
        for name in ("id", "native_size", "patient", "source", "content_sha256", "label", "spacing_mm"):
            assert getattr(record, name) == getattr(made, name), name
        assert record.structures == ("left", "right")
        assert cache.row_of_image(image) == index
        assert cache.image_of_row(index) == image
        union_HW = made.masks["left"] | made.masks["right"]
        np.testing.assert_array_equal(cache.mask(image), union_HW)
        np.testing.assert_array_equal(cache.packed_mask(image), np.packbits(union_HW, axis=1))
        for name, mask_HW in made.masks.items():
            np.testing.assert_array_equal(cache.mask(image, name), mask_HW)
        assert cache.summary(image).to_bytes() == summarise_mask(made.masks).to_bytes()
        frame = Frame.of(made.native_size, SPEC.input_size, SPEC.resize)
        assert cache.frame(image) == frame
        np.testing.assert_array_equal(cache.targets([index])[0], frame.target_hw(union_HW, SPEC.low_size))
        np.testing.assert_array_equal(cache.preview(image), make_preview(made.image_HW, SPEC))


def test_features_come_in_the_order_asked_in_the_stored_dtype(url: str) -> None:
    cache = EmbeddingCache.open(make(url))
    rows = [3, 0, 3, 1]
    found_BNC = cache.features(rows)
    assert found_BNC.dtype == np.float16
    np.testing.assert_array_equal(found_BNC, np.stack([features(row) for row in rows]).astype(np.float16))
    assert cache.features([]).shape == (0, 9, 8)
    out_BNC = np.zeros((2, 9, 8), np.float16)
    cache.features_into(np.array([1, 0]), out_BNC)
    np.testing.assert_array_equal(out_BNC, found_BNC[[3, 1]])


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((2, 9, 8), np.float32),
        np.zeros((1, 9, 8), np.float16),
        np.zeros((2, 8, 9), np.float16).swapaxes(1, 2),
    ],
)
def test_features_into_refuses_an_array_that_cannot_take_them(out: np.ndarray, tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr"))
    with pytest.raises(ValueError, match="C-contiguous float16 array of shape"):
        cache.features_into([0, 1], out)


def test_zarr_python_reads_the_same_arrays(url: str) -> None:
    cache = EmbeddingCache.open(make(url))
    group = zarr.open_group(open_objects(url).zarr_store(), mode="r")
    rows = [0, 1, 3]
    np.testing.assert_array_equal(group["features"][:][rows].reshape(3, 9, 8), cache.features(rows))
    unpacked_Bhw = np.unpackbits(group["targets"][:][rows], axis=-1, count=12).astype(bool)
    np.testing.assert_array_equal(unpacked_Bhw, cache.targets(rows))
    np.testing.assert_array_equal(group["previews"][1], cache.preview(1))
    np.testing.assert_array_equal(group["masks/3"][0], cache.packed_mask(2, "left"))
    assert group["features"].metadata.dimension_names == ("row", "Eh", "Ew", "C")


def test_a_local_chunk_file_is_the_row(tmp_path: Path) -> None:
    make(f"{tmp_path}/m.zarr")
    flat = np.fromfile(tmp_path / "m.zarr/features/c.3.0.0.0", "<f2")
    np.testing.assert_array_equal(flat, features(3).astype(np.float16).ravel())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from(["longest", "squash"]), st.integers(0, 2**32))
def test_masks_and_targets_of_any_size(height: int, width: int, resize: str, seed: int) -> None:
    spec = replace(SPEC, resize=resize)
    mask_HW = np.random.default_rng(seed).random((height, width)) < 0.5
    made = Sample(
        id="x", image_HW=mask_HW.astype(np.uint8), masks={"lungs": mask_HW}, source="s", patient="p",
        content_sha256="0",
    )  # fmt: skip
    url = f"memory://{uuid.uuid4().hex}"
    fingerprint = Fingerprint.of(spec, dtype="float32", compute_dtype="float32", device_class="cpu")
    with CacheWriter.open(url, spec=spec, fingerprint=fingerprint, n_images=1, pixels=False) as writer:
        writer.add(0, made, features(0))
        writer.finish()
    cache = EmbeddingCache.open(url)
    np.testing.assert_array_equal(cache.mask(0), mask_HW)
    target_hw = cache.frame(0).target_hw(mask_HW, spec.low_size)
    np.testing.assert_array_equal(cache.targets([0])[0], target_hw)
    np.testing.assert_array_equal(cache.features([0])[0], features(0))
    with pytest.raises(CacheError, match="holds no pixels"):
        cache.preview(0)


@pytest.mark.parametrize(("rows", "named"), [([2], 2), ([0, 4], 4), ([5], 5), ([-1], -1)])
def test_a_hole_is_no_row(rows: list[int], named: int, url: str) -> None:
    cache = EmbeddingCache.open(make(url))
    for read in (cache.features, cache.targets):
        with pytest.raises(CacheError, match=f"has no row {named}; expected one of its 3 complete rows"):
            read(rows)
    with pytest.raises(CacheError, match="has no row"):
        cache.image_of_row(named)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr"))
    with pytest.raises(CacheError, match="no mask of 'heart'; found left, right"):
        cache.mask(0, "heart")
    with pytest.raises(CacheError, match=r"no blob other; found head\.safetensors"):
        cache.blob("other")


def test_info_accounts_for_every_byte(url: str) -> None:
    info = EmbeddingCache.open(make(url)).info()
    assert info["bytes"] == sum(info["bytes_by_kind"].values()) == sum(open_objects(url).sizes().values())
    assert info["bytes_by_kind"]["blobs"] == len(HEAD)
    assert (info["images"], info["rows"], info["patients"]) == (3, 5, 2)
    assert info["labels"] == {"normal": 1, "unknown": 2}
    json.dumps(info)


# --- what does not open ----------------------------------------------------------------------------


def test_nothing_and_something_else_do_not_open(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"there is no embedding cache at .*missing\.zarr"):
        EmbeddingCache.open(f"{tmp_path}/missing.zarr")
    assert not (tmp_path / "missing.zarr").exists()
    zarr.create_group(tmp_path / "other.zarr")
    (tmp_path / "other.zarr/complete.json").write_text("{}")
    with pytest.raises(CacheError, match="is not an embedding cache"):
        EmbeddingCache.open(f"{tmp_path}/other.zarr")
    with pytest.raises(CacheError, match="cannot open nothing://x"):
        EmbeddingCache.open("nothing://x")


def test_a_reader_tells_being_written_from_incomplete(tmp_path: Path) -> None:
    url = f"{tmp_path}/m.zarr"
    with CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=2) as writer:
        writer.add(0, sample(0), features(0))
        with pytest.raises(CacheError, match="is being written"):
            EmbeddingCache.open(url)
    with pytest.raises(CacheError, match="is incomplete -> give the same embed"):
        EmbeddingCache.open(url)


def test_an_incomplete_remote_cache_does_not_open() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    with CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=2) as writer:
        writer.add(0, sample(0), features(0))
    with pytest.raises(CacheError, match="is incomplete"):
        EmbeddingCache.open(url)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"manifest": 3, "marks": [], "blobs": {}}', b"\xff"]
)
def test_a_damaged_completion_mark_is_one_line(content: bytes, tmp_path: Path) -> None:
    url = make(f"{tmp_path}/m.zarr")
    (tmp_path / "m.zarr/complete.json").write_bytes(content)
    with pytest.raises(CacheError, match=r"complete\.json is damaged") as caught:
        EmbeddingCache.open(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_a_picture_is_the_preview_without_its_padding(seed: int, tmp_path: Path) -> None:
    size = tuple(np.random.default_rng(seed).integers(20, 4000, 2).tolist())
    white = replace(sample(0, (20, 20)), image_HW=np.full(size, 255, np.uint8), masks={})
    white = replace(white, masks={"left": np.ones(size, bool)})
    url = f"{tmp_path}/m.zarr"
    with CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=1) as writer:
        writer.put_blob("head.safetensors", HEAD)
        writer.add(0, white, features(0))
        writer.finish()
    picture_HW, preview_SS = EmbeddingCache.open(url).picture(0), make_preview(white.image_HW, SPEC)
    assert picture_HW.min() == 255
    assert picture_HW.size == np.count_nonzero(preview_SS)


@pytest.mark.parametrize("rows", [[99], [-1], [], [0, 1], ["a"], 0])
def test_rows_that_cannot_be_are_damage(rows: object, tmp_path: Path) -> None:
    url = make(f"{tmp_path}/m.zarr")
    path = tmp_path / "m.zarr/complete.json"
    content = json.loads(path.read_text())
    content["marks"][0]["image"]["rows"] = rows
    path.write_text(json.dumps(content))
    with pytest.raises(CacheError, match=r"complete\.json is damaged"):
        EmbeddingCache.open(url)


def test_a_cache_of_a_later_format_says_so(tmp_path: Path) -> None:
    url = make(f"{tmp_path}/m.zarr")
    for name in ("complete.json", "zarr.json"):
        path = tmp_path / "m.zarr" / name
        path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    for opening in (lambda: EmbeddingCache.open(url), lambda: make(url)):
        with pytest.raises(CacheError, match="another format; found 3; expected 2 -> update lungfast"):
            opening()
    with CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=5, overwrite=True) as writer:
        assert not writer.done


@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("features/c.1.0.0.0", lambda cache: cache.features([0, 1])),
        ("targets/c.1.0.0", lambda cache: cache.targets([0, 1])),
        ("previews/c.1.0.0", lambda cache: cache.preview(1)),
        ("masks/1/c.1.0.0", lambda cache: cache.packed_mask(1)),
        ("masks/1/zarr.json", lambda cache: cache.packed_mask(1)),
        ("summaries/1.bin", lambda cache: cache.summary(1)),
        ("blobs/head.safetensors", lambda cache: cache.blob("head.safetensors")),
    ],
)
@pytest.mark.parametrize("how", ["missing", "truncated", "longer"])
def test_damage_is_found_and_named(key: str, read: object, how: str, url: str) -> None:
    objects = open_objects(make(url))
    cache = EmbeddingCache.open(url)
    content = objects.get(key)
    assert content is not None
    if how == "missing":
        objects.delete([key])
    else:
        objects.put(key, content[:-3] if how == "truncated" else content + b"xyz")
    with pytest.raises(CacheError, match="is damaged at") as caught:
        read(cache)
    assert key.partition("/c")[0].removesuffix("/zarr.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_a_mask_is_found(tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr"))
    for name in ("c.0.0.0", "c.1.0.0"):
        (tmp_path / f"m.zarr/masks/0/{name}").write_bytes((tmp_path / f"m.zarr/masks/1/{name}").read_bytes())
    with pytest.raises(CacheError, match="is damaged at masks/0"):
        cache.packed_mask(0)


# --- fingerprint -----------------------------------------------------------------------------------


def test_a_fingerprint_survives_json() -> None:
    known = replace(FINGERPRINT, data_sha256="cd" * 32)
    assert Fingerprint.from_json(json.loads(json.dumps(known.as_dict()))) == known


OTHER = {
    "dataset_listing": "ab", "views": 8, "view_settings": "rotation_deg 10",
    "encoder": "vit_b", "weights_sha256": "00", "input_size": 64, "resize": "squash",
    "pixel_mean": (0.0, 0.0, 0.0), "pixel_std": (1.0, 1.0, 1.0), "dtype": "float32",
    "compute_dtype": "bfloat16", "device_class": "cuda", "format": 1, "data_sha256": "11",
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in fields(Fingerprint)])
def test_a_difference_is_named_with_both_values(name: str) -> None:
    one = replace(FINGERPRINT, data_sha256="00")
    other = replace(one, **{name: OTHER[name]})
    told = f"{name} {getattr(one, name)!r} against {OTHER[name]!r}"
    if name == "dataset_listing":  # two hashes say nothing
        told = "other images, masks or patients than it was made from"
    assert one.difference(other) == told
    assert not one.difference(one)


def test_data_is_compared_where_both_know_it() -> None:
    assert not FINGERPRINT.difference(replace(FINGERPRINT, data_sha256="00"))


def test_a_dtype_that_cannot_be_stored_is_refused() -> None:
    with pytest.raises(UsageError, match="--dtype is unknown; found bfloat16"):
        Fingerprint.of(SPEC, dtype="bfloat16", compute_dtype="float32", device_class="cpu")


def test_the_data_hash_knows_images_and_masks_but_not_their_order(tmp_path: Path) -> None:
    def hash_of(name: str, order: tuple[int, ...], size: tuple[int, int] | None = None) -> str | None:
        url = f"{tmp_path}/{name}.zarr"
        with CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=3) as writer:
            for row, index in enumerate(order):
                writer.add(row, sample(index, size), features(index))
            writer.finish()
        return EmbeddingCache.open(url).fingerprint.data_sha256

    first = hash_of("a", (0, 1, 2))
    assert first == hash_of("b", (2, 0, 1))
    assert first != hash_of("c", (0, 1))
    assert first != hash_of("d", (0, 1, 2), (20, 20))


def test_the_same_cache_twice_is_the_same_bytes(tmp_path: Path) -> None:
    assert tree(make(f"{tmp_path}/a.zarr")) == tree(make(f"{tmp_path}/b.zarr"))
