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
from pathlib import Path

import pytest

from lungfast.errors import CacheError, LungfastError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_objects import LocalObjects, is_temporary, open_objects
from tests.frozen.cachekit import INDICES, features, fill, make, opened, sample, tree

PUTS = 5 + 1 + 2 * 8 + 1
"""Objects of that cache: metadata, head, rows of 3 arrays + 3 for masks + summary + mark, completion."""


class Crash(BaseException):
    """Stands for the death of the process: nothing catches it."""


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
        die_at(patched, 5 + 1 + 8 + 5, "after")  # in row 1, before its mark
        with pytest.raises(Crash), opened(url) as writer:
            fill(writer, (0, 1, 2))
    assert (tmp_path / "m.zarr/features/c.1.0.0.0").exists()
    with opened(url) as writer:
        fill(writer, (0, 2))
    assert not [
        key
        for key in tree(url)
        if is_temporary(key)
        or re.match(r"((feature|target|preview)s/c\.|(masks|summaries|marks)/)1[./]", key)
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
    with pytest.raises(CacheError, match="is incomplete -> give the same embed"):
        EmbeddingCache.open(url)
    with opened(url) as writer:
        assert writer.done == {sample(0).id}
        fill(writer, INDICES)
    assert tree(url) == whole


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
