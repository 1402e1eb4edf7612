"""What a person sees while a study runs: a bar with rate and time left, one line per decoder.

Quiet where the output is no terminal: then only notes (on standard error) and the final table appear.
"""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from lungfast.records import EpochEnd

PLAIN_WIDTH = 110
"""Columns of a table that is not shown on a terminal: no cell is cut in a log file."""


def plain_or_terminal() -> Console:
    """Standard output: as wide as the terminal, or as a table needs where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class _Rate(ProgressColumn):
    """Things a second, or seconds a thing where that is slower."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="cyan")


class Screen:
    """A study's listener; use it as a context manager."""

    def __init__(self) -> None:
        self.err = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.err,
        )
        self._live = Live(console=self.err, refresh_per_second=4, transient=True)
        self._shown = self.err.is_terminal
        self._end: EpochEnd | None = None
        self._task = self._progress.add_task("starting", total=None)
        self._per_epoch = 0

    def __enter__(self) -> Self:
        if self._shown:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shown:
            self._live.stop()

    def note(self, line: str) -> None:
        self.err.print(line, markup=False, soft_wrap=True)

    def phase(self, name: str, total: int) -> None:
        """A new bar; the table of decoders goes."""
        self._end = None
        self._begin(name, total)

    def advance(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)
        self._refresh()

    def epoch(self, end: EpochEnd) -> None:
        """The bar counts (decoder, image) pairs, so that its rate means the same in every study."""
        if self._end is None or self._end.keys != end.keys:
            self._begin("training", end.images * end.epochs, done=end.images * (end.epoch - 1))
        self._end = end
        self._progress.advance(self._task, end.images)
        self._refresh()

    def _begin(self, name: str, total: int, *, done: int = 0) -> None:
        """``done`` before this start does not count for the rate."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, completed=done)
        self._refresh()

    def _refresh(self) -> None:
        if self._shown:
            parts = [decoder_table(self._end, self.err.height - 8)] if self._end else []
            self._live.update(Group(*parts, self._progress))


def decoder_table(end: EpochEnd, height: int) -> Table:
    """Losses of every decoder after an epoch; as many as fit, the lowest validation loss in bold."""
    table = Table(title=f"epoch {end.epoch} of {end.epochs}", title_justify="left", box=None)
    for name in ("decoder", "train loss", "val loss", "best epoch", "status"):
        table.add_column(name, justify="left" if name in {"decoder", "status"} else "right")
    finite = [loss for loss in end.val_loss_K if math.isfinite(loss)]
    shown = max(3, height)
    for k, key in enumerate(end.keys[:shown]):
        val = float(end.val_loss_K[k])
        table.add_row(
            key,
            _number(float(end.train_loss_K[k])),
            _number(val),
            str(int(end.best_epoch_K[k])),
            end.status_K[k],
            style="bold" if finite and val == min(finite) else "",
        )
    if len(end.keys) > shown:
        table.add_row(f"… and {len(end.keys) - shown} more", "", "", "", "")
    return table


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
