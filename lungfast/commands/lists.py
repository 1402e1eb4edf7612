"""Options that take several values: text in, tuples out, one line where it cannot be read."""

from __future__ import annotations

import math
from typing import Any

import click


class Numbers(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated numbers, repetitions dropped: ``1e-5,1e-4``; ``whole``: integers alone."""

    name = "numbers"

    def __init__(
        self, *, above: float | None = None, least: float | None = None, whole: bool = False
    ) -> None:
        self.above, self.least, self.whole = above, least, whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        return tuple(dict.fromkeys(self._number(part, param, ctx) for part in str(value).split(",")))

    def _number(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = int(text) if self.whole else float(text)
        except ValueError:
            kind, such = ("integers", "0,1,2") if self.whole else ("numbers", "1e-4,1e-3")
            self.fail(f"found {text!r}, expected {kind} separated by commas, such as {such}", param, ctx)
        if not math.isfinite(number):
            self.fail(f"found {text!r}, expected a finite number", param, ctx)
        if self.above is not None and number <= self.above:
            self.fail(f"found {text!r}, expected more than {self.above:g}", param, ctx)
        if self.least is not None and number < self.least:
            self.fail(f"found {text!r}, expected at least {self.least:g}", param, ctx)
        return number


class Names(click.ParamType):  # type: ignore[type-arg]
    """Comma-separated names out of a fixed set."""

    name = "names"

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))
        for name in names:
            if name not in self.choices:
                self.fail(f"found {name!r}, expected one or more of {', '.join(self.choices)}", param, ctx)
        return names


def not_an_option(
    context: click.Context, option: click.Parameter, values: tuple[Any, ...] | None
) -> tuple[Any, ...] | None:
    """A callback for options that take two values: one that was left out swallows the next option."""
    for value in values or ():
        if str(value).startswith("-"):
            raise click.BadParameter(f"found {str(value)!r}, expected {option.metavar}", context, option)
    return values
