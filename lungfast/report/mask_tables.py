"""Tables of what the masks are worth elsewhere: by stratum, under moved boxes, contours, cleaning, the flag.

Comes in: :class:`Material`. Goes out: one table each, without rows where nothing was measured.
"""

from __future__ import annotations

from typing import Any

from lungfast.report import comparing
from lungfast.report.facts import finished, label, title
from lungfast.report.material import Material
from lungfast.report.noted import FINE, interval, noted_table
from lungfast.report.table import (
    Cell,
    Table,
    count,
    difference,
    listed,
    over_images,
    probability,
    spread,
    words,
)

DISTANCES = {"hd95_px": "HD95, px", "assd_px": "ASSD, px", "hd95_mm": "HD95, mm", "assd_mm": "ASSD, mm"}


def strata_table(material: Material) -> Table:
    found = [
        (name, row, stratum)
        for name in material.sets
        for row in finished(material.study(name, "cv"))
        for stratum in row.get("strata") or ()
    ]
    rows = [
        [
            words(title(name)),
            words(label(row)),
            words(f"{stratum['by']} {stratum['value']}"),
            over_images(stratum["f1_image"]),
            over_images(stratum["iou_image"]),
            count(stratum["f1_image"]["n"]),
        ]
        for name, row, stratum in found
    ]
    columns = ("Set", "Prompt", "Images", "F1 per image [95 %]", "IoU per image [95 %]", "n")
    by = dict.fromkeys(stratum["by"] for _, _, stratum in found)
    return noted_table(f"By {listed(list(by))}", columns, rows, heads=3)


def jitter_table(material: Material) -> Table:
    rows = [
        [
            words(title(name)),
            words(label(row)),
            count(row["jitter_px"]),
            spread(row["f1"]),
            over_images(row["f1_image"]),
            over_images(row["iou_image"]),
        ]
        for name in material.sets
        for row in finished(material.study(name, "jitter"))
    ]
    columns = ("Set", "Prompt", "Jitter, px", "F1", "F1 per image [95 %]", "IoU per image [95 %]")
    note = "The test boxes are moved by up to so many pixels of a frame of 1024."
    return noted_table("Boxes that are not exact", columns, rows, note)


def surface_table(material: Material) -> Table:
    rows = [
        [
            words(title(name)),
            words(label(row)),
            *(over_images(row["surface"].get(key), 2) for key in DISTANCES),
        ]
        for name in material.sets
        for row in finished(material.study(name, "cv"))
        if row.get("surface")
    ]
    return noted_table(
        "Distance between contours, per image [95 %]",
        ("Set", "Prompt", *DISTANCES.values()),
        rows,
        "Pixels of the file; millimetres where its spacing is known.",
    )


def cleaned_table(material: Material) -> Table:
    rows = []
    for name in material.sets:
        for row in finished(material.study(name, "cv")):
            cleaned = row.get("cleaned")
            if cleaned:
                one = cleaned["difference"]
                cells = [words(title(name)), words(label(row)), words(cleaned["name"]), spread(row["f1"])]
                cells += [spread(cleaned["f1"]), difference(one["difference"], FINE)]
                cells += [Cell(text=interval(one["ci95"])), probability(comparing.significance(one))]
                rows.append(cells)
    columns = ("Set", "Prompt", "Step", "F1 as predicted", "F1 cleaned", "Difference", "95 %", "p")
    return noted_table("Cleaning the masks", columns, rows, heads=3)


def quality_table(material: Material) -> Table:
    rows, notes = [], []
    for name in material.sets:
        content = material.study(name, "quality") or {}
        rule = content.get("calibration")
        if rule:
            notes.append(
                f"{title(name)}, decoders of {content['key']!r}: flagged below {rule['threshold']:.4g}, "
                f"{rule['rule']} (n = {rule['n']}){_tried(rule)}."
            )
        for row in content.get("rows", ()):
            cells = [words(title(name)), words(row["on"]), count(row["n"]), count(row["n_bad"])]
            cells += [count(row["n_flagged"]), *(_rate(row.get(key)) for key in ("recall", "precision"))]
            rows.append([*cells, words(row.get("note"))])
    columns = ("Set", "Images", "n", "Bad", "Flagged", "Recall [95 %]", "Precision [95 %]", "Note")
    return noted_table(
        "The flag “look at this one”",
        columns,
        rows,
        "Bad: F1 below 0.90. Flagged as `predict` flags: by quality, by one lung or none; on another set, "
        "where all folds vote, also by decoders that disagree. Perturbed images are made from the previews "
        "in the cache.",
        *notes,
    )


def _tried(rule: Any) -> str:
    """By which cuts test images and perturbed ones were flagged."""
    cuts = (rule.get("threshold_by_fold") or {}).values()
    if len(set(cuts)) < 2:
        return ""
    return f"; test and perturbed images by the cut that the others give, {min(cuts):.4g} to {max(cuts):.4g}"


def _rate(rate: Any) -> Cell:
    return over_images(None if rate is None else {"mean": rate["value"], "ci95": rate["ci95"]}, 2)
