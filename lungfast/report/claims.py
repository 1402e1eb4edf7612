"""The paper's claims, each with a verdict and the figures it rests on: :class:`Material` in, claims out.

A claim is judged set by set under a stated rule. It holds where it holds in every set in which it was tested,
it does not hold where it fails in one, and where the studies that it takes were not run it was not tested. A
verdict speaks of the encoder, the data and the budget of this report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from lungfast.report import judged, judged_training
from lungfast.report.facts import title
from lungfast.report.judging import Judgement
from lungfast.report.material import Material

Verdict = Literal["holds", "does not hold here", "not tested here"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """``where`` is the place in the paper; ``figures`` begin with the name of their set."""

    name: str
    text: str
    where: str
    verdict: Verdict
    rule: str
    figures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "figures": list(self.figures)}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A claim before it is judged."""

    name: str
    text: str
    where: str
    rule: str
    judge: Callable[[Material, str], Judgement]


QUESTIONS = (
    Question(
        name="fine-tuning",
        text="Fine-tuning beats the model as it comes.",
        where="Tables I and V",
        rule=(
            "Fine-tuned less zero-shot with the same prompt, paired by image, is above 0 with Holm's p < "
            "0.05 for every prompt; where nothing is paired, the intervals do not overlap."
        ),
        judge=judged.fine_tuning,
    ),
    Question(
        name="points",
        text="Points are the best prompt.",
        where="Section III-A, Table V",
        rule=(
            "Among the paper's three prompts (points, box, both), points less each of the others, paired "
            "by image, is above 0 with Holm's p < 0.05."
        ),
        judge=judged.points,
    ),
    Question(
        name="loss",
        text="DiceFocal beats DiceCE.",
        where="Section III-D",
        rule=(
            "DiceFocal less DiceCE with the same prompt and hyperparameters, paired by image, is above 0 "
            "with Holm's p < 0.05; where nothing is paired, the best validation F1 of the grid decides."
        ),
        judge=judged_training.loss,
    ),
    Question(
        name="epochs",
        text="Nothing improves after the hundredth epoch.",
        where="Section IV-B, Fig. 1",
        rule=(
            "Every decoder that trained for more than 100 epochs had by epoch 100 a validation loss within "
            "1 % of its lowest."
        ),
        judge=judged_training.epochs,
    ),
    Question(
        name="thresholds",
        text="The threshold matters much.",
        where="Section IV-C, Table II",
        rule=(
            "For each of the paper's prompts that was run, validation F1 over 0.50 to 0.70 spreads by at "
            "least 0.06 (the least in Table II is 0.062), and the box at 0.70 is below half of its best F1."
        ),
        judge=judged_training.thresholds,
    ),
    Question(
        name="hyperparameters",
        text="Learning rate 1e-5 and weight decay 0 win.",
        where="Section IV-D",
        rule=(
            "They have the highest validation F1 of a grid that holds the paper's three learning rates and "
            "three weight decays."
        ),
        judge=judged_training.hyperparameters,
    ),
    Question(
        name="transfer",
        text="Trained on Montgomery, Shenzhen comes out better than trained on Shenzhen itself.",
        where="Section IV-E, Table IV",
        rule=(
            "Montgomery→Shenzhen less Shenzhen→Shenzhen from points, on the same images, is above 0, "
            "Holm's p < 0.05."
        ),
        judge=judged.transfer,
    ),
    Question(
        name="unet",
        text="The fine-tuned decoder is near a U-Net.",
        where="Section IV-G, Table VI",
        rule=(
            "Near: even at the lower end of the interval, paired by image, the decoder stays less far "
            "below our U-Net than the paper's does below its own (0.030 on Montgomery, 0.026 on Shenzhen; "
            "0.030 is used for other sets)."
        ),
        judge=judged.near_unet,
    ),
    Question(
        name="sixty",
        text="F1 is above the 60 % that He et al. found for SAM with points.",
        where="Sections II and IV-G",
        rule="The lower end of the interval of F1 per image, fine-tuned, points, is above 0.60.",
        judge=judged.above_sixty,
    ),
)


def claims(material: Material) -> list[Claim]:
    """Every claim, in the paper's order of telling."""
    return [_judge(question, material) for question in QUESTIONS]


def _judge(question: Question, material: Material) -> Claim:
    found = {name: question.judge(material, name) for name in material.sets}
    verdicts = {one.holds for one in found.values()} - {None}
    verdict: Verdict = (
        "not tested here" if not verdicts else "does not hold here" if False in verdicts else "holds"
    )
    figures = tuple(f"{title(name)}: {text}" for name, one in found.items() for text in one.figures)
    return Claim(
        name=question.name,
        text=question.text,
        where=question.where,
        verdict=verdict,
        rule=question.rule,
        figures=tuple(dict.fromkeys(figures)) or ("No study was run that tests it.",),
    )
