"""The written report: self-contained, escaped, complete; charts and embedded images say what they show."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungfast.report import charts, heat
from lungfast.report.embedded import example_images, safe_json
from lungfast.report.further import further_tables
from lungfast.report.material import Material
from lungfast.report.svg import Scale, log_steps, steps
from lungfast.report.writing import write_report
from tests.report.material import examples, material

HOSTILE = "</script><script>alert(1)</script>&\"'<img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """Every element with its attributes, and the text of the scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def written(made: Material, folder: Path) -> str:
    paths = write_report(made, folder)
    assert [path.name for path in paths] == ["report.html", "report.md", "tables.tex", "tables.csv"]
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths}
    return paths[0].read_text(encoding="utf-8")


def test_one_file_that_needs_no_network(tmp_path: Path) -> None:
    page = written(material(), tmp_path)
    tags = Tags(page)
    for tag, attributes in tags.found:
        for name in ("src", "href", "xlink:href", "action"):
            link = attributes.get(name) or ""
            assert link[:1] in {"", "#"} or link.startswith("data:"), (tag, link)
    assert not re.search(r"@import|url\(", page)
    assert "default-src 'none'" in page
    assert len(page) < 5_000_000
    (html,) = tags.named("html")
    assert html["lang"] == "en"


def test_everything_drawn_has_words(tmp_path: Path) -> None:
    tags = Tags(written(material(), tmp_path))
    drawings = [one for one in tags.named("svg") if one.get("aria-hidden") != "true"]
    assert len(drawings) == 2 * (6 + 5 + 1 + 1)  # learning curves, thresholds, strips, jitter
    assert all(one.get("role") == "img" and len(one["aria-label"] or "") > 30 for one in drawings)
    assert all("alt" in image for image in tags.named("img"))
    assert all(one.get("scope") for one in tags.named("th"))
    (slider,) = [one for one in tags.named("input") if one.get("type") == "range"]
    assert any(one.get("for") == slider["id"] for one in tags.named("label"))
    targets = {one.get("id") for _, one in tags.found}
    assert {(one["href"] or "")[1:] for one in tags.named("a")} <= targets


def test_names_from_data_are_text(tmp_path: Path) -> None:
    plain = Tags(written(material(), tmp_path / "plain"))
    hostile = material(["montgomery", f"set{HOSTILE}"], hostile=HOSTILE)
    tags = Tags(written(hostile, tmp_path / "hostile"))
    assert len(tags.scripts) == len(plain.scripts) == 2
    assert not any("onerror" in one for _, one in tags.found)
    assert "alert(" not in tags.scripts[1]
    data = json.loads(tags.scripts[0])
    assert len(data["curves"]) == 10


def test_embedded_json_cannot_end_its_element() -> None:
    text = safe_json({"a": HOSTILE + "\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text)["a"] == HOSTILE + "\u2028"


def test_it_says_when_it_shows_patients(tmp_path: Path) -> None:
    patients = written(material(generated=False), tmp_path / "a")
    assert patients.count("X-rays of patients") >= 3  # at the top and at each set's images
    generated = written(material(generated=True), tmp_path / "b")
    assert "shows X-rays of patients" not in generated
    assert "Generated X-rays, not of patients" in generated
    assert "generated X-rays, drawn by a program" in generated
    assert "drawn by a program" not in patients


def test_what_was_left_out_and_how_fast_it_went_is_said(tmp_path: Path) -> None:
    made = material(["mine"])
    pace = {"decoders": 9, "ms_a_step": 130.4, "ms_a_decoder_and_image": 1.81, "peak_memory_mb": 1950}
    sets = {"mine": {**made.sets["mine"], "cv": {**made.sets["mine"]["cv"], "pace": [pace]}}}
    page = written(replace(made, sets=sets, left_out=["mine: unet is left out: no previews"]), tmp_path)
    assert "Left out of this report" in page
    assert "mine: unet is left out: no previews" in page
    assert "Studies left out: 1" in page
    assert "9 at once, 130 ms a step" in page
    assert "mine: unet is left out: no previews" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("study", ["baseline", "grid", "cv", "thresholds", "unet", "jitter", "quality"])
def test_a_single_study_can_be_reported(tmp_path: Path, study: str) -> None:
    made = material(["mine"])
    alone = Material(title=study, sets={"mine": {study: made.sets["mine"][study]}})
    assert "Traceback" not in written(alone, tmp_path)


def test_transfer_alone_and_nothing_at_all(tmp_path: Path) -> None:
    whole = material()
    transfer = replace(whole, sets={name: {} for name in whole.sets}, examples={}, timings=())
    assert "trained on Shenzhen" in written(transfer, tmp_path / "transfer")
    alone = written(replace(transfer, sets={}), tmp_path / "alone")
    assert "encoder nano (not SAM)" in alone
    assert "transfer between Montgomery and Shenzhen" in alone
    assert "Nothing was measured" in written(Material(title="", sets={}), tmp_path / "nothing")


def test_an_unvalidated_epoch_and_a_diverged_grid(tmp_path: Path) -> None:
    made = material(["mine"], epochs=4)
    for one in made.sets["mine"]["cv"]["history"]:
        one["val_loss"][0::2] = [None, None]
        one["train_loss"][3] = None
    for row in made.sets["mine"]["grid"]["rows"][:8]:
        row.update(val_f1=None, val_iou=None, threshold=None, status="diverged")
    assert "diverged" in written(made, tmp_path)


def test_the_same_material_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_report(material(), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_the_thresholds_in_the_page_are_those_of_the_results(tmp_path: Path) -> None:
    made = material(["mine"])
    data = json.loads(Tags(written(made, tmp_path)).scripts[0])
    curve = made.sets["mine"]["cv"]["rows"][1]["curve"]
    assert data["curves"][1]["lines"]["test_iou"] == pytest.approx(curve["test_iou"], abs=1e-5)


def test_examples_keep_every_counted_pixel() -> None:
    (example, *_) = examples(np.random.default_rng(0), generated=True, hostile="", side=64)
    uris = example_images(example)
    for name, expected in (("prob", example.prob_HW), ("truth", example.truth_HW * np.uint8(255))):
        content = base64.b64decode(uris[name].split(",")[1])
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), expected)


def test_scales() -> None:
    error = Scale(low=0, high=0.99, start=0, end=100, kind="towards one")
    assert [round(error(value)) for value in (0, 0.9, 0.99, 1.5, -1)] == [0, 50, 100, 100, 0]
    assert Scale(low=0.01, high=1, start=100, end=0, kind="log")(0.1) == pytest.approx(50)
    assert Scale(low=2, high=2, start=0, end=9)(2) == 0
    assert steps(0, 150) == [0, 50, 100, 150]
    assert log_steps(0.04, 0.6) == pytest.approx([0.05, 0.1, 0.2, 0.5])
    assert log_steps(0.11, 0.17) == pytest.approx([0.12, 0.14, 0.16])


def test_the_page_has_every_table(tmp_path: Path) -> None:
    made = material()
    page = written(made, tmp_path)
    missing = [name for name in further_tables(made) if f'id="table-{name}"' not in page]
    assert not missing


def test_a_grid_over_prompts_and_seeds_is_a_map_each() -> None:
    made = material(["montgomery"])
    content = dict(made.sets["montgomery"]["grid"])
    first = content["rows"]
    content["rows"] = [
        *first,
        *({**row, "prompt": "box", "val_f1": 0.5, "decoder": f"box-{row['decoder']}"} for row in first),
    ]
    made.sets["montgomery"]["grid"] = content
    points, box = heat.grids(made)
    assert ("points" in points.caption, "box" in box.caption) == (True, True)
    cells = [[cell for _, row in one.rows for cell in row] for one in (points, box)]
    assert [sum(cell.best for cell in some) for some in cells] == [1, 0]
    assert all(cell.text == "0.5000" for cell in cells[1])


def test_numbers_on_an_axis_do_not_touch() -> None:
    scale = Scale(low=0, high=160, start=40, end=240)
    assert charts._spaced([0, 5, 10, 20, 40, 80, 160], scale) == [0, 20, 40, 80, 160]
    assert charts._spaced([0, 20, 80], scale) == [0, 20, 80]
