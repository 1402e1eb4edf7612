"""The report's charts, each a small ``<svg>``: rows of results in, markup out.

Small multiples instead of legends: one chart has one prompt, so that no colour has to be told from nine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np

from lungfast.report import paper
from lungfast.report.facts import Row
from lungfast.report.further import median
from lungfast.report.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Anchor,
    Scale,
    circle,
    dots,
    line,
    log_steps,
    polygon,
    polyline,
    steps,
    svg,
    text,
    x_axis,
    y_axis,
)
from lungfast.report.table import plain
from lungfast.report.threshold_table import Curve

HEIGHT = 210
FLOOR = HEIGHT - BOTTOM
END = WIDTH - RIGHT
STRIP_ROW = 38
STRIP_LEFT = 12
STRIP_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
LABEL_HEIGHT, TICK_WIDTH = 12, 18
JITTER_NAMES = 58
JITTER_LINES = ("val", "train", "third", "fourth")
MOST_POINTS = 160
"""Points of a drawn curve: more than the chart has pixels would only be bytes."""


def learning_curve(name: str, group: Sequence[Row]) -> str:
    """Losses by epoch on a log scale: each decoder thin, their mean strong; where the median was lowest."""
    epochs = max(len(one["train_loss"]) for one in group)
    train, val = (_mean_line(group, key, epochs) for key in ("train_loss", "val_loss"))
    shown = [value for points in (train, val) for _, value in points if value > 0]
    if not shown:
        return ""
    x = Scale(low=1, high=max(2, epochs), start=LEFT, end=END)
    y = Scale(low=min(shown) * 0.85, high=max(shown) * 1.1, start=FLOOR, end=TOP + 12, kind="log")
    marks = [y_axis(y, log_steps(y.low, y.high), END, -1)]
    marks += [x_axis(x, _epoch_ticks(epochs), FLOOR, "epoch"), text(0, TOP - 2, "loss", "name")]
    for one in group:
        marks.append(polyline(_placed(_points(one["val_loss"]), x, y), "val faint"))
    marks.append(polyline(_placed(train, x, y), "train"))
    marks.append(polyline(_placed(val, x, y), "val"))
    lowest = [int(one["last_improvement"]) for one in group if one.get("last_improvement")]
    told = f"Mean of {len(group)} decoders over {epochs} epochs, training and validation loss"
    if lowest:
        when = median(lowest)
        marks.append(line(x(when), TOP + 12, x(when), FLOOR, "mark"))
        near_end = x(when) > (LEFT + END) / 2
        anchor: Anchor = "end" if near_end else "start"
        note = f"lowest at epoch {when}" + (", the last" if when == epochs else "")
        marks.append(text(x(when) + (-4 if near_end else 4), TOP + 6, note, "note", anchor))
        told += f"; the median was {note}"
    return svg(name, told, HEIGHT, "".join(marks))


def _points(values: Sequence[float | None]) -> list[tuple[float, float]]:
    """(epoch, loss) of the epochs that have one."""
    return _thinned([(float(i), value) for i, value in enumerate(values, start=1) if value is not None])


def _mean_line(group: Sequence[Row], key: str, epochs: int) -> list[tuple[float, float]]:
    points = []
    for epoch in range(epochs):
        values = [one[key][epoch] for one in group if len(one[key]) > epoch and one[key][epoch] is not None]
        if values:
            points.append((float(epoch + 1), float(np.mean(values))))
    return _thinned(points)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    every = -(-len(points) // MOST_POINTS)
    return points[:: every or 1]


def _placed(points: Sequence[tuple[float, float]], x: Scale, y: Scale) -> list[tuple[float, float]]:
    return [(x(a), y(b)) for a, b in points]


def _epoch_ticks(epochs: int) -> list[float]:
    return [value for value in steps(0, epochs) if value >= 1 and value == int(value)] or [1]


def threshold_curve(name: str, curve: Curve, theirs: Sequence[float]) -> str:
    """F1 over thresholds: validation, test, the paper's Table II as rings, the chosen ones as wedges."""
    x = Scale(low=min(0.05, *curve.thresholds), high=max(0.95, *curve.thresholds), start=LEFT, end=END)
    y = Scale(low=0, high=1, start=FLOOR, end=TOP + 12)
    marks = [y_axis(y, [0, 0.25, 0.5, 0.75, 1], END)]
    marks += [x_axis(x, [0.1, 0.3, 0.5, 0.7, 0.9], FLOOR, "threshold", 1), text(0, TOP - 2, "F1", "name")]
    for key, cls in (("test_f1", "train"), ("val_f1", "val")):
        points = [(x(a), y(b)) for a, b in zip(curve.thresholds, curve.lines.get(key, ()), strict=False)]
        marks.append(polyline(points, cls))
    marks += [circle(x(a), y(b), 3.2, "ring") for a, b in zip(paper.THRESHOLDS, theirs, strict=False)]
    marks.append(line(x(0.5), TOP + 12, x(0.5), FLOOR, "slider"))
    marks += [_pointer(x(value), FLOOR) for value in sorted(set(curve.chosen))]
    best = max(curve.lines["val_f1"])
    told = f"Validation F1 over thresholds, at most {plain(best)}; chosen {_values(curve.chosen)}"
    if theirs:
        told += f". The paper's from 0.50 to 0.70: {', '.join(plain(value) for value in theirs)}"
    scale = f'data-low="{x.low}" data-high="{x.high}" data-start="{x.start}" data-end="{x.end}"'
    return svg(name, told, HEIGHT, "".join(marks), scale)


def _pointer(x: float, floor: float) -> str:
    """A wedge that stands on the axis."""
    return polygon([(x, floor - 9), (x - 3.5, floor), (x + 3.5, floor)], "pointer")


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in sorted(set(values)))


def strips(name: str, f1: Mapping[str, Sequence[float]]) -> str:
    """F1 of every image, a row per model, spread at random within it; median and 5th percentile marked."""
    values = [value for row in f1.values() for value in row]
    lowest = min(values)
    ticks = [value for value in STRIP_TICKS if value >= lowest or value == 0.9]
    low = max([value for value in STRIP_TICKS if value <= lowest], default=0.0)
    x = Scale(low=low, high=0.997, start=STRIP_LEFT, end=END, kind="towards one")
    floor = TOP + STRIP_ROW * len(f1)
    marks = [line(x(value), TOP, x(value), floor, "rule") for value in ticks]
    told = []
    for i, (key, row) in enumerate(f1.items()):
        top = TOP + i * STRIP_ROW
        noise = np.random.default_rng(i).uniform(top + 17, top + STRIP_ROW - 4, len(row))
        marks.append(dots(zip(map(x, row), noise.tolist(), strict=True), "dots"))
        middle, tail = float(np.median(row)), float(np.percentile(row, 5))
        marks.append(line(x(tail), top + 18, x(tail), top + STRIP_ROW - 4, "tail"))
        marks.append(line(x(middle), top + 14, x(middle), top + STRIP_ROW - 1, "median"))
        marks.append(text(STRIP_LEFT, top + 10, key, "label"))
        marks.append(text(END, top + 10, f"median {plain(middle)}", "tick", "end"))
        told.append(f"{key}: median {plain(middle)}, 5th percentile {plain(tail)}")
    marks.append(x_axis(x, ticks, floor, "F1 of an image", -1))
    return svg(name, "; ".join(told), floor + BOTTOM, "".join(marks))


def _apart(y: float, taken: Sequence[float]) -> float:
    """The nearest height at which a name touches no other."""
    free = (y + side * shift for shift in range(200) for side in (1, -1))
    return next(height for height in free if all(abs(height - one) >= LABEL_HEIGHT for one in taken))


def _spaced(values: Sequence[float], scale: Scale) -> list[float]:
    """Those of rising values whose numbers do not touch on an axis, from the first on."""
    kept: list[float] = []
    for value in values:
        if not kept or scale(value) - scale(kept[-1]) >= TICK_WIDTH:
            kept.append(value)
    return kept


def jitter_curve(name: str, rows: Sequence[Row]) -> str:
    """Mean F1 per image with its interval, over pixels of jitter; one line a prompt, named at its end."""
    values = [value for row in rows for value in (row["f1_image"]["ci95"] or [row["f1_image"]["mean"]])]
    most = max(row["jitter_px"] for row in rows)
    x = Scale(low=0, high=most or 1, start=LEFT, end=END - JITTER_NAMES)
    y = Scale(low=min(values) - 0.005, high=max(values) + 0.005, start=FLOOR, end=TOP)
    marks = [y_axis(y, steps(y.low, y.high, 4), END - JITTER_NAMES, 3)]
    asked = sorted({float(row["jitter_px"]) for row in rows})
    marks.append(x_axis(x, _spaced(asked, x), FLOOR, "jitter, px of 1024", -1))
    told = []
    ends: list[float] = []
    for prompt, cls in zip(dict.fromkeys(row["prompt"] for row in rows), cycle(JITTER_LINES), strict=False):
        points = sorted((row["jitter_px"], row["f1_image"]) for row in rows if row["prompt"] == prompt)
        if all(image["ci95"] for _, image in points):
            low, high = ([(x(px), y(image["ci95"][i])) for px, image in points] for i in (0, 1))
            marks.append(polygon([*low, *reversed(high)], f"band {cls}"))
        marks.append(polyline([(x(px), y(image["mean"])) for px, image in points], cls))
        ends.append(_apart(y(points[-1][1]["mean"]) + 4, ends))
        marks.append(text(END - JITTER_NAMES + 4, ends[-1], prompt, "label"))
        told.append(f"{prompt} from {plain(points[0][1]['mean'])} to {plain(points[-1][1]['mean'])}")
    return svg(name, "F1 per image with boxes moved: " + "; ".join(told), HEIGHT, "".join(marks))
