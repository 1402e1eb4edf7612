"""Can the probabilities be believed, and do masks survive what happens to films?

Comes in: :class:`Material`. Goes out: the table of calibration errors (``cv``) and the one of perturbed films
(``robustness``); empty where the study is not there.
"""

from __future__ import annotations

from lungfast.report.facts import finished, label, title
from lungfast.report.material import Material
from lungfast.report.noted import FINE, interval, noted_table
from lungfast.report.table import Cell, Table, difference, number, over_images, words


def calibration_table(material: Material) -> Table:
    """Expected calibration error of test pixels, and the thresholds that validation chose."""
    rows = []
    for name in material.sets:
        for row in finished(material.study(name, "cv")):
            found = row.get("calibration")
            if found:
                thresholds = sorted(fold["threshold"] for fold in row["per_fold"])
                cells = [words(title(name)), words(label(row)), number(found["ece"], FINE)]
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
