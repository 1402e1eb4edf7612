"""Where a cache's objects lie: a local folder, or anything fsspec reaches, behind five verbs.

Comes in: a location (a path, or a URL such as ``s3://bucket/m.zarr``), keys, bytes. Goes out: whole objects.
PUT replaces an object entirely or not at all, so a crash leaves old objects, new objects and nothing between;
that and LIST are all a commit needs. DELETE only tidies. A local folder has a lock as well.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lungfast import files
from lungfast.errors import CacheError
from lungfast.records import UInt8

if TYPE_CHECKING:
    from zarr.abc.store import Store

LOCK = ".lungfast.lock"
GET_AT_ONCE = 8
"""Objects of one request: their bytes are held once more until they are copied (16 MB of SAM's rows)."""


class Objects(Protocol):
    """Whole objects under string keys with ``/`` in them."""

    @property
    def url(self) -> str: ...

    def put(self, key: str, content: bytes) -> None: ...

    def get(self, key: str) -> bytes | None:
        """The object, or None where there is none."""

    def read_into(self, keys: Sequence[str], out_BX: UInt8) -> None:
        """One object per row of ``out_BX``, each of exactly that length; otherwise CacheError."""

    def sizes(self) -> dict[str, int]:
        """LIST: every key with its bytes (the lock file is no object)."""

    def delete(self, keys: Iterable[str]) -> None: ...

    def hold(self) -> contextlib.AbstractContextManager[None]:
        """The writer's lock for the block; LungfastError naming the pid where another process has it."""

    def held(self) -> bool: ...

    def zarr_store(self) -> Store:
        """The same objects, read-only, for zarr-python."""


def open_objects(url: str, *, fsync: bool = False) -> Objects:
    """A path or ``file://`` URL is a local folder (which need not exist yet), anything else is fsspec's."""
    if "://" not in url:
        return LocalObjects(Path(url), fsync=fsync)
    if url.startswith("file://"):
        return LocalObjects(Path(url.removeprefix("file://")), fsync=fsync)
    return RemoteObjects(url)


def is_temporary(key: str) -> bool:
    """True for what :func:`files.write_atomic` leaves behind when its process is killed."""
    name = key.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def _damaged(url: str, key: str, found: str, expected: str = "") -> CacheError:
    return CacheError(
        f"{url} is damaged at {key}", found=found, expected=expected, fix="run embed again with --overwrite"
    )


class LocalObjects:
    """A folder: one file an object, written through a temporary sibling and ``os.replace``."""

    def __init__(self, root: Path, *, fsync: bool = False) -> None:
        self._root, self._fsync = root, fsync

    @property
    def url(self) -> str:
        return str(self._root)

    def put(self, key: str, content: bytes) -> None:
        path = self._root / key
        self._make_folder(path.parent)
        files.write_atomic(path, content, fsync=self._fsync)

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        with files.writing(folder):
            folder.mkdir(exist_ok=True)
            if self._fsync:
                files.sync_folder(folder.parent)

    def get(self, key: str) -> bytes | None:
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise CacheError(f"cannot read {self._root / key}", found=error.strerror or str(error)) from error

    def read_into(self, keys: Sequence[str], out_BX: UInt8) -> None:
        folder = str(self._root)
        for key, out_X in zip(keys, out_BX, strict=True):
            try:
                # unbuffered straight into the caller's array: numpy.fromfile's rate, see bench_cache
                with open(f"{folder}/{key}", "rb", buffering=0) as file:  # noqa: PTH123 (Path costs 10 us)
                    size = os.fstat(file.fileno()).st_size
                    count = file.readinto(out_X.data) if size == out_X.nbytes else None
            except OSError as error:
                raise _damaged(self.url, key, error.strerror or str(error)) from error
            if count != out_X.nbytes:
                raise _damaged(self.url, key, f"{size} bytes", f"{out_X.nbytes}")

    def sizes(self) -> dict[str, int]:
        found = {}
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # a writer's temporary file comes and goes
                    found[path.relative_to(self._root).as_posix()] = path.stat().st_size
        found.pop(LOCK, None)
        return found

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._root / key
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # a folder that is not empty stays
                while (path := path.parent) != self._root:
                    path.rmdir()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(files.locked(self._root / LOCK, self.url))
            except OSError as error:
                raise files.disk_error(self._root, error) from error
            yield

    def held(self) -> bool:
        try:
            return files.is_locked(self._root / LOCK)
        except OSError:  # a read-only medium: nobody writes there
            return False

    def zarr_store(self) -> Store:
        from zarr.storage import LocalStore

        return LocalStore(self._root, read_only=True)


class RemoteObjects:
    """An fsspec location (``s3://``, ``gs://``, ``memory://`` ...). No lock: one writer at a time."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        self._url = url
        try:
            self._fs, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise CacheError(
                f"cannot open {url}", found=str(error), fix="install its fsspec package"
            ) from None

    @property
    def url(self) -> str:
        return self._url

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"

    def put(self, key: str, content: bytes) -> None:
        with files.writing(f"{self._url}/{key}"):
            self._fs.pipe_file(self._path(key), content)

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self._fs.cat_file(self._path(key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"cannot read {self._url}/{key}", found=str(error)) from error

    def read_into(self, keys: Sequence[str], out_BX: UInt8) -> None:
        # not through zarr-python: it reads a missing chunk as zeros without a word
        for start in range(0, len(keys), GET_AT_ONCE):
            part = slice(start, start + GET_AT_ONCE)
            self._read_part(keys[part], out_BX[part])

    def _read_part(self, keys: Sequence[str], out_BX: UInt8) -> None:
        paths = [self._path(key) for key in keys]
        try:
            found: dict[str, Any] = self._fs.cat(
                list(dict.fromkeys(paths)), recursive=False, on_error="return"
            )
        except FileNotFoundError as error:
            raise _damaged(self._url, keys[0], str(error)) from error
        for key, path, out_X in zip(keys, paths, out_BX, strict=True):
            content = found.get(path)
            if not isinstance(content, bytes) or len(content) != out_X.nbytes:
                size = f"{len(content)} bytes" if isinstance(content, bytes) else "no object"
                raise _damaged(self._url, key, size, f"{out_X.nbytes} bytes")
            out_X.data[:] = content

    def sizes(self) -> dict[str, int]:
        self._fs.invalidate_cache()
        prefix = self._path("")
        listing = self._fs.find(self._root, detail=True)
        return {path.removeprefix(prefix): int(entry["size"]) for path, entry in listing.items()}

    def delete(self, keys: Iterable[str]) -> None:
        paths = [self._path(key) for key in keys]
        if paths:
            self._fs.rm(paths)

    def hold(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def held(self) -> bool:
        return False

    def zarr_store(self) -> Store:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self._url, read_only=True)
