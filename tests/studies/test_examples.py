"""Best, median and worst masks, kept with a run."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from lungfast.api import CvConfig, Lab, prompts
from lungfast.studies.examples import ARRAYS, NOTES, choose_examples, write_examples
from lungfast.studies.models import FinishedRun


def content_of(f1: list[float]) -> dict[str, object]:
    names = [f"image-{i}" for i in range(len(f1))]
    return {"images": {"id": names, "fold": ["fold-0"] * len(f1), "f1": {"points": f1}}}


def test_best_median_and_worst_are_taken_once() -> None:
    f1 = np.linspace(0.5, 0.99, 30).tolist()
    chosen = choose_examples(content_of(f1), "points")
    by_kind = {kind: [one.id for one in chosen if one.kind == kind] for kind in ("best", "median", "worst")}
    assert by_kind["best"] == ["image-29", "image-28"]
    assert by_kind["worst"] == ["image-0", "image-1", "image-2", "image-3"]
    assert set(by_kind["median"]) == {"image-14", "image-15"}


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_images_are_shown_once_each(n: int) -> None:
    chosen = choose_examples(content_of(np.linspace(0.9, 0.8, n).tolist()), "points")
    assert sorted(one.id for one in chosen) == [f"image-{i}" for i in range(n)]


def test_the_f1_beside_a_mask_is_of_that_mask(nano_cache: str, tmp_path: Path) -> None:
    lab = Lab(nano_cache, precision="fp32", compile="off")
    config = CvConfig(prompts=prompts("points"), lrs=(1e-3,), folds=3, seeds=(4, 5))
    lab.run(config, tmp_path / "cv", epochs=1)
    write_examples(FinishedRun.open(tmp_path / "cv"), lab.workspace, 2**30)
    with (tmp_path / "cv" / "per_image.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "test" and row["seed"] == "4"]
    f1 = {row["image"]: float(row["f1"]) for row in rows}
    notes = json.loads((tmp_path / "cv" / NOTES).read_text())
    assert {one["kind"] for one in notes} == {"best", "median", "worst"}
    assert [one["f1"] for one in notes] == [pytest.approx(f1[one["id"]], abs=1e-6) for one in notes]
    with np.load(tmp_path / "cv" / ARRAYS) as arrays:
        shown = {name: arrays[f"{name}-0"] for name in ("preview", "truth", "prob")}
    assert len({array.shape for array in shown.values()}) == 1
    assert max(shown["preview"].shape) == 320
