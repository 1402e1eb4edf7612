"""Tables I to VI: the numbers are those of the results, the paper's stand beside them, nano is never SAM."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from lungfast.report import paper
from lungfast.report.further import duration, further_tables
from lungfast.report.latex import escape as tex
from lungfast.report.latex import latex
from lungfast.report.markdown import escape as md
from lungfast.report.markdown import table as md_table
from lungfast.report.material import Material
from lungfast.report.spreadsheet import spreadsheet
from lungfast.report.table import Cell, Table, signed
from lungfast.report.tables import paper_tables
from tests.report.material import F1, material


def column(table: Table, name: str) -> list[str]:
    return [row[table.columns.index(name)].text for row in table.rows]


def find(table: Table, *heads: str) -> dict[str, Cell]:
    (row,) = [row for row in table.rows if [cell.text for cell in row[: len(heads)]] == list(heads)]
    return dict(zip(table.columns, row, strict=True))


def only(made: Material, **studies: bool) -> Material:
    """The same with some studies of every set."""
    sets = {name: {key: found[key] for key in studies} for name, found in made.sets.items()}
    return replace(made, sets=sets, transfer=None, timings=(), examples={})


def test_the_papers_figures_are_as_printed() -> None:
    assert len(paper.FIGURES) == 12 + 30 + 8 + 12 + 4
    points = paper.figure("I", "Montgomery", prompt="points")
    assert points is not None
    assert (points.mean, points.std) == (0.860, 0.013)
    box = paper.figure("II", "shenzhen", "val_f1", prompt="box", threshold=0.55)
    assert box is not None
    assert box.mean == 0.127
    away = paper.figure("IV", "shenzhen", "iou", train="montgomery")
    assert away is not None
    assert away.mean == 0.875
    assert paper.unet_gap("montgomery") == 0.030
    assert paper.unet_gap("shenzhen") == 0.026
    assert paper.figure("V", "mine", prompt="points") is None


def test_ours_and_the_papers_stand_side_by_side() -> None:
    made = material(generated=False)
    table = paper_tables(made)["V"]
    row = find(table, "Shenzhen", "points")
    mean = made.sets["shenzhen"]["cv"]["rows"][0]["f1"]["mean"]
    assert row["F1"].value == mean
    assert row["Paper (V): F1"].text == "0.915 ± 0.011"
    assert row["F1 − paper"].text == signed(mean - 0.915)  # noqa: RUF001
    assert row["n"].text == "566"
    assert find(table, "Shenzhen", "box-auto")["Paper (V): F1"].text == "–"  # noqa: RUF001


def test_the_best_is_bold_and_where_it_is_an_oracle_the_best_without_too() -> None:
    table = paper_tables(material(["montgomery"]))["V"]
    bold = {row[1].text for row in table.rows if row[2].bold}
    done = {row[1].text: row[2].value or 0.0 for row in table.rows}
    free = {name: value for name, value in done.items() if "†" not in name}
    assert bold == {max(done, key=done.__getitem__), max(free, key=free.__getitem__)}
    assert any(note.startswith("†") for note in table.notes)


def test_what_prints_the_same_is_bold_alike() -> None:
    made = material(["montgomery"])
    for row, mean in zip(made.sets["montgomery"]["cv"]["rows"], (0.9561, 0.96, 0.9604), strict=False):
        row["f1"]["mean"] = mean
    for row in made.sets["montgomery"]["cv"]["rows"][3:]:
        row["f1"]["mean"] = 0.9559
    table = paper_tables(made)["V"]
    bold = [row[2].text[:5] for row in table.rows if row[2].bold]
    assert bold == ["0.956", "0.960", "0.960", "0.956", "0.956"]


def test_a_decoder_that_was_never_trained_is_not_held_against_the_paper() -> None:
    made = material(["montgomery"], encoder="vit_b", generated=False)
    for row in made.sets["montgomery"]["baseline"]["rows"]:
        row["untrained"] = True
    table = paper_tables(made)["I"]
    row = find(table, "Montgomery", "points (untrained, chance level)")
    assert row[table.columns[-1]].text == "untrained, chance level"


def test_before_fine_tuning_stands_beside_the_paper() -> None:
    for encoder in ("nano", "vit_b"):
        table = paper_tables(material(encoder=encoder, generated=False))["I"]
        assert find(table, "Montgomery", "points")[table.columns[-1]].value is not None


def test_nano_is_never_sam() -> None:
    for table in paper_tables(material()).values():
        assert "nano (not SAM)" in table.caption
        assert any("It is not SAM" in note for note in table.notes)
    sam = paper_tables(material(encoder="vit_b"))["V"]
    assert "encoder SAM ViT-B" in sam.caption
    assert not any("not SAM" in note for note in sam.notes)


def test_sams_architecture_with_other_weights_is_not_sam() -> None:
    made = material(["montgomery"], encoder="vit_b", generated=False)
    spec = made.sets["montgomery"]["cv"]["provenance"]["cache"]["encoder"]
    spec["weights_sha256"] = "0" * 64
    assert "(not SAM)" in paper_tables(made)["V"].caption


def test_no_difference_is_taken_on_generated_x_rays() -> None:
    table = paper_tables(material(generated=True))["V"]
    assert find(table, "Montgomery", "points")[table.columns[-1]].text == "generated X-rays"
    assert table.caption.endswith("generated X-rays")
    assert "generated" not in paper_tables(material(generated=False))["V"].caption


def test_table_ii_marks_the_best_threshold_of_each() -> None:
    table = paper_tables(material(["shenzhen"]))["II"]
    rows = {row[1].text: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert [name for name, row in rows.items() if row["Paper (II): points"].bold] == ["0.55"]
    assert [name for name, row in rows.items() if row["points"].bold] == ["0.50"]
    assert rows["chosen"]["points"].text == "0.46"
    assert rows["test F1 at the chosen"]["points"].value == pytest.approx(F1["points"] - 0.004)
    assert any("highest outside the paper's five: points 0.46" in note for note in table.notes)


def test_table_ii_from_cv_alone() -> None:
    made = only(material(["shenzhen"]), cv=True, thresholds=True)
    read_off = [{**row, "val_f1": row["curve"]["val_f1"]} for row in made.sets["shenzhen"]["cv"]["rows"]]
    made.sets["shenzhen"]["thresholds"]["rows"][:] = read_off  # as reproduce does: cv knows more than these
    table = paper_tables(made)["II"]
    chosen = next(row for row in table.rows if row[1].text == "chosen")
    assert chosen[2].text == "0.44–0.48"  # noqa: RUF001
    assert any("folds of cv" in note for note in table.notes)


def test_the_papers_thresholds_stand_beside_its_own_loss_alone() -> None:
    """A row of the study of thresholds names its loss in its key and nowhere else."""
    made = only(material(["shenzhen"]), thresholds=True)
    rows = made.sets["shenzhen"]["thresholds"]["rows"]
    rows.append({**rows[0], "key": "points, dicece", "prompt": "points, dicece"})
    rows[-1].pop("loss", None)
    columns = paper_tables(made)["II"].columns
    assert "points (DiceCE)" in columns
    assert "Paper (II): points" in columns
    assert "Paper (II): points (DiceCE)" not in columns


def test_transfer_tables_by_the_papers_numbers() -> None:
    tables = paper_tables(material(("shenzhen", "montgomery"), generated=False))
    assert "tested on Montgomery" in tables["III"].caption
    assert "tested on Shenzhen" in tables["IV"].caption
    assert column(tables["III"], "Images") == ["same fold", "same fold", "all", "all, together"] * 2
    prompts = [text.split()[0] for text in column(tables["IV"], "Prompt")]
    assert prompts == ["points"] * 4 + ["box"] * 4
    assert column(tables["IV"], "Paper (IV): F1")[:2] == ["0.933", "0.915"]
    assert any(note.startswith("Paired") for note in tables["IV"].notes)
    own = paper_tables(material(("one", "two")))
    assert "tested on one" in own["III"].caption
    assert "tested on two" in own["IV"].caption


def test_what_was_not_run_says_so() -> None:
    tables = paper_tables(only(material(["mine"]), cv=True))
    assert tables["V"].rows
    for number, command in (("I", "baseline"), ("III", "transfer"), ("IV", "transfer"), ("VI", "unet")):
        assert not tables[number].rows
        assert f"lungfast {command}" in tables[number].notes[0]
    assert set(further_tables(only(material(["mine"]), grid=True))) == {"grid"}


def test_a_diverged_row_is_told_not_dropped() -> None:
    made = material(["montgomery"])
    rows = made.sets["montgomery"]["cv"]["rows"]
    nothing = dict.fromkeys(("f1", "iou", "precision", "recall", "f1_image", "iou_image", "f1_p05"))
    rows[0].update(nothing, status="diverged", curve=None, strata=[])
    table = paper_tables(made)["V"]
    assert "points" not in column(table, "Prompt")
    assert any("points: no result" in note for note in table.notes)


def test_further_tables() -> None:
    tables = further_tables(material())
    assert set(tables) == {
        "comparisons", "curves", "grid", "strata", "jitter", "surface", "cleaned",
        "calibration", "robustness", "quality", "times",
    }  # fmt: skip
    assert find(tables["comparisons"], "Montgomery", "prompts", "points − box")["Mean"].bold  # noqa: RUF001
    calibrated = find(tables["calibration"], "Montgomery", "points")
    assert [calibrated[name].text for name in ("ECE", "Lowest fold", "Highest fold")] == [
        "0.0123", "0.0110", "0.0140",
    ]  # fmt: skip
    assert (calibrated["Threshold from"].text, calibrated["to"].text) == ("0.44", "0.48")
    spoilt = find(tables["robustness"], "Montgomery", "paper", "inverted")
    assert (spoilt["Change"].value, spoilt["5th percentile"].text) == (-0.31, "0.5900")
    assert find(tables["quality"], "Montgomery", "test")["Note"].text == "too few"
    won = [row for row in tables["grid"].rows if row[7].bold]
    assert [row[1].text for row in won] == ["0.001", "0.001"]
    assert [duration(seconds) for seconds in (4.2, 41, 425, 7380)] == [
        "4.2 s",
        "41 s",
        "7 min 05 s",
        "2 h 03 min",
    ]


def test_a_table_as_json_keeps_the_numbers() -> None:
    content = json.loads(json.dumps(paper_tables(material(["montgomery"]))["V"].as_dict(), allow_nan=False))
    assert content["rows"][0]["Prompt"] == "points"
    assert content["values"][0]["F1"] == pytest.approx(float(content["rows"][0]["F1"][:5]), abs=5e-4)
    assert set(content) == {"caption", "columns", "rows", "values", "notes"}


def test_names_are_text_in_latex_and_markdown() -> None:
    assert tex(r"50%_a & {b} \x ~^#$ <i>") == (
        r"50\%\_a \& \{b\} \textbackslash{}x \textasciitilde{}\textasciicircum{}\#\$ "
        r"\textless{}i\textgreater{}"
    )
    assert md("a|b *c* <script> [x](y) `z`") == r"a\|b \*c\* \<script\> \[x\](y) \`z\`"
    text = latex(paper_tables(material(["a_b%&"])))
    assert r"a\_b\%\& & points" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\bottomrule") == text.count(r"\end{table*}")
    lines = [line for line in md_table(paper_tables(material(["a|b"]))["V"]).splitlines() if line[:1] == "|"]
    assert len({line.replace(r"\|", "").count("|") for line in lines}) == 1


def test_the_spreadsheet_has_every_cell_and_no_formula() -> None:
    tables = {"V": paper_tables(material(["=HYPERLINK(1)"]))["V"]}
    rows = list(csv.DictReader(io.StringIO(spreadsheet(tables))))
    assert len(rows) == len(tables["V"].rows) * (len(tables["V"].columns) - 2)
    assert all(row["names"].startswith("'=HYPERLINK") for row in rows)
    first = next(row for row in rows if row["column"] == "F1")
    assert float(first["value"]) == tables["V"].rows[0][2].value
