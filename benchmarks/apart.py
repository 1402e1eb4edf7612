"""Candidates in processes of their own: each with its own allocator, threads and caches, as its user runs it.

What one of them sets for its process (ours keeps freed memory, see workers.py) then helps no other.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection

Make = Callable[[], Callable[[], object]]


@contextmanager
def apart(makes: Mapping[str, Make]) -> Iterator[dict[str, Callable[[], object]]]:
    """Calls that run in the process where their candidate was made; ``makes`` must be picklable."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes = {}
        for name, make in makes.items():
            pipes[name], theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
            theirs.close()  # an end in the child alone, so that its death ends our wait
        yield {name: partial(_call, name, pipe) for name, pipe in pipes.items()}


@contextmanager
def together(makes: Mapping[str, Make]) -> Iterator[dict[str, Callable[[], object]]]:
    """The same in this process: a look, without the seconds that imports take in every other."""
    yield {name: make() for name, make in makes.items()}


def _call(name: str, pipe: Connection) -> None:
    try:
        pipe.send(None)
        pipe.recv()
    except (EOFError, ConnectionError) as error:
        raise RuntimeError(f"the process of {name} has ended") from error


def _serve(pipe: Connection, make: Make) -> None:
    call = make()
    while True:
        pipe.recv()
        call()
        pipe.send(None)
