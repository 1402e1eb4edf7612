"""Claims about training and what validation chooses: loss, epochs, thresholds, hyperparameters.

One set in, a judgement out. The rules stand in words in ``claims.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from lungfast.report import comparing, facts, paper
from lungfast.report.comparing import between, is_shown, told
from lungfast.report.facts import Row, finished
from lungfast.report.judging import Judgement, untested
from lungfast.report.material import Material
from lungfast.report.table import listed, plain
from lungfast.report.threshold_table import Curve, curves

SPREAD = 0.06
"""Table II: the least spread of its six curves is 0.062, of points on Montgomery."""
FALLS_TO = 0.5
"""Table II at 0.70: the box keeps .50 of its best on Montgomery, nothing on Shenzhen."""


def loss(material: Material, set_name: str) -> Judgement:
    rows = finished(material.study(set_name, "cv"))
    compared = comparing.of_set(material, set_name)
    paired = []
    for focal in (row for row in rows if row.get("loss") == "dicefocal"):
        for ce in (row for row in rows if row.get("loss") == "dicece" and row["prompt"] == focal["prompt"]):
            one = between(compared, str(focal["key"]), str(ce["key"]))
            if one:
                paired.append(one)
    if paired:
        return Judgement(holds=all(map(is_shown, paired)), figures=told(paired))
    return _loss_of_grid(material, set_name)


def _loss_of_grid(material: Material, set_name: str) -> Judgement:
    rows = _validated((material.study(set_name, "grid") or {}).get("rows", ()))
    best = {
        name: max((row["val_f1"] for row in rows if row["loss"] == name), default=None)
        for name in ("dicefocal", "dicece")
    }
    focal, ce = best["dicefocal"], best["dicece"]
    if focal is None or ce is None:
        return untested()
    told = f"best validation F1 of the grid: DiceFocal {plain(focal, 4)}, DiceCE {plain(ce, 4)} (not paired)"
    return Judgement(holds=bool(focal > ce), figures=(told,))


def _validated(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.get("val_f1") is not None]


def epochs(material: Material, set_name: str) -> Judgement:
    histories = [
        one
        for study, content in facts.contents(material, set_name)
        if study in {"cv", "train", "grid"}
        for one in content.get("history") or ()
        if one.get("settled")
    ]
    longest = max((len(one["train_loss"]) for one in histories), default=0)
    long = [one for one in histories if len(one["train_loss"]) > paper.LAST_USEFUL_EPOCH]
    if not long:
        return untested(f"trained for {longest} epochs; it takes over 100") if longest else untested()
    late = [one for one in long if one["settled"] > paper.LAST_USEFUL_EPOCH]
    last = max(int(one["settled"]) for one in long)
    figures = [
        f"{len(long) - len(late)} of {len(long)} decoders had settled by epoch 100 of {longest}, "
        f"the last at epoch {last}"
    ]
    schedules = {
        content.get("provenance", {}).get("settings", {}).get("train", {}).get("schedule")
        for study, content in facts.contents(material, set_name)
        if study in {"cv", "train", "grid"}
    } - {None, "constant"}
    if schedules:
        figures.append("the learning rate falls until the last epoch, which favours late improvement")
    return Judgement(holds=not late, figures=tuple(figures))


def thresholds(material: Material, set_name: str) -> Judgement:
    found = [curve for curve in curves(material, set_name) if curve.prompt in paper.PROMPTS]
    found = [curve for curve in found if len(curve.over_paper()) == len(paper.THRESHOLDS)]
    found = [curve for curve in found if not curve.is_dicece]
    if not found:
        return untested()
    figures = [_told(curve, set_name) for curve in found]
    missing = [prompt for prompt in paper.PROMPTS if prompt not in {curve.prompt for curve in found}]
    if missing:
        figures.append(f"{listed(missing)} not run")
    holds = all(_matters(curve) for curve in found)
    return Judgement(holds=holds, figures=tuple(figures))


def _spread(curve: Curve) -> float:
    values = curve.over_paper()
    return max(values) - min(values)


def _matters(curve: Curve) -> bool:
    values = curve.over_paper()
    collapses = curve.prompt != "box" or values[-1] < FALLS_TO * max(values)
    return _spread(curve) >= SPREAD and collapses


def _told(curve: Curve, set_name: str) -> str:
    theirs = [
        one.mean
        for threshold in paper.THRESHOLDS
        if (one := paper.figure("II", set_name, "val_f1", prompt=curve.prompt, threshold=threshold))
    ]
    values = curve.over_paper()
    beside = f" (paper: {plain(max(theirs) - min(theirs))})" if theirs else ""
    text = f"{curve.label} spreads by {plain(_spread(curve))}{beside}"
    if curve.prompt == "box":
        there = f" (paper: {plain(theirs[-1])})" if theirs else ""
        text += f" and is at {plain(values[-1])} at 0.70{there}"
    return text


def hyperparameters(material: Material, set_name: str) -> Judgement:
    content = material.study(set_name, "grid") or {}
    rows = _validated(content.get("rows", ()))
    best = content.get("best")
    tried = {(row["lr"], row["wd"]) for row in content.get("rows", ())}
    whole = {(lr, wd) for lr in paper.GRID_LR for wd in paper.GRID_WD}
    if not best or not rows:
        return untested()
    if not whole <= tried:
        return untested(f"the grid of {len(tried)} settings does not hold the paper's nine")
    theirs = [row["val_f1"] for row in rows if _is_theirs(row)]
    beside = f"{plain(max(theirs), 4)} at the paper's" if theirs else "the paper's diverged"
    figures = [
        f"lr {best['lr']:g} and wd {best['wd']:g} win: validation F1 {plain(best['val_f1'], 4)}, {beside}"
    ]
    if not facts.starts_from_sam(material, set_name):
        figures.append("the decoder does not start from SAM's weights, as the paper's does")
    return Judgement(holds=_is_theirs(best), figures=tuple(figures))


def _is_theirs(row: Row) -> bool:
    return bool(row["lr"] == paper.WINNER_LR and row["wd"] == paper.WINNER_WD)
