"""Perturbed films, embedded anew and scored by the decoders that had them as test images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungfast.data.datasets import list_montgomery, list_shenzhen
from lungfast.data.perturbations import ROBUSTNESS, PerturbedRef
from lungfast.errors import DataError, UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.encoders import load_encoder
from lungfast.frozen.prompts import PromptConfig
from lungfast.runs import open_run
from lungfast.studies.models import FinishedRun
from lungfast.studies.robustness import (
    AS_IT_IS,
    CACHES,
    RobustnessConfig,
    Sources,
    Subject,
    _row,
    opened_by_name,
    robustness,
)
from lungfast.studies.session import Quiet
from lungfast.studies.workspace import Workspace
from tests.commands.test_bad_input import refuse
from tests.commands.test_studies import done, read

TWO = ("inverted", "shifted 5 %")


@pytest.fixture(scope="module")
def parts(phantoms: Path, nano_cache: str, trained_run: Path) -> tuple[FinishedRun, Workspace, Sources]:
    encoder = load_encoder("nano", device=torch.device("cpu"))
    sources = Sources(listing=list_montgomery(phantoms), encoder=encoder, batch_size=1, listener=Quiet())
    return FinishedRun.open(trained_run), Workspace(nano_cache, device=torch.device("cpu")), sources


def test_intervals_are_over_patients() -> None:
    """Two films of a patient count as one draw."""
    f1 = {"a1": 0.9, "a2": 0.9, "b1": 0.8, "b2": 0.8, "c1": 0.7, "c2": 0.7}
    model = SimpleNamespace(prompt=PromptConfig(kind="points"))
    rows = [
        _row(Subject(name="run", models=(model,), tests={}, patients=patients), "x", f1, f1, 0)  # type: ignore[arg-type]
        for patients in ({one: one for one in f1}, {one: one[0] for one in f1})
    ]
    widths = [high - low for low, high in (row["f1_image"]["ci95"] for row in rows)]
    assert widths[0] < widths[1]


def test_every_run_is_judged_on_the_same_perturbed_films(
    parts: tuple[FinishedRun, Workspace, Sources], tmp_path: Path
) -> None:
    run, home, sources = parts
    config = RobustnessConfig(runs=("a", "b"), results_sha256=("", ""), images=5, perturbations=TWO)
    body = robustness(config, {"a": run, "b": run}, home, sources, 4 << 30)
    with open_run(tmp_path / "r", {"study": "robustness", "settings": {}}, resume=False) as folder:
        rows = body(folder, {})["rows"]
    names = [(row["run"], row["perturbation"]) for row in rows]
    expected = [one.name for one in ROBUSTNESS if one.name in TWO]
    assert names == [(run, name) for name in (AS_IT_IS, *expected) for run in ("a", "b")]
    for one, two in zip(rows[::2], rows[1::2], strict=True):
        assert one["f1_image"] == two["f1_image"]
        assert one["f1_image"]["n"] == 5
        change = one["f1_image"]["mean"] - rows[0]["f1_image"]["mean"]
        assert one["change"]["mean"] == pytest.approx(change, abs=1e-12)
    # what the decoders of the run scored on these images when it was made
    whole = run.content["images"]
    f1 = dict(zip(whole["id"], whole["f1"]["points"], strict=True))
    made = EmbeddingCache.open(str(next((tmp_path / "r" / CACHES).glob("inverted.zarr"))))
    kept = [f1[record.id] for record in made.images]
    assert rows[0]["f1_image"]["mean"] == pytest.approx(np.mean(kept), abs=1e-9)


def test_a_perturbed_sample_is_another_image_with_its_lungs_as_one(phantoms: Path) -> None:
    ref = list_montgomery(phantoms).refs[0]
    plain = ref.load()
    for change in ROBUSTNESS:
        spoilt = PerturbedRef(ref=ref, perturbation=change)
        sample = spoilt.load()
        assert spoilt.id == sample.id == plain.id
        assert spoilt.facts != ref.facts
        assert set(sample.masks) == {"lungs"}
        assert sample.masks["lungs"].shape == sample.image_HW.shape
        assert sample.content_sha256 != plain.content_sha256
        assert sample.content_sha256 == spoilt.load().content_sha256


def test_other_images_are_refused(parts: tuple[FinishedRun, Workspace, Sources], phantoms: Path) -> None:
    run, home, sources = parts
    config = RobustnessConfig(runs=("a",), results_sha256=("",))
    others = replace(sources, listing=list_shenzhen(phantoms, None))
    with pytest.raises(DataError, match="the sources hold none of the images that the runs tested"):
        robustness(config, {"a": run}, home, others, 4 << 30)
    with pytest.raises(UsageError, match="two runs have the same name; found cv, cv"):
        opened_by_name([Path("x/cv"), Path("y/cv")])


def test_the_command(
    trained_run: Path, phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungfast.studies.robustness.ROBUSTNESS", ROBUSTNESS[:1])
    args = ["robustness", trained_run, "--from", "montgomery", phantoms, "--images", 3]
    result = done(*args, "-o", tmp_path / "r")
    assert ROBUSTNESS[0].name in result.output
    assert [row["perturbation"] for row in read(tmp_path / "r")["rows"]] == [AS_IT_IS, ROBUSTNESS[0].name]
    assert "the set is unknown; found jsrt" in refuse(
        2, "robustness", trained_run, "--from", "jsrt", phantoms, "-o", tmp_path / "x"
    )
    line = refuse(2, "robustness", trained_run, "--from", "pairs", phantoms, "-o", tmp_path / "x")
    assert "pairs need a folder of masks" in line
    assert not (tmp_path / "x").exists()
