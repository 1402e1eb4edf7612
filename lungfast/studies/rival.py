"""A finished ``cv`` run as the other side of a comparison: its scores of the same images in the same folds.

Comes in: a run folder, the cache and the folds of the study that compares itself. Goes out: paired
differences, one for each row of the run's table that has a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungfast.data.splits import splits_as_dict
from lungfast.errors import RunError
from lungfast.files import dump_json
from lungfast.frozen.cache import EmbeddingCache
from lungfast.records import Split
from lungfast.runs import read_json
from lungfast.studies.comparisons import Side, comparisons
from lungfast.studies.models import FinishedRun
from lungfast.studies.summaries import FoldScores, fold_values, per_image


class Rival:
    """Made by :meth:`open`."""

    def __init__(self, content: Mapping[str, Any], cache: EmbeddingCache) -> None:
        self._content, self._cache = content, cache

    @classmethod
    def open(cls, path: Path, cache: EmbeddingCache, splits: Sequence[Split]) -> Rival:
        """RunError where the run is no finished cv, is of other images, or has other folds."""
        run = FinishedRun.open(path)
        if run.content["study"] != "cv":
            raise RunError(f"{path} is no cross-validation", found=run.content["study"], expected="cv")
        run.check_images(cache)
        if read_json(path / "splits.json") != splits_as_dict(splits, cache.images):
            raise RunError(f"{path} has other folds", fix="give the same --folds and --split-seed")
        return cls(run.content, cache)

    @property
    def identity(self) -> str:
        """A hash of its scores."""
        return hashlib.sha256(dump_json(self._content["images"]).encode()).hexdigest()

    def compare(
        self, family: str, scores: Sequence[FoldScores], splits: Sequence[Split]
    ) -> list[dict[str, Any]]:
        """F1 of every row of the run minus that of ``scores``, image by image and fold by fold."""
        found = per_image(scores)
        records = [self._cache.images[int(image)] for image in found.images]
        mine = Side(name=family, images_N=found.values["f1"], folds_J=fold_values(scores, "f1"))
        folds = {row["key"]: list(row["f1"]["folds"]) for row in self._content["rows"] if row["f1"]}
        place = {name: i for i, name in enumerate(self._content["images"]["id"])}
        order = [place[record.id] for record in records]
        pairs = [
            (Side(name=key, images_N=np.array(values)[order], folds_J=folds[key]), mine)
            for key, values in self._content["images"]["f1"].items()
        ]
        return comparisons(
            family,
            pairs,
            [record.patient for record in records],
            n_train=min(len(split.train) for split in splits),
            n_test=max(len(split.test) for split in splits),
            seed=scores[0].seed,
        )
