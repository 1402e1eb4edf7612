"""reproduce on two small generated sets: complete, resumable, the same bytes; and the API of the README."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lungfast.commands import main
from lungfast.errors import RunError, TrainingError
from lungfast.report.further import further_tables
from lungfast.studies import reproduce, steps
from lungfast.studies.reading import read_material
from lungfast.studies.whole_paper import Recipe, paper_recipe

ROOT = Path(__file__).parent.parent.parent


def call(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def done(*args: object) -> Result:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sets")
    done("phantom", "-o", folder / "ph", "--montgomery", 6, "--shenzhen", 6, "--size", 128)
    done("embed", "montgomery", folder / "ph", "-o", folder / "m.zarr")
    done("embed", "shenzhen", folder / "ph", "-o", folder / "s.zarr")
    return ["--montgomery", str(folder / "m.zarr"), "--shenzhen", str(folder / "s.zarr")]


QUICK = ["--quick", "--epochs", "1", "--precision", "fp32", "--compile", "off", "--best"]


@pytest.fixture(scope="module")
def whole(caches: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """All of the recipe, in three folds."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reproduce, "paper_recipe", lambda *args, **more: replace(paper_recipe(*args, **more), folds=3)
        )
        return run, done("reproduce", *caches, *QUICK, "-o", run)


def read(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


def test_every_table_claim_and_file_is_there(whole: tuple[Path, Result]) -> None:
    run, result = whole
    content = read(run)
    assert set(content["tables"]) >= {"I", "II", "III", "IV", "V", "VI"}
    assert len(content["claims"]) == 9
    made_by = read(run / "montgomery" / "best")["provenance"]["settings"]["recipe"]
    assert made_by == "best, but epochs 1, views 1, test_views 1, high_res False"
    material = read_material(run)
    recipes = further_tables(material)["recipes"]
    assert [row[1].text for row in recipes.rows] == ["paper", "best"] * 2
    (paired,) = material.sets["montgomery"]["best"]["comparisons"]
    assert (paired["a"], paired["b"], paired["family"]) == ("points, best", "points, paper", "recipes")
    assert {row["set"] for row in content["rows"]} == {"montgomery", "shenzhen"}
    assert {row["key"] for row in content["rows"]} >= {"points", "box", "both", "box-auto", "both-auto"}
    families = {one["family"] for one in content["comparisons"]}
    assert families >= {"prompts", "losses", "unet", "transfer", "fine-tuning"}
    for name in ("report.html", "report.md", "tables.tex", "tables.csv", "timings.json"):
        assert (run / name).stat().st_size > 100
    assert "about" in result.stderr
    assert (
        "no patient" in (run / "report.html").read_text() or "enerated" in (run / "report.html").read_text()
    )


def small_recipe(*args: Any, **more: Any) -> Recipe:
    """Two prompts, two settings, three folds, a U-Net of one epoch: enough of a recipe to be stopped."""
    recipe = paper_recipe(*args, **more)
    few = dict.fromkeys(recipe.epochs, 1)
    return replace(recipe, prompts=recipe.prompts[:2], folds=3, lrs=(1e-4, 1e-3), wds=(0.0,), unet_epochs=few)


def test_a_stopped_reproduction_goes_on_to_the_same_results(
    caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "paper_recipe", small_recipe)
    run, one = tmp_path / "cut", caches[:2]
    done("reproduce", *one, *QUICK, "-o", tmp_path / "whole")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, "_unet", stop)
        assert call("reproduce", *one, *QUICK, "-o", run).exit_code == 130
    assert (run / "montgomery" / "cv" / "results.json").exists()
    assert not (run / "results.json").exists()
    before = (run / "montgomery" / "cv" / "results.json").stat().st_mtime_ns
    with pytest.raises(RunError, match="unfinished"):
        read_material(run)
    assert call("reproduce", *one, *QUICK, "-o", run).exit_code == 2
    done("reproduce", *one, *QUICK, "-o", run, "--resume")
    assert (run / "montgomery" / "cv" / "results.json").stat().st_mtime_ns == before
    assert (run / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()


def test_a_cache_without_previews_is_reproduced_without_u_net_and_pictures(
    caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "paper_recipe", small_recipe)
    films = Path(caches[1]).parent / "ph"
    done("embed", "montgomery", films, "-o", tmp_path / "bare.zarr", "--no-pixels")
    result = done("reproduce", "--set", f"mine={tmp_path / 'bare.zarr'}", *QUICK, "-o", tmp_path / "run")
    assert "mine: unet is left out" in result.stderr
    assert read(tmp_path / "run")["tables"]["V"]["rows"]


def test_what_was_left_out_is_tried_again(
    caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "paper_recipe", small_recipe)
    run, one = tmp_path / "run", caches[:2]

    def diverge(*args: object) -> None:
        raise TrainingError("every U-Net diverged")

    with monkeypatch.context() as patch:
        patch.setattr(steps.Steps, "_unet", diverge)
        done("reproduce", *one, *QUICK, "-o", run)
    assert "montgomery: unet is left out: every U-Net diverged" in (run / "report.md").read_text()
    assert not read(run)["tables"]["VI"]["rows"]
    done("reproduce", *one, *QUICK, "-o", run, "--resume")
    assert read(run)["tables"]["VI"]["rows"]
    assert "left out" not in (run / "report.md").read_text().split("## The paper")[0]


def test_report_writes_it_again_and_refuses_the_unfinished(
    whole: tuple[Path, Result], tmp_path: Path
) -> None:
    run = whole[0]
    done("report", run, "-o", tmp_path / "again")
    assert (tmp_path / "again" / "report.md").read_bytes() == (run / "report.md").read_bytes()
    done("report", run / "montgomery" / "cv", "-o", tmp_path / "single")
    assert (tmp_path / "single" / "report.html").exists()
    shutil.copytree(run / "montgomery" / "grid", tmp_path / "half")
    (tmp_path / "half" / "results.json").unlink()
    result = call("report", tmp_path / "half")
    assert result.exit_code == 1
    assert "unfinished" in result.stderr
    assert call("report", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "one or two caches"),
        (["--set", "mine"], "NAME=CACHE"),
        (["--epochs", "many"], "expected 60"),
        (["--montgomery", "m.zarr", "--epochs", "lyon=3"], "--epochs names a set that is not there"),
        (["--montgomery", "m.zarr", "--unet-epochs", "lyon=3"], "--unet-epochs names a set that"),
    ],
)
def test_what_cannot_be_used(options: list[str], says: str, nano_cache: str, tmp_path: Path) -> None:
    given = [nano_cache if option == "m.zarr" else option for option in options]
    result = call("reproduce", *given, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


def test_sets_are_what_their_names_say(caches: list[str], nano_cache: str, tmp_path: Path) -> None:
    swapped = ["--montgomery", caches[3], "--shenzhen", caches[1]]
    for given, says in (
        (swapped, "holds another set"),
        (["--set", f"transfer={nano_cache}"], "cannot have this name"),
        ([*caches[:2], "--checkpoint", ROOT / "README.md"], "did not make the cache"),
    ):
        result = call("reproduce", *given, *QUICK, "-o", tmp_path / "run")
        assert result.exit_code != 0
        assert says in result.stderr
        assert not (tmp_path / "run").exists()


def test_overwriting_starts_anew(caches: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "paper_recipe", small_recipe)
    run, quick = tmp_path / "run", QUICK[3:]
    done("reproduce", *caches[:2], "--quick", "--epochs", "1", *quick, "-o", run)
    done("reproduce", *caches[:2], "--quick", "--epochs", "2", *quick, "-o", run, "--overwrite")
    timings = json.loads((run / "timings.json").read_text())
    assert len({one["study"] for one in timings}) == len(timings)
    cv = json.loads((run / "montgomery" / "cv" / "results.json").read_text())
    assert len(cv["history"][0]["val_loss"]) == 2


def test_the_readme_s_python_runs(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"<!-- python -->\n```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "MontgomerySet").symlink_to(phantoms / "MontgomerySet")
    (tmp_path / "films").mkdir()
    shutil.copy(next((phantoms / "MontgomerySet/CXR_png").glob("*.png")), tmp_path / "films")
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("epochs=60", "epochs=1"), "README.md", "exec"), {})
    assert (tmp_path / "runs/cv/report.html").exists()
    assert (tmp_path / "masks/predictions.csv").exists()
