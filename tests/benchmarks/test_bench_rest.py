"""The benchmarks of reading and of memory run at tiny sizes; the checkpoint of random weights is SAM's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench_cache, bench_embed, bench_memory, bench_recipe
from lungfast.frozen.checkpoints import read_checkpoint


def test_reading() -> None:
    (table,) = json.loads(bench_cache.main(["--quick"]).read_text())["tables"]
    assert table[0]["rate against fromfile"] == pytest.approx(1.0)
    assert all(row["GB/s"] > 0 for row in table)


@pytest.mark.process
def test_memory() -> None:
    path = bench_memory.main(["--quick"])
    assert path is not None
    runs, rows = json.loads(path.read_text())["tables"]
    assert [run["rows"] for run in runs] == [row["rows"] for row in rows] == [20, 60]
    assert all(run["peak anonymous memory, MB"] > 50 for run in runs)


def test_the_ablation_of_the_recipe_never_scores_test_images(tmp_path: Path) -> None:
    record = bench_recipe.main(["--quick", "-o", str(tmp_path), "--sets", "montgomery"])
    arms, caches = json.loads(record.read_text())["tables"]
    assert [row["arm"] for row in arms] == ["best", "no views"]
    assert all(0 <= row[f"M: {name}"] <= 1 for row in arms for name in bench_recipe.MEASURED)
    assert {row["cache"] for row in caches} == {"montgomery-both-2", "shenzhen-both-2"}
    assert not list(tmp_path.rglob("per_image.csv"))


def test_a_random_checkpoint_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    bench_embed.random_checkpoint("vit_b", path)
    assert read_checkpoint(path).kind == "vit_b"
    path.unlink()
