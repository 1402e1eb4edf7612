"""What is said of one predicted mask: its areas, its quality, and whether someone should look at it.

Comes in: an image, the logits of every decoder and their mean. Goes out: the native mask and its
:class:`Measures`. The quality cut comes from the run's quality.json, which ``lungfast quality`` writes;
without one only the plain rules raise the flag, and the others say that quality was not judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lungfast.data.polarity import looks_negative
from lungfast.errors import RunError, UsageError, taking_apart
from lungfast.files import file_sha256
from lungfast.geometry import Frame
from lungfast.records import Bool, Float32, UInt8
from lungfast.runs import ANSWER, read_json
from lungfast.scored.kernels import predict_mask
from lungfast.scored.quality import GOOD_F1, disagreement, logit_of, self_dice
from lungfast.scored.sides import Division, lung_areas
from lungfast.studies.models import FinishedRun, Model

LOOK, UNKNOWN, SKIPPED = "look at this one", "not calibrated", "skipped"
"""Flags: by a rule or by low quality; no rule speaks and quality has no cut; the file could not be read."""
QUALITY = "quality.json"
MOST_DISAGREEMENT = 1 - GOOD_F1
"""Decoders of an ensemble whose masks agree less than a good mask agrees with the truth."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Of one mask; left and right are the patient's (see scored/sides.py). Unknown is None."""

    left_area_px: int
    right_area_px: int
    total_area_px: int
    area_share: float
    disagreement: float | None
    quality: float
    flag: str
    note: str


def quality_and_disagreement(
    logits_Khw: Float32, valid_hw: Bool, thresholds: Sequence[float]
) -> tuple[float, float | None]:
    """The members' mean quality, and how far their masks are apart; each at its own threshold."""
    edges_K = np.array([logit_of(threshold) for threshold in thresholds])
    apart = disagreement((logits_Khw > edges_K[:, None, None]) & valid_hw)
    dice_K = [self_dice(one, valid_hw, t) for one, t in zip(logits_Khw, thresholds, strict=True)]
    return float(np.mean(dice_K)), apart


def reasons_to_look(
    division: Division, apart: float | None, *, constant: bool = False, negative: bool = False
) -> list[str]:
    """Of the plain rules, which need no calibration; ``apart`` is the ensemble's disagreement."""
    rules = {
        "constant image": constant,
        "perhaps a negative": negative,
        "empty prediction": division == "none",
        "one lung": division == "one",
        "decoders disagree": apart is not None and apart > MOST_DISAGREEMENT,
    }
    return [reason for reason, holds in rules.items() if holds]


def require_uncalibrated(run: FinishedRun) -> None:
    """UsageError where the flag of this very run is calibrated; a file that says nothing is replaced."""
    where = run.path / QUALITY
    try:
        measured = read_json(where) if where.exists() else {}
        known = measured.get("run_sha256") == file_sha256(run.path / ANSWER)
    except (RunError, AttributeError):
        known = False
    if known:
        raise UsageError(
            f"{run.path} is calibrated already",
            found=f"{QUALITY} of {measured.get('key')!r}",
            fix="give --overwrite to replace that",
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Thresholds of the members and of their mean; ``cut`` is None where quality was not calibrated."""

    thresholds: Sequence[float]
    threshold: float
    cut: float | None
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, run: FinishedRun, models: Sequence[Model], prompt: str, threshold: float, views: int
    ) -> Judge:
        """The cut is used for the run, prompt and views that it was calibrated with, and no other."""
        where = run.path / QUALITY
        with taking_apart(where):
            cut, notes = cls._cut(run, models, prompt, views, read_json(where) if where.exists() else None)
        return cls(
            thresholds=[model.threshold for model in models], threshold=threshold, cut=cut, notes=notes
        )

    @staticmethod
    def _cut(
        run: FinishedRun, models: Sequence[Model], prompt: str, views: int, measured: Any
    ) -> tuple[float | None, list[str]]:
        """From what stands in quality.json, if anything; else why there is none."""
        cut, notes = None, []
        if measured is None or measured["run_sha256"] != file_sha256(run.path / ANSWER):
            notes.append(f"the quality flag is not calibrated: lungfast quality {run.path} CACHE does it")
        elif measured["prompt"] != prompt or not {m.key for m in models} <= set(measured["decoders"]):
            notes.append(
                f"the quality flag is not calibrated for these decoders with prompt {prompt}: "
                f"it is for those of {measured['key']!r} with prompt {measured['prompt']}"
            )
        elif (had := measured.get("views", 1)) != views:
            notes.append(f"the quality flag is not calibrated for {views} views of an image: it is for {had}")
        else:
            cut = float(measured["calibration"]["threshold"])
        return cut, notes

    def look(
        self, image_HW: UInt8, frame: Frame, logits_Khw: Float32, mean_hw: Float32
    ) -> tuple[Bool, Measures]:
        """The native mask of the mean logits, and what is to be said of it."""
        mask_HW = predict_mask(mean_hw, frame, self.threshold)
        valid_hw = frame.valid_hw((mean_hw.shape[0], mean_hw.shape[1]))
        quality, apart = quality_and_disagreement(logits_Khw, valid_hw, self.thresholds)
        areas = lung_areas(mask_HW)
        found = reasons_to_look(
            areas.division,
            apart,
            constant=bool(image_HW.min() == image_HW.max()),
            negative=looks_negative(image_HW, mask_HW),
        )
        if self.cut is not None and quality < self.cut:
            found.append("low quality")
        remarks = ["lungs touch"] if areas.division == "touching" else []
        return mask_HW, Measures(
            left_area_px=areas.left,
            right_area_px=areas.right,
            total_area_px=areas.left + areas.right,
            area_share=(areas.left + areas.right) / mask_HW.size,
            disagreement=apart,
            quality=quality,
            flag=LOOK if found else UNKNOWN if self.cut is None else "",
            note="; ".join(found + remarks),
        )
