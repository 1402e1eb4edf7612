"""numba as this project uses it: no GIL, no fastmath beyond what is said, cached on disk.

The disk cache notices changes of a function's own file, not of those it calls in another. What is not said of
inlining and rounding a function would have from whoever calls it first, so that both are always said.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


IS_COMPILED = not vars(numba.config)["DISABLE_JIT"]
"""Not with ``NUMBA_DISABLE_JIT=1``: then everything runs as plain Python, and intrinsics have plain twins."""


def compiled(function: _Function) -> _Function:
    """numba.njit, cached on disk unless no cache folder can be written (a read-only install)."""
    return _compiled(function)


def lean(function: _Function) -> _Function:
    """The same, for what makes no array: its arrays are not counted as they are handed on.

    Else every array of every call costs two atomic operations, which took more than half of a whole count.
    """
    return _compiled(function, _nrt=False)


def inlined(function: _Function) -> _Function:
    """:func:`lean`, put where it is called: to hand over a dozen arrays is a hundred instructions."""
    return _compiled(function, _nrt=False, forceinline=True)


def contracted(function: _Function) -> _Function:
    """:func:`lean` where a product and a sum may round once: for approximations, never for counts."""
    return _compiled(function, fastmath={"contract"}, _nrt=False)


def _compiled(function: _Function, **said: Any) -> _Function:
    options = {"nogil": True, "forceinline": False, "fastmath": False} | said
    try:
        return cast(_Function, numba.njit(cache=True, **options)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(**options)(function))
