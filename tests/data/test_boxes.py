"""Boxes from a file: found by path, name or stem, normalised, and one line for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lungfast.data.boxes import read_boxes
from lungfast.errors import DataError

HEADER = "image,x0,y0,x1,y1\n"
IMAGES = [Path("in/a.png"), Path("in/b.png"), Path("other/b.jpg")]


def written(folder: Path, text: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_by_file_name_stem_or_path_in_shares_of_the_image(tmp_path: Path) -> None:
    boxes = read_boxes(written(tmp_path, HEADER + "a,10,20,110,180\nother/b.jpg,0,0,200.5,100\n"), IMAGES)
    assert np.allclose(boxes.of(IMAGES[0], (200, 200)), [[0.05, 0.1, 0.55, 0.9]])
    assert np.allclose(boxes.of(IMAGES[2], (100, 200)), [[0, 0, 1, 1]])


def test_two_lines_are_two_lungs_left_to_right(tmp_path: Path) -> None:
    boxes = read_boxes(written(tmp_path, HEADER + "a.png,60,0,90,50\na.png,10,0,40,50\n"), IMAGES)
    assert np.allclose(boxes.of(IMAGES[0], (100, 100))[:, 0], [0.1, 0.6])


@pytest.mark.parametrize(
    ("lines", "image", "says"),
    [
        ("b.png,0,0,5,5\n", 0, "no box for a.png"),
        ("b,0,0,5,5\n", 1, "several images"),
        ("a,0,0,150,5\n", 0, "outside"),
        ("a,-5,0,10,5\n", 0, "outside"),
    ],
)
def test_an_image_without_its_box_is_one_line(tmp_path: Path, lines: str, image: int, says: str) -> None:
    boxes = read_boxes(written(tmp_path, HEADER + lines), IMAGES)
    with pytest.raises(DataError, match=says):
        boxes.of(IMAGES[image], (100, 100))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header"),
        ("image,x,y,w,h\n", "other columns"),
        (HEADER + "a,1,2,3\n", "line 2 has too few"),
        (HEADER + "a,1,2,3,four\n", "line 2: no box"),
        (HEADER + "a,1,2,nan,4\n", "no box"),
        (HEADER + "a,5,2,3,4\n", "x0 < x1"),
        (HEADER + ",1,2,3,4\n", "image is empty"),
        (HEADER + "a,1,2,3,4\n" * 3, "line 4: a has more than 2"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_boxes(written(tmp_path, text), IMAGES)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        read_boxes(tmp_path / "boxes.csv", IMAGES)
