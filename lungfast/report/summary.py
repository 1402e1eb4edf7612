"""The report in five lines, and what must be said before any number: :class:`Material` in, sentences out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from lungfast.report import comparing, facts, paper
from lungfast.report.claims import Claim
from lungfast.report.facts import finished, label, row_of, title
from lungfast.report.material import Material
from lungfast.report.noted import FINE
from lungfast.report.table import bracket, listed, mean_std, signed

PATIENTS = (
    "This report shows X-rays of patients. Pass it on only where the licence of the data and your rules "
    "allow it."
)


def summary(material: Material, found: Sequence[Claim]) -> list[str]:
    """Five lines: what was measured, how well, against what, the claims, and how to read it."""
    return [
        _measured(material),
        _best(material),
        _against(material),
        _claimed(found, material.left_out),
        _caution(material),
    ]


def _measured(material: Material) -> str:
    parts = []
    for name in material.sets:
        n, encoder = facts.n_images(material, name), facts.encoder(material, name)
        told = [f"{n} {'generated ' if material.is_generated(name) else ''}X-rays" if n else ""]
        told.append(f"encoder {encoder.label}" if encoder else "")
        content = material.study(name, "cv")
        told.append(facts.folds_sentence(content) if content and finished(content) else "")
        about = "; ".join(text for text in told if text)
        parts.append(f"{title(name)} ({about})" if about else "")
    parts = [part for part in parts if part]
    if material.transfer is not None:
        trained = dict.fromkeys(title(row["train"]) for row in material.transfer["rows"])
        parts.append(f"transfer between {listed(list(trained))}")
    return f"Measured: {listed(parts)}." if parts else "Nothing was measured."


def _best(material: Material) -> str:
    parts = []
    for name in material.sets:
        rows = (facts.best_row(material.study(name, study)) for study in ("cv", "baseline", "unet"))
        row = next((row for row in rows if row), None)
        if row is None:
            continue
        f1 = row["f1"]
        told = f"{_told(material, name)} {mean_std(f1['mean'], f1['std'])} from {label(row)}"
        theirs = paper.figure("V", name, prompt="points")
        if theirs and not material.is_generated(name):
            told += f" (paper, points: {mean_std(theirs.mean, theirs.std)})"
        parts.append(told)
    if not parts:
        parts = [_at_home(material, name) for name in material.sets if facts.best_row(_home(material, name))]
    return (
        f"Highest test F1 among prompts without the ground truth: {listed(parts)}."
        if parts
        else "No F1 was measured over folds."
    )


def _home(material: Material, name: str) -> dict[str, Any]:
    """A transfer's rows of decoders that were trained on the set that they are tested on."""
    rows = finished(material.transfer)
    return {"rows": [row for row in rows if row["train"] == row["test"] == name]}


def _at_home(material: Material, name: str) -> str:
    row = facts.best_row(_home(material, name)) or {}
    return f"{_told(material, name)} {mean_std(row['f1']['mean'], row['f1']['std'])} from {row['of']}"


def _told(material: Material, name: str) -> str:
    """A set, and once that it is generated."""
    drawn = material.is_generated(name) and not title(name).startswith("generated")
    return f"generated {title(name)}" if drawn else title(name)


def _against(material: Material) -> str:
    parts = []
    for name in material.sets:
        unet = [one for one in comparing.of_set(material, name) if one["family"] == "unet"]
        unet.sort(key=lambda one: not str(one["a"]).startswith("points"))
        parts += [f"{title(name)}, {_short(one)}" for one in unet[:1]]
    parts += [_moved(one) for one in facts.leading((material.transfer or {}).get("comparisons") or ())]
    if not parts:
        return _points_and_box(material)
    return f"Paired differences in F1: {'; '.join(parts)}."


def _short(one: comparing.Comparison) -> str:
    return f"{facts.named(one['name'])} {_apart(one)}"


def _moved(one: comparing.Comparison) -> str:
    """A→B − B→B in words."""
    home, away = title(one["tested_on"]), title(str(one["a"]).partition("→")[0])
    return f"on {home}, {one['of']} trained on {away} instead of {home} {_apart(one)}"


def _apart(one: comparing.Comparison) -> str:
    return signed(one["difference"], FINE) + bracket(one["ci95"], FINE)


def _points_and_box(material: Material) -> str:
    """Where there is neither U-Net nor transfer: what the ground truth's box adds."""
    parts = []
    for name in material.sets:
        content = material.study(name, "cv")
        points, box = row_of(content, "points"), row_of(content, "box")
        if points and box:
            parts.append(f"{title(name)} {signed(box['f1']['mean'] - points['f1']['mean'])}")
    if parts:
        return f"A box from the ground truth instead of points changes F1: {listed(parts)}."
    return "Neither a U-Net nor a transfer was run to compare with."


def _claimed(found: Sequence[Claim], left_out: Sequence[str]) -> str:
    counts = Counter(claim.verdict for claim in found)
    return (
        f"The paper's {len(found)} claims: {counts['holds']} hold, {counts['does not hold here']} do not "
        f"hold here, not tested: {counts['not tested here']}." + _missing(left_out)
    )


def _missing(left_out: Sequence[str]) -> str:
    return f" Studies left out: {len(left_out)}, named below." if left_out else ""


def _caution(material: Material) -> str:
    encoders = facts.encoders(material)
    if material.all_generated:
        return (
            "The X-rays are generated: the numbers say that the chain works, nothing about patients or the "
            "paper."
        )
    if all(one.origin == "sam" for one in encoders) and encoders:
        return (
            "The encoder is SAM's; the paper does not say which variant, nor how it averages, so differences "
            "to it are not like for like."
        )
    names = listed(list(dict.fromkeys(one.label for one in encoders))) or "The encoder"
    return (
        f"{names} is not SAM: beside the paper's figures stand those of another model, under a protocol "
        "whose folds are by patient and whose thresholds and epochs are chosen on validation images alone."
    )
