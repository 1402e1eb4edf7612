"""The other benchmarks run at tiny sizes, say a line per row, and what they generate is what it claims."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import (
    bench_cache,
    bench_embed,
    bench_exact,
    bench_gpu,
    bench_jobs,
    bench_memory,
    bench_recipe,
    bench_scale,
    bench_techniques,
    films,
    plots,
    weights,
)
from benchmarks.limits import Step, encoder_flop
from lungfast.compute import cpu_has_bf16, resolve_precision
from lungfast.data.datasets import list_montgomery, list_shenzhen
from lungfast.frozen.checkpoints import read_checkpoint

LINE = re.compile(r"^([a-z0-9-]+) ratio [0-9.e+-]+ (target [<>]=[0-9.e+]+|reported)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def rows_said(text: str) -> list[str]:
    return [name for name, _ in LINE.findall(text)]


def test_reading(capsys) -> None:
    whole, batches, compared = json.loads(bench_cache.main(["--quick"]).read_text())["tables"]
    assert rows_said(capsys.readouterr().out) == ["cache-read", "cache-read-warm", "cache-read-from-disk"]
    assert whole[0]["page cache, rate against fromfile"] == pytest.approx(1.0)
    assert all(row["GB/s"] > 0 for row in batches)
    sizes = {row["layout"]: row["bytes on disk"] for row in compared}
    assert sizes["bare, one file"] == 1
    assert all(size < 1 for layout, size in sizes.items() if "zstd" in layout)


def test_arithmetic_is_compared_image_by_image(capsys) -> None:
    default, exact, int8 = json.loads(bench_exact.main(["--quick"]).read_text())["tables"][0]
    assert rows_said(capsys.readouterr().out) == ["f1-exact-montgomery", "f1-int8-montgomery"]
    assert default["less the default"] == default["largest of an image"] == 0
    for row in (exact, int8):
        assert row["images"] == 10
        assert row["95 % from"] <= row["less the default"] <= row["to"]
        assert row["F1"] - default["F1"] == pytest.approx(row["less the default"])
        assert 0 <= row["largest of an image"] < 0.05
    assert int8["largest of an image"] > 0
    is_fp32 = resolve_precision("auto", torch.device("cpu")).name == "fp32"  # so is exact
    assert (exact["largest of an image"] == 0) == is_fp32


def test_every_technique_can_be_switched_off() -> None:
    """And each switch is named; pieces are watched, as a switch may do nothing."""
    record = json.loads(bench_techniques.main(["--quick"]).read_text())
    step, pieces, _, scoring = record["tables"]
    said = {next(iter(row.values())).removeprefix("without: ") for row in (*step, *pieces, *scoring)}
    assert {*bench_techniques.TRAINING, *bench_techniques.SCORING} < said
    assert "pieces of a batch that stay in the cache" in said
    assert all(row["gain"] > 0 for row in (*step, *pieces, *scoring))


def test_embedding(capsys) -> None:
    (table,) = json.loads(bench_embed.main(["--quick"]).read_text())["tables"]
    rows = rows_said(capsys.readouterr().out)
    assert {"embed-vit-b", "embed-vit-b-roofline"} <= set(rows)
    errors = {row["vit_b"]: row["error against fp32"] for row in table}
    assert errors["lungfast fp32"] < 1e-5
    assert errors.get("lungfast bf16", 0) < 0.05
    assert ("lungfast bf16" in errors) == ("embed-vit-b-bf16" in rows) == cpu_has_bf16()


def test_a_gpu(capsys) -> None:
    path = bench_gpu.main(["--quick"])
    assert path is not None
    trained, (limit,), encoded = json.loads(path.read_text())["tables"]
    assert {"train-gpu", "train-gpu-roofline", "stack-9-gpu", "embed-vit-h"} <= set(
        rows_said(capsys.readouterr().out)
    )
    assert all(row["share of the limit"] > 0 for row in trained)
    assert limit["ms an image, products"] > 0
    assert all(row["images/s"] > 0 for row in encoded)


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


def test_growth_is_drawn() -> None:
    record = json.loads(bench_scale.main(["--quick"]).read_text())
    names = ["images", "decoders", "thresholds", "tokens", "prompt-tokens", "cores"]
    assert [plot["name"] for plot in record["plots"]] == names
    for plot in record["plots"]:
        drawn = plots.svg_of(plot)
        assert drawn.count("<polyline") == len(plot["lines"])
        assert 'class="limit"' in drawn
        assert "prefers-color-scheme:dark" in drawn


@pytest.mark.process
def test_a_job_is_timed_command_by_command(capsys) -> None:
    path = bench_jobs.main(["--quick", "--jobs", "grid"])
    assert rows_said(capsys.readouterr().out) == ["job-grid"]
    (table,) = json.loads(path.read_text())["tables"]
    assert table[-1]["s"] == pytest.approx(sum(row["s"] for row in table[:-1]), abs=0.2)


def test_films_of_several_processes_are_one_data_set(tmp_path: Path) -> None:
    films.draw(tmp_path, {"montgomery": 3, "shenzhen": 2}, {"montgomery": 64, "shenzhen": 64})
    assert len(list_montgomery(tmp_path).refs) == 3
    assert len(list_shenzhen(tmp_path, None).refs) == 2


@pytest.mark.parametrize(("name", "mode"), [("montgomery", "L"), ("shenzhen", "RGB")])
def test_large_films_are_drawn_small_and_enlarged(
    name: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the size that was asked for; masks stay masks, films get grain."""
    monkeypatch.setattr(films, "DRAWN_IN_FULL", 128)
    films._draw_part(tmp_path, name, 1, 0, 256)
    found = sorted(tmp_path.rglob("*.png"))
    film = next(path for path in found if path.parent.name == "CXR_png")
    for path in found:
        with Image.open(path) as image:
            assert max(image.size) == 256
            values_HW = np.asarray(image.convert("L"))
            assert image.mode == (mode if path == film else "L")
        if path == film:
            assert np.abs(np.diff(values_HW.astype(int), axis=1)).mean() > 1
        else:
            assert set(np.unique(values_HW).tolist()) == {0, 255}


def test_a_random_checkpoint_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "random.pth"
    weights.random_checkpoint("vit_b", path)
    assert read_checkpoint(path).kind == "vit_b"
    path.unlink()


def test_the_limit_of_an_encoder_is_its_arithmetic() -> None:
    """Of two narrow blocks over 64x64 tokens, counted by hand; of a decoder's step, in the order of SAM's."""
    sam = weights.random_sam(weights.tiny_sam)
    windows, everywhere = 14, 64
    blocks = 2 * 12 * 64**2 + 2 * 64 * (windows**2 + windows + everywhere**2 + everywhere)
    ends = 3 * 16**2 * 64 + 64 * 256 + 9 * 256**2
    assert encoder_flop(sam.image_encoder) == 2 * 4096 * (blocks + ends)
    few, many = (Step(side=64, n_images=8, prompt_tokens=n) for n in (3, 40))
    assert 3e9 < few.flop < many.flop < 4 * few.flop
