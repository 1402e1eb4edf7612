"""Every mistake is one line on standard error, with the right exit code, and nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lungfast.commands import main
from lungfast.frozen.nano import NANO_SHA256, RANDOM_NANO_SHA256


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def refuse(code: int, *args: object) -> str:
    """The one line that a refused command says."""
    result = call(*args)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith("lungfast: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.output
    return lines[0]


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--lr", "abc", "'abc'"),
        ("--lr", "1e-3,,1e-4", "''"),
        ("--lr", "0", "more than 0"),
        ("--lr", "nan", "finite"),
        ("--lr", "inf", "finite"),
        ("--wd", "-1", "at least 0"),
        ("--loss", "hinge", "dicefocal, dicece"),
        ("--prompt", "scribble", "points"),
        ("--epochs", "0", "0"),
        ("--folds", "2", "2"),
        ("--device", "abacus", "abacus"),
        ("--precision", "int4", "int4"),
        ("--memory", "plenty", "plenty"),
        ("--memory", "10MB", "too small"),
        ("--points", "0", "0"),
    ],
)
def test_options(nano_cache: str, tmp_path: Path, option: str, value: str, says: str) -> None:
    line = refuse(2, "grid", nano_cache, option, value, "-o", tmp_path / "run")
    assert says in line
    assert not (tmp_path / "run" / "results.json").exists()


def test_more_folds_than_patients(nano_cache: str, tmp_path: Path) -> None:
    line = refuse(2, "cv", nano_cache, "--folds", "16", "-o", tmp_path / "run")
    assert "16" in line
    assert "15" in line


def test_x_rays_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for args in (("phantom", "--montgomery", 1, "--shenzhen", 0, "--size", 64), ("demo", "--quick")):
        assert "cannot write" in refuse(1, *args, "-o", tmp_path / "file" / "out").splitlines()[-1]
    assert "is no folder" in refuse(2, "phantom", "-o", tmp_path / "file")


def test_a_cache_that_is_not_there_or_not_one(tmp_path: Path) -> None:
    assert "nowhere.zarr" in refuse(1, "grid", tmp_path / "nowhere.zarr", "-o", tmp_path / "run")
    (tmp_path / "m.h5").write_bytes(b"")
    assert "lungfast cache import" in refuse(1, "cv", tmp_path / "m.h5", "-o", tmp_path / "run")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    refuse(1, "cv", tmp_path / "folder", "-o", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for args in (
        ("montgomery", tmp_path / "none"),
        ("montgomery", tmp_path / "empty"),
        ("shenzhen", tmp_path / "none"),
        ("kaggle", tmp_path / "empty"),
        ("pairs", tmp_path / "empty", "--masks", tmp_path / "empty"),
        ("pairs", tmp_path / "none", "--masks", tmp_path / "empty"),
    ):
        refuse(1, "embed", *args, "-o", tmp_path / "x.zarr")
        assert not (tmp_path / "x.zarr").exists()


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Six tiny pairs."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 48), dtype=np.uint8)).save(images / f"p{i}.png")
        Image.fromarray(np.uint8(np.pad(np.full((20, 20), 255), ((10, 10), (14, 14))))).save(
            masks / f"p{i}.png"
        )
    return images, masks


def test_orphans_are_named_and_left_out(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    (masks / "p0.png").unlink()
    (images / "p1.png").unlink()
    result = call("embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr")
    assert result.exit_code == 0, result.output
    assert "p0" in result.stderr
    assert "p1" in result.stderr
    assert "4 images embedded" in result.stdout


def test_negatives_are_named(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(phantoms / "MontgomerySet", tmp_path / "MontgomerySet")
    for path in sorted((tmp_path / "MontgomerySet" / "CXR_png").iterdir())[3:10]:
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    result = call("embed", "montgomery", tmp_path, "-o", tmp_path / "x.zarr")
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert "7 images look like negatives, with lungs brighter than what surrounds them: MCUCXR_0004" in told
    assert "and 2 more; decoders do better on films that are turned round" in told


def test_unreadable_files_are_skipped_counted_and_listed(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    content = (images / "p2.png").read_bytes()
    (images / "p2.png").write_bytes(content[: len(content) // 2])
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(masks / "p4.png")
    result = call("embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr")
    assert result.exit_code == 1
    assert "2 images could not be read" in result.stderr
    assert "p2.png" in result.stderr
    assert "40 x 48" in result.stderr or "(40, 48)" in result.stderr
    assert "4 images embedded" in result.stdout
    assert '"images": 4' in call("cache", "info", tmp_path / "x.zarr", "--json").stdout


def test_what_a_complete_cache_lacks_is_named(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    for i in range(6):
        (images / f"broken{i}.png").write_text("no image")
        (masks / f"broken{i}.png").write_bytes((masks / "p0.png").read_bytes())
    args = ["embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"]
    assert call(*args).exit_code == 1
    again = call(*args)
    assert again.exit_code == 0
    named = "broken0, broken1, broken2, broken3, broken4 and 1 more; they were unreadable"
    assert f"6 images of the dataset are not in {tmp_path}/x.zarr: {named}" in " ".join(again.stderr.split())


def test_cache_info_is_told_in_words(nano_cache: str) -> None:
    text = call("cache", "info", nano_cache).stdout
    assert "structures  left, right" in text
    assert "{" not in text


def test_nothing_readable_at_all(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    for path in images.iterdir():
        path.write_bytes(b"no image")
    assert "no image could be read" in refuse(
        1, "embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"
    )


def test_embedding_again_does_nothing_and_other_settings_are_refused(
    pairs: tuple[Path, Path], tmp_path: Path
) -> None:
    images, masks = pairs
    args = ["embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"]
    assert call(*args).exit_code == 0
    again = call(*args)
    assert "0 images embedded, 6 were there already" in again.stdout
    assert "resize" in refuse(1, *args, "--resize", "squash")
    assert call(*args, "--resize", "squash", "--overwrite").exit_code == 0


def test_checkpoints(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    args = ["embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"]
    assert "none.pth" in refuse(1, *args, "--checkpoint", tmp_path / "none.pth")
    (tmp_path / "bad.pth").write_bytes(b"PK\x03\x04 truncated")
    refuse(1, *args, "--checkpoint", tmp_path / "bad.pth")
    line = refuse(1, *args, "--encoder", "vit_h")
    assert "sam_vit_h_4b8939.pth" in line
    assert not (tmp_path / "x.zarr").exists()


def test_meta(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    meta = tmp_path / "meta.csv"
    meta.write_text("id,age\np0,3\n")
    assert "age" in refuse(
        1, "embed", "pairs", images, "--masks", masks, "--meta", meta, "-o", tmp_path / "x.zarr"
    )


def test_a_folder_of_something_else_is_not_written_into(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "thesis.tex").write_text("x")
    refuse(1, "embed", "pairs", images, "--masks", masks, "-o", target, "--overwrite")
    assert [path.name for path in target.iterdir()] == ["thesis.tex"]
    assert "not empty" in refuse(2, "demo", "-o", target)
    assert "not empty" in refuse(2, "phantom", "-o", target)


def test_an_incomplete_cache_says_what_to_do(nano_cache: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(nano_cache, copy)
    (copy / "complete.json").unlink()
    assert "embed or cache import again" in refuse(1, "grid", copy, "-o", tmp_path / "run")


def test_a_cache_of_the_random_nano_says_what_to_do(nano_cache: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(nano_cache, copy)
    mark = copy / "complete.json"
    mark.write_text(mark.read_text().replace(NANO_SHA256, RANDOM_NANO_SHA256))
    line = refuse(1, "grid", copy, "-o", tmp_path / "run")
    assert "random nano" in line
    assert "embed" in line
    assert "--overwrite" in line
    assert not (tmp_path / "run").exists()


def test_a_refused_command_leaves_no_folder_for_the_corrected_one(nano_cache: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for wrong in (["--folds", "99"], ["--memory", "10MB"], ["--precision", "fp16", "--device", "cpu"]):
        refuse(2, "grid", nano_cache, *wrong, "-o", run)
        assert not run.exists()


def test_two_rates_that_print_alike_are_two_decoders(nano_cache: str, tmp_path: Path) -> None:
    args = ["--lr", "0.001,0.00100000001", "--wd", "0", "--epochs", "1", "--folds", "3", "--exact"]
    result = call("grid", nano_cache, *args, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    chosen = json.loads((tmp_path / "run" / "chosen.json").read_text())
    assert (chosen["precision"], chosen["compile"]) == ("fp32", False)


@pytest.mark.parametrize("other", [("--precision", "bf16"), ("--compile", "on")])
def test_exact_and_its_contrary(other: tuple[str, str], nano_cache: str, tmp_path: Path) -> None:
    args = [nano_cache, "--exact", *other, "-o", tmp_path / "run"]
    assert f"--exact contradicts {other[0]}" in refuse(2, "grid", *args)
    assert f"--exact contradicts {other[0]}" in refuse(2, "reproduce", "--montgomery", *args)


def test_another_dataset_does_not_pass_for_a_complete_cache(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images, masks = pairs
    args = ["embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"]
    assert call(*args).exit_code == 0
    for folder in (images, masks):
        for path in folder.iterdir():
            path.rename(path.with_name("q" + path.name))
    assert "other images, masks or patients" in refuse(1, *args)


def test_export_of_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{}")
    refuse(1, "export", tmp_path, "--checkpoint", tmp_path, "-o", tmp_path / "out.pth")
    refuse(1, "export", tmp_path / "none", "--checkpoint", tmp_path, "-o", tmp_path / "out.pth")


def test_patients_given_later_are_another_dataset(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    """Folds are grouped by patient: a cache without them must not be taken for one with them."""
    images, masks = pairs
    args = ["embed", "pairs", images, "--masks", masks, "-o", tmp_path / "x.zarr"]
    assert call(*args).exit_code == 0
    meta = tmp_path / "meta.csv"
    meta.write_text("id,patient\n" + "".join(f"p{i},{i // 2}\n" for i in range(6)))
    assert "other images, masks or patients" in refuse(1, *args, "--meta", meta)
    assert call(*args, "--meta", meta, "--overwrite").exit_code == 0


def test_a_box_mode_without_a_box(nano_cache: str, tmp_path: Path) -> None:
    assert "without a box" in refuse(2, "grid", nano_cache, "--box", "per-lung", "-o", tmp_path / "run")


def test_seeds_that_are_no_list(nano_cache: str, tmp_path: Path) -> None:
    to = [nano_cache, "-o", tmp_path / "run"]
    assert "found '0.5', expected integers separated by commas" in refuse(2, "grid", *to, "--seed", "0,0.5")
    assert "expected at least 0" in refuse(2, "cv", *to, "--seed", "-1")
    assert "--seed lists the seeds" in refuse(2, "cv", *to, "--seed", "0,1", "--seeds", "3")
    assert "trains one decoder a prompt; found --seed 0,1" in refuse(2, "thresholds", *to, "--seed", "0,1")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["embd"], "Did you mean 'embed'?"),
        (["cv"], "cv --help"),
        (["robustness", "r", "--from", "montgomery", "-o", "x"], "found '-o', expected SET DIR"),
        (["transfer", "a", "b", "--runs", "r", "-o", "x"], "found '-o', expected RUN_A RUN_B"),
        (["phantom", "-o", "none", "--montgomery", "0", "--shenzhen", "0"], "nothing to draw"),
        (["jitter", "r", "--pixels", "1.5", "-o", "x"], "expected integers"),
    ],
)
def test_a_slip_of_the_keyboard_is_told_with_the_way_out(args: list[str], says: str) -> None:
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
