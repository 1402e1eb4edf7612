"""Table II: F1 on validation images over the paper's thresholds, the paper's own beside it.

Comes in: the study of thresholds, or where it was not run the curves of ``cv``. Goes out: the table, and the
curves themselves (:func:`curves`) for the chart and the slider of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lungfast.report import paper
from lungfast.report.facts import encoder_tag, finished, label, protocol_notes, title
from lungfast.report.material import Content, Material
from lungfast.report.score_cells import oracle_note
from lungfast.report.table import (
    MINUS,
    NOTHING,
    PRINTED,
    Cell,
    Table,
    absent,
    difference,
    embolden,
    number,
    words,
)

Lines = Mapping[str, Sequence[float]]
SAME = 1e-6
"""Thresholds closer than this are the same: 0.55 and 55/100 may differ in the last bit."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Means over images at every threshold, of one prompt; ``lines`` by name: val_f1, test_f1, …"""

    key: str
    label: str
    prompt: str
    study: str
    thresholds: Sequence[float]
    lines: Lines
    chosen: tuple[float, ...] = ()
    """The threshold that validation chose, one per fold."""
    test: Mapping[str, float] = field(default_factory=dict)
    test_at_half: Mapping[str, float] = field(default_factory=dict)

    def at(self, line: str, threshold: float) -> float | None:
        """None where this threshold was not scanned."""
        for value, found in zip(self.thresholds, self.lines.get(line, ()), strict=False):
            if abs(value - threshold) < SAME:
                return found
        return None

    @property
    def is_dicece(self) -> bool:
        """Its loss is not the paper's; a row of the study of thresholds says so in its key alone."""
        return "dicece" in self.key

    def over_paper(self) -> list[float]:
        """Validation F1 at those of the paper's thresholds that were scanned."""
        values = [self.at("val_f1", threshold) for threshold in paper.THRESHOLDS]
        return [value for value in values if value is not None]


def curves(material: Material, set_name: str, *, prefer: str = "thresholds") -> list[Curve]:
    """A set's curves of one study, the preferred one where both were run."""
    thresholds, cv = material.study(set_name, "thresholds"), material.study(set_name, "cv")
    of_cv = _cv_curves(cv)
    if thresholds and not (of_cv and (prefer == "cv" or _are_same(thresholds, of_cv))):
        return _study_curves(thresholds)
    return of_cv


def _are_same(thresholds: Content, of_cv: Sequence[Curve]) -> bool:
    """True for thresholds that were read off the curves of cv: then cv knows more, each fold's own choice."""
    lines = [list(curve.lines["val_f1"]) for curve in of_cv]
    return all(list(row["val_f1"]) in lines for row in thresholds["rows"])


def _study_curves(content: Content) -> list[Curve]:
    return [
        Curve(
            key=str(row.get("key") or row["prompt"]),
            label=label(row),
            prompt=row["prompt"].split(",")[0],
            study="thresholds",
            thresholds=row["thresholds"],
            lines={name: row[name] for name in ("val_f1", "val_iou", "test_f1", "test_iou") if row.get(name)},
            chosen=(row["chosen"]["threshold"],),
            test=row.get("test") or {},
            test_at_half=row.get("test_at_half") or {},
        )
        for row in content["rows"]
        if row.get("chosen")
    ]


def _cv_curves(content: Content | None) -> list[Curve]:
    return [
        Curve(
            key=str(row.get("key") or row["prompt"]),
            label=label(row),
            prompt=row["prompt"],
            study="cv",
            thresholds=row["curve"]["thresholds"],
            lines={name: line for name, line in row["curve"].items() if name != "thresholds" and line},
            chosen=tuple(fold["threshold"] for fold in row["per_fold"]),
            test={"f1": row["f1"]["mean"]},
        )
        for row in finished(content)
        if row.get("curve")
    ]


def table_ii(material: Material) -> Table:
    """A row per threshold, then the chosen one and what it scores on test images."""
    caption = "Table II. F1 on validation images over thresholds"
    found = {name: curves(material, name) for name in material.sets}
    found = {name: some for name, some in found.items() if some}
    if not found:
        return absent(caption, "`lungfast thresholds` (or `lungfast cv`)")
    labels = list(dict.fromkeys(curve.label for some in found.values() for curve in some))
    columns = ("Set", "Threshold", *(part for text in labels for part in _columns(text)))
    rows = [
        row
        for name, some in found.items()
        for row in _rows(name, some, labels, drawn=material.is_generated(name))
    ]
    return Table(
        caption=caption + encoder_tag(material),
        columns=columns,
        rows=tuple(map(tuple, rows)),
        notes=(*_notes(material, found), *oracle_note(rows, columns)),
    ).without_empty_columns()


def _rows(set_name: str, some: Sequence[Curve], labels: Sequence[str], *, drawn: bool) -> list[list[Cell]]:
    """``drawn``: generated X-rays, from which the paper's figures are not taken."""
    by_label = {curve.label: curve for curve in some}
    rows: list[list[Cell]] = []
    for threshold in paper.THRESHOLDS:
        cells = [words(title(set_name)), words(f"{threshold:.2f}")]
        for text in labels:
            curve = by_label.get(text)
            ours = curve.at("val_f1", threshold) if curve else None
            theirs = _theirs(set_name, curve, threshold)
            apart = None if ours is None or theirs is None or drawn else ours - theirs
            cells += [number(ours), number(theirs), difference(apart)]
        rows.append(cells)
    for column in (c for c in range(2, len(rows[0])) if (c - 2) % 3 < 2):
        values = [row[column].value for row in rows]
        known = [round(value, PRINTED) for value in values if value is not None]
        for i, value in enumerate(values):
            if value is not None and round(value, PRINTED) == max(known):
                embolden(rows, i, column)
    return [*rows, *_chosen_rows(set_name, by_label, labels)]


def _columns(text: str) -> tuple[str, str, str]:
    return text, f"Paper (II): {text}", f"{text} {MINUS} paper"


def _theirs(set_name: str, curve: Curve | None, threshold: float) -> float | None:
    if curve is None or curve.is_dicece:
        return None
    figure = paper.figure("II", set_name, "val_f1", prompt=curve.prompt, threshold=threshold)
    return figure.mean if figure else None


def _chosen_rows(set_name: str, by_label: Mapping[str, Curve], labels: Sequence[str]) -> list[list[Cell]]:
    """The chosen threshold, its F1 on test images, and F1 on test images at 0.50 where that is known."""
    rows = []
    for name in ("chosen", "test F1 at the chosen", "test F1 at 0.50"):
        cells = [words(title(set_name)), words(name)]
        for text in labels:
            cells += [_chosen_cell(by_label.get(text), name), number(None), number(None)]
        rows.append(cells)
    return rows


def _chosen_cell(curve: Curve | None, name: str) -> Cell:
    if curve is None:
        return number(None)
    if name == "chosen":
        low, high = min(curve.chosen), max(curve.chosen)
        return number(low, 2) if low == high else Cell(text=f"{low:.2f}{NOTHING}{high:.2f}")
    if name == "test F1 at 0.50":
        return number(curve.test_at_half.get("f1", curve.at("test_f1", 0.5)))
    return number(curve.test.get("f1"))


def _outside(set_name: str, some: Sequence[Curve]) -> str:
    """Which curves are highest beyond the paper's thresholds, where more were scanned."""
    low, high = paper.THRESHOLDS[0] - SAME, paper.THRESHOLDS[-1] + SAME
    best = {curve.label: curve.thresholds[int(np.argmax(curve.lines["val_f1"]))] for curve in some}
    told = [f"{name} {threshold:.2f}" for name, threshold in best.items() if not low <= threshold <= high]
    if not told:
        return ""
    return (
        f"{title(set_name)}: over the whole scan, F1 is highest outside the paper's five: {', '.join(told)}."
    )


def _notes(material: Material, found: Mapping[str, Sequence[Curve]]) -> list[str]:
    texts = {
        "thresholds": "one split of the study of thresholds.",
        "cv": "means over the folds of cv; the chosen threshold is each fold's own.",
    }
    notes = [f"{title(name)}: {texts[some[0].study]}" for name, some in found.items()]
    notes.append(
        "Columns “Paper” are its Table II. Bold: the best of the five thresholds, ours and the paper's. "
        "Thresholds are chosen on validation images, and meet the test images only then."
    )
    notes += [text for name, some in found.items() if (text := _outside(name, some))]
    studies = dict.fromkeys(some[0].study for some in found.values())
    protocol = [note for study in studies for note in protocol_notes(material, study)]
    return [*notes, *dict.fromkeys(note for note in protocol if "Ours:" not in note)]
