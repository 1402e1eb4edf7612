"""What a table adds on request: contour distances and cleaned masks of the test images of chosen decoders.

Comes in: candidates with their thresholds. Goes out: the ``surface`` and ``cleaned`` entries of a row,
and masks.csv, image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lungfast.records import ImageRecord
from lungfast.studies.comparisons import as_family
from lungfast.studies.masks import (
    MaskMeasures,
    SurfaceDistances,
    cleaned_summary,
    measure_masks,
    surface_summary,
)
from lungfast.studies.protocol import Study
from lungfast.studies.scoring import Candidate, joined, predictions
from lungfast.studies.summaries import FoldScores, per_image

Measures = Mapping[str, Mapping[int, MaskMeasures]]
"""By decoder and image."""


@dataclass(frozen=True, kw_only=True)
class Extras:
    """``surface``: HD95 and ASSD. ``clean``: two largest components, holes filled."""

    surface: bool = False
    clean: bool = False

    @property
    def any(self) -> bool:
        return self.surface or self.clean


def measure_extras(
    study: Study,
    candidates: Sequence[Candidate],
    groups: Sequence[Sequence[int]],
    thresholds: Sequence[float],
    extras: Extras,
) -> Measures:
    """Measures of the images of every group of candidates at its threshold, under its first one's key.

    Empty where nothing is asked for; else the run has them in masks.csv, too.
    """
    heads = [candidates[group[0]] for group in groups]
    found: dict[str, dict[int, MaskMeasures]] = {one.key: {} for one in heads}
    if not extras.any:
        return found
    study.listener.phase("measuring masks", sum(len(one.images) for one in heads))
    logits = joined(predictions(study.workspace, candidates, width=study.width), groups)
    for k, image, measures in measure_masks(
        study.workspace.cache, logits, thresholds, surface=extras.surface, clean=extras.clean
    ):
        found[heads[k].key][image] = measures
        study.listener.advance()
    study.run.write_rows("masks.csv", list(_lines(found, study.workspace.cache.images, extras)))
    return found


def _lines(found: Measures, records: Sequence[ImageRecord], extras: Extras) -> Iterator[dict[str, Any]]:
    """Decoder by decoder, image by image; what is undefined is empty."""
    for key, measures in found.items():
        for image, one in sorted(measures.items()):
            line: dict[str, Any] = {"decoder": key, "image": records[image].id}
            if extras.surface:
                line |= asdict(one.surface or SurfaceDistances())
            if extras.clean:
                line["cleaned_f1"] = one.cleaned_f1
            yield line


def as_one_family(rows: Sequence[dict[str, Any]]) -> None:
    """What cleaning changes, adjusted for as many rows as were cleaned."""
    cleaned = [row["cleaned"] for row in rows if "cleaned" in row]
    for one, difference in zip(
        cleaned, as_family("cleaned", [one["difference"] for one in cleaned]), strict=True
    ):
        one["difference"] = difference


def extras_of(
    extras: Extras,
    measures: Measures,
    decoders: Mapping[tuple[str, int], str],
    folds: Sequence[FoldScores],
    records: Sequence[ImageRecord],
    *,
    n_train: int,
) -> dict[str, Any]:
    """Entries of one row; ``decoders`` names the decoder of every (fold, seed), ``folds`` its test scores."""
    if not extras.any:
        return {}
    images = per_image(folds)
    seeds = list(dict.fromkeys(one.seed for one in folds))
    measured_N = [
        [measures[decoders[fold, seed]][int(image)] for seed in seeds]
        for image, fold in zip(images.images, images.folds, strict=True)
    ]
    patients = [records[int(image)].patient for image in images.images]
    content: dict[str, Any] = {}
    if extras.surface:
        content["surface"] = surface_summary(measured_N, patients, seed=seeds[0])
    if extras.clean:
        content["cleaned"] = cleaned_summary(
            measured_N,
            images.folds,
            patients,
            n_train=n_train,
            n_test=max(len(one.scored.images) for one in folds),
            seed=seeds[0],
        )
    return content
