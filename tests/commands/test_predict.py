"""predict and quality through click's runner: what they write, what they say, and their exit codes."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lungfast.commands.predict import command as predict
from lungfast.commands.quality import command as quality
from lungfast.commands.quality import name_of, table
from lungfast.errors import LungfastError, RunError
from lungfast.studies.reading import read_material


def call(command: object, *args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args])  # type: ignore[arg-type]


@pytest.fixture
def images(phantoms: Path, tmp_path: Path) -> Path:
    """Two films with a damaged file between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, film in zip("ac", sorted((phantoms / "MontgomerySet" / "CXR_png").iterdir()), strict=False):
        shutil.copy(film, folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no image")
    return folder


def test_a_bad_file_stops_nothing_but_tells(trained_run: Path, images: Path, tmp_path: Path) -> None:
    result = call(predict, trained_run, images, "-o", tmp_path / "out")
    assert result.exit_code == 1, result.output
    assert "2 images segmented" in result.stderr
    assert "1 image was skipped" in result.stderr
    assert "b.png" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["a.png", "c.png"]
    with (tmp_path / "out" / "predictions.csv").open() as file:
        flags = {row["image"]: row["flag"] for row in csv.DictReader(file)}
    assert flags == {"a": "not calibrated", "b": "skipped", "c": "not calibrated"}
    again = call(predict, trained_run, images, "-o", tmp_path / "out")
    assert isinstance(again.exception, LungfastError)
    assert "--resume or --overwrite" in str(again.exception)


def test_all_is_well(trained_run: Path, images: Path, tmp_path: Path) -> None:
    result = call(predict, trained_run, images / "a.png", "-o", tmp_path / "out", "--decoder", "points")
    assert result.exit_code == 0, result.output
    assert "1 image segmented" in result.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["study"] == "predict"


def test_nothing_to_do(trained_run: Path, tmp_path: Path) -> None:
    assert call(predict, trained_run, "-o", tmp_path / "out").exit_code == 2
    (tmp_path / "empty").mkdir()
    result = call(predict, trained_run, tmp_path / "empty", "-o", tmp_path / "out")
    assert isinstance(result.exception, LungfastError)
    assert result.exception.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_quality_writes_into_the_run(
    trained_run: Path, nano_cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungfast.studies.quality.GOOD_F1", 1.0)
    monkeypatch.setattr("lungfast.scored.quality.GOOD_F1", 1.0)
    run = shutil.copytree(trained_run, tmp_path / "run")
    result = call(quality, run, nano_cache, "--perturbed", "0", "--memory", "4GB")
    assert result.exit_code == 0, result.output
    assert "every mask is flagged" in result.stderr
    content = json.loads((run / "quality.json").read_text())
    assert [row["on"] for row in content["rows"]] == ["validation", "test"]


def test_quality_of_another_cache_is_refused(trained_run: Path, tmp_path: Path) -> None:
    result = call(quality, trained_run, tmp_path / "none.zarr")
    assert isinstance(result.exception, LungfastError)
    assert result.exception.exit_code == 1


def test_the_table_of_the_flag() -> None:
    share = {"value": 0.5, "ci95": [0.25, 0.75]}
    row = {"on": "test", "n": 30, "f1": 0.95, "n_bad": 2, "n_flagged": 2, "note": "too few"}
    grid = table({"key": "points", "rows": [row | {"recall": share, "precision": None}]})
    cells = [next(iter(column.cells)) for column in grid.columns]
    assert cells == ["test", "30", "0.950", "2", "2", "0.50 [0.25 to 0.75]", "-", "too few"]
    assert name_of("/somewhere/s.zarr/") == "s"


def test_a_name_that_is_no_unicode_is_kept_and_a_report_of_masks_refused(
    trained_run: Path, images: Path, tmp_path: Path
) -> None:
    strange = os.fsdecode(b"film-\xff.png")
    (images / "b.png").unlink()
    (images / "c.png").rename(images / strange)
    result = call(predict, trained_run, images, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert {row["image"] for row in rows} == {"a", strange.removesuffix(".png")}
    assert "film-" in (tmp_path / "out" / "predictions.csv").read_text()
    with pytest.raises(RunError, match="no report of predict"):
        read_material(tmp_path / "out")
