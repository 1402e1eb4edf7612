"""Test scores of folds -> the figures of a row: over folds, over images, by stratum, image by image.

Comes in: a :class:`FoldScores` per fold and seed. Goes out: JSON-ready parts of results.json that mean
the same in every study. Several seeds of a fold are averaged first, per fold and per image, so that n is the
number of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lungfast.records import Float64, ImageRecord, Int64
from lungfast.scored.calibration import CALIBRATION_EDGES, expected_calibration_error, pooled
from lungfast.scored.scores import over_folds, per_image_summary
from lungfast.studies.scoring import MEASURES, Scored

LOW_PERCENTILE = 5.0
_STRATA = ("label", "source")


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """Scores of one decoder on the images of one fold, read at threshold number ``index``."""

    fold: str
    seed: int
    scored: Scored
    index: int

    def mean(self, measure: str) -> float:
        """Mean over the fold's images."""
        return float(self.scored.at(measure, self.index).mean())

    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name in MEASURES}


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """Values of every scored image once, in the order of the folds; several seeds averaged."""

    images: Int64
    folds: tuple[str, ...]
    values: Mapping[str, Float64]


def fold_values(folds: Sequence[FoldScores], measure: str) -> list[float]:
    """One value per fold: the mean over its seeds."""
    names = dict.fromkeys(one.fold for one in folds)
    return [float(np.mean([one.mean(measure) for one in folds if one.fold == name])) for name in names]


def per_image(folds: Sequence[FoldScores]) -> PerImage:
    """Image by image; the seeds of a fold score the same images in the same order."""
    names = dict.fromkeys(one.fold for one in folds)
    groups = [[one for one in folds if one.fold == name] for name in names]
    values = {
        measure: np.concatenate(
            [np.mean([one.scored.at(measure, one.index) for one in group], axis=0) for group in groups]
        )
        for measure in MEASURES
    }
    images = np.concatenate([group[0].scored.images for group in groups])
    owners = tuple(group[0].fold for group in groups for _ in group[0].scored.images)
    return PerImage(images=images, folds=owners, values=values)


def summary(folds: Sequence[FoldScores], records: Sequence[ImageRecord], *, seed: int) -> dict[str, Any]:
    """The measured part of a row: mean and std over folds, mean and interval over images, strata."""
    found = per_image(folds)
    row: dict[str, Any] = {name: asdict(over_folds(fold_values(folds, name))) for name in MEASURES}
    row |= _over_images(found, np.ones(len(found.images), bool), records, seed)
    row["f1_p05"] = float(np.percentile(found.values["f1"], LOW_PERCENTILE))
    row["strata"] = _strata(found, records, seed)
    return row


def summary_or_nothing(folds: Sequence[FoldScores], records: Sequence[ImageRecord]) -> dict[str, Any]:
    """:func:`summary`, or the same keys without values where no test image was scored."""
    return summary(folds, records, seed=folds[0].seed) if folds else empty_summary()


def calibration(folds: Sequence[FoldScores]) -> dict[str, Any] | None:
    """Expected calibration error over the pixels of all folds, and of each; None where none was counted."""
    parts = [one.scored.reliability for one in folds if one.scored.reliability]
    if not parts:
        return None
    whole = pooled(parts)
    return {
        "ece": expected_calibration_error(whole),
        "folds": [expected_calibration_error(one) for one in parts],
        "edges": list(CALIBRATION_EDGES),
        "pixels": whole.pixels_B.tolist(),
        "lung": whole.lung_B.tolist(),
    }


def empty_summary() -> dict[str, Any]:
    """The same keys where nothing was measured."""
    return dict.fromkeys((*MEASURES, "f1_image", "iou_image", "f1_p05")) | {"strata": []}


def _over_images(
    found: PerImage, chosen_N: np.ndarray[Any, Any], records: Sequence[ImageRecord], seed: int
) -> dict[str, Any]:
    patients = [records[int(image)].patient for image in found.images[chosen_N]]
    return {
        f"{name}_image": asdict(per_image_summary(found.values[name][chosen_N], patients, seed=seed))
        for name in ("f1", "iou")
    }


def _strata(found: PerImage, records: Sequence[ImageRecord], seed: int) -> list[dict[str, Any]]:
    """Each label and each source that is not all there is."""
    strata = []
    for by in _STRATA:
        values = np.array([getattr(records[int(image)], by) or "unknown" for image in found.images])
        names = sorted(set(values.tolist()))
        for name in names if len(names) > 1 else ():
            part = _over_images(found, values == name, records, seed)
            strata.append({"by": by, "value": name} | part)
    return strata


def image_block(rows: Mapping[str, Sequence[FoldScores]], records: Sequence[ImageRecord]) -> dict[str, Any]:
    """``images`` of results.json: who was scored, and F1 and IoU of every row of the table, aligned.

    Every row must have scored the same images in the same folds.
    """
    block: dict[str, Any] = {
        "id": [],
        "patient": [],
        "label": [],
        "source": [],
        "fold": [],
        "f1": {},
        "iou": {},
    }
    for key, folds in rows.items():
        found = per_image(folds)
        order = np.argsort([records[int(image)].id for image in found.images], kind="stable")
        chosen = [records[int(found.images[i])] for i in order]
        if not block["id"]:
            for name in ("id", "patient", "label", "source"):
                block[name] = [getattr(record, name) for record in chosen]
            block["fold"] = [found.folds[i] for i in order]
        elif block["id"] != [record.id for record in chosen]:
            raise ValueError(f"row {key} was scored on other images than the first")
        for name in ("f1", "iou"):
            block[name][key] = [float(value) for value in found.values[name][order]]
    return block


def curve(
    thresholds: Sequence[float], val: Sequence[Scored], test: Sequence[Scored]
) -> dict[str, list[float]]:
    """Mean F1 and IoU at every threshold, over decoders; what test rows say chooses nothing."""
    named = {"val": val, "test": test}
    content = {"thresholds": list(thresholds)}
    for part, scored in named.items():
        for name in ("f1", "iou"):
            means = np.mean([one.values[name].mean(axis=0) for one in scored], axis=0)
            content[f"{part}_{name}"] = [float(value) for value in means]
    return content
