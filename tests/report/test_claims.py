"""The paper's claims: each verdict follows from the figures under its stated rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lungfast.report.claims import Claim, claims
from lungfast.report.comparing import between, turned
from lungfast.report.material import Material
from lungfast.report.summary import summary
from tests.report.material import comparison, material

HOLDS, FAILS, UNTESTED = "holds", "does not hold here", "not tested here"


def judged(made: Material, name: str) -> Claim:
    (claim,) = [claim for claim in claims(made) if claim.name == name]
    return claim


def sets_of(made: Material) -> list[dict[str, Any]]:
    return [dict(studies) for studies in made.sets.values()]


def test_nine_claims_each_with_a_rule_and_figures() -> None:
    found = claims(material())
    assert len(found) == 9
    assert all(claim.rule and claim.figures and claim.where for claim in found)
    assert all(claim.verdict in {HOLDS, FAILS, UNTESTED} for claim in found)


def test_nothing_run_nothing_judged() -> None:
    empty = Material(title="empty", sets={"mine": {}})
    assert {claim.verdict for claim in claims(empty)} == {UNTESTED}
    assert len(summary(empty, claims(empty))) == 5


def test_fine_tuning_is_judged_by_paired_differences() -> None:
    for encoder in ("nano", "vit_b"):
        assert judged(material(encoder=encoder), "fine-tuning").verdict == HOLDS
    made = material(["mine"], encoder="vit_b")
    made.sets["mine"]["baseline"]["comparisons"] = [
        comparison("fine-tuning", "points", "zero-shot", -0.01, 40)
    ]
    assert judged(made, "fine-tuning").verdict == FAILS


def test_points_need_all_three_prompts_and_both_differences() -> None:
    made = material(["mine"])
    assert judged(made, "points").verdict == FAILS
    content = made.sets["mine"]["cv"]
    content["comparisons"] = [comparison("prompts", "points", other, 0.01, 40) for other in ("box", "both")]
    for row in content["rows"]:
        row["f1"]["mean"] = 0.9 + 0.05 * (row["prompt"] == "points")
    assert judged(made, "points").verdict == HOLDS
    content["comparisons"][1] = comparison("prompts", "points", "both", 0.001, 40)
    assert judged(made, "points").verdict == FAILS
    content["rows"] = [row for row in content["rows"] if row["prompt"] in {"points", "box-auto"}]
    assert judged(made, "points").verdict == UNTESTED


def test_loss_by_pairs_and_by_the_grid() -> None:
    made = material(["mine"])
    assert judged(made, "loss").verdict == UNTESTED
    rows = made.sets["mine"]["grid"]["rows"]
    made.sets["mine"]["grid"]["rows"] = rows + [{**row, "loss": "dicece", "val_f1": 0.5} for row in rows]
    assert judged(made, "loss").verdict == HOLDS
    content = made.sets["mine"]["cv"]
    points = content["rows"][0]
    content["rows"] = [{**points, "key": f"points, {loss}", "loss": loss} for loss in ("dicefocal", "dicece")]
    content["comparisons"] = [comparison("losses", "points, dicece", "points, dicefocal", 0.02, 40)]
    assert judged(made, "loss").verdict == FAILS


def test_epochs_need_more_than_a_hundred() -> None:
    assert judged(material(epochs=100), "epochs").verdict == UNTESTED
    made = material(["mine"], epochs=150)
    for one in made.sets["mine"]["cv"]["history"]:
        one["settled"] = 90
    assert judged(made, "epochs").verdict == HOLDS
    made.sets["mine"]["cv"]["history"][3]["settled"] = 101
    claim = judged(made, "epochs")
    assert claim.verdict == FAILS
    assert "24 of 25" in claim.figures[0]


def test_thresholds_by_spread_and_by_the_collapse_of_the_box() -> None:
    made = material(["shenzhen"])
    assert judged(made, "thresholds").verdict == FAILS
    for row in made.sets["shenzhen"]["thresholds"]["rows"]:
        row["val_f1"] = [max(0.0, 0.9 - 3 * abs(t - 0.5)) for t in row["thresholds"]]
    claim = judged(made, "thresholds")
    assert claim.verdict == HOLDS
    assert any("(paper: 0.837)" in figure for figure in claim.figures)


def test_hyperparameters_need_the_papers_grid() -> None:
    made = material(["mine"])
    assert judged(made, "hyperparameters").verdict == FAILS
    grid = made.sets["mine"]["grid"]
    grid["best"] = {**grid["rows"][0], "test": None}
    assert judged(made, "hyperparameters").verdict == HOLDS
    grid["rows"] = grid["rows"][:4]
    assert judged(made, "hyperparameters").verdict == UNTESTED


def test_transfer_is_judged_on_shenzhen_alone() -> None:
    made = material()
    claim = judged(made, "transfer")
    assert claim.verdict == FAILS
    assert all(figure.startswith("Shenzhen") for figure in claim.figures)
    better = comparison("transfer", "montgomery→shenzhen", "shenzhen→shenzhen", 0.02, 566)
    better |= {"of": "points", "tested_on": "shenzhen"}
    made = replace(made, transfer={**(made.transfer or {}), "comparisons": [better]})
    assert judged(made, "transfer").verdict == HOLDS
    assert judged(material(("one", "two")), "transfer").verdict == UNTESTED


def test_near_a_unet_is_the_lower_end_above_the_papers_gap() -> None:
    made = material(["shenzhen"])
    assert judged(made, "unet").verdict == HOLDS
    for difference, verdict in ((-0.022, HOLDS), (-0.024, FAILS)):  # the interval is ± 0.003, the gap 0.026
        made.sets["shenzhen"]["unet"]["comparisons"] = [
            comparison("unet", "unet", "points", -difference, 566)
        ]
        assert judged(made, "unet").verdict == verdict


def test_what_is_not_shown_is_told_from_what_is_contradicted() -> None:
    made = material(["mine"], encoder="vit_b")
    content = made.sets["mine"]["baseline"]
    for difference, ci95, says in (
        (0.001, [-0.001, 0.003], "neither shown nor"),
        (-0.01, None, "contradicted by 1"),
    ):
        one = comparison("fine-tuning", "points", "zero-shot", difference, 40)
        content["comparisons"] = [{**one, "p_holm": 0.3, "ci95": ci95 or [-0.02, -0.001]}]
        claim = judged(made, "fine-tuning")
        assert claim.verdict == FAILS
        assert says in claim.figures[-1]
        assert "Holm's p = 0.300" in claim.figures[-2]


def test_a_claim_that_fails_in_one_set_does_not_hold() -> None:
    made = material(["one", "two"])
    made.sets["two"]["cv"]["rows"][0]["f1_image"] = {"mean": 0.61, "n": 40, "ci95": [0.59, 0.63]}
    assert judged(made, "sixty").verdict == FAILS


def test_a_comparison_turned_round() -> None:
    one = comparison("prompts", "box", "points", 0.01, 40)
    found = between([one], "points", "box")
    assert found is not None
    assert found["difference"] == -0.01
    assert found["ci95"] == [-one["ci95"][1], -one["ci95"][0]]
    assert found["t"]["t"] == -one["t"]["t"]
    assert turned(found) == {**one, "name": "box − points"}  # noqa: RUF001
    assert turned({**one, "t": {**one["t"], "t": None}})["t"]["t"] is None


def test_five_lines() -> None:
    for made in (material(), material(["mine"], encoder="vit_b"), material(generated=False)):
        lines = summary(made, claims(made))
        assert len(lines) == 5
        assert all(line.endswith(".") and "\n" not in line for line in lines)
    assert "nano is not SAM" in summary(material(generated=False), [])[-1]
    assert "generated" in summary(material(), [])[-1]


def test_the_best_figure_of_a_run_alone() -> None:
    """A U-Net's, and those at home of a transfer, where nothing else was run."""
    made = material()
    (name, *_), row = made.sets, {"key": "U-Net", "f1": {"mean": 0.91, "std": 0.01, "folds": [0.9, 0.92]}}
    unet = replace(made, sets={name: {"unet": {"rows": [row]}}}, transfer=None)
    assert "0.910 ± 0.010 from U-Net" in summary(unet, [])[1]
    f1 = {"mean": 0.93, "std": 0.01, "folds": [0.92, 0.94]}
    home = {"key": "", "of": "points", "train": name, "test": name, "f1": f1, "needs_ground_truth": False}
    better = {**home, "of": "both-auto", "f1": {**f1, "mean": 0.94}}
    oracle = {**home, "of": "box", "f1": {**f1, "mean": 0.95}, "needs_ground_truth": True}
    away = {**oracle, "train": "another", "needs_ground_truth": False}
    moved = replace(made, sets={name: {}}, transfer={"rows": [home, better, oracle, away]})
    assert "()" not in summary(moved, [])[0]
    assert "0.940 ± 0.010 from both-auto." in summary(moved, [])[1]
    alone = replace(moved, transfer={"rows": [oracle]})
    assert summary(alone, [])[1] == "No F1 was measured over folds."
    drawn = replace(unet, sets={"generated montgomery": unet.sets[name]}, generated=frozenset())
    assert "generated generated" not in summary(replace(drawn, generated=frozenset(drawn.sets)), [])[1]
