"""Views and recipes through click's runner: embedded, trained on, overridden, refused in one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lungfast.data.images import read_image
from lungfast.data.perturbations import ROBUSTNESS
from lungfast.frozen.cache import EmbeddingCache
from lungfast.runs import read_json
from lungfast.studies.recipes import BEST, PAPER
from tests.commands.test_bad_input import refuse
from tests.commands.test_studies import TINY, done, read


@pytest.fixture(scope="module")
def viewed(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Montgomery phantoms in three views each."""
    url = str(tmp_path_factory.mktemp("viewed") / "m.zarr")
    result = done("embed", "montgomery", phantoms, "-o", url, "--views", 3, "--high-res")
    assert "15 images embedded, 3 views each" in result.output
    return url


@pytest.fixture(scope="module")
def best_run(viewed: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    run = tmp_path_factory.mktemp("best") / "cv"
    more = ["--seeds", 2, "--ensemble", "--views", 3, "--clean"]
    return run, done("cv", viewed, "--recipe", "best", *TINY, *more, "-o", run).output


def test_the_unaltered_view_is_the_plain_cache(viewed: str, nano_cache: str) -> None:
    ours, plain = EmbeddingCache.open(viewed), EmbeddingCache.open(nano_cache)
    for image in (0, 7):
        rows = ours.images[image].rows
        embedding = ours.features(rows[:1])[..., :256]
        np.testing.assert_array_equal(embedding, plain.features([plain.row_of_image(image)]))
        assert (ours.features(rows[1:2]) != ours.features(rows[:1])).mean() > 0.5
        assert (ours.targets(rows[1:2]) != ours.targets(rows[:1])).any()
    info = json.loads(done("cache", "info", viewed, "--json").stdout)
    assert (info["images"], info["rows"], info["views"]) == (15, 45, 3)
    assert (info["channels"], info["feature_maps"]) == (512, ["image_embedding", "high_res_features"])


def test_the_same_command_again_has_nothing_to_do_and_another_number_is_refused(
    phantoms: Path, viewed: str
) -> None:
    again = done("embed", "montgomery", phantoms, "-o", viewed, "--views", 3, "--high-res")
    assert "0 images embedded, 15 were there already" in again.output
    line = refuse(1, "embed", "montgomery", phantoms, "-o", viewed, "--recipe", "best")
    assert f"found views 3 against {BEST.views} -> choose another place for the cache" in line
    assert "views 3 against 1" in refuse(1, "embed", "montgomery", phantoms, "-o", viewed)
    line = refuse(1, "embed", "montgomery", phantoms, "-o", viewed, "--views", 3)
    assert "found high-resolution features (--high-res) against none (--no-high-res) -> choose" in line


def test_results_say_the_recipe_its_settings_and_what_was_changed(best_run: tuple[Path, str]) -> None:
    run, output = best_run
    settings = read(run)["provenance"]["settings"]
    assert settings["recipe"].startswith("best, but ")
    assert "epochs 1" in settings["recipe"]
    assert (settings["views"], settings["test_views"]) == (3, 3)
    assert settings["train"]["average"] == BEST.average
    assert "recipe best" in output
    assert read_json(run / "run.json")["settings"]["recipe"] == settings["recipe"]


def test_seeds_of_a_fold_decide_together(best_run: tuple[Path, str]) -> None:
    run, _ = best_run
    (row,) = read(run)["rows"]
    assert row["ensemble"]
    assert row["f1_image"]["n"] == 15
    assert len(row["f1"]["folds"]) == 3
    folds = row["per_fold"]
    assert [(one["fold"], one["seed"]) for one in folds] == [
        (f"fold-{i}", s) for i in range(3) for s in (0, 1)
    ]
    for first, second in zip(folds[::2], folds[1::2], strict=True):
        assert first["threshold"] == second["threshold"]
        assert first["test"] == second["test"]
        assert first["together"] == 2
    assert row["cleaned"]["f1_image"]["n"] == 15
    assert 0 <= row["calibration"]["ece"] < 1
    assert sum(row["calibration"]["pixels"]) == sum(
        int(np.prod(record.native_size)) for record in EmbeddingCache.open(viewed_of(run)).images
    )


def viewed_of(run: Path) -> str:
    return str(read(run)["provenance"]["cache"]["url"])


def test_a_finished_run_scores_them_together_too(best_run: tuple[Path, str]) -> None:
    import torch

    from lungfast.studies.models import FinishedRun
    from lungfast.studies.rescoring import rescore, test_images
    from lungfast.studies.workspace import Workspace

    finished = FinishedRun.open(best_run[0])
    workspace = Workspace(viewed_of(best_run[0]), device=torch.device("cpu"))
    scores = rescore(
        finished.models(), workspace, test_images(finished, workspace), 4 << 30, advance=lambda: None
    )
    (row,) = read(best_run[0])["rows"]
    np.testing.assert_allclose([one.mean("f1") for one in scores], row["f1"]["folds"], atol=1e-6)


def test_a_film_of_the_cache_gets_the_logits_that_were_scored(
    best_run: tuple[Path, str], phantoms: Path
) -> None:
    """``predict`` makes the very views that the cache holds, and averages them."""
    import torch

    from lungfast.data.datasets import list_montgomery
    from lungfast.studies.ensemble import Ensemble, run_encoder
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.scoring import predictions, prepare
    from lungfast.studies.workspace import Workspace

    finished = FinishedRun.open(best_run[0])
    workspace = Workspace(viewed_of(best_run[0]), device=torch.device("cpu"))
    model = finished.models()[0]
    assert model.views == 3
    candidate = model.candidate(workspace, np.array([4]))
    prepare(workspace, 4 << 30, 1, views=candidate.views)
    ((_, _, scored_hw),) = predictions(workspace, [candidate], width=1)
    ((_, _, alone_hw),) = predictions(workspace, [replace(candidate, views=1)], width=1)
    record = workspace.cache.images[4]
    (ref,) = [ref for ref in list_montgomery(phantoms).refs if ref.id == record.id]
    encoder = run_encoder(finished, None, device=torch.device("cpu"))
    ensemble = Ensemble([model], encoder, prompt=model.prompt, like=finished.fingerprint)
    found_hw = ensemble.logits([ref.load().image_HW], ids=[record.id])[0, 0]
    np.testing.assert_allclose(found_hw, scored_hw, atol=2e-2)  # float16 features round once more or less
    assert np.abs(alone_hw - scored_hw).mean() > np.abs(found_hw - scored_hw).mean() * 10


def test_predict_averages_as_the_run_did_or_says_so(
    best_run: tuple[Path, str], phantoms: Path, tmp_path: Path
) -> None:
    films = sorted((phantoms / "MontgomerySet" / "CXR_png").iterdir())[:2]
    done("predict", best_run[0], *films, "-o", tmp_path / "all")
    assert read_json(tmp_path / "all" / "run.json")["settings"]["views"] == 3
    result = done("predict", best_run[0], *films, "-o", tmp_path / "one", "--test-views", 1)
    assert "averaged over 1 of the 3 views of an image over which thresholds were chosen" in result.output
    both = [read_image(tmp_path / name / "masks" / f"{films[0].stem}.png") for name in ("all", "one")]
    assert (both[0] != both[1]).any()
    line = refuse(2, "predict", best_run[0], *films, "-o", tmp_path / "no", "--test-views", 4)
    assert "found 4; expected 1 to 3, which the run averages" in line


def test_a_box_of_the_truth_is_asked_about_once(viewed: str, tmp_path: Path) -> None:
    """Boxes of several turned views together would tell more of the truth than the box of the film."""
    from lungfast.studies.models import FinishedRun

    more = ["--test-views", 3, "--prompt", "box"]
    done("cv", viewed, *TINY, *more, "-o", tmp_path / "many")
    done("cv", viewed, *TINY, *more, "--test-views", 1, "-o", tmp_path / "one")
    assert [model.views for model in FinishedRun.open(tmp_path / "many").models()] == [1, 1, 1]
    many, one = (read(tmp_path / name)["rows"][0]["f1"] for name in ("many", "one"))
    assert many == one


def test_a_cache_without_the_views_of_a_run_takes_those_it_has(
    best_run: tuple[Path, str], nano_cache: str
) -> None:
    import torch

    from lungfast.studies.models import FinishedRun
    from lungfast.studies.workspace import Workspace

    workspace = Workspace(nano_cache, device=torch.device("cpu"))
    model = FinishedRun.open(best_run[0]).models()[0]
    assert model.candidate(workspace, np.array([0])).views == 1


def test_without_views_the_recipe_says_what_it_lacks(nano_cache: str, tmp_path: Path) -> None:
    result = done("train", nano_cache, "--recipe", "best", *TINY, "--val-every", 1, "-o", tmp_path / "t")
    assert f"holds 1 of the {BEST.views} views that the recipe trains on" in result.output
    assert f"holds 1 of the {BEST.test_views} views that it averages over" in result.output
    assert "holds no high-resolution features, which the recipe's decoders read" in result.output
    settings = read(tmp_path / "t")["provenance"]["settings"]
    assert (settings["views"], settings.get("high_res", False)) == (1, False)
    assert "high_res False" in settings["recipe"]
    # runs asked of a cache before there were high-resolution features can be resumed
    assert "high_res" not in json.dumps(read_json(tmp_path / "t" / "run.json")["settings"])
    again = done(
        "train", nano_cache, "--recipe", "best", *TINY, "--val-every", 1, "-o", tmp_path / "t", "--resume"
    )
    assert again.exit_code == 0


def test_caches_with_and_without_high_resolution_features_meet(
    best_run: tuple[Path, str],
    trained_run: Path,
    viewed: str,
    phantoms: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain decoders read the part that both have; others say what is missing before anything is trained."""
    other = tmp_path / "s.zarr"
    done("embed", "shenzhen", phantoms, "-o", other)
    done("transfer", viewed, other, *TINY, "-o", tmp_path / "plain")
    for caches in ((viewed, other), (other, viewed)):
        line = refuse(1, "transfer", *caches, *TINY, "--high-res", "-o", tmp_path / "high")
        assert f"{other} holds no high-resolution features" in line
        assert not list((tmp_path / "high").glob("cv-*"))
    monkeypatch.setattr("lungfast.studies.robustness.ROBUSTNESS", ROBUSTNESS[:1])
    plain, run = tmp_path / "paper", tmp_path / "robustness"
    shutil.copytree(trained_run, plain)
    done("robustness", plain, best_run[0], "--from", "montgomery", phantoms, "--images", 3, "-o", run)
    assert len(read(run)["rows"]) == 4


def test_decoders_that_read_high_resolution_features_need_them(
    best_run: tuple[Path, str], viewed: str, nano_cache: str, tmp_path: Path
) -> None:
    from lungfast.errors import RunError
    from lungfast.studies.models import FinishedRun

    finished = FinishedRun.open(best_run[0])
    assert finished.models()[0].state()["conv_s1.weight"].shape == (64, 64, 1, 1)
    done("train", viewed, *TINY, "--high-res", "-o", tmp_path / "high")
    assert FinishedRun.open(tmp_path / "high").models()[0].state()["conv_s1.weight"].abs().max() > 0
    with pytest.raises(RunError, match=r"read high-resolution features, which .* does not hold"):
        finished.check_encoder(EmbeddingCache.open(nano_cache))
    line = refuse(1, "train", nano_cache, *TINY, "--high-res", "-o", tmp_path / "t")
    assert "holds no high-resolution features" in line
    assert "embed again with --high-res" in line
    done("train", viewed, "--recipe", "best", *TINY, "--no-high-res", "-o", tmp_path / "stock")
    (model, *_) = FinishedRun.open(tmp_path / "stock").models()
    assert "conv_s1.weight" not in model.state()


def test_the_papers_recipe_is_constant_and_keeps_the_last_epoch(nano_cache: str, tmp_path: Path) -> None:
    done("cv", nano_cache, "--recipe", "paper", *TINY, "--lr", "1e-3", "--wd", "0", "-o", tmp_path / "p")
    settings = read(tmp_path / "p")["provenance"]["settings"]
    assert (settings["train"]["schedule"], settings["train"]["keep"]) == ("constant", "last")
    assert settings["thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7]
    assert PAPER.epochs(83) == PAPER.epochs(340) == 100


def test_budgets_follow_the_number_of_images() -> None:
    assert BEST.epochs(10**6) == BEST.epochs_least
    assert BEST.epochs(1) == BEST.epochs_most
    assert BEST.epochs(83) > BEST.epochs(340)


def test_mistakes_are_one_line(nano_cache: str, phantoms: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "'golden' is not one of 'paper', 'best'" in refuse(
        2, "cv", nano_cache, "--recipe", "golden", "-o", run
    )
    line = refuse(2, "cv", nano_cache, "--views", 8, "-o", run)
    assert "--views 8 is more than" in line
    assert "embed again with --views 8, or give --views 1" in line
    assert "--test-views 4 is more than" in refuse(2, "cv", nano_cache, "--test-views", 4, "-o", run)
    assert "--save-logits" in refuse(2, "cv", nano_cache, "--ensemble", "--save-logits", "-o", run)
    assert not run.exists()
    refuse(2, "embed", "montgomery", phantoms, "-o", run, "--views", 0)
    line = refuse(2, "embed", "montgomery", phantoms, "-o", run, "--encoder", "vit_b", "--high-res")
    assert "--high-res needs an encoder that has finer maps" in line
