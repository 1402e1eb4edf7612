"""``report.html``: one file that needs no network. :class:`Material` in, the page's text out.

The template and its style and script lie beside this file; Jinja2 escapes whatever it is given, and the only
markup that it is told to trust are the charts (which escape their own texts) and the JSON of ``embedded``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lungfast.report import charts, heat, paper
from lungfast.report.claims import Claim
from lungfast.report.embedded import example_images, safe_json, shown_size
from lungfast.report.facts import contents, finished, label, named, title
from lungfast.report.further import histories
from lungfast.report.material import Example, Material
from lungfast.report.provenance import provenance_of, provenance_of_transfer
from lungfast.report.summary import PATIENTS
from lungfast.report.table import Table, listed
from lungfast.report.threshold_table import Curve, curves

if TYPE_CHECKING:
    from jinja2 import Template

MEASURES = ("val_f1", "val_iou", "test_f1", "test_iou")
VERDICTS = {"holds": "yes", "does not hold here": "no", "not tested here": "open"}


def page(
    material: Material,
    summary: Sequence[str],
    found: Sequence[Claim],
    tables: Mapping[str, Table],
    further: Mapping[str, Table],
) -> str:
    """The whole page."""
    shown = [curve for name in material.sets for curve in _slider_curves(material, name)]
    examples = [
        _example(name, example) for name in material.sets for example in material.examples.get(name, ())
    ]
    data = {
        "curves": [{key: one[key] for key in ("thresholds", "lines")} for one in shown],
        "chosen": [one["threshold"] for one in examples],
    }
    return _template().render(
        title=material.title,
        style=_file("report.css"),
        script=_file("report.js"),
        patients=PATIENTS if material.shows_patients else "",
        generated=_generated(material),
        all_generated=material.all_generated,
        summary=summary,
        claims=[(claim, VERDICTS[claim.verdict]) for claim in found],
        tables=tables,
        common=_common(tables),
        further=further,
        learning=_learning(material),
        curves=shown,
        measures=MEASURES,
        slider=_slider(shown),
        examples=_grouped(examples),
        grids=heat.grids(material),
        transfer=heat.transfer_matrix(material),
        strips=_strips(material),
        jitter=_jitter(material),
        provenance=_provenance(material),
        left_out=list(material.left_out),
        chosen_by_us=list(material.recipe.get("chosen_by_us") or ()),
        data=safe_json(data),
    )


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["tied"] = tied
    environment.tests["numeric"] = lambda column, table: table.is_numeric(column)
    return environment.from_string(_file("report.html.j2"))


def _provenance(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    """By set, and of the transfer; without those of which nothing is known."""
    found = [(title(name), provenance_of(material, name)) for name in material.sets]
    return [one for one in [*found, ("Transfer", provenance_of_transfer(material))] if one[1]]


def _generated(material: Material) -> str:
    names = [title(name) for name in material.sets if material.is_generated(name)]
    return f"{listed(names)}: generated X-rays, drawn by a program. No patient is shown." if names else ""


def tied(text: str) -> str:
    """What belongs together stays on one line: ``0.960 ± 0.007``, ``n = 138``, ``95 %``."""
    for loose in (" ± ", " = ", " %"):
        text = text.replace(loose, loose.replace(" ", "\N{NO-BREAK SPACE}"))
    return text


def _common(tables: Mapping[str, Table]) -> list[str]:
    """Notes that most of the tables share; the page says them once."""
    counts = Counter(note for table in tables.values() for note in table.notes)
    return [note for note, n in counts.items() if n > 2]


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


# --- charts by set ---------------------------------------------------------------------------------


def _learning(material: Material) -> list[tuple[str, list[tuple[str, str]]]]:
    found = []
    for name in material.sets:
        drawn = [
            (told, markup)
            for study, content in contents(material, name)
            if study in {"cv", "train", "unet"}
            for text, group in histories(content.get("history") or ()).items()
            if (told := text if study != "train" else f"{text}, one split")
            and (markup := charts.learning_curve(f"Learning curve, {title(name)}, {told}", group))
        ]
        found.append((title(name), drawn))
    return [(name, drawn) for name, drawn in found if drawn]


def _slider_curves(material: Material, set_name: str) -> list[dict[str, Any]]:
    """The curves of cv where there are any: they speak of all images."""
    return [
        {
            "set": title(set_name),
            "label": curve.label,
            "thresholds": [round(value, 4) for value in curve.thresholds],
            "lines": {
                key: [round(value, 5) for value in curve.lines[key]] for key in MEASURES if key in curve.lines
            },
            "chosen": sorted(set(curve.chosen)),
            "svg": charts.threshold_curve(
                f"Thresholds, {title(set_name)}, {curve.label}", curve, _theirs(set_name, curve)
            ),
        }
        for curve in curves(material, set_name, prefer="cv")
    ]


def _theirs(set_name: str, curve: Curve) -> list[float]:
    if curve.is_dicece:
        return []
    found = [
        paper.figure("II", set_name, "val_f1", prompt=curve.prompt, threshold=threshold)
        for threshold in paper.THRESHOLDS
    ]
    return [one.mean for one in found if one]


def _slider(shown: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Range and start of the slider: what was scanned, and the median of the chosen thresholds."""
    scanned = sorted({value for one in shown for value in one["thresholds"]}) or [0.05, 0.95]
    chosen = sorted(value for one in shown for value in one["chosen"]) or [0.5]
    step = min((b - a for a, b in pairwise(scanned)), default=0.01)
    return {
        "low": scanned[0],
        "high": scanned[-1],
        "step": round(step, 4),
        "start": chosen[len(chosen) // 2],
    }


def _strips(material: Material) -> list[tuple[str, str]]:
    found = []
    for name in material.sets:
        rows = _per_image(material, name)
        if rows:
            found.append((title(name), charts.strips(f"F1 of every image, {title(name)}", rows)))
    return found


def _per_image(material: Material, set_name: str) -> dict[str, list[float]]:
    """F1 of every test image by model: before fine-tuning from points, every prompt, the U-Net."""
    rows: dict[str, list[float]] = {}
    for study in ("baseline", "cv", "unet"):
        content = material.study(set_name, study)
        values = ((content or {}).get("images") or {}).get("f1") or {}
        for row in finished(content):
            key = str(row.get("key") or row["prompt"])
            if key not in values or (study == "baseline" and key != "points"):
                continue
            text = {"baseline": f"{label(row)}, zero-shot", "unet": "U-Net"}.get(study, label(row))
            rows[text] = list(values[key])
    return rows


def _jitter(material: Material) -> list[tuple[str, str]]:
    found = ((name, finished(material.study(name, "jitter"))) for name in material.sets)
    return [
        (title(name), charts.jitter_curve(f"Box jitter, {title(name)}", rows)) for name, rows in found if rows
    ]


# --- examples --------------------------------------------------------------------------------------


def _example(set_name: str, example: Example) -> dict[str, Any]:
    width, height = shown_size(example)
    return {
        "set": title(set_name),
        "id": example.id,
        "kind": example.kind,
        "f1": example.f1,
        "threshold": example.threshold,
        "fold": example.fold,
        "prompt": named(example.prompt),
        "generated": example.generated,
        "width": width,
        "height": height,
        **example_images(example),
    }


def _grouped(examples: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        groups.setdefault(example["set"], []).append(example)
    return groups
