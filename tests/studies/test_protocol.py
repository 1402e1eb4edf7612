"""Fit, interrupt, resume; choose on validation rows; the listener hears what happens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lungfast.data.splits import make_folds
from lungfast.errors import UsageError
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import EpochEnd, Int64
from lungfast.runs import open_run
from lungfast.scored.kernels import count_image, threshold_edges
from lungfast.scored.scores import scores_of
from lungfast.studies import fitting
from lungfast.studies.accounts import Trained
from lungfast.studies.fitting import COMPILE_FROM_STEPS, Settings, compiles
from lungfast.studies.protocol import Study
from lungfast.studies.tables import best_of, cells_of
from lungfast.studies.workspace import DECODER_BYTES, PROCESS_BYTES, Workspace, row_budget, stack_width
from lungfast.trained.trainer import TrainConfig

QUESTION = {"study": "test", "settings": {}}
SETTINGS = Settings(
    train=TrainConfig(epochs=3, batch_size=4), memory_bytes=4 << 30, precision="fp32", compile="off"
)


class Ear:
    """A listener that remembers, and may stop the study after an epoch."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.notes: list[str] = []
        self.epochs: list[int] = []
        self.scored = 0
        self._stop_after = stop_after

    def note(self, line: str) -> None:
        self.notes.append(line)

    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        self.scored += n

    def epoch(self, end: EpochEnd) -> None:
        self.epochs.append(end.epoch)
        if end.epoch == self._stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def workspace(nano_cache: str) -> Workspace:
    return Workspace(nano_cache, device=torch.device("cpu"))


def cells(workspace: Workspace):  # type: ignore[no-untyped-def]
    split = make_folds(workspace.cache.images, 3, seed=0)[0]
    return cells_of(split, PromptConfig(), lrs=[1e-3, 1e-4], wds=[0.0], losses=["dicefocal"], seeds=[0])


def decoders(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "decoders").iterdir()}


def fit(workspace: Workspace, folder: Path, ear: Ear, *, resume: bool = False) -> list[Trained]:
    with open_run(folder, QUESTION, resume=resume) as run:
        return Study(workspace, run, SETTINGS, ear).fit(cells(workspace))


def test_an_interrupted_fit_goes_on_from_its_checkpoint(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(workspace, tmp_path / "whole", Ear())
    monkeypatch.setattr(fitting, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(workspace, tmp_path / "cut", Ear(stop_after=3))
    assert list((tmp_path / "cut" / "checkpoints").iterdir())
    ear = Ear()
    resumed = fit(workspace, tmp_path / "cut", ear, resume=True)
    assert ear.epochs == [3]
    assert any("resuming after epoch 2" in note for note in ear.notes)
    assert resumed == whole
    assert decoders(tmp_path / "cut") == decoders(tmp_path / "whole")
    assert not list((tmp_path / "cut" / "checkpoints").iterdir())


def test_finished_decoders_are_read_back_not_trained_again(workspace: Workspace, tmp_path: Path) -> None:
    first = fit(workspace, tmp_path / "run", Ear())
    ear = Ear()
    second = fit(workspace, tmp_path / "run", ear, resume=True)
    assert not ear.epochs
    assert first == second


def test_a_plan_trains_on_training_images_and_chooses_the_epoch_on_validation_images(
    workspace: Workspace, tmp_path: Path
) -> None:
    asked = cells(workspace)
    with open_run(tmp_path / "run", QUESTION) as run:
        plan = Study(workspace, run, SETTINGS, Ear()).plan(asked)
    split, image_of_row = asked[0].split, workspace.cache.images_of_rows()
    assert len(plan.train_rows_K) == len(plan.val_rows_K) == len(asked)
    for train_rows, val_rows in zip(plan.train_rows_K, plan.val_rows_K, strict=True):
        np.testing.assert_array_equal(image_of_row[train_rows].ravel(), split.train)
        np.testing.assert_array_equal(image_of_row[val_rows], split.val)


def test_points_and_boxes_of_a_cell_come_from_its_training_images_alone(
    workspace: Workspace, tmp_path: Path
) -> None:
    cell = replace(cells(workspace)[0], prompt=PromptConfig(kind="both-auto"))
    split = cell.split
    with open_run(tmp_path / "run", QUESTION) as run:
        prior = Study(workspace, run, SETTINGS, Ear()).prompts(cell).prior.as_dict()

    def of(*images: Int64) -> object:
        return workspace.prompts(cell.prompt, np.concatenate(images), seed=0).prior.as_dict()

    assert prior == of(split.train)
    assert prior not in (of(split.train, split.val), of(split.train, split.test))
    assert prior != of(split.train, split.val, split.test)


def test_threshold_and_winner_come_from_validation_images(workspace: Workspace, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION) as run:
        ear = Ear()
        study = Study(workspace, run, SETTINGS, ear)
        asked = cells(workspace)
        outcomes = study.validate(asked, study.fit(asked))
    split = asked[0].split
    assert ear.scored == 2 * len(split.val)
    for outcome in outcomes:
        assert outcome.val is not None
        assert outcome.choice is not None
        np.testing.assert_array_equal(outcome.val.images, split.val)
        means = outcome.val.values["f1"].mean(axis=0)
        assert means[outcome.choice.index] == pytest.approx(means.max(), abs=1e-9)
    best = best_of(outcomes)
    assert best.val_mean("f1") == max(outcome.val_mean("f1") or 0 for outcome in outcomes)


def test_scores_are_those_of_plain_sam_postprocessing(workspace: Workspace, tmp_path: Path) -> None:
    """One image by hand: stack logits, torch's two interpolations, a sigmoid, F1 by sets."""
    with open_run(tmp_path / "run", QUESTION) as run:
        study = Study(workspace, run, SETTINGS, Ear())
        asked = cells(workspace)[:1]
        study.fit(asked)
        image = asked[0].split.val[:1]
        (scored,) = study.score(asked, [image], "val")
        state = study._fitter.read_state(asked[0].config.key)
        ((_, _, logits_hw),) = workspace.predict(study.plan(asked).prompts_K, [state], [image], batch_size=4)
    frame = workspace.cache.frame(int(image[0]))
    side = workspace.cache.spec.input_size
    up = torch.nn.functional.interpolate(
        torch.from_numpy(logits_hw)[None, None], (side, side), mode="bilinear", align_corners=False
    )[..., : frame.resized_size[0], : frame.resized_size[1]]
    native = torch.nn.functional.interpolate(up, frame.native_size, mode="bilinear", align_corners=False)[
        0, 0
    ]
    truth = workspace.cache.mask(int(image[0]))
    for q in (0, 45, 90):
        found = native.sigmoid().numpy() > SETTINGS.thresholds[q]
        f1 = 2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1)
        assert scored.values["f1"][0, q] == pytest.approx(f1, abs=2e-3)


def test_a_narrow_stack_scores_in_its_own_width(workspace: Workspace, tmp_path: Path) -> None:
    """As many decoders as fit at once, in training and in scoring; a resume may have another bound."""
    small = PROCESS_BYTES + 2 * DECODER_BYTES
    asked = cells(workspace)
    for bound, resume in ((small, False), (4 << 30, True)):
        settings = replace(SETTINGS, memory_bytes=bound)
        with open_run(tmp_path / "run", QUESTION, resume=resume) as run:
            study = Study(workspace, run, settings, Ear())
            outcomes = study.validate(asked, study.fit(asked))
            assert study.training["width"] == 1
            assert len(outcomes) == len(asked)


def test_stored_logits_give_the_same_scores(workspace: Workspace, tmp_path: Path) -> None:
    import h5py

    with open_run(tmp_path / "run", QUESTION) as run:
        study = Study(workspace, run, replace(SETTINGS, save_logits=True), Ear())
        asked = cells(workspace)[:1]
        study.fit(asked)
        images = asked[0].split.val
        (scored,) = study.score(asked, [images], "val")
    edges_Q = threshold_edges(SETTINGS.thresholds)
    with h5py.File(tmp_path / "run" / "logits-val.h5") as file:
        for position, image in enumerate(images.tolist()):
            logits_hw = file[asked[0].config.key][workspace.cache.images[image].id][:]
            counts = count_image(
                logits_hw, workspace.cache.frame(image), workspace.cache.packed_mask(image), edges_Q
            )
            np.testing.assert_array_equal(scored.values["f1"][position], scores_of(counts).f1_Q)


def test_memory_is_shared_between_decoders_and_rows() -> None:
    cpu = torch.device("cpu")
    assert stack_width(64 << 30, 9, cpu) == 9
    small = PROCESS_BYTES + 3 * DECODER_BYTES
    assert stack_width(small, 9, cpu) == 1
    assert row_budget(small, 1, cpu) == 2 * DECODER_BYTES
    with pytest.raises(UsageError, match="too small to train"):
        stack_width(PROCESS_BYTES, 1, cpu)


def test_compiling_is_for_long_runs_on_a_gpu() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    many, few = COMPILE_FROM_STEPS, COMPILE_FROM_STEPS - 1
    assert [compiles("auto", device, n) for device in (cpu, gpu) for n in (few, many)] == [False] * 3 + [True]
    assert compiles("on", cpu, 1)
    assert not compiles("off", gpu, many)
