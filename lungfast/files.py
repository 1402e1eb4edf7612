"""Files that are whole or absent: atomic writes, an advisory lock with its holder's pid, hashes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lungfast.errors import LungfastError


def write_atomic(path: Path, content: bytes, *, fsync: bool = False) -> None:
    """Write to a temporary sibling, then ``os.replace``: readers see the old file or the new, never half."""
    name = os.fsencode(path.name)
    short = path.name if len(name) < 200 else hashlib.sha256(name).hexdigest()  # names have 255 bytes at most
    temporary = path.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            if fsync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
        if fsync:
            sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """What the operating system refuses in the block is said in one line."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


def _may_want_space(error: OSError | RuntimeError) -> bool:
    """Whether more space may help; what is no OSError does not say."""
    return getattr(error, "errno", None) in {None, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def disk_error(path: Path | str, error: OSError | RuntimeError) -> LungfastError:
    """The one-line error for a write that the operating system refused (a full disk, no permission)."""
    return LungfastError(
        f"cannot write {path}",
        found=getattr(error, "strerror", None) or str(error),
        fix="choose another -o, or free some space" if _may_want_space(error) else "choose another -o",
    )


NAMES = "backslashreplace"
"""Bytes of a file name that are no UTF-8 are written as escapes, which JSON reads back."""


def write_json(path: Path, content: Any, *, fsync: bool = False) -> None:
    """Atomic, indented, strict JSON (NaN is refused: say null)."""
    write_atomic(path, dump_json(content).encode(errors=NAMES), fsync=fsync)


def dump_json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PROBED_S = 0.1
"""How soon a lock is free again that :func:`is_locked` of another process holds for a moment."""


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold an flock on ``path`` for the block; a second holder gets one line that names the first's pid.

    The kernel frees the lock when the process dies, however it dies; the file itself may stay.
    """
    with _opened(path) as file:
        taken = _taken(file)
        if not taken:
            time.sleep(PROBED_S)
            taken = _taken(file)
        if not taken:
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise LungfastError(
                f"{what} is being written by another process",
                found=f"pid {pid}",
                fix="wait for it to finish, or stop it",
            )
        with writing(path):  # past the file's buffer, which closing would write once more
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield


def _opened(path: Path) -> IO[str]:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")


def is_locked(path: Path) -> bool:
    """True while some process holds :func:`locked` on ``path``."""
    if not path.exists():
        return False
    with path.open("a+") as file:
        return not _taken(file)


def _taken(file: IO[str]) -> bool:
    """Whether this process has the lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
