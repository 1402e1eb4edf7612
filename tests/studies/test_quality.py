"""The quality study on phantoms: what it calibrates, what it is tried on, and that predict uses it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lungfast.scored.quality
import lungfast.studies.quality
from lungfast.commands import main
from lungfast.data.perturbations import PERTURBATIONS
from lungfast.errors import RunError
from lungfast.records import Float64, Int64
from lungfast.studies.models import FinishedRun
from lungfast.studies.predict import Request, predict
from lungfast.studies.quality import QualityConfig, _Study, calibrate, measure_quality
from lungfast.studies.scoring import Predictions
from lungfast.studies.session import Quiet
from lungfast.studies.verdicts import Judged, Verdict
from lungfast.studies.workspace import Workspace

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def other_cache(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("caches") / "s.zarr")
    shenzhen = phantoms / "ChinaSet_AllFiles"
    result = CliRunner().invoke(main, ["embed", "shenzhen", str(shenzhen), "-o", url])
    assert result.exit_code == 0, result.output
    return url


def measured(run: Path, cache: str, config: QualityConfig, **others: str) -> dict[str, Any]:
    return calibrate(
        FinishedRun.open(run),
        Workspace(cache, device=CPU),
        config,
        others={name: Workspace(url, device=CPU) for name, url in others.items()},
        checkpoint=None,
        memory_bytes=4 << 30,
        listener=Quiet(),
    )


@pytest.fixture
def low_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders of one epoch have no mask of F1 .90."""
    monkeypatch.setattr(lungfast.scored.quality, "GOOD_F1", 0.2)
    monkeypatch.setattr(lungfast.studies.quality, "GOOD_F1", 0.2)


@pytest.mark.usefixtures("low_bar")
def test_the_flag_is_calibrated_tried_and_used(
    trained_run: Path, nano_cache: str, other_cache: str, phantoms: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    content = measured(run, nano_cache, QualityConfig(perturbed=1), s=other_cache)
    rows = {row["on"]: row for row in content["rows"]}
    assert list(rows) == ["validation", "test", "transfer to s", *(one.name for one in PERTURBATIONS)]
    assert [rows[on]["n"] for on in ("validation", "test", "transfer to s", "inverted")] == [15, 15, 5, 1]
    for row in rows.values():
        assert {"n_bad", "n_flagged", "recall", "precision", "note"} <= set(row)
        assert row["note"] == "too few"
    calibration = content["calibration"]
    assert {"threshold", "rule", "n", "false_alarm"} <= set(calibration)
    assert calibration["false_alarm"] <= 0.05
    assert calibration["n"] == 15
    tested = json.loads((run / "results.json").read_text())["rows"][0]
    assert rows["test"]["f1"] == pytest.approx(tested["f1_image"]["mean"])
    written = json.loads((run / "quality.json").read_text())["rows"]
    assert written == json.loads(json.dumps(content["rows"]))
    images = tuple(sorted((phantoms / "MontgomerySet" / "CXR_png").iterdir())[:2])
    out = predict(Request(run=run, images=images, output=tmp_path / "a"), device=CPU, listener=Quiet())
    assert out["notes"] == []
    for row in out["rows"]:
        assert ("low quality" in row["note"]) == (row["quality"] < calibration["threshold"])
    boxed = Request(run=run, images=images, output=tmp_path / "b", decoder="box", prompt="box-auto")
    notes = predict(boxed, device=CPU, listener=Quiet())["notes"]
    assert "not calibrated for these decoders" in notes[1]


@pytest.mark.usefixtures("low_bar")
def test_what_is_left_out_is_said(trained_run: Path, nano_cache: str) -> None:
    finished = FinishedRun.open(trained_run)
    listener = Quiet()
    content = measure_quality(
        finished,
        Workspace(nano_cache, device=CPU),
        QualityConfig(key="box"),
        others={},
        encoder=None,
        memory_bytes=4 << 30,
        listener=listener,
    )
    assert [row["on"] for row in content["rows"]] == ["validation", "test"]
    assert content["prompt"] == "box"
    assert "weights" in content["notes"][0]
    assert listener.notes == content["notes"]


def test_a_run_without_a_good_mask_flags_all(
    trained_run: Path, nano_cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    monkeypatch.setattr("lungfast.studies.quality.GOOD_F1", 1.0)
    monkeypatch.setattr("lungfast.scored.quality.GOOD_F1", 1.0)
    content = measured(run, nano_cache, QualityConfig(perturbed=0))
    assert content["calibration"]["threshold"] == 1
    assert content["calibration"]["false_alarm"] is None
    assert "every mask is flagged" in content["notes"][0]
    assert all(row["n_flagged"] == row["n"] for row in content["rows"])


def given(**images: list[tuple[float, float]]) -> Callable[..., Judged]:
    """By part of the splits: (quality, F1) of its images, instead of judging them."""

    def own(_: object, on: str, part: str) -> Judged:
        quality, f1 = zip(*images[part], strict=True)
        films = [(0, 1000 + i) for i in range(len(f1))]  # in no fold's test images
        return Judged.of(on, [(one, False) for one in quality], f1, films)

    return own


def test_the_cut_comes_from_validation_images(
    trained_run: Path, nano_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = given(val=[(0.6, 0.95), (0.8, 0.99), (0.5, 0.2)], test=[(0.3, 0.95), (0.7, 0.5)])
    monkeypatch.setattr(_Study, "own", own)
    run, workspace = FinishedRun.open(trained_run), Workspace(nano_cache, device=CPU)
    more: dict[str, Any] = {"others": {}, "encoder": None, "memory_bytes": 4 << 30, "listener": Quiet()}
    content = measure_quality(run, workspace, QualityConfig(perturbed=0), **more)
    calibration = content["calibration"]
    assert (calibration["threshold"], calibration["n"], calibration["n_good"]) == (0.6, 3, 2)
    assert [(row["on"], row["n"], row["n_flagged"]) for row in content["rows"]] == [
        ("validation", 3, 1),
        ("test", 2, 1),
    ]


def test_a_cut_is_tried_on_no_image_that_decided_it() -> None:
    """Two folds, each of whose test images validates the other's decoder."""
    films = [(0, 10), (0, 11), (1, 20), (1, 21)]
    validation = Judged.of("validation", [(q, False) for q in (0.6, 0.8, 0.7, 0.9)], [0.95] * 4, films)
    cuts_K = validation.cuts_without([np.array([20, 21]), np.array([10, 11])])
    assert cuts_K.tolist() == [0.6, 0.7]
    films = [(0, 20), (0, 21), (1, 10), (1, 11)]
    tested = Judged.of("test", [(q, False) for q in (0.5, 0.65, 0.65, 0.75)], [0.95] * 4, films)
    assert tested.row(cuts_K[tested.decoder_N])["n_flagged"] == 2
    assert tested.row(0.6)["n_flagged"] == 1


@pytest.mark.usefixtures("low_bar")
def test_folds_have_cuts_of_their_own(
    trained_run: Path, nano_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test image that passed as a validation image of another fold is judged without itself."""
    run, workspace = FinishedRun.open(trained_run), Workspace(nano_cache, device=CPU)
    seen: list[list[set[int]]] = []

    def cuts_without(judged: Judged, tested_K: list[Int64]) -> Float64:
        seen.append([set(judged.image_N.tolist()), *(set(one.tolist()) for one in tested_K)])
        return np.array([0.0] * (len(tested_K) - 1) + [2.0])

    monkeypatch.setattr(Judged, "cuts_without", cuts_without)
    more: dict[str, Any] = {"others": {}, "encoder": None, "memory_bytes": 4 << 30, "listener": Quiet()}
    content = measure_quality(run, workspace, QualityConfig(perturbed=0), **more)
    ((validated, *tested_K),) = seen
    assert validated == set().union(*tested_K) == set(range(15))
    splits = {split.name: split for split in run.splits(workspace.cache.images)}
    by_fold = content["calibration"]["threshold_by_fold"]
    assert list(by_fold.values()) == [0.0, 0.0, 2.0]
    assert [set(splits[fold].test.tolist()) for fold in by_fold] == tested_K
    assert content["rows"][1]["n_flagged"] >= len(tested_K[-1])  # a quality of at most 1 is below 2


def test_images_of_the_run_are_not_met_elsewhere(
    trained_run: Path, nano_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that shares all but two of its images with the run's."""
    run, workspace, other = FinishedRun.open(trained_run), *(Workspace(nano_cache, device=CPU) for _ in "ab")
    images = list(other.cache.images)
    for i in (3, 7):
        images[i] = replace(images[i], content_sha256=f"{i:064x}")
    monkeypatch.setattr(other.cache, "images", tuple(images))
    asked: list[int] = []

    def means(_: object, __: Workspace, images: Int64, verdicts: dict[int, Verdict]) -> Predictions:
        asked.extend(images.tolist())
        verdicts.update(dict.fromkeys(asked, (0.5, False)))
        return ((0, image, np.zeros((64, 64), np.float32)) for image in asked)

    monkeypatch.setattr(_Study, "_means", means)
    found = _Study(run, workspace, QualityConfig(), 4 << 30, Quiet()).elsewhere("s", other)
    assert asked == [3, 7]
    assert len(found.f1_N) == 2


def test_another_cache_is_refused(trained_run: Path, other_cache: str) -> None:
    with pytest.raises(RunError, match="was not trained on"):
        measured(trained_run, other_cache, QualityConfig(perturbed=0))


@pytest.mark.usefixtures("low_bar")
def test_a_calibration_is_not_replaced_unasked(trained_run: Path, nano_cache: str, tmp_path: Path) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    asked = ["quality", str(run), nano_cache, "--perturbed", "0"]
    first = CliRunner().invoke(main, asked)
    assert first.exit_code == 0, first.output
    known = (run / "quality.json").read_bytes()
    again = CliRunner().invoke(main, [*asked, "--prompt", "box"])
    assert again.exit_code == 2
    assert "is calibrated already; found quality.json of 'points' -> give --overwrite" in again.stderr
    assert (run / "quality.json").read_bytes() == known
    assert CliRunner().invoke(main, [*asked, "--prompt", "box", "--overwrite"]).exit_code == 0
    assert json.loads((run / "quality.json").read_bytes())["prompt"] == "box"
    (run / "results.json").write_text((run / "results.json").read_text() + "\n")  # another run's by now
    assert CliRunner().invoke(main, asked).exit_code == 0
