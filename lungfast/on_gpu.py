"""Functions that are one compiled pass over memory on a GPU, and plain torch operations elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from lungfast.compute import keep_compiled

_P = ParamSpec("_P")
_R = TypeVar("_R")


class OnGpu(Generic[_P, _R]):
    """A function of tensors, compiled where the first one lies on a GPU, once for every shape.

    Where the compiler (it needs triton) raises, plain operations compute the same.
    """

    def __init__(self, function: Callable[_P, _R]) -> None:
        self._plain = function
        self._run: Callable[_P, _R] | None = None
        self._lock = Lock()

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        first: Any = args[0]
        if first.device.type != "cuda":
            return self._plain(*args, **kwargs)
        if self._run is None:
            with self._lock:
                if self._run is None:
                    return self._settle(*args, **kwargs)
        return self._run(*args, **kwargs)

    def _settle(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The first call decides: the compiler raises before anything has run."""
        keep_compiled()
        compiled: Callable[_P, _R] = torch.compile(self._plain, dynamic=False)
        try:
            found = compiled(*args, **kwargs)
        except Exception:  # whatever the compiler raises, eager computes the same
            self._run = self._plain
            return self._plain(*args, **kwargs)
        self._run = compiled
        return found
