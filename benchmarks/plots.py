"""Curves of the records as SVG files: ours, peers, limits; legible on a light and on a dark page.

Comes in: a record's plot. Goes out: one ``<svg>`` with its own style, since README.md shows it as an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import cycle
from typing import Any

from lungfast.report.svg import (
    BOTTOM,
    LEFT,
    WIDTH,
    Scale,
    circle,
    log_steps,
    polyline,
    text,
    x_axis,
    y_axis,
)

HEIGHT, TOP, NAMES = 230, 34, 112
END, FLOOR = WIDTH - NAMES, HEIGHT - BOTTOM
LABEL = 11
LIMIT = "limit"
COLOURS = ("a", "b", "c", "d")
STYLE = """
svg{--page:#ffffff;--ink:#1f2328;--soft:#59636e;--rule:#e1e4e8;--a:#0b62c4;--b:#b3400e;--c:#1a7f37;--d:#8250df;
background:var(--page);font:11px system-ui,sans-serif}
@media(prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#f0f6fc;--soft:#9aa4ae;--rule:#2b3139;--a:#6cb6ff;
--b:#ffa657;--c:#6fdd8b;--d:#d2a8ff}}
.page{fill:var(--page)}text{fill:var(--soft)}.title{fill:var(--ink);font-weight:600;font-size:12px}
.rule,.axis{stroke:var(--rule)}.axis{stroke:var(--soft)}polyline{fill:none;stroke-width:2}
.a{stroke:var(--a)}.b{stroke:var(--b)}.c{stroke:var(--c)}.d{stroke:var(--d)}
circle{fill:var(--page);stroke-width:1.5}text.a{fill:var(--a);stroke:none}text.b{fill:var(--b);stroke:none}
text.c{fill:var(--c);stroke:none}text.d{fill:var(--d);stroke:none}
polyline.limit{stroke:var(--soft);stroke-dasharray:5 4;stroke-width:1.5}text.limit{fill:var(--soft)}
"""


def svg_of(plot: Mapping[str, Any]) -> str:
    """A name stands at the right end of its line: no legend to be matched by colour."""
    lines: Mapping[str, Sequence[Sequence[float]]] = plot["lines"]
    xs = sorted({x for points in lines.values() for x, _ in points})
    ys = [y for points in lines.values() for _, y in points]
    x = Scale(low=xs[0], high=xs[-1], start=LEFT, end=END, kind="log")
    y = Scale(low=min(ys) / 1.15, high=max(ys) * 1.15, start=FLOOR, end=TOP, kind="log")
    marks = [y_axis(y, _ticks(y.low, y.high), END, -1), x_axis(x, _x_ticks(xs), FLOOR, plot["x"], -1)]
    colours, ends = cycle(COLOURS), _spread({name: y(points[-1][1]) for name, points in lines.items()})
    for name, points in lines.items():
        colour = LIMIT if name.startswith(LIMIT) else next(colours)
        placed = [(x(a), y(b)) for a, b in points]
        marks.append(polyline(placed, colour))
        if colour != LIMIT:
            marks += [circle(*place, 2.5, colour) for place in placed]
        marks.append(text(END + 6, ends[name] + 3.5, name, colour))
    title = text(LEFT - 34, 15, plot["title"], "title") + text(LEFT - 34, 28, plot["y"], "tick")
    spoken = escape(f"{plot['title']}: {plot['y']} over {plot['x']}. {_told(lines)}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{2 * WIDTH}" '
        f'role="img" aria-label="{spoken}"><style>{STYLE}</style>'
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>{title}{"".join(marks)}</svg>\n'
    )


def _told(lines: Mapping[str, Sequence[Sequence[float]]]) -> str:
    return "; ".join(f"{name} from {p[0][1]:.3g} to {p[-1][1]:.3g}" for name, p in lines.items())


def _ticks(low: float, high: float) -> list[float]:
    ticks = log_steps(low, high)
    return ticks if len(ticks) > 1 else [*ticks, high]


def _x_ticks(xs: Sequence[float]) -> list[float]:
    """The measured places where they are few, else powers."""
    return list(xs) if len(xs) <= 7 else log_steps(xs[0], xs[-1])


def _spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Names from the top down, each at its line's end or as far below as no other is touched."""
    placed: dict[str, float] = {}
    lowest = -float(LABEL)
    for name in sorted(heights, key=lambda one: heights[one]):
        lowest = max(heights[name], lowest + LABEL)
        placed[name] = lowest
    return placed
