"""The studies from Python that read finished runs; training ones are run by the README's example."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lungfast.api import CvConfig, Lab, UnetConfig, UnetStudyConfig, embed, prompts, report
from lungfast.commands import main
from lungfast.data.perturbations import ROBUSTNESS
from lungfast.errors import UsageError
from lungfast.runs import read_json
from lungfast.studies.examples import NOTES


@pytest.fixture(scope="module")
def lab(nano_cache: str) -> Lab:
    return Lab(nano_cache, precision="fp32", compile="off")


@pytest.fixture(scope="module")
def runs(lab: Lab, other: Lab, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A cross-validation of each set, three folds, one epoch, logits kept."""
    folder = tmp_path_factory.mktemp("runs")
    config = CvConfig(prompts=prompts("points", "box"), lrs=(1e-3,), folds=3)
    lab.run(config, folder / "m", epochs=1, save_logits=True)
    other.run(config, folder / "s", epochs=1)
    return folder / "m", folder / "s"


@pytest.fixture(scope="module")
def other(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    url = str(tmp_path_factory.mktemp("caches") / "s.zarr")
    result = CliRunner().invoke(main, ["embed", "shenzhen", str(phantoms), "-o", url])
    assert result.exit_code == 0, result.output
    return Lab(url, precision="fp32", compile="off")


def test_a_recipe_is_that_of_the_command(lab: Lab, tmp_path: Path) -> None:
    ours = lab.cross_validate(tmp_path / "ours", folds=3, epochs=1)
    tiny = ["--epochs", "1", "--val-every", "1", "--folds", "3", "--compile", "off", "--precision", "fp32"]
    cache = lab.workspace.cache.url
    args = ["cv", cache, "--recipe", "best", *tiny, "-o", str(tmp_path / "theirs")]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    mine, theirs = (read_json(tmp_path / name / "results.json") for name in ("ours", "theirs"))
    assert [row["f1"] for row in mine["rows"]] == [row["f1"] for row in theirs["rows"]]
    assert (
        ours["provenance"]["settings"]["recipe"]
        == "best, but epochs 1, views 1, test_views 1, high_res False"
    )
    told = theirs["provenance"]["settings"]["recipe"]
    assert told == "best, but epochs 1, val_every 1, views 1, test_views 1, high_res False"
    with pytest.raises(UsageError, match="the recipe is unknown; found 'golden'; expected paper or best"):
        lab.cross_validate(tmp_path / "x", recipe="golden")


def test_transfer_meets_both_ways(lab: Lab, other: Lab, runs: tuple[Path, Path], tmp_path: Path) -> None:
    found = lab.transfer(other, runs, tmp_path / "transfer", keys=("points", "box"))
    pairs = [(row["train"], row["test"], row["scope"]) for row in found["rows"] if row["prompt"] == "box"]
    assert [pair[:2] for pair in pairs[:4]] == [("m", "s"), ("s", "s"), ("m", "s"), ("m", "s")]
    assert [pair[:2] for pair in pairs[4:]] == [("s", "m"), ("m", "m"), ("s", "m"), ("s", "m")]
    assert [pair[2] for pair in pairs] == ["same fold", "same fold", "all", "all, together"] * 2
    assert len({row["key"] for row in found["rows"]}) == len(found["rows"]) == 16
    assert [(one["of"], one["tested_on"]) for one in found["comparisons"]] == [
        *(("points", "s"), ("box", "s")),
        *(("points", "m"), ("box", "m")),
    ]
    with pytest.raises(UsageError, match="has no row both; expected points, box"):
        lab.transfer(other, runs, tmp_path / "refused", keys=("points", "both"))
    with pytest.raises(UsageError, match="the rows that travel; found none"):
        lab.transfer(other, runs, tmp_path / "refused", keys=())
    assert not (tmp_path / "refused").exists()
    assert list(found["images"]["s"]["f1"]) == ["m→s, points", "s→s, points", "m→s, box", "s→s, box"]


def test_a_rescan_and_the_command_agree(lab: Lab, runs: tuple[Path, Path], tmp_path: Path) -> None:
    ours = lab.rescan(runs[0], tmp_path / "ours")["rows"]
    result = CliRunner().invoke(main, ["thresholds", str(runs[0]), "-o", str(tmp_path / "theirs")])
    assert result.exit_code == 0, result.output
    assert lab.rescan(runs[0], tmp_path / "ours", resume=True)["rows"] == json.loads(json.dumps(ours))
    assert ours[0]["test"]["f1"] == ours[0]["f1"]["mean"] == pytest.approx(np.mean(ours[0]["f1"]["folds"]))
    assert [row["prompt"] for row in ours] == ["points", "box"]


def test_boxes_move(lab: Lab, runs: tuple[Path, Path], tmp_path: Path) -> None:
    rows = lab.jitter(runs[0], tmp_path / "jitter", pixels=(0, 40))["rows"]
    assert [(row["key"], row["jitter_px"]) for row in rows] == [("box", 0), ("box", 40)]


def test_a_flag_is_measured(lab: Lab, other: Lab, runs: tuple[Path, Path]) -> None:
    content = lab.quality(runs[0], key="points", others={"s": other}, perturbed=0)
    written = read_json(runs[0] / "quality.json")
    assert content["calibration"]["threshold"] == written["calibration"]["threshold"]
    assert [row["f1"] for row in content["rows"]] == [row["f1"] for row in written["rows"]]
    assert {"validation", "test", "transfer to s"} == {row["on"] for row in content["rows"]}


def test_spoilt_films_are_judged(
    lab: Lab, runs: tuple[Path, Path], phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungfast.studies.robustness.ROBUSTNESS", ROBUSTNESS[:1])
    source = ("montgomery", phantoms)
    rows = lab.robustness([runs[0]], source, tmp_path / "robustness", images=2)["rows"]
    assert [row["perturbation"] for row in rows] == ["as it is", ROBUSTNESS[0].name]
    assert all(row["f1_image"]["n"] == 2 for row in rows)


def test_a_unet_is_paired(lab: Lab, runs: tuple[Path, Path], tmp_path: Path) -> None:
    model = UnetConfig(size=32, channels=(4, 8), epochs=1, batch_size=4)
    content = lab.unet(tmp_path / "unet", UnetStudyConfig(model=model, folds=3), against=runs[0])
    assert content["comparisons"]


def test_a_configuration_of_no_study_is_refused(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no study takes"):
        lab.run(object(), tmp_path / "run")
    with pytest.raises(UsageError, match="whole Lab"):
        lab.run(CvConfig(prompts=prompts("points"), lrs=(1e-3,)), tmp_path / "run", precision="bf16")
    with pytest.raises(UsageError, match="no setting has this name; found epoch; expected average, "):
        lab.run(CvConfig(prompts=prompts("points"), lrs=(1e-3,)), tmp_path / "run", epoch=3)
    assert not (tmp_path / "run").exists()


def test_scanned_thresholds_are_settings(lab: Lab, tmp_path: Path) -> None:
    config = CvConfig(prompts=prompts("points"), lrs=(1e-3,), folds=3)
    found = lab.run(config, tmp_path / "run", epochs=1, thresholds=(0.4, 0.5), choose_among=(0.4,))
    assert found["rows"][0]["curve"]["thresholds"] == [0.4, 0.5]
    assert {fold["threshold"] for fold in found["rows"][0]["per_fold"]} == {0.4}


def test_a_report_of_folds_shows_masks(lab: Lab, runs: tuple[Path, Path], tmp_path: Path) -> None:
    """From the run's own cache, once; a cache that has moved is named, and one of other images refused."""
    bare, moved = (shutil.copytree(runs[0], tmp_path / name) for name in ("bare", "moved"))
    page = report(bare, tmp_path / "shown")[0].read_text()
    assert page.count("<figure") > 0
    assert (bare / NOTES).exists()
    content = read_json(moved / "results.json")
    content["provenance"]["cache"]["url"] = str(tmp_path / "gone.zarr")
    (moved / "results.json").write_text(json.dumps(content))
    result = CliRunner().invoke(main, ["report", str(moved)])
    assert (result.exit_code, "the report shows no masks" in result.stderr) == (0, True)
    assert not (moved / NOTES).exists()
    cache = lab.workspace.cache.url
    assert CliRunner().invoke(main, ["report", str(moved), "--cache", cache]).exit_code == 0
    assert (moved / NOTES).read_bytes() == (bare / NOTES).read_bytes()
    strange = CliRunner().invoke(main, ["report", str(runs[1]), "--cache", cache])
    assert (strange.exit_code, "was not trained on" in strange.stderr) == (1, True)


def test_a_set_is_embedded(phantoms: Path, tmp_path: Path) -> None:
    made = embed(("montgomery", phantoms), tmp_path / "m.zarr", views=2)
    assert (made.embedded, made.skipped) == (15, [])
    assert embed(("montgomery", phantoms), tmp_path / "m.zarr", views=2).already == 15
    assert Lab(str(tmp_path / "m.zarr")).workspace.cache.n_views == 2
    with pytest.raises(UsageError, match="montgomery takes no masks or meta -> leave it out"):
        embed(("montgomery", phantoms), tmp_path / "x.zarr", masks="masks", meta="patients.csv")
    with pytest.raises(UsageError, match="no run to test"):
        Lab(str(tmp_path / "m.zarr")).robustness([], ("montgomery", phantoms), tmp_path / "r")
