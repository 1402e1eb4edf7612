"""``lungfast pretrain`` through click's runner, for three steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from lungfast.commands import main
from lungfast.frozen.nano import NANO_PATH
from lungfast.runs import RunFolder
from lungfast.studies import pretrain
from lungfast.trained.pretraining import Pretraining

QUICK = ("--quick", "--workers", "0")


def call(*args: str) -> Result:
    return CliRunner().invoke(main, ["pretrain", *args])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrain") / "nano"
    result = call("-o", str(path), *QUICK)
    assert result.exit_code == 0, result.output
    assert "6 generated X-rays" in result.output
    return path


def test_it_leaves_weights_log_and_figure(run: Path) -> None:
    found, shipped = load_file(run / "nano.safetensors"), load_file(NANO_PATH)
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in shipped.items()
    }
    (row,) = csv.DictReader((run / "losses.csv").open())
    assert row["step"] == "3"
    assert (run / "curves.svg").read_text().startswith("<svg")
    content = json.loads((run / "results.json").read_text())
    assert content["rows"][0]["bytes"] <= 16_000_000
    assert content["provenance"]["config"]["seed"] == 0


def test_the_shipped_summary_is_of_the_shipped_log() -> None:
    folder = NANO_PATH.parent / "pretrained"
    with (folder / pretrain.LOG).open() as file:
        log = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    (row,) = json.loads((folder / "results.json").read_text())["rows"]
    found = pretrain.summary_of(log)
    assert {name: row[name] for name in found} == pytest.approx(found)
    assert found["dice"] == pytest.approx(np.mean([one["dice"] for one in log[-11:-1]]), abs=2e-3)


def test_a_stopped_run_goes_on_to_the_same_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the second of three steps, with a checkpoint of the second."""
    save = pretrain._save

    def save_and_stop(folder: RunFolder, training: Pretraining, log: list[dict[str, float]]) -> None:
        save(folder, training, log)
        if training.step == 2:
            raise KeyError

    monkeypatch.setattr(pretrain, "LOG_EVERY", 1)
    monkeypatch.setattr(pretrain, "SECONDS_BETWEEN", -1.0)
    monkeypatch.setattr(pretrain, "_save", save_and_stop)
    path = tmp_path / "nano"
    assert isinstance(call("-o", str(path), *QUICK).exception, KeyError)
    notes = json.loads((path / "checkpoints/pretraining/checkpoint.json").read_text())
    assert notes["epoch"] == 2
    result = call("-o", str(path), *QUICK, "--resume")
    assert result.exit_code == 0, result.output
    assert (path / "nano.safetensors").read_bytes() == (run / "nano.safetensors").read_bytes()
    assert [row["step"] for row in csv.DictReader((path / "losses.csv").open())] == ["1", "2", "3"]
    assert not (path / "checkpoints").exists()


def test_what_is_there_is_not_overwritten(run: Path) -> None:
    result = call("-o", str(run), *QUICK)
    assert result.exit_code == 2
    assert "holds a run already" in result.output
    differs = call("-o", str(run), *QUICK, "--resume", "--seed", "1")
    assert differs.exit_code == 1
    assert "seed differs" in differs.output
