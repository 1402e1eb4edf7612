"""The U-Net of every fold: folds and scores as cv's, resume, pairing with a cv run, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lungfast.data.splits import make_folds, splits_as_dict
from lungfast.errors import RunError, TrainingError, UsageError
from lungfast.geometry import Frame, pack_mask
from lungfast.records import EpochEnd, Split
from lungfast.scored.kernels import predict_mask
from lungfast.scored.scores import scores_of
from lungfast.studies import unet_fitting
from lungfast.studies.accounts import Trained
from lungfast.studies.rival import Rival
from lungfast.studies.scoring import Scored
from lungfast.studies.session import Quiet, Request
from lungfast.studies.unet import UnetStudyConfig, _test, run_unet, unet_settings
from lungfast.studies.unet_fitting import UnetFitter, pictures_of
from lungfast.studies.workspace import Workspace
from lungfast.trained.unet import UnetConfig, UnetTask, predict_unet

MODEL = UnetConfig(size=64, channels=(8, 16, 32), epochs=8, batch_size=3, lr=1e-2)
FILES = ("results.json", "per_image.csv", "history.csv", "splits.json", "chosen.json")


class Ear(Quiet):
    """Remembers the epochs, and may stop the study after the first one of a fold."""

    def __init__(self, stop_at: str = "") -> None:
        super().__init__()
        self.heard: list[tuple[str, int]] = []
        self._stop_at = stop_at

    def epoch(self, end: EpochEnd) -> None:
        self.heard.append((end.keys[0], end.epoch))
        if self._stop_at and end.keys[0].startswith(self._stop_at):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def workspace(nano_cache: str) -> Workspace:
    return Workspace(nano_cache, device=torch.device("cpu"))


def request(output: Path, model: UnetConfig = MODEL, **more: Any) -> Request:
    settings = unet_settings(model, memory_bytes=4 << 30, precision="fp32")
    return Request(
        study="unet", config=UnetStudyConfig(model=model, folds=3), settings=settings, output=output, **more
    )


@pytest.fixture(scope="module")
def whole(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    run = tmp_path_factory.mktemp("runs") / "unet"
    return run, run_unet(request(run), workspace, Ear())


def test_a_row_as_cvs(whole: tuple[Path, dict[str, Any]], workspace: Workspace) -> None:
    run, content = whole
    (row,) = content["rows"]
    assert (row["key"], row["prompt"], row["needs_ground_truth"], row["status"]) == (
        "unet",
        None,
        False,
        "done",
    )
    assert row["model"]["size"] == 64
    assert row["model"]["channels"] == [8, 16, 32]
    assert row["f1"]["mean"] == pytest.approx(np.mean([fold["test"]["f1"] for fold in row["per_fold"]]))
    assert row["f1_image"]["n"] == 15
    assert len(row["curve"]["val_f1"]) == len(row["curve"]["thresholds"]) == 91
    assert content["images"]["fold"].count("fold-0") == row["per_fold"][0]["n_test"]
    assert len(content["images"]["f1"]["unet"]) == len(set(content["images"]["id"])) == 15
    assert [len(one["val_loss"]) for one in content["history"]] == [MODEL.epochs] * 3
    assert content["comparisons"] == []
    assert json.loads((run / "results.json").read_text()) == json.loads(json.dumps(content))


def test_it_learns_what_a_lung_is(whole: tuple[Path, dict[str, Any]], workspace: Workspace) -> None:
    """Better than calling every pixel lung, which is what no knowledge comes to."""
    _, content = whole
    masks = [workspace.cache.mask(image) for image in range(len(workspace.cache.images))]
    chance = np.mean([2 * mask.mean() / (1 + mask.mean()) for mask in masks])
    assert content["f1"]["mean"] > chance + 0.1
    for one in content["history"]:
        assert min(one["val_loss"]) < one["val_loss"][0]


def test_the_folds_are_those_of_cv(whole: tuple[Path, dict[str, Any]], workspace: Workspace) -> None:
    splits = make_folds(workspace.cache.images, 3, seed=0)
    saved = json.loads((whole[0] / "splits.json").read_text())
    assert saved == splits_as_dict(splits, workspace.cache.images)


def test_a_fold_trains_on_training_images_and_chooses_its_epoch_on_validation_images(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[UnetTask] = []

    def heard(task: UnetTask, *_: Any, **__: Any) -> None:
        tasks.append(task)
        raise KeyboardInterrupt

    monkeypatch.setattr(unet_fitting, "UnetTrainer", heard)
    with pytest.raises(KeyboardInterrupt):
        run_unet(request(tmp_path / "run"), workspace, Ear())
    split = make_folds(workspace.cache.images, 3, seed=0)[0]
    np.testing.assert_array_equal(tasks[0].train, split.train)
    np.testing.assert_array_equal(tasks[0].val, split.val)


def test_thresholds_come_from_validation_images() -> None:
    """Which prefer the first of three thresholds, where test images prefer the last."""
    better = {"val": [0.9, 0.5, 0.1], "test": [0.1, 0.5, 0.9]}
    split = Split(name="fold-0", train=np.arange(4), val=np.array([4, 5]), test=np.array([6, 7]))

    def score(splits: list[Split], part: str) -> list[Scored]:
        f1_NQ = np.array([better[part]] * 2)
        return [Scored(images=getattr(one, part), values={"f1": f1_NQ}) for one in splits]

    trained = Trained(key="k", best_epoch=1, status="done", train_loss=(1.0,), val_loss=(1.0,))
    study = SimpleNamespace(listener=Quiet(), settings=SimpleNamespace(thresholds=(0.3, 0.5, 0.7)))
    (tested,) = _test(SimpleNamespace(score=score), study, [split], [trained], seed=0)  # type: ignore[arg-type]
    assert (tested.choice.index, tested.choice.threshold) == (0, 0.3)
    np.testing.assert_array_equal(tested.scores.scored.images, split.test)
    assert tested.scores.mean("f1") == pytest.approx(0.1)


def test_a_score_is_that_of_the_mask_at_native_size(
    whole: tuple[Path, dict[str, Any]], workspace: Workspace
) -> None:
    from lungfast.runs import read_tensors

    run, content = whole
    fold = content["rows"][0]["per_fold"][1]
    split = make_folds(workspace.cache.images, 3, seed=0)[1]
    state, _ = read_tensors(run / "decoders" / f"{fold['decoder']}.safetensors")
    pictures = pictures_of(workspace, MODEL.size, Ear())
    for image, logits_hw in predict_unet(state, MODEL, pictures, split.test, device=torch.device("cpu")):
        found = predict_mask(logits_hw, workspace.cache.frame(image), fold["threshold"])
        truth = workspace.cache.mask(image)
        place = content["images"]["id"].index(workspace.cache.images[image].id)
        f1 = 2 * (found & truth).sum() / (found.sum() + truth.sum())
        assert content["images"]["f1"]["unet"][place] == pytest.approx(f1, abs=1e-12)


def test_logits_finer_than_the_encoders_input_keep_their_detail(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Columns that are lung in turn, at 512 px: at nano's 256 px all would be alike."""
    stripes_hw = np.tile(np.float32([8, -8]), (512, 256))
    frame = Frame.of((512, 512), 256, "squash")
    monkeypatch.setattr(type(workspace.cache), "frame", lambda *_: frame)
    monkeypatch.setattr(type(workspace.cache), "packed_mask", lambda *_: pack_mask(stripes_hw > 0))
    ((_, _, counts),) = workspace.count(iter([(0, 0, stripes_hw)]), [0.5])
    assert scores_of(counts).f1_Q[0] == 1


def test_a_finished_fold_is_not_trained_again_and_the_bytes_are_the_same(
    whole: tuple[Path, dict[str, Any]], workspace: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_unet(request(tmp_path / "cut"), workspace, Ear(stop_at="fold-1"))
    ear = Ear()
    run_unet(request(tmp_path / "cut", resume=True), workspace, ear)
    assert {key.partition("_")[0] for key, _ in ear.heard} == {"fold-1", "fold-2"}
    names = [*FILES, *(f"decoders/{path.name}" for path in (whole[0] / "decoders").iterdir())]
    assert len(names) == len(FILES) + 3
    for name in names:
        assert (tmp_path / "cut" / name).read_bytes() == (whole[0] / name).read_bytes(), name


def test_a_complete_run_is_read_back(whole: tuple[Path, dict[str, Any]], workspace: Workspace) -> None:
    ear = Ear()
    again = run_unet(request(whole[0], resume=True), workspace, ear)
    assert again == json.loads((whole[0] / "results.json").read_text())
    assert not ear.heard


def test_a_diverged_fold_leaves_the_row_without_a_mean(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wild = replace(MODEL, lr=1e30, schedule="constant")
    with pytest.raises(TrainingError, match="every fold diverged"):
        run_unet(request(tmp_path / "all", wild), workspace, Ear())
    calm = UnetFitter._train

    def first_is_wild(fitter: UnetFitter, split: Any) -> Any:
        if split.name == "fold-0":
            fitter._model = wild
        found = calm(fitter, split)
        fitter._model = replace(MODEL, epochs=1)
        return found

    monkeypatch.setattr(UnetFitter, "_train", first_is_wild)
    ear = Ear()
    content = run_unet(request(tmp_path / "one"), workspace, ear)
    assert content["rows"][0]["status"] == "diverged"
    assert content["f1"] is None
    assert [fold["fold"] for fold in content["rows"][0]["per_fold"]] == ["fold-1", "fold-2"]
    assert any("no epoch of it is kept" in note for note in ear.notes)


# --- against a cv run ------------------------------------------------------------------------------


def of_data(sha256: str) -> dict[str, Any]:
    return {"cache": {"url": "m.zarr", "fingerprint": {"data_sha256": sha256}}}


def write_cv(folder: Path, workspace: Workspace, *, folds: int = 3, **wrong: Any) -> Path:
    """A finished cv run with made-up scores, its images in another order."""
    images = workspace.cache.images
    splits = make_folds(images, folds, seed=0)
    order = np.arange(len(images))[::-1]
    fold_of = {int(image): i for i, split in enumerate(splits) for image in split.test}
    f1 = {int(image): 0.1 + 0.01 * int(image) for image in order}
    means = [float(np.mean([f1[int(i)] for i in split.test])) for split in splits]
    content = {
        "schema": 1,
        "study": "cv",
        "rows": [{"key": "points", "f1": {"mean": 0, "std": 0, "folds": means}}],
        "provenance": of_data(workspace.cache.fingerprint.data_sha256 or ""),
        "images": {
            "id": [images[int(i)].id for i in order],
            "fold": [f"fold-{fold_of[int(i)]}" for i in order],
            "f1": {"points": [f1[int(i)] for i in order]},
        },
    } | wrong
    (folder / "decoders").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "results.json").write_text(json.dumps(content))
    (folder / "splits.json").write_text(json.dumps(splits_as_dict(splits, images)))
    return folder


def test_paired_differences_with_a_cv_run(workspace: Workspace, tmp_path: Path) -> None:
    against = write_cv(tmp_path / "cv", workspace)
    model = replace(MODEL, epochs=1)
    content = run_unet(request(tmp_path / "unet", model), workspace, Ear(), against=against)
    (one,) = content["comparisons"]
    assert (one["family"], one["a"], one["b"], one["n"]) == ("unet", "points", "unet", 15)
    by_id = dict(zip(content["images"]["id"], content["images"]["f1"]["unet"], strict=True))
    expected = [0.1 + 0.01 * i - by_id[image.id] for i, image in enumerate(workspace.cache.images)]
    assert one["difference"] == pytest.approx(np.mean(expected))
    low, high = one["ci95"]
    assert low < one["difference"] < high
    assert one["t"]["n_values"] == 3
    assert content["provenance"]["config"]["against"]


def test_a_run_on_other_images_or_folds_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(RunError, match=match):
            run_unet(request(tmp_path / "unet"), workspace, Ear(), against=folder)
        assert not (tmp_path / "unet").exists()

    other = write_cv(tmp_path / "data", workspace, provenance=of_data("0" * 64))
    refused(other, "was not trained on .* other images")
    refused(write_cv(tmp_path / "folds", workspace, folds=4), "other folds")
    refused(write_cv(tmp_path / "grid", workspace, study="grid"), "no cross-validation")
    refused(tmp_path / "nothing", "not a run")


def test_the_identity_of_a_rival_is_that_of_its_scores(workspace: Workspace, tmp_path: Path) -> None:
    splits = make_folds(workspace.cache.images, 3, seed=0)
    one, same = (Rival.open(write_cv(tmp_path / n, workspace), workspace.cache, splits) for n in "ab")
    other = write_cv(tmp_path / "c", workspace, images={"id": [], "f1": {}})
    assert one.identity == same.identity != Rival.open(other, workspace.cache, splits).identity


# --- refused ---------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused_before_the_folder_is_made(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"larger than the cache's previews.*--size 512"):
        run_unet(request(tmp_path / "u", replace(MODEL, size=1024)), workspace, Ear())
    small = replace(request(tmp_path / "u"), settings=unet_settings(MODEL, memory_bytes=10 << 20))
    with pytest.raises(UsageError, match="--memory is too small"):
        run_unet(small, workspace, Ear())
    many = replace(request(tmp_path / "u"), config=UnetStudyConfig(model=MODEL, folds=16))
    with pytest.raises(UsageError, match="more folds than patients"):
        run_unet(many, workspace, Ear())
    assert not (tmp_path / "u").exists()
