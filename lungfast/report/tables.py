"""The paper's Tables I to VI with ours in them: :class:`Material` in, neutral tables out.

Ours stand as mean ± std over folds, beside the mean over images with its interval, and beside the paper's
own figure with the number of its table. Bold is the best of a set; where that needs the ground truth,
the best that does not is bold too. A difference to the paper is taken where both are a model's results on
the same X-rays, and not on generated ones.
"""

from __future__ import annotations

from lungfast.report import comparing, facts, paper
from lungfast.report.facts import AVERAGING, Row, encoder_tag, finished, label, protocol_notes, title
from lungfast.report.material import Content, Material
from lungfast.report.score_cells import (
    BEST_NOTE,
    MEASURED,
    beside,
    beside_columns,
    best_positions,
    measured,
    no_difference,
    oracle_note,
)
from lungfast.report.table import Cell, Table, absent, embolden, words
from lungfast.report.threshold_table import table_ii
from lungfast.report.transfer_table import transfer_table


def paper_tables(material: Material) -> dict[str, Table]:
    """Tables I to VI by number; the table of a study that was not run says which command fills it."""
    return {
        "I": table_i(material),
        "II": table_ii(material),
        "III": transfer_table(material, "III"),
        "IV": transfer_table(material, "IV"),
        "V": table_v(material),
        "VI": table_vi(material),
    }


def table_i(material: Material) -> Table:
    """Before fine-tuning: one mask (or the best of three), threshold 0.5, nothing tuned."""
    return _score_table(material, "baseline", "I", "Table I. The model before fine-tuning")


def table_v(material: Material) -> Table:
    """The best models, cross-validated."""
    return _score_table(material, "cv", "V", "Table V. Fine-tuned models, cross-validated")


def _score_table(material: Material, study: str, number: str, caption: str) -> Table:
    rows: list[list[Cell]] = []
    for name in material.sets:
        content = material.study(name, study)
        if content is not None:
            why_not = no_difference(material, name)
            rows += _score_rows(name, content, number, why_not)
    failures = _failures(material, study)
    if not rows and not failures:
        return absent(caption, f"`lungfast {study}`")
    notes = [*protocol_notes(material, study), *failures, AVERAGING, BEST_NOTE, *oracle_note(rows)]
    return Table(
        caption=caption + encoder_tag(material),
        columns=("Set", "Prompt", *MEASURED, *beside_columns(number)),
        rows=tuple(map(tuple, rows)),
        notes=tuple(notes),
    ).without_empty_columns()


def _score_rows(set_name: str, content: Content, number: str, why_not: str) -> list[list[Cell]]:
    done = finished(content)
    rows = [
        [
            words(title(set_name)),
            words(label(row)),
            *measured(row),
            *beside(
                row, _figures(row, number, set_name), facts.UNTRAINED if row.get("untrained") else why_not
            ),
        ]
        for row in done
    ]
    for metric, column in (("f1", 2), ("iou", 3)):
        for best in best_positions(done, metric):
            embolden(rows, best, column)
    return rows


def _figures(row: Row, number: str, set_name: str) -> list[paper.Figure | None]:
    """The paper's F1 and IoU of this prompt; it has one mask and DiceFocal alone."""
    if row.get("loss") == "dicece" or row.get("mask", "single") != "single":
        return [None, None]
    return [paper.figure(number, set_name, metric, prompt=row["prompt"]) for metric in ("f1", "iou")]


def _failures(material: Material, study: str) -> list[str]:
    return [
        f"{title(name)}, {label(row)}: no result, a fold has no decoder that did not diverge."
        for name in material.sets
        for row in (material.study(name, study) or {}).get("rows", ())
        if row.get("status") == "diverged"
    ]


# --- VI --------------------------------------------------------------------------------------------


def table_vi(material: Material) -> Table:
    """Our decoders from every prompt, our U-Net on the same folds, and the paper's pair of figures."""
    caption = "Table VI. Compared to a U-Net on the same folds"
    names = [name for name in material.sets if finished(material.study(name, "unet"))]
    if not names:
        return absent(caption, "`lungfast unet`")
    rows = [cells for name in names for cells in _unet_rows(material, name)]
    notes = [
        *_unet_notes(material, names),
        *protocol_notes(material, "unet"),
        AVERAGING,
        BEST_NOTE,
        *oracle_note(rows),
    ]
    return Table(
        caption=caption + encoder_tag(material),
        columns=("Set", "Model", *MEASURED, *beside_columns("VI")),
        rows=tuple(map(tuple, rows)),
        notes=tuple(notes),
    ).without_empty_columns()


def _unet_rows(material: Material, name: str) -> list[list[Cell]]:
    unet = finished(material.study(name, "unet"))[0]
    pairs = [(row, "fine-tuned") for row in finished(material.study(name, "cv"))]
    pairs.append((unet, "unet"))
    rows = []
    for row, model in pairs:
        text = "U-Net" if model == "unet" else f"decoder, {label(row)}"
        comparable = model == "unet" or row is facts.row_of(material.study(name, "cv"), "points")
        figure = paper.figure("VI", name, model=model) if comparable else None
        why_not = no_difference(material, name)
        rows.append([words(title(name)), words(text), *measured(row), *beside(row, (figure, None), why_not)])
    for metric, column in (("f1", 2), ("iou", 3)):
        for best in best_positions([row for row, _ in pairs], metric):
            embolden(rows, best, column)
    return rows


def _unet_notes(material: Material, names: list[str]) -> list[str]:
    notes = []
    for name in names:
        content = material.study(name, "unet") or {}
        model = finished(content)[0].get("model") or {}
        if model:
            notes.append(
                f"{title(name)}, {model['name']}, {model['parameters'] / 1e6:.2f} "
                f"million parameters, {model['size']} px, {model['epochs']} epochs, lr {model['lr']:g}."
            )
        paired = [one for one in comparing.of_set(material, name) if one["family"] == "unet"]
        notes += [f"{title(name)}, paired: {comparing.sentence(one)}." for one in paired]
    return [*notes, "The paper's U-Net is that of its reference [8], trained and tested elsewhere."]
