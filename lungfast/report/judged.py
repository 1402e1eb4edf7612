"""Claims about scores on test images: fine-tuning, points, transfer, U-Net, 60 %.

One set in, a judgement out. The rules stand in words in ``claims.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from lungfast.report import comparing, facts, paper
from lungfast.report.comparing import Comparison, between, is_shown, sentence, told
from lungfast.report.facts import Row, finished, label, row_of
from lungfast.report.judging import Judgement, untested
from lungfast.report.material import Material
from lungfast.report.table import MINUS, bracket, mean_std, plain, signed

OTHER_GAP = 0.030


def fine_tuning(material: Material, set_name: str) -> Judgement:
    before, after = material.study(set_name, "baseline"), material.study(set_name, "cv")
    if not finished(before) or not finished(after):
        return untested()
    pairs = [
        (row_of(after, row["prompt"]), row) for row in finished(before) if row.get("mask") != "best of three"
    ]
    both = [(tuned, row) for tuned, row in pairs if tuned is not None]
    texts = [f"{label(row)}: {_f1(row)} before, {_f1(tuned)} after" for tuned, row in both]
    found = facts.encoder(material, set_name)
    if found is not None and found.origin == "generated":
        texts.append(f"before: {found.name}, which was trained to segment lungs in generated X-rays")
    paired = [one for one in comparing.of_set(material, set_name) if one["family"] in comparing.BEFORE_AFTER]
    if paired:
        return Judgement(holds=all(map(is_shown, paired)), figures=(*texts, *told(paired)))
    if not both:
        return untested("no prompt was both tested before and fine-tuned")
    return Judgement(holds=all(_above(tuned, row) for tuned, row in both), figures=tuple(texts))


def _above(a: Row, b: Row) -> bool:
    """Intervals over images that do not overlap; the means where there are no intervals."""
    high, low = a["f1_image"], b["f1_image"]
    if high["ci95"] is None or low["ci95"] is None:
        return bool(high["mean"] > low["mean"])
    return bool(high["ci95"][0] > low["ci95"][1])


def points(material: Material, set_name: str) -> Judgement:
    content = material.study(set_name, "cv")
    rows = {prompt: row for prompt in paper.PROMPTS if (row := row_of(content, prompt))}
    scores = ", ".join(f"{label(row)} {_f1(row)}" for row in finished(content))
    if not rows:
        return untested()
    if "points" not in rows or len(rows) < len(paper.PROMPTS):
        return untested(f"it takes points, box and both; run were {scores}")
    paired = [
        one for other in ("box", "both") if (one := _paired(material, set_name, rows["points"], rows[other]))
    ]
    best = all(_mean(rows["points"]) >= _mean(row) for row in rows.values())
    shown = all(map(is_shown, paired)) if paired else best
    free = facts.best_row(content)
    figures = [f"F1 of all prompts run: {scores}", *told(paired)]
    if free is not None:
        figures.append(f"best of those that need no ground truth: {label(free)}")
    return Judgement(holds=best and shown, figures=tuple(figures))


def _paired(material: Material, set_name: str, a: Row, b: Row) -> Comparison | None:
    names = [str(row.get("key") or row["prompt"]) for row in (a, b)]
    return between(comparing.of_set(material, set_name), names[0], names[1])


def transfer(material: Material, set_name: str) -> Judgement:
    """Judged once, on the set that is tested: Shenzhen."""
    content = material.transfer
    if content is None or set_name.lower() != paper.SHENZHEN:
        return untested()
    rows = {
        row["train"].lower(): row
        for row in facts.leading(finished(content))
        if row["test"] == set_name and row["scope"] == "same fold"
    }
    if not {paper.MONTGOMERY, paper.SHENZHEN} <= set(rows):
        return untested()
    away, home = rows[paper.MONTGOMERY], rows[paper.SHENZHEN]
    texts = [
        f"F1 from {facts.travelling(home)} {_f1(away)} trained on Montgomery, {_f1(home)} trained on Shenzhen"
    ]
    paired = facts.leading(comparing.into(material, set_name))
    if paired:
        return Judgement(holds=all(map(is_shown, paired)), figures=(*texts, *told(paired)))
    return Judgement(holds=_above(away, home), figures=tuple(texts))


def near_unet(material: Material, set_name: str) -> Judgement:
    rows = finished(material.study(set_name, "unet"))
    if not rows:
        return untested()
    gap = paper.unet_gap(set_name) or OTHER_GAP
    unet = rows[0]
    epochs = (unet.get("model") or {}).get("epochs")
    budget = f" after {epochs} epochs" if epochs else ""
    figures = [f"U-Net {_f1(unet)}{budget}; near is a difference above {signed(-gap)}"]
    theirs = paper.figure("VI", set_name, model="unet")
    if theirs:
        figures.append(f"the paper's U-Net: {mean_std(theirs.mean, theirs.std)}")
    paired = [_from_decoder(one) for one in comparing.of_set(material, set_name) if one["family"] == "unet"]
    chosen = _preferred(paired)
    if chosen is not None and chosen["ci95"] is not None:
        return Judgement(
            holds=bool(chosen["ci95"][0] > -gap), figures=(*(sentence(one) for one in paired), *figures)
        )
    decoder = row_of(material.study(set_name, "cv"), "points")
    if decoder is None:
        return untested(*figures, "there is no decoder to compare it to")
    difference = _mean(decoder) - _mean(unet)
    told = f"points {MINUS} unet, not paired: {signed(difference)}"
    return Judgement(holds=difference > -gap, figures=(told, *figures))


def _from_decoder(one: Comparison) -> Comparison:
    return comparing.turned(one) if one["a"] == "unet" else one


def _preferred(paired: Sequence[Comparison]) -> Comparison | None:
    """Points − U-Net; otherwise the first."""
    by_points = [one for one in paired if str(one["a"]).startswith("points")]
    return next(iter([*by_points, *paired]), None)


def above_sixty(material: Material, set_name: str) -> Judgement:
    content = material.study(set_name, "cv")
    row = row_of(content, "points") or facts.best_row(content)
    if row is None:
        return untested()
    image = row["f1_image"]
    figures = [f"{label(row)}, fine-tuned: {plain(image['mean'])}{bracket(image['ci95'])}, n = {image['n']}"]
    before = row_of(material.study(set_name, "baseline"), "points")
    if before:
        image_before = before["f1_image"]
        figures.append(
            f"points, not fine-tuned: {plain(image_before['mean'])}{bracket(image_before['ci95'])}"
        )
    lowest = image["mean"] if image["ci95"] is None else image["ci95"][0]
    return Judgement(holds=bool(lowest > paper.HE_ET_AL_F1), figures=tuple(figures))


def _mean(row: Row) -> float:
    return float(row["f1"]["mean"])


def _f1(row: Row) -> str:
    return mean_std(row["f1"]["mean"], row["f1"]["std"])
