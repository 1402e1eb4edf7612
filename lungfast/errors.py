"""Errors that speak: what was wrong, what was found, what was expected, and the way out.

Everything a user can cause is a :class:`LungfastError`; the command line prints it as one line and
exits with its ``exit_code`` (2 for usage, 1 for data). Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LungfastError(Exception):
    """One clear line about something the user can mend."""

    exit_code = 1

    def __init__(self, what: str, *, found: str = "", expected: str = "", fix: str = "") -> None:
        self.what, self.found, self.expected, self.fix = what, found, expected, fix
        parts = [what]
        if found:
            parts.append(f"found {found}")
        if expected:
            parts.append(f"expected {expected}")
        line = "; ".join(parts) + (f" -> {fix}" if fix else "")
        super().__init__(" ".join(line.split()))


class UsageError(LungfastError):
    """An option or argument that cannot be used as given (exit code 2)."""

    exit_code = 2


class DataError(LungfastError):
    """Images, masks or metadata that cannot be read or do not fit together."""


class CheckpointError(LungfastError):
    """A weights file that is missing, truncated, unsafe, or of another model."""


class CacheError(LungfastError):
    """An embedding cache that is incomplete, locked, damaged, or made with other settings."""


class RunError(LungfastError):
    """A run folder that exists, is incomplete, or belongs to other settings."""


class TrainingError(LungfastError):
    """Training that cannot go on (for example every decoder diverged)."""


@contextmanager
def taking_apart(where: object) -> Iterator[None]:
    """RunError where the body does not find in a run's JSON file what lungfast wrote there."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise RunError(
            f"{where} does not hold what lungfast wrote there",
            found=f"{type(error).__name__} {error}",
            fix="run the study again",
        ) from error
