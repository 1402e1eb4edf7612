"""Writes are whole or absent; a lock names its holder and dies with it."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from lungfast.errors import LungfastError
from lungfast.files import file_sha256, is_locked, locked, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(LungfastError, match=r"cannot write .*No space left on device") as caught:
        write_json(path, {"n": 2})
    assert "\n" not in str(caught.value)
    assert path.read_text() == '{\n "n": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_names_may_be_as_long_as_the_system_allows_and_no_longer(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("a" * 255), b"")
    with pytest.raises(LungfastError, match=r"cannot write .*too long"):
        write_atomic(tmp_path / ("a" * 256), b"")


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LungfastError, match="cannot write"):
        write_atomic(tmp_path / "file" / "a", b"")


def test_nan_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_second_holder_learns_the_first_ones_pid(tmp_path: Path) -> None:
    path = tmp_path / "deep" / ".lock"
    with locked(path, "the cache m.zarr"):
        assert is_locked(path)
        with (
            pytest.raises(LungfastError, match=rf"m\.zarr is being written.*pid {os.getpid()}"),
            locked(path, "the cache m.zarr"),
        ):
            pass
    assert not is_locked(path)
    with locked(path, "again"):
        pass


def test_a_full_disk_refuses_the_lock_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A buffer that closing flushes once more would raise anew, past the line."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    refused = pytest.raises(LungfastError, match=r"cannot write .*lock; found No space left on device")
    with refused, locked(tmp_path / "lock", "the run"):
        pass


def test_who_only_asks_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with path.open("a+") as asking:
        fcntl.flock(asking, fcntl.LOCK_EX)
        let_go = threading.Timer(0.02, fcntl.flock, (asking, fcntl.LOCK_UN))
        let_go.start()
        with locked(path, "the cache m.zarr"):
            pass
        let_go.join()


def test_nothing_holds_a_lock_that_is_not_there(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "none")


def test_fsync_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_atomic(path, b"abc", fsync=True)
    assert file_sha256(path).startswith("ba7816bf")
