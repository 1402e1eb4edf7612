"""Fit, interrupt, resume; choose on validation rows; the listener hears what happens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lungfast.data.splits import make_folds
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import EpochEnd
from lungfast.runs import open_run
from lungfast.studies import protocol
from lungfast.studies.protocol import Settings, Study
from lungfast.studies.tables import best_of, cells_of
from lungfast.studies.workspace import DECODER_BYTES, SCRATCH_BYTES, Workspace, share_memory
from lungfast.trained.trainer import Fitted, TrainConfig

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
    return cells_of(split, PromptConfig(), lrs=[1e-3, 1e-4], wds=[0.0], losses=["dicefocal"], seed=0)


def fit(workspace: Workspace, folder: Path, ear: Ear, *, resume: bool = False) -> list[Fitted]:
    with open_run(folder, {"study": "test"}, resume=resume) as run:
        return Study(workspace, run, SETTINGS, ear).fit(cells(workspace))


def test_an_interrupted_fit_goes_on_from_its_checkpoint(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit(workspace, tmp_path / "whole", Ear())
    monkeypatch.setattr(protocol, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(workspace, tmp_path / "cut", Ear(stop_after=3))
    assert list((tmp_path / "cut" / "checkpoints").iterdir())
    ear = Ear()
    resumed = fit(workspace, tmp_path / "cut", ear, resume=True)
    assert ear.epochs == [3]
    assert any("resuming after epoch 2" in note for note in ear.notes)
    for one, two in zip(whole, resumed, strict=True):
        assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)
        assert (one.best_epoch, one.val_loss) == (two.best_epoch, two.val_loss)
    assert not list((tmp_path / "cut" / "checkpoints").iterdir())


def test_finished_decoders_are_read_back_not_trained_again(workspace: Workspace, tmp_path: Path) -> None:
    first = fit(workspace, tmp_path / "run", Ear())
    ear = Ear()
    second = fit(workspace, tmp_path / "run", ear, resume=True)
    assert not ear.epochs
    for one, two in zip(first, second, strict=True):
        assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)


def test_threshold_and_winner_come_from_validation_images(workspace: Workspace, tmp_path: Path) -> None:
    with open_run(tmp_path / "run", {"study": "test"}) as run:
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
    with open_run(tmp_path / "run", {"study": "test"}) as run:
        study = Study(workspace, run, SETTINGS, Ear())
        asked = cells(workspace)[:1]
        fitted = study.fit(asked)
        image = asked[0].split.val[:1]
        (scored,) = study.score(asked, fitted, [image], "val")
        ((_, _, logits_hw),) = workspace.predict(study.plan(asked), [fitted[0].state], [image], batch_size=4)
    frame = workspace.cache.frame(int(image[0]))
    up = torch.nn.functional.interpolate(
        torch.from_numpy(logits_hw)[None, None], (512, 512), mode="bilinear", align_corners=False
    )[..., : frame.resized_size[0], : frame.resized_size[1]]
    native = torch.nn.functional.interpolate(up, frame.native_size, mode="bilinear", align_corners=False)[
        0, 0
    ]
    truth = workspace.cache.mask(int(image[0]))
    for q in (0, 45, 90):
        found = native.sigmoid().numpy() > SETTINGS.thresholds[q]
        f1 = 2 * (found & truth).sum() / max(found.sum() + truth.sum(), 1)
        assert scored.values["f1"][0, q] == pytest.approx(f1, abs=2e-3)


def test_memory_is_shared_between_decoders_and_rows() -> None:
    assert share_memory(64 << 30, 9).width == 9
    small = share_memory(SCRATCH_BYTES + 3 * DECODER_BYTES, 9)
    assert small.width == 1
    assert small.row_bytes == 2 * DECODER_BYTES
