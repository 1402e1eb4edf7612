"""How good is the best recipe, can its probabilities be believed, do masks survive what happens to films?

Comes in: :class:`Material`. Goes out: the tables of both recipes (``cv``, ``best``), of calibration errors
and of perturbed films (``robustness``); empty where the study is not there.
"""

from __future__ import annotations

from lungfast.report import comparing
from lungfast.report.facts import finished, label, title
from lungfast.report.material import Material
from lungfast.report.noted import FINE, interval, noted_table
from lungfast.report.table import Cell, Table, difference, number, over_images, spread, words


def recipes_table(material: Material) -> Table:
    """The paper's recipe and the best one on the same folds."""
    rows, notes = [], []
    for name in material.sets:
        best = {row["key"]: row for row in finished(material.study(name, "best"))}
        paper = {row["key"]: row for row in finished(material.study(name, "cv"))}
        for key, row in best.items():
            for recipe, one in (("paper", paper.get(key)), ("best", row)):
                if one:
                    cells = [words(title(name)), words(recipe), words(label(one)), spread(one["f1"])]
                    cells += [over_images(one["f1_image"], FINE), number(one["f1_p05"], FINE)]
                    rows.append([*cells, spread(one["iou"])])
        paired = (material.study(name, "best") or {}).get("comparisons") or ()
        notes += [f"{title(name)}, paired: {comparing.sentence(one)}." for one in paired]
    columns = ("Set", "Recipe", "Prompt", "F1", "F1 per image [95 %]", "5th percentile", "IoU")
    return noted_table("The best recipe beside the paper's", columns, rows, *notes, heads=3)


def calibration_table(material: Material) -> Table:
    """Expected calibration error of test pixels, and the thresholds that validation chose."""
    rows = []
    for name in material.sets:
        studies = [(study, row) for study in ("cv", "best") for row in finished(material.study(name, study))]
        for study, row in studies:
            found = row.get("calibration")
            if found:
                thresholds = sorted(fold["threshold"] for fold in row["per_fold"])
                key = label(row) if study == "cv" else f"{label(row)}, best recipe"
                cells = [words(title(name)), words(key), number(found["ece"], FINE)]
                cells += [number(edge(found["folds"]), FINE) for edge in (min, max)]
                cells += [number(thresholds[end], 2) for end in (0, -1)]
                rows.append(cells)
    columns = ("Set", "Prompt", "ECE", "Lowest fold", "Highest fold", "Threshold from", "to")
    return noted_table(
        "Calibration of the masks' probabilities",
        columns,
        rows,
        "ECE: expected calibration error over all test pixels at native size, in bins of 0.001 to 0.01.",
    )


def robustness_table(material: Material) -> Table:
    """F1 of every run on perturbed films, and its change on the same images."""
    rows, notes = [], []
    for name in material.sets:
        content = material.study(name, "robustness") or {}
        for row in content.get("rows", ()):
            change = row["change"]
            cells = [words(title(name)), words(row["run"]), words(row["perturbation"])]
            cells += [over_images(row["f1_image"], FINE), number(row["f1_p05"], FINE)]
            cells += [difference(change["mean"], FINE), Cell(text=interval(change["ci95"]))]
            rows.append(cells)
        if content.get("rows"):
            n = content["rows"][0]["f1_image"]["n"]
            notes.append(f"{title(name)}: {n} test images, perturbed at native size and embedded again.")
    columns = ("Set", "Run", "Film", "F1 [95 %]", "5th percentile", "Change", "95 %")
    return noted_table("F1 on perturbed films", columns, rows, *notes, heads=3)
