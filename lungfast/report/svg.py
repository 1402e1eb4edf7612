"""The few marks of which every chart is made: numbers in, one ``<svg>`` out, coloured by the page's style.

Every chart is :data:`WIDTH` units wide, so that its text is as large as the page's. Colours are classes,
never values: they follow light, dark and print. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH = 340
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 12, 36
FLAT_STEPS = 3
NEAREST_TO_ONE = 0.003
"""An F1 of 1 is drawn as 0.997: the stretched axis has no end."""

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to units; ``towards one`` gives every halving of the error the same room."""

    low: float
    high: float
    start: float
    end: float
    kind: Literal["linear", "log", "towards one"] = "linear"

    def __call__(self, value: float) -> float:
        low, high, here = (self._bent(one) for one in (self.low, self.high, value))
        share = 0.0 if high == low else (here - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _bent(self, value: float) -> float:
        if self.kind == "log":
            return math.log10(max(value, 1e-9))
        if self.kind == "towards one":
            return -math.log10(max(1 - value, NEAREST_TO_ONE))
        return value


def steps(low: float, high: float, n: int = 5) -> list[float]:
    """About ``n`` round values from low to high."""
    raw = (high - low) / n or 1.0
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_steps(low: float, high: float) -> list[float]:
    """1, 2, 5 of each power of ten between low and high; the powers alone where those are many.

    Between them, where fewer than two of those lie between low and high: a few round values.
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) < 4 else (1,)
    round_ones = [factor * 10.0**power for power in powers for factor in factors]
    found = [value for value in round_ones if low <= value <= high]
    return found if len(found) > 1 else steps(low, high, FLAT_STEPS)


# --- marks -----------------------------------------------------------------------------------------


def text(x: float, y: float, content: str, cls: str = "tick", anchor: Anchor = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, cls: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{cls}"/>'


def polyline(points: Iterable[tuple[float, float]], cls: str) -> str:
    inside = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{inside}" class="{cls}"/>'


def polygon(points: Iterable[tuple[float, float]], cls: str) -> str:
    inside = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polygon points="{inside}" class="{cls}"/>'


def dots(points: Iterable[tuple[float, float]], cls: str) -> str:
    """Many dots as one path of empty strokes with round ends: 14 bytes a dot."""
    inside = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    return f'<path d="{inside}" class="{cls}"/>'


def circle(x: float, y: float, radius: float, cls: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{cls}"/>'


# --- axes ------------------------------------------------------------------------------------------


def x_axis(scale: Scale, values: Sequence[float], bottom: float, name: str, digits: int = 0) -> str:
    """Ticks and their numbers below ``bottom``, the axis' name under them."""
    marks = [text(scale(value), bottom + 15, tick(value, digits), "tick", "middle") for value in values]
    marks += [line(scale(value), bottom, scale(value), bottom + 4, "axis") for value in values]
    middle = (scale.start + scale.end) / 2
    rule = line(scale.start, bottom, scale.end, bottom, "axis")
    return "".join([rule, *marks, text(middle, bottom + 31, name, "name", "middle")])


def y_axis(scale: Scale, values: Sequence[float], right: float, digits: int = 2) -> str:
    """A rule across at every value, its number on the left."""
    marks = []
    for value in values:
        marks.append(line(LEFT, scale(value), right, scale(value), "rule"))
        marks.append(text(LEFT - 6, scale(value) + 3.5, tick(value, digits), "tick", "end"))
    return "".join(marks)


def tick(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if digits >= 0 else f"{value:g}"


def svg(name: str, told: str, height: float, body: str, attributes: str = "") -> str:
    """``name`` and ``told`` are read out instead of the picture."""
    spoken = f'role="img" aria-label="{escape(name)}. {escape(told)}"'
    return f'<svg viewBox="0 0 {WIDTH} {height:g}" {spoken} {attributes}>{body}</svg>'
