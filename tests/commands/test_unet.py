"""``lungfast unet`` through click's runner, on a nano cache of generated X-rays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lungfast.commands import main

TINY = ["--size", "64", "--epochs", "1", "--folds", "3", "--precision", "fp32"]


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_unet_against_cv_prints_tables_and_differences(nano_cache: str, tmp_path: Path) -> None:
    cv, run = tmp_path / "cv", tmp_path / "unet"
    options = ["--epochs", "1", "--folds", "3", "--compile", "off", "--precision", "fp32"]
    result = call("cv", nano_cache, *options, "-o", cv)
    assert result.exit_code == 0, result.output
    result = call("unet", nano_cache, *TINY, "--against", cv, "-o", run)
    assert result.exit_code == 0, result.output
    assert "±" in result.output
    assert "unet, fold by fold" in result.output
    assert "points − unet: F1" in result.output  # noqa: RUF001
    assert "64 px" in result.output
    content = json.loads((run / "results.json").read_text())
    assert [one["family"] for one in content["comparisons"]] == ["unet"]
    again = call("unet", nano_cache, *TINY, "--against", cv, "-o", run, "--resume")
    assert again.exit_code == 0
    assert again.stdout.splitlines()[-3:] == result.stdout.splitlines()[-3:]
    other = call("unet", nano_cache, *TINY, "--split-seed", "1", "--against", cv, "-o", tmp_path / "other")
    assert other.exit_code == 1
    assert "other folds" in other.output
    assert not (tmp_path / "other").exists()


def test_a_cache_without_previews_is_one_line(phantoms: Path, tmp_path: Path) -> None:
    url = tmp_path / "blind.zarr"
    assert call("embed", "shenzhen", phantoms, "--no-pixels", "-o", url).exit_code == 0
    result = call("unet", url, *TINY, "-o", tmp_path / "u")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "holds no previews" in result.stderr
    assert "without --no-pixels" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--size", "large"], "--size is unknown"),
        (["--size", "100"], "size of a U-Net cannot be used"),
        (["--size", "1024"], "larger than the cache's previews"),
        (["--lr", "-1"], "lr of a U-Net cannot be used"),
        (["--memory", "100MB"], "--memory is too small"),
        (["--folds", "50"], "more folds than patients"),
    ],
)
def test_bad_options_are_one_line(nano_cache: str, tmp_path: Path, options: list[str], expected: str) -> None:
    result = call("unet", nano_cache, "-o", tmp_path / "u", *options)
    assert result.exit_code == 2
    assert expected in result.output
    assert not (tmp_path / "u").exists()


def test_help_has_an_example() -> None:
    result = call("unet", "--help")
    assert result.exit_code == 0
    assert "lungfast unet m.zarr" in result.output
