"""Tables III and IV: decoders of one set on the images of the other, beside those trained there.

Comes in: the content of a ``transfer``. Goes out: one table per tested set, with the paired difference.
"""

from __future__ import annotations

from lungfast.report import comparing, facts, paper
from lungfast.report.facts import AVERAGING, Row, title
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
from lungfast.report.table import Cell, Table, absent, embolden, listed, words

TESTED = {"III": paper.MONTGOMERY, "IV": paper.SHENZHEN}
SCOPES = SAME_FOLD, ALL, TOGETHER = "same fold", "all", "all, together"


def arrow(row: Row) -> str:
    return f"{title(row['train'])} → {title(row['test'])}"


def tested_sets(content: Content) -> dict[str, str]:
    """Which set Tables III and IV test on: the paper's by name, otherwise in the order of the results."""
    names = list(dict.fromkeys(row["test"] for row in content["rows"]))
    by_lower = {name.lower(): name for name in names}
    if set(TESTED.values()) <= set(by_lower):
        return {number: by_lower[name] for number, name in TESTED.items()}
    return dict(zip(TESTED, names, strict=False))


def transfer_table(material: Material, number: str) -> Table:
    """Trained elsewhere and at home, on the same images; then elsewhere, on all images and voting there."""
    content = material.transfer
    tested = tested_sets(content).get(number) if content else None
    if content is None or tested is None:
        return absent(f"Table {number}. Trained on one set, tested on another", "`lungfast transfer`")
    rows = [row for row in content["rows"] if row["test"] == tested and row.get("f1")]
    order = list(dict.fromkeys(row["of"] for row in rows))
    rows.sort(
        key=lambda row: (order.index(row["of"]), SCOPES.index(row["scope"]), row["train"] == tested),
    )
    others = [title(row["train"]) for row in rows if row["train"] != tested]
    caption = f"Table {number}. Trained on {listed(list(dict.fromkeys(others)))}, tested on {title(tested)}"
    cells = [_cells(material, row, number) for row in rows]
    same = [i for i, row in enumerate(rows) if row["scope"] == SAME_FOLD]
    for metric, column in (("f1", 3), ("iou", 4)):
        for best in best_positions([rows[i] for i in same], metric):
            embolden(cells, same[best], column)
    return Table(
        caption=caption + facts.encoder_tag(material),
        columns=("Prompt", "Images", "Trained → tested", *MEASURED, *beside_columns(number)),
        rows=tuple(map(tuple, cells)),
        notes=(*_notes(material, content, tested), *oracle_note(cells)),
        heads=3,
    ).without_empty_columns()


def _cells(material: Material, row: Row, number: str) -> list[Cell]:
    """The paper used points alone; its figures stand beside the test rows of the same fold."""
    has_figure = row["scope"] == SAME_FOLD and row["of"] == "points"
    f1, iou = (
        paper.figure(number, row["test"], metric, train=row["train"].lower()) if has_figure else None
        for metric in ("f1", "iou")
    )
    generated = no_difference(material, row["test"]) if row["test"] in material.sets else ""
    return [
        words(facts.travelling(row)),
        words(row["scope"]),
        words(arrow(row)),
        *measured(row),
        *beside(row, (f1, iou), generated),
    ]


def _shared(content: Content) -> str:
    """Images that are in both sets; look-alikes are not known of a cache without previews."""
    near = content.get("near_duplicates")
    alike = "look-alikes were not searched for" if near is None else f"{len(near)} look alike and were kept"
    n = len(content.get("duplicates") or ())
    return f"Images with the same pixels in both sets, left out: {n}; {alike}."


def _notes(material: Material, content: Content, tested: str) -> list[str]:
    paired = comparing.into(material, tested)
    told = "; ".join(map(comparing.sentence, paired))
    notes = [f"Paired on the same images: {told}."] if paired else []
    notes.append(
        "Decoder, points, threshold and hyperparameters are those of the training set. “Same fold”: "
        "the decoder of fold i on the test images of fold i, so that these rows meet the same images. “All”: "
        "every decoder on every image. “All, together”: one answer of all decoders, the mean of their "
        "logits, as `lungfast predict` gives it."
    )
    notes.append(_shared(content))
    notes += [f"Encoder: {one.sentence}" for one in facts.encoders(material)]
    if tested in material.sets and material.is_generated(tested):
        notes.append(facts.GENERATED)
    return [*notes, AVERAGING, BEST_NOTE]
