"""The learning curves of a pretraining: rows of its log come in, one picture that stands alone goes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lungfast.report.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Scale,
    log_steps,
    polyline,
    steps,
    svg,
    text,
    x_axis,
    y_axis,
)

HEIGHT = 220
CURVES = {"mask": "the prompted mask", "structures": "all structures", "dice": "1 - Dice of the mask"}
STYLE = """<style>text{font:10px sans-serif;fill:#333}polyline{fill:none;stroke-width:1.5}.rule{stroke:#ddd}
.axis{stroke:#333}.mask{stroke:#0072b2}.structures{stroke:#d55e00}.dice{stroke:#009e73}</style>"""


def loss_curves(log: Sequence[Mapping[str, float]]) -> str:
    """Losses by step on a log scale, as a complete SVG file."""
    found = {
        name: [(row["step"], 1 - row[name] if name == "dice" else row[name]) for row in log]
        for name in CURVES
    }
    shown = [value for points in found.values() for _, value in points if value > 0]
    x = Scale(low=0, high=max(row["step"] for row in log), start=LEFT, end=WIDTH - RIGHT)
    y = Scale(low=min(shown) * 0.85, high=max(shown) * 1.1, start=HEIGHT - BOTTOM, end=TOP, kind="log")
    marks = [STYLE, y_axis(y, log_steps(y.low, y.high), WIDTH - RIGHT, -1)]
    marks.append(x_axis(x, steps(0, x.high), HEIGHT - BOTTOM, "step"))
    for i, (name, points) in enumerate(found.items()):
        marks.append(polyline([(x(a), y(b)) for a, b in points], name))
        marks.append(polyline([(WIDTH - 130, TOP + 8 + 14 * i), (WIDTH - 112, TOP + 8 + 14 * i)], name))
        marks.append(text(WIDTH - 108, TOP + 11.5 + 14 * i, CURVES[name]))
    told = f"Losses over {log[-1]['step']} steps"
    return svg("Pretraining", told, HEIGHT, "".join(marks), 'xmlns="http://www.w3.org/2000/svg"')
