"""The images a user names: files and folders, each under a name of its own.

In: paths. Out: :class:`NamedImage` in a stable order, every file once, with a name under which its results
can be written. Nothing is read yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lungfast.data.folders import EXTENSIONS
from lungfast.errors import DataError


@dataclass(frozen=True, kw_only=True)
class NamedImage:
    """``name`` is the file's stem, with a number where several files share it."""

    name: str
    path: Path


def find_images(paths: Sequence[Path]) -> tuple[NamedImage, ...]:
    """Files as given, folders by their PNG, JPEG and TIFF files (sub-folders are not entered).

    Raises DataError where a path is not there or nothing is found. Whether a file can be read shows later.
    """
    files = list({path.resolve() if path.exists() else path: path for path in _files(paths)}.values())
    if not files:
        raise DataError(
            "no images",
            found=", ".join(map(str, paths)),
            expected="PNG, JPEG or TIFF files, or folders of them",
        )
    return tuple(NamedImage(name=name, path=path) for name, path in zip(_names(files), files, strict=True))


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            try:
                entries = sorted(path.iterdir())
            except OSError as error:
                raise DataError(f"cannot read {path}", found=error.strerror or str(error)) from error
            yield from (
                entry
                for entry in entries
                if entry.suffix.lower() in EXTENSIONS and not entry.name.startswith(".") and _is_film(entry)
            )
        elif path.exists():
            yield path
        else:
            raise DataError(f"there is no image {path}", fix="check the path")


def _is_film(path: Path) -> bool:
    """A file, or a link to one that is gone, which cannot be read and is told so."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _names(files: Sequence[Path]) -> Iterator[str]:
    """Stems; the second of a kind gets -2. Letter case does not distinguish files everywhere."""
    counts = Counter(path.stem.lower() for path in files)
    taken = {stem for stem, count in counts.items() if count == 1}
    for path in files:
        stem = path.stem
        number = 1
        while counts[path.stem.lower()] > 1 and stem.lower() in taken:
            number += 1
            stem = f"{path.stem}-{number}"
        taken.add(stem.lower())
        yield stem
