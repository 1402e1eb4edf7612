"""A writer may die or be refused anywhere: what counts is whole; the next one ends with the same bytes."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from lungfast import files
from lungfast.errors import CacheError, LungfastError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_objects import LocalObjects, is_temporary, open_objects
from lungfast.frozen.cache_writer import CacheWriter, make_preview
from tests.frozen.cachekit import FINGERPRINT, SPEC, features, fill, make, sample, tree

INDICES = (0, 2)
PUTS = 5 + 1 + 2 * 7 + 1
"""Objects of that cache: metadata, head, rows of 3 arrays + 3 for masks + mark, completion."""


class Crash(BaseException):
    """Stands for the death of the process: nothing catches it."""


def opened(url: str, n_images: int = 3, *, overwrite: bool = False):
    return CacheWriter.open(url, spec=SPEC, fingerprint=FINGERPRINT, n_images=n_images, overwrite=overwrite)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return tree(make(str(tmp_path_factory.mktemp("whole") / "m.zarr"), INDICES, n_images=3))


def die_at(monkeypatch: pytest.MonkeyPatch, place: int, how: str) -> None:
    """Crash in the ``place``-th PUT: before it, after it, or with half of its temporary file on the disk."""
    count = itertools.count()
    real = LocalObjects.put

    def put(self: LocalObjects, key: str, content: bytes) -> None:
        last = next(count) == place
        if last and how == "half":
            path = Path(self.url) / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f".{path.name}.123.tmp").write_bytes(content[: len(content) // 2])
        if not last or how == "after":
            real(self, key, content)
        if last:
            raise Crash

    monkeypatch.setattr(LocalObjects, "put", put)


def marked_ids(url: str) -> set[str]:
    """Ids of the rows whose mark is on the disk."""
    return {sample(int(path.stem)).id for path in Path(url).glob("marks/*.json")}


@pytest.mark.parametrize("how", ["before", "half", "after"])
@pytest.mark.parametrize("place", range(PUTS))
def test_a_crash_anywhere_is_resumed_to_the_same_bytes(
    place: int, how: str, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(whole) == PUTS
    url = f"{tmp_path}/m.zarr"
    with monkeypatch.context() as patched:
        die_at(patched, place, how)
        with pytest.raises(Crash), opened(url) as writer:
            fill(writer, INDICES)
    if (place, how) != (PUTS - 1, "after"):
        with pytest.raises(CacheError, match=r"is incomplete|there is no embedding cache"):
            EmbeddingCache.open(url)
    counted = marked_ids(url)
    with opened(url) as writer:
        assert writer.done == counted
        assert writer.complete == ((place, how) == (PUTS - 1, "after"))
        leftovers = {key: content for key, content in tree(url).items() if key not in whole}
        assert not leftovers
        fill(writer, INDICES)
    assert tree(url) == whole


@pytest.mark.parametrize("place", range(PUTS))
def test_a_full_disk_anywhere_is_one_line_and_nothing_half_counted(
    place: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{tmp_path}/m.zarr"
    count = itertools.count()
    real = Path.replace

    def replace_file(self: Path, target: Path) -> Path:
        if next(count) == place:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", replace_file)
        full = pytest.raises(LungfastError, match=r"cannot write .*No space left.*free some space")
        with full as caught, opened(url) as writer:
            fill(writer, INDICES)
        assert "\n" not in str(caught.value)
    assert not [key for key in tree(url) if key.endswith(".tmp")]
    with opened(url) as writer:
        fill(writer, INDICES)
    assert tree(url) == whole


def test_leftovers_of_a_row_that_is_now_skipped_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{tmp_path}/m.zarr"
    with monkeypatch.context() as patched:
        die_at(patched, 5 + 1 + 7 + 5, "after")  # in row 1, before its mark
        with pytest.raises(Crash), opened(url) as writer:
            fill(writer, (0, 1, 2))
    assert (tmp_path / "m.zarr/features/c.1.0.0.0").exists()
    with opened(url) as writer:
        fill(writer, (0, 2))
    assert not [
        key
        for key in tree(url)
        if is_temporary(key) or re.match(r"(features|targets|previews)/c\.1\.|masks/1/|marks/1", key)
    ]
    assert not (tmp_path / "m.zarr/masks/1").exists()
    assert [image.id for image in EmbeddingCache.open(url).images] == [sample(0).id, sample(2).id]


def test_a_remote_cache_is_resumed() -> None:
    url = f"memory://{uuid.uuid4().hex}/m.zarr"
    with opened(url) as writer:  # left without finishing
        writer.add(0, sample(0), features(0))
        writer.add(2, sample(2), features(2))
    open_objects(url).put("features/c.1.0.0.0", b"a leftover")
    with opened(url) as writer:
        assert writer.done == {sample(0).id, sample(2).id}
        assert "features/c.1.0.0.0" not in open_objects(url).sizes()
        fill(writer, INDICES)
    assert EmbeddingCache.open(url).n_rows == 3


CHILD = """
import sys
from tests.frozen.cachekit import FINGERPRINT, SPEC, features, sample
from lungfast.frozen.cache_writer import CacheWriter
with CacheWriter.open(sys.argv[1], spec=SPEC, fingerprint=FINGERPRINT, n_images=3) as writer:
    writer.add(0, sample(0), features(0))
    print("one row", flush=True)
    while True:
        writer._objects.put("features/c.2.0.0.0", bytes(1 << 22))
"""


@pytest.mark.process
def test_a_killed_process_frees_the_lock_and_leaves_a_cache_to_resume(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    url = f"{tmp_path}/m.zarr"
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", CHILD, url], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "one row\n"
        busy = pytest.raises(
            LungfastError, match=f"is being written by another process; found pid {child.pid}"
        )
        with busy, opened(url):
            raise AssertionError("two writers")
        with pytest.raises(CacheError, match="is being written"):
            EmbeddingCache.open(url)
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    with pytest.raises(CacheError, match="is incomplete: run embed again"):
        EmbeddingCache.open(url)
    with opened(url) as writer:
        assert writer.done == {sample(0).id}
        fill(writer, INDICES)
    assert tree(url) == whole


# --- what is there already -------------------------------------------------------------------------


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
        ({"spec": replace(SPEC, channels=4)}, "spec EncoderSpec"),
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
    other = pytest.raises(CacheError, match=f"made with other settings; found {named}.*choose another -o")
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


def test_overwrite_replaces_a_cache_and_spares_what_is_not_of_it(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    url = make(f"{tmp_path}/m.zarr", (0, 1, 2, 3), n_images=4)
    (tmp_path / "m.zarr/notes.txt").write_text("mine")
    with opened(url, overwrite=True) as writer:
        fill(writer, INDICES)
    assert tree(url) == whole | {"notes.txt": b"mine"}


@pytest.mark.parametrize("place", range(0, 26, 3))
def test_a_crash_while_overwriting_leaves_nothing_that_counts_wrongly(
    place: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make(f"{tmp_path}/m.zarr", INDICES, n_images=3)
    count = itertools.count()
    real = Path.unlink

    def unlink(self: Path, missing_ok: bool = False) -> None:
        if next(count) == place:
            raise Crash
        real(self, missing_ok=missing_ok)

    died = False
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        try:
            with opened(url, overwrite=True):
                pass
        except Crash:
            died = True
    assert died == (place < PUTS)
    with opened(url) as writer:
        fill(writer, INDICES)
    assert tree(url) == whole


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
            r"preview.*\(48, 48\)",
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
    preview_SS = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    with opened(f"{tmp_path}/m.zarr") as writer:
        writer.add(0, sample(0), features(0), preview_SS)
        writer.finish()
    np.testing.assert_array_equal(EmbeddingCache.open(f"{tmp_path}/m.zarr").preview(0), preview_SS)


def test_a_preview_lies_at_the_top_left_as_the_encoder_sees_it() -> None:
    image_HW = np.full((100, 50), 200, np.uint8)
    preview_SS = make_preview(image_HW, SPEC)
    assert (preview_SS[:, :24] == 200).all()
    assert (preview_SS[:, 24:] == 0).all()
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
