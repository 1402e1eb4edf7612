"""numba as this room uses it: no GIL, no fastmath, cached on disk.

The disk cache notices changes of a function's own file, not of those it calls in another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """numba.njit, cached on disk unless no cache folder can be written (a read-only install)."""
    try:
        return cast(_Function, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:
        return cast(_Function, numba.njit(nogil=True)(function))
