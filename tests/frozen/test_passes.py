"""A pass is compiled on a GPU alone, and a compiler that raises costs nothing but time."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lungfast.frozen.passes import OnGpu, places_of


def on_a_gpu(value: int) -> Any:
    """What a compiled function is told apart by."""
    return SimpleNamespace(device=SimpleNamespace(type="cuda"), value=value)


def twice() -> OnGpu[[Any], int]:
    return OnGpu(lambda x: 2 * x.value)


def test_a_cpu_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", None)
    found = OnGpu(lambda x: 2 * x)
    assert float(found(torch.tensor(3.0))) == 6
    assert found.note == "not compiled"


def test_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compile(function: Callable[..., int], *, dynamic: bool) -> Callable[..., int]:
        asked.append(dynamic)
        return lambda x: function(x) + 1

    monkeypatch.setattr(torch, "compile", compile)
    found = twice()
    assert [found(on_a_gpu(n)) for n in (1, 2)] == [3, 5]
    assert asked == [False]
    assert found.note == "compiled"


@pytest.mark.parametrize("late", [False, True], ids=["at once", "in the first call"])
def test_a_compiler_that_raises_is_not_asked_again(late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> Any:
        raise RuntimeError("no triton")

    monkeypatch.setattr(torch, "compile", (lambda *_, **__: fails) if late else fails)
    found = twice()
    assert found(on_a_gpu(4)) == 8
    monkeypatch.setattr(torch, "compile", None)
    assert found(on_a_gpu(5)) == 10
    assert found.note == "eager: no triton"


def test_want_of_memory_is_not_the_compilers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Any:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    found = twice()
    with pytest.raises(torch.OutOfMemoryError):
        found(on_a_gpu(4))
    assert found.note == "not compiled"


@pytest.mark.parametrize("extent", [(3, 5), (5, 3), (4, 4)])
def test_a_key_says_where_it_is_and_a_query_how_far_that_is(extent: tuple[int, int]) -> None:
    height, width = extent
    sees_nX, own_nX = places_of(extent, 6, torch.float32, torch.device("cpu"))
    assert sees_nX.shape == own_nX.shape
    assert (6 + own_nX.shape[1]) % 8 == 0
    for query in range(height * width):
        for key in range(height * width):
            (row, column), (at_row, at_column) = divmod(query, width), divmod(key, width)
            far_row, far_column = sees_nX[query][own_nX[key] == 1].tolist()
            assert far_row == at_row - row + height - 1
            assert far_column == 2 * height - 1 + at_column - column + width - 1
