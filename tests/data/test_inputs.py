"""Files and folders as a user names them: each image once, under a name of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lungfast.data.inputs import find_images
from lungfast.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "in/b.png",
        "in/a.JPG",
        "in/a.tif",
        "in/notes.txt",
        "in/.hidden.png",
        "in/sub/c.png",
        "a-2.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_folders_give_their_images_and_names_are_distinct(folder: Path) -> None:
    found = find_images([folder / "in", folder / "a-2.png"])
    assert [(one.name, one.path.name) for one in found] == [
        ("a", "a.JPG"),
        ("a-3", "a.tif"),
        ("b", "b.png"),
        ("a-2", "a-2.png"),
    ]


def test_a_file_given_twice_counts_once(folder: Path) -> None:
    assert len(find_images([folder / "in" / "b.png", folder / "in", folder / "in" / ".." / "in"])) == 3


def test_nothing_to_find(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        find_images([folder / "empty"])
    with pytest.raises(DataError, match=r"no image .*gone\.png"):
        find_images([folder / "gone.png"])


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone, too.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "itself.png").symlink_to(tmp_path / "itself.png")
    assert [one.name for one in find_images([tmp_path])] == ["gone, too", "gone", "itself"]
