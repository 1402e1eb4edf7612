"""The paper's studies one by one, and cv's lists, through click's runner on generated X-rays."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from lungfast.commands import main
from lungfast.data.images import read_image
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.prompts import PromptConfig
from lungfast.studies.scoring import score
from lungfast.studies.workspace import Workspace

TINY = ["--epochs", "1", "--folds", "3", "--compile", "off", "--precision", "fp32"]


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def done(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def refuse(code: int, *args: object) -> str:
    result = call(*args)
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("lungfast: ")]
    return line


def read(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def shenzhen_cache(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("caches") / "s.zarr")
    done("embed", "shenzhen", phantoms, "-o", url)
    return url


@pytest.fixture(scope="module")
def cv_run(nano_cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prompts, two losses compared, two seeds, everything on request, logits kept."""
    run = tmp_path_factory.mktemp("runs") / "cv"
    lists = ["--prompt", "points,box", "--loss", "dicefocal,dicece", "--compare-losses", "--seeds", "2"]
    done("cv", nano_cache, *lists, "--surface", "--clean", "--save-logits", *TINY, "-o", run)
    return run


def test_cv_compares_losses_over_seeds(cv_run: Path) -> None:
    content = read(cv_run)
    keys = [row["key"] for row in content["rows"]]
    assert keys == ["points", "points, dicece", "box", "box, dicece"]
    for row in content["rows"]:
        assert row["seeds"] == [0, 1]
        assert len(row["per_fold"]) == 3 * 2
        of_fold = [one["test"]["f1"] for one in row["per_fold"] if one["fold"] == "fold-0"]
        assert row["f1"]["folds"][0] == pytest.approx(np.mean(of_fold))
        assert row["f1_image"]["n"] == 15
        assert {one["value"] for one in row["strata"]} == {"normal", "tuberculosis"}
        assert sum(one["f1_image"]["n"] for one in row["strata"]) == 15
        assert len(row["curve"]["val_f1"]) == len(row["curve"]["thresholds"]) == 91
        assert set(row["cleaned"]) == {"name", "f1", "f1_image", "difference"}
        assert row["surface"]["hd95_px"] is None or row["surface"]["hd95_px"]["mean"] > 0
    with (cv_run / "masks.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    for row in content["rows"]:
        decoders = {one["decoder"] for one in row["per_fold"]}
        cleaned = [float(line["cleaned_f1"]) for line in lines if line["decoder"] in decoders]
        assert len(cleaned) == 15 * 2
        assert np.mean(cleaned) == pytest.approx(row["cleaned"]["f1_image"]["mean"])
    assert list(lines[0])[2:] == ["hd95_px", "assd_px", "hd95_mm", "assd_mm", "cleaned_f1"]
    families = [one["family"] for one in content["comparisons"]]
    assert families.count("losses") == 2
    assert families.count("prompts") == 2
    first = content["comparisons"][0]
    a, b = (np.array(content["images"]["f1"][first[side]]) for side in ("a", "b"))
    assert first["difference"] == pytest.approx((a - b).mean())
    assert first["t"]["n_values"] == 3
    assert len(content["history"]) == 4 * 3 * 2


def test_a_run_with_logits_is_scanned_again_to_the_same_curve(cv_run: Path, tmp_path: Path) -> None:
    done("thresholds", cv_run, "-o", tmp_path / "scan")
    scanned = {row["key"]: row for row in read(tmp_path / "scan")["rows"]}
    for row in read(cv_run)["rows"]:
        again = scanned[row["key"]]
        assert again["val_f1"] == pytest.approx(row["curve"]["val_f1"], abs=1e-12)
        assert again["test_f1"] == pytest.approx(row["curve"]["test_f1"], abs=1e-12)
        best = int(np.argmax(again["val_f1"]))
        assert again["chosen"]["val_f1"] == pytest.approx(again["val_f1"][best])
        # each decoder at the threshold of its own validation images, as cv itself
        assert again["test"]["f1"] == pytest.approx(row["f1"]["mean"], abs=1e-9)
        assert 0.5 <= again["chosen_paper"]["threshold"] <= 0.7


def test_thresholds_of_a_cache_trains_one_decoder_a_prompt(nano_cache: str, tmp_path: Path) -> None:
    result = done("thresholds", nano_cache, "--prompt", "points", *TINY, "-o", tmp_path / "run")
    (row,) = read(tmp_path / "run")["rows"]
    assert row["prompt"] == "points"
    best = row["thresholds"].index(row["chosen"]["threshold"])
    assert row["test"]["f1"] == pytest.approx(row["test_f1"][best])
    assert "0.70" in result.output


def test_a_run_of_thresholds_has_no_decoders_to_use(nano_cache: str, tmp_path: Path) -> None:
    done("thresholds", nano_cache, "--prompt", "points", *TINY, "--save-logits", "-o", tmp_path / "t")
    for command in ("thresholds", "jitter"):
        assert "holds no decoders" in refuse(1, command, tmp_path / "t", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_jitter_of_a_single_split_has_no_spread(nano_cache: str, tmp_path: Path) -> None:
    done("train", nano_cache, "--prompt", "box", *TINY, "-o", tmp_path / "curve")
    result = done("jitter", tmp_path / "curve", "--pixels", "0", "-o", tmp_path / "run")
    assert "box" in result.output
    assert read(tmp_path / "run")["rows"][0]["f1"]["std"] is None


def test_a_run_without_logits_or_of_another_cache_is_refused(
    nano_cache: str, shenzhen_cache: str, cv_run: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(cv_run, bare)
    (bare / "logits-val.h5").unlink()
    assert "--save-logits" in refuse(1, "thresholds", bare, "-o", tmp_path / "run")
    line = refuse(1, "thresholds", cv_run, "--cache", shenzhen_cache, "-o", tmp_path / "run")
    assert "was not trained on" in line
    assert not (tmp_path / "run").exists()


def test_baseline_scores_every_prompt_and_says_where_the_decoder_is_from(
    nano_cache: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = done("baseline", nano_cache, "--multimask", "--folds", "3", "-o", run)
    rows = read(run)["rows"]
    assert [row["mask"] for row in rows] == ["single"] * 5 + ["best of three"] * 5
    assert all(row["decoder_origin"] == "generated" for row in rows)
    assert all(row["threshold"] == 0.5 for row in rows)
    assert all(row["f1_image"]["n"] == 15 for row in rows)
    assert "not SAM's" in result.output
    again = tmp_path / "again"
    done("baseline", nano_cache, "--multimask", "--folds", "3", "-o", again)
    assert (run / "results.json").read_bytes() == (again / "results.json").read_bytes()


def test_a_baseline_without_a_mask_of_its_own_cache(
    nano_cache: str, shenzhen_cache: str, tmp_path: Path
) -> None:
    """Points, boxes and the threshold are those of another cache, in every fold; the same set is refused."""
    args = ["baseline", nano_cache, "--prompt", "points,box-auto", "--folds", "3"]
    result = done(*args, "--prior-from", shenzhen_cache, "-o", tmp_path / "run")
    content = read(tmp_path / "run")
    assert f"are those of {shenzhen_cache}" in result.output.replace("\n", "")
    assert content["prior_from"]["url"] == shenzhen_cache
    there = Workspace(shenzhen_cache, device=torch.device("cpu"))
    here = Workspace(nano_cache, device=torch.device("cpu"))
    everything = np.arange(len(there.cache.images))
    prompts = there.prompts(PromptConfig(kind="points"), everything, seed=0)
    expected = here.prompts_at(prompts.config, prompts.prior, seed=0)
    here.hold_rows(1 << 30, batch_rows=8)
    images = np.arange(len(here.cache.images))
    logits = here.predict([expected], [here.head.mask_decoder], [images], batch_size=8)
    (scored,) = score(here, logits, [images], [content["rows"][0]["threshold"]], advance=lambda: None)
    found = dict(zip(content["images"]["id"], content["images"]["f1"]["points"], strict=True))
    ids = [here.cache.images[image].id for image in images]
    assert [found[one] for one in ids] == pytest.approx(scored.at("f1", 0).tolist(), abs=1e-5)
    line = refuse(1, *args, "--prior-from", nano_cache, "-o", tmp_path / "same")
    assert "would know some of the images; found 15" in line
    assert not (tmp_path / "same").exists()


def test_train_keeps_the_curve_and_marks_where_it_was_lowest(nano_cache: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = done("train", nano_cache, "--lr", "1e-4,1e-3", *TINY, "--epochs", "3", "-o", run)
    content = read(run)
    assert len(content["rows"]) == len(content["history"]) == 2
    for row, curve in zip(content["rows"], content["history"], strict=True):
        assert len(curve["val_loss"]) == 3
        assert row["last_improvement"] == int(np.argmin(curve["val_loss"])) + 1
        assert row["settled"] <= row["last_improvement"]
    assert "lowest at" in result.output


def test_grid_takes_prompts_and_seeds(nano_cache: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    lists = ["--lr", "1e-3", "--wd", "0", "--prompt", "points,box-auto", "--seeds", "2"]
    done("grid", nano_cache, *lists, *TINY, "-o", run)
    content = read(run)
    assert [(row["prompt"], row["seed"]) for row in content["rows"]] == [
        ("points", 0),
        ("points", 1),
        ("box-auto", 0),
        ("box-auto", 1),
    ]
    means = {
        prompt: np.mean([row["val_f1"] for row in content["rows"] if row["prompt"] == prompt])
        for prompt in ("points", "box-auto")
    }
    assert content["best"]["prompt"] == max(means, key=lambda prompt: means[prompt])
    assert content["best"]["seeds"] == [0, 1]


def test_jitter_of_boxes_starts_at_the_runs_own_score(cv_run: Path, tmp_path: Path) -> None:
    done("jitter", cv_run, "--pixels", "0,40", "-o", tmp_path / "run")
    rows = [row for row in read(tmp_path / "run")["rows"] if row["key"] == "box"]
    assert [row["jitter_px"] for row in rows] == [0, 40]
    (own,) = [row for row in read(cv_run)["rows"] if row["key"] == "box"]
    assert rows[0]["f1"]["mean"] == pytest.approx(own["f1"]["mean"], abs=1e-9)
    assert rows[1]["f1"]["mean"] != rows[0]["f1"]["mean"]


def test_transfer_trains_both_sets_and_pairs_the_images(
    nano_cache: str, shenzhen_cache: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done("transfer", nano_cache, shenzhen_cache, *TINY, "-o", run)
    content = read(run)
    assert [(row["train"], row["test"], row["scope"]) for row in content["rows"]] == [
        ("m", "s", "same fold"),
        ("s", "s", "same fold"),
        ("m", "s", "all"),
        ("m", "s", "all, together"),
        ("s", "m", "same fold"),
        ("m", "m", "same fold"),
        ("s", "m", "all"),
        ("s", "m", "all, together"),
    ]
    own = json.loads((run / "cv-s" / "results.json").read_text())["rows"][0]
    assert content["rows"][1]["f1"]["mean"] == pytest.approx(own["f1"]["mean"], abs=1e-9)
    assert [row["f1_image"]["n"] for row in content["rows"][2:4]] == [5, 5]
    first = content["comparisons"][0]
    block = content["images"]["s"]["f1"]
    assert first["difference"] == pytest.approx(np.mean(block["m→s, points"]) - np.mean(block["s→s, points"]))
    runs = ["--runs", run / "cv-m", run / "cv-s"]
    done("transfer", nano_cache, shenzhen_cache, *runs, *TINY, "-o", tmp_path / "again")
    assert read(tmp_path / "again")["rows"] == content["rows"]
    done("report", run)
    assert "generated" in (run / "report.md").read_text()
    swapped = ["--runs", run / "cv-s", run / "cv-m"]
    line = refuse(1, "transfer", nano_cache, shenzhen_cache, *swapped, *TINY, "-o", tmp_path / "swapped")
    assert "was not trained on" in line
    assert not (tmp_path / "swapped").exists()
    done("transfer", nano_cache, shenzhen_cache, *TINY, "--epochs", "2", "-o", run, "--overwrite")
    assert len(json.loads((run / "cv-m" / "results.json").read_text())["history"][0]["val_loss"]) == 2


def test_all_together_is_what_predict_gives(
    nano_cache: str, shenzhen_cache: str, phantoms: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done("transfer", nano_cache, shenzhen_cache, *TINY, "--epochs", "3", "-o", run)
    (row,) = [one for one in read(run)["rows"] if (one["test"], one["scope"]) == ("s", "all, together")]
    done("predict", run / "cv-m", phantoms / "ChinaSet_AllFiles" / "CXR_png", "-o", tmp_path / "masks")
    cache, found = EmbeddingCache.open(shenzhen_cache), []
    for i, record in enumerate(cache.images):
        mask_HW = read_image(tmp_path / "masks" / "masks" / f"{record.id}.png") > 0
        truth_HW = cache.mask(i)
        found.append(2 * (truth_HW & mask_HW).sum() / (truth_HW.sum() + mask_HW.sum()))
    assert row["f1"]["mean"] == pytest.approx(np.mean(found), abs=1e-12)
    assert row["f1"]["std"] is None


def test_transfer_between_encoders_is_refused(nano_cache: str, phantoms: Path, tmp_path: Path) -> None:
    done("embed", "shenzhen", phantoms, "-o", tmp_path / "squashed.zarr", "--resize", "squash")
    line = refuse(1, "transfer", nano_cache, tmp_path / "squashed.zarr", *TINY, "-o", tmp_path / "run")
    assert "different encoders" in line
    assert not (tmp_path / "run").exists()


def test_transfer_drops_images_that_both_sets_have(nano_cache: str, tmp_path: Path) -> None:
    shutil.copytree(nano_cache, tmp_path / "copy.zarr")
    result = call("transfer", nano_cache, tmp_path / "copy.zarr", *TINY, "-o", tmp_path / "run")
    assert result.exit_code == 1
    assert "holds all images of the other" in result.stderr
    assert not (tmp_path / "run").exists()
