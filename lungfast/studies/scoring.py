"""Decoders scored on images at native size, whatever they come from: a fit, a finished run, or SAM itself.

Comes in: :class:`Candidate` decoders with the images of each, an opened workspace. Goes out: a
:class:`Scored` each. Decoders are read part by part: memory holds no more of them than the stack is wide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lungfast.records import Float32, Float64, Int64, PromptSource
from lungfast.scored.calibration import CALIBRATION_EDGES, Reliability, pooled
from lungfast.scored.scores import Scores, scores_of
from lungfast.studies.workspace import Workspace, row_budget, stack_width

if TYPE_CHECKING:
    from torch import Tensor

MEASURES = ("f1", "iou", "precision", "recall")
BATCH_SIZE = 8
"""Images a pass where no training says otherwise; it changes no result."""

Predictions = Iterator[tuple[int, int, Float32]]
"""(candidate, image, logits_hw): float32, low resolution, before the sigmoid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A decoder to score: its prompts, how to read its weights (MaskDecoder names), and its images.

    It is asked about ``views`` of every image, and the mean counts (averaging.py).
    """

    key: str
    prompts: PromptSource
    state: Callable[[], Mapping[str, Tensor]]
    images: Int64
    views: int = 1


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of one decoder on some images: (images, thresholds) arrays in [0, 1].

    ``reliability`` counts their pixels by probability, where that was asked for.
    """

    images: Int64
    values: Mapping[str, Float64]
    reliability: Reliability | None = None

    def at(self, measure: str, index: int) -> Float64:
        """Per-image values of a measure at threshold number ``index``."""
        return np.asarray(self.values[measure][:, index])


def prepare(workspace: Workspace, memory_bytes: int, n_candidates: int, *, views: int = 1) -> int:
    """Make the rows ready for scoring under a memory bound; returns the width to score with."""
    width = stack_width(memory_bytes, n_candidates, workspace.device)
    row_bytes = row_budget(memory_bytes, width, workspace.device)
    workspace.hold_rows(row_bytes, batch_rows=width * BATCH_SIZE, views=views)
    return width


def predictions(
    workspace: Workspace, candidates: Sequence[Candidate], *, width: int, batch_size: int = BATCH_SIZE
) -> Predictions:
    """Every candidate on its own images, in its own prompts."""
    for start in range(0, len(candidates), width):
        part = candidates[start : start + width]
        for k, image, logits_hw in workspace.predict(
            [one.prompts for one in part],
            [one.state() for one in part],
            [one.images for one in part],
            batch_size=batch_size,
            views_K=[one.views for one in part],
        ):
            yield start + k, image, logits_hw


def joined(logits: Predictions, groups: Sequence[Sequence[int]]) -> Predictions:
    """(group, image, mean logits), as soon as all candidates of a group have seen an image.

    A candidate may be in several groups. Upsampling is linear: the mean at low resolution is that at native
    size.
    """
    groups_of: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        for k in group:
            groups_of.setdefault(k, []).append(number)
    waiting: dict[tuple[int, int], list[Float32]] = {}
    for k, image, logits_hw in logits:
        for number in groups_of[k]:
            seen = waiting.setdefault((number, image), [])
            seen.append(logits_hw)
            if len(seen) == len(groups[number]):
                del waiting[number, image]
                yield number, image, np.mean(seen, axis=0, dtype=np.float32)


def consecutive(counts: Sequence[int]) -> list[range]:
    """Places of groups that follow one another: 2, 3 -> 0 1, 2 3 4."""
    ends = np.cumsum([0, *counts]).tolist()
    return [range(first, last) for first, last in pairwise(ends)]


def score(
    workspace: Workspace,
    logits: Predictions,
    images_K: Sequence[Int64],
    thresholds: Sequence[float],
    *,
    advance: Callable[[], None],
    calibrated: bool = False,
) -> list[Scored]:
    """Scores of every candidate's ``logits`` at every threshold; ``advance`` is called once an image.

    ``calibrated``: also counts pixels by probability; one pass over an image counts at all edges.
    """
    found: list[dict[int, Scores]] = [{} for _ in images_K]
    bins: list[list[Reliability]] = [[] for _ in images_K]
    binned = CALIBRATION_EDGES if calibrated else ()
    edges = sorted({*thresholds, *binned})
    scan, middle = ([edges.index(t) for t in some] for some in (thresholds, binned))
    for k, image, counts in workspace.count(logits, edges):
        found[k][image] = scores_of(counts.at(scan))
        if calibrated:
            bins[k].append(Reliability.of(counts.at(middle)))
        advance()
    return [_stacked(*one) for one in zip(found, bins, images_K, strict=True)]


def _stacked(found: Mapping[int, Scores], bins: Sequence[Reliability], images: Int64) -> Scored:
    values = {
        name: np.array([getattr(found[int(image)], f"{name}_Q") for image in images]) for name in MEASURES
    }
    return Scored(images=images, values=values, reliability=pooled(bins) if bins else None)
