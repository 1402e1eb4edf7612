"""embed, grid, cv, export and cache through click's runner, on a nano cache of generated X-rays."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from lungfast.commands import main

TINY = ["--epochs", "1", "--folds", "3", "--compile", "off", "--precision", "fp32"]
FOUR = ["--lr", "1e-4,1e-3", "--wd", "0,1e-2", *TINY]


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def done(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


def read(run: Path, name: str = "results.json") -> Any:
    return json.loads((run / name).read_text())


@pytest.fixture(scope="module")
def grid_run(nano_cache: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("runs") / "grid"
    result = done("grid", nano_cache, *FOUR, "-o", run, "--save-logits")
    return run, result.output


@pytest.fixture(scope="module")
def cv_run(nano_cache: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("runs") / "cv"
    result = done("cv", nano_cache, "--prompt", "points,box", "--lr", "1e-4,1e-3", *TINY, "-o", run)
    return run, result.output


def test_grid_writes_every_row_and_the_winner(grid_run: tuple[Path, str]) -> None:
    run, output = grid_run
    content = read(run)
    assert {"schema", "study", "rows", "provenance", "best"} <= set(content)
    assert [(row["lr"], row["wd"]) for row in content["rows"]] == [
        (1e-4, 0),
        (1e-4, 0.01),
        (1e-3, 0),
        (1e-3, 0.01),
    ]
    expected = {
        "lr",
        "wd",
        "loss",
        "prompt",
        "seed",
        "status",
        "best_epoch",
        "threshold",
        "val_f1",
        "val_iou",
    }
    assert all(expected <= set(row) for row in content["rows"])
    assert content["best"]["val_f1"] == max(row["val_f1"] for row in content["rows"])
    assert set(content["best"]["test"]) == {"f1", "iou", "precision", "recall", "n"}
    assert "★" in output
    assert "±" not in output
    assert {"versions", "hardware", "cache", "config", "settings", "scores", "training"} <= set(
        content["provenance"]
    )


def test_grid_scores_test_images_for_the_winner_only(grid_run: tuple[Path, str]) -> None:
    run, _ = grid_run
    with (run / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    best = read(run)["best"]
    assert {row["decoder"] for row in rows if row["part"] == "test"} == {best["decoder"]}
    assert len({row["decoder"] for row in rows if row["part"] == "val"}) == 4
    tested = [float(row["f1"]) for row in rows if row["part"] == "test"]
    assert best["test"]["f1"] == pytest.approx(np.mean(tested))
    assert best["test"]["n"] == len(tested)


def test_a_run_holds_decoders_splits_priors_history_and_logits(grid_run: tuple[Path, str]) -> None:
    import h5py
    from safetensors import safe_open

    run, _ = grid_run
    files = sorted((run / "decoders").iterdir())
    assert len(files) == 4
    with safe_open(files[0], framework="np") as file:
        assert "mask_decoder.transformer.layers.0.self_attn.q_proj.weight" in file.keys()  # noqa: SIM118
    (split,) = read(run, "splits.json")["splits"]
    parts = [set(split[part]) for part in ("train", "val", "test")]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 15
    assert read(run, "prompts.json")["fold-0_points"]["prior"]
    assert len((run / "history.csv").read_text().splitlines()) == 1 + 4
    best = read(run)["best"]["decoder"]
    with h5py.File(run / "logits-val.h5") as file:
        assert set(file) == {path.stem for path in files}
        assert len(file[best]) == len(parts[1])
    with h5py.File(run / "logits-test.h5") as file:
        assert set(file) == {best}
        assert len(file[best]) == len(parts[2])
    assert not (run / "checkpoints").exists()


def test_cv_has_one_row_per_prompt_with_folds_and_intervals(cv_run: tuple[Path, str]) -> None:
    run, output = cv_run
    content = read(run)
    assert [row["prompt"] for row in content["rows"]] == ["points", "box"]
    assert [row["needs_ground_truth"] for row in content["rows"]] == [False, True]
    for row in content["rows"]:
        assert len(row["f1"]["folds"]) == 3
        assert row["f1"]["mean"] == pytest.approx(np.mean(row["f1"]["folds"]))
        assert row["f1"]["std"] == pytest.approx(np.std(row["f1"]["folds"], ddof=1))
        assert row["f1_image"]["n"] == 15
        low, high = row["f1_image"]["ci95"]
        assert low <= row["f1_image"]["mean"] <= high
        assert {fold["lr"] for fold in row["per_fold"]} <= {1e-4, 1e-3}
        assert all(0 < fold["threshold"] < 1 for fold in row["per_fold"])
    assert "f1" not in content
    assert "±" in output
    assert "†" in output


def test_cv_tests_every_image_once_per_prompt(cv_run: tuple[Path, str]) -> None:
    run, _ = cv_run
    with (run / "per_image.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test"]
    for prompt in ("points", "box"):
        images = [row["image"] for row in rows if row["prompt"] == prompt]
        assert len(images) == len(set(images)) == 15


def test_one_prompt_puts_the_figures_at_the_top(nano_cache: str, tmp_path: Path) -> None:
    prompt = ["--prompt", "both-auto", "--box", "per-lung", "--points", "2", "--negative-points", "1"]
    done("cv", nano_cache, *prompt, "--loss", "dicece", *TINY, "-o", tmp_path / "cv")
    content = read(tmp_path / "cv")
    for name in ("f1", "iou", "f1_image", "iou_image"):
        assert content[name] == content["rows"][0][name]


def test_the_same_run_twice_gives_the_same_bytes(
    nano_cache: str, grid_run: tuple[Path, str], tmp_path: Path
) -> None:
    run, _ = grid_run
    done(
        "grid",
        nano_cache,
        *FOUR,
        "-o",
        tmp_path / "again",
        "--save-logits",
    )
    for name in ("results.json", "per_image.csv", "history.csv", "splits.json", "prompts.json"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    for path in (run / "decoders").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "decoders" / path.name).read_bytes()


def test_an_existing_run_is_never_overwritten_silently(
    nano_cache: str, grid_run: tuple[Path, str], tmp_path: Path
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(grid_run[0], run)
    before = (run / "results.json").read_bytes()
    result = call("grid", nano_cache, "--lr", "1e-4", *TINY, "-o", run)
    assert result.exit_code == 2
    assert "--resume or --overwrite" in result.output
    result = call("grid", nano_cache, "--lr", "1e-4", *TINY, "-o", run, "--resume")
    assert result.exit_code == 1
    assert "lrs differs" in result.output
    assert (run / "results.json").read_bytes() == before


def test_resuming_a_complete_run_shows_it_again(nano_cache: str, grid_run: tuple[Path, str]) -> None:
    run, output = grid_run
    again = done(
        "grid",
        nano_cache,
        *FOUR,
        "-o",
        run,
        "--save-logits",
        "--resume",
    )
    assert again.stdout.splitlines()[-3:] == output.splitlines()[-3:]


def test_a_run_of_diverging_decoders_says_so_and_the_rest_is_kept(nano_cache: str, tmp_path: Path) -> None:
    options = [*TINY, "--schedule", "constant"]
    result = done("grid", nano_cache, "--lr", "1e-3,1e30", "--wd", "0", *options, "-o", tmp_path / "g")
    wild = read(tmp_path / "g")["rows"][1]
    assert wild["status"] == "diverged"
    assert wild["val_f1"] is None
    assert "diverged" in result.output
    result = call("grid", nano_cache, "--lr", "1e30", "--wd", "0", *options, "-o", tmp_path / "h")
    assert result.exit_code == 1
    assert "every decoder diverged" in result.output
    assert not (tmp_path / "h" / "results.json").exists()


def test_a_small_memory_bound_streams_and_splits_to_the_same_choice(nano_cache: str, tmp_path: Path) -> None:
    wide, narrow = tmp_path / "wide", tmp_path / "narrow"
    args = ["grid", nano_cache, "--lr", "1e-4,1e-3", "--wd", "0", *TINY]
    done(*args, "-o", wide)
    done(*args, "-o", narrow, "--memory", "1100MB")
    assert read(narrow, "chosen.json")["width"] == 1
    for one, two in zip(read(wide)["rows"], read(narrow)["rows"], strict=True):
        assert one["val_f1"] == pytest.approx(two["val_f1"], abs=0.02)


def test_seeds_may_be_a_list(nano_cache: str, tmp_path: Path) -> None:
    done("grid", nano_cache, "--lr", "1e-3", "--wd", "0", "--seed", "0,3", *TINY, "-o", tmp_path / "run")
    content = read(tmp_path / "run")
    assert [row["seed"] for row in content["rows"]] == [0, 3]
    assert content["best"]["seeds"] == [0, 3]


def test_a_cache_travels_as_hdf5(nano_cache: str, grid_run: tuple[Path, str], tmp_path: Path) -> None:
    done("cache", "export", nano_cache, tmp_path / "m.h5")
    done("cache", "import", tmp_path / "m.h5", tmp_path / "copy.zarr")
    one = json.loads(done("cache", "info", nano_cache, "--json").stdout)
    two = json.loads(done("cache", "info", tmp_path / "copy.zarr", "--json").stdout)
    assert {k: v for k, v in one.items() if "bytes" not in k and k != "url"} == {
        k: v for k, v in two.items() if "bytes" not in k and k != "url"
    }
    done("grid", tmp_path / "copy.zarr", *FOUR, "-o", tmp_path / "g")
    assert read(tmp_path / "g")["rows"] == read(grid_run[0])["rows"]


def test_export_of_a_nano_run_says_why_not(cv_run: tuple[Path, str], tmp_path: Path) -> None:
    result = call("export", cv_run[0], "--checkpoint", tmp_path / "sam.pth", "-o", tmp_path / "out.pth")
    assert result.exit_code == 1
    assert "nano" in result.output
    result = call("export", cv_run[0], "--checkpoint", "x", "-o", tmp_path / "out.pth", "--decoder", "nobody")
    assert result.exit_code == 2
    assert "fold-0" in result.output
