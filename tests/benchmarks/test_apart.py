"""Candidates in processes of their own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from benchmarks.apart import apart


def writing(path: Path) -> Callable[[], object]:
    def call() -> None:
        with path.open("a") as file:
            file.write(f"{os.getpid()}\n")

    return call


def failing() -> Callable[[], object]:
    raise SystemExit(3)


@pytest.mark.process
def test_each_is_made_once_in_a_process_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, name) for name in ("a", "b")]
        with apart({path.name: partial(writing, path) for path in paths}) as calls:
            for name in ("a", "b", "a"):
                calls[name]()
        a, b = (path.read_text().split() for path in paths)
    assert len(a) == 2
    assert len({*a, *b, str(os.getpid())}) == 3


@pytest.mark.process
def test_a_process_that_has_ended_is_told() -> None:
    with apart({"ours": failing}) as calls, pytest.raises(RuntimeError, match="process of ours"):
        calls["ours"]()
