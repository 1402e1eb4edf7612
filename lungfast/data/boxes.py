"""Boxes around the lungs that a user gives for images without a truth.

In: a CSV file with the columns ``image`` (path, file name or stem), ``x0``, ``y0``, ``x1``, ``y1`` in native
pixels; one line per image (a box around both lungs) or two (one per lung). Out: :class:`Boxes`, which finds
those of an image. Everything else is a one-line :class:`DataError` with file and line.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lungfast.errors import DataError
from lungfast.records import Float64, Size

COLUMNS = ("image", "x0", "y0", "x1", "y1")
MOST_LINES = 2
"""Boxes of one image: around both lungs, or one each."""
SLACK_PX = 1.0
"""A box may reach this far over the image's edge: conventions differ on whether x1 is inside."""


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes by the name under which the file gives them."""

    path: Path
    by_name: Mapping[str, Float64]
    shared_names: frozenset[str]
    """File names and stems that several of the images have: they do not say which image is meant."""

    def of(self, image: Path, native_size: Size) -> Float64:
        """Normalised (lungs, 4), left to right in the image; DataError: none, or outside the image."""
        names = (str(image), image.name, image.stem)
        name = next((name for name in names if name in self.by_name), None)
        if name is None:
            raise DataError(f"{self.path} has no box for {image.name}")
        if name in self.shared_names:
            raise DataError(
                f"{self.path}: {name} may mean several images", found=str(image), fix="give their paths"
            )
        height, width = native_size
        boxes_S4 = self.by_name[name]
        if boxes_S4.min() < -SLACK_PX or (boxes_S4 > np.array([width, height] * 2) + SLACK_PX).any():
            raise DataError(
                f"{self.path}: the box of {image.name} reaches outside the image",
                found=", ".join(f"{value:g}" for value in boxes_S4.ravel()),
                expected=f"x within 0…{width}, y within 0…{height}",
            )
        normalised_S4 = np.clip(boxes_S4 / np.array([width, height] * 2), 0, 1)
        return np.asarray(normalised_S4[np.argsort(normalised_S4[:, [0, 2]].sum(axis=1), kind="stable")])


def read_boxes(path: Path, images: Sequence[Path]) -> Boxes:
    """Read the boxes for ``images``; raises DataError."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = tuple(reader.fieldnames or ())
            if set(columns) != set(COLUMNS) or len(columns) != len(COLUMNS):
                raise DataError(
                    f"{path} has other columns than a file of boxes",
                    found=", ".join(columns) or "no header",
                    expected=", ".join(COLUMNS),
                )
            by_name = _read_lines(path, reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot read {path}", found=str(error), expected="a CSV file in UTF-8 with a header line"
        ) from error
    return Boxes(path=path, by_name=by_name, shared_names=_shared(images))


def _shared(images: Sequence[Path]) -> frozenset[str]:
    names = Counter(name for image in images for name in {image.name, image.stem})
    return frozenset(name for name, count in names.items() if count > 1)


def _read_lines(path: Path, reader: csv.DictReader[str]) -> dict[str, Float64]:
    found: dict[str, list[list[float]]] = {}
    for line in reader:
        where = f"{path}, line {reader.line_num}"
        if None in line or None in line.values():
            raise DataError(f"{where} has too few or too many cells", expected=f"{len(COLUMNS)} cells")
        name = line["image"].strip()
        if not name:
            raise DataError(f"{where}: image is empty")
        boxes = found.setdefault(name, [])
        boxes.append(_box(where, line))
        if len(boxes) > MOST_LINES:
            raise DataError(
                f"{where}: {name} has more than {MOST_LINES} boxes",
                expected="one around both lungs, or one per lung",
            )
    return {name: np.array(boxes, np.float64) for name, boxes in found.items()}


def _box(where: str, line: Mapping[str, str]) -> list[float]:
    cells = [line[column].strip() for column in COLUMNS[1:]]
    try:
        x0, y0, x1, y1 = (float(cell) for cell in cells)
    except ValueError:
        x0 = y0 = x1 = y1 = math.nan
    if not (all(map(math.isfinite, (x0, y0, x1, y1))) and x0 < x1 and y0 < y1):
        raise DataError(
            f"{where}: no box", found=", ".join(cells), expected="numbers x0 < x1 and y0 < y1, in pixels"
        )
    return [x0, y0, x1, y1]
