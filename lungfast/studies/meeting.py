"""Decoders of two sets meet on the images of one: scores, rows and the paired difference of a single prompt.

Comes in: two sets with a finished cross-validation each, and the images to score by fold. Goes out: a
:class:`Meeting`. ``transfer.py`` asks for one a direction and prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lungfast.records import ImageRecord, Int64
from lungfast.scored.scores import over_folds
from lungfast.studies.comparisons import Side, compare
from lungfast.studies.fitting import Listener
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.rescoring import VOTE, n_scored, rescore, row_head, tell_fewer_views, test_images
from lungfast.studies.scoring import MEASURES
from lungfast.studies.summaries import FoldScores, fold_values, per_image, summary
from lungfast.studies.workspace import Workspace

SAME_FOLD, ALL, TOGETHER = "same fold", "all", "all, together"
ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One set: its name, its cache, and its finished cross-validation."""

    name: str
    workspace: Workspace
    run: FinishedRun

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        return self.workspace.cache.images

    def models(self, key: str) -> tuple[Model, ...]:
        """The decoders of a row of the run's table."""
        return self.run.models(key)

    def test_images(self) -> dict[str, Int64]:
        """By the name of the fold."""
        return test_images(self.run, self.workspace)


@dataclass(frozen=True, kw_only=True, eq=False)
class Meeting:
    """The decoders of ``train`` and those of ``test``, of one prompt, on images of ``test``."""

    train: Site
    test: Site
    key: str
    same_fold: Mapping[str, Sequence[FoldScores]]
    """By the set that trained: on the test images of the decoder's fold."""
    everywhere: Sequence[FoldScores]
    """Those of ``train`` on all images, each on its own."""
    vote: FoldScores
    """Those of ``train`` on all images, together."""

    def rows(self, *, seed: int) -> list[dict[str, Any]]:
        """Trained elsewhere and at home, on the same images; then trained elsewhere, on all, and together."""
        images = self.test.images
        rows = [
            self._head(site, SAME_FOLD) | summary(self.same_fold[site.name], images, seed=seed)
            for site in (self.train, self.test)
        ]
        # every decoder met every image: an image's value is its mean over the decoders, and counts once
        pooled = [replace(one, fold=ALL, seed=k) for k, one in enumerate(self.everywhere)]
        folds = {name: asdict(over_folds(fold_values(self.everywhere, name))) for name in MEASURES}
        rows.append(self._head(self.train, ALL) | summary(pooled, images, seed=seed) | folds)
        return [*rows, self._head(self.train, TOGETHER) | summary([self.vote], images, seed=seed)]

    def _head(self, site: Site, scope: str) -> dict[str, Any]:
        key = row_key(site, self.test, self.key) + ("" if scope == SAME_FOLD else f", {scope}")
        model = site.models(self.key)[0]
        views = model.views_in(self.test.workspace)
        more = {"of": self.key, "train": site.name, "test": self.test.name, "scope": scope, "views": views}
        return row_head(key, model, **more)

    def compared(self, *, seed: int) -> dict[str, Any]:
        """A→B − B→B on B's test images, paired."""
        test = self.test
        found = {name: per_image(folds) for name, folds in self.same_fold.items()}
        # folds of both runs must line up for a t-test over them
        shapes = {tuple(dict.fromkeys(one.fold for one in folds)) for folds in self.same_fold.values()}
        sides = [
            Side(
                name=_arrow(site, test),
                images_N=found[site.name].values["f1"],
                folds_J=fold_values(self.same_fold[site.name], "f1") if len(shapes) == 1 else (),
            )
            for site in (self.train, test)
        ]
        splits = test.run.splits(test.images)
        one = compare(
            sides[0],
            sides[1],
            [test.images[int(i)].patient for i in found[test.name].images],
            n_train=min(len(split.train) for split in splits),
            n_test=max(len(split.test) for split in splits),
            seed=seed,
        )
        return one | {
            "name": f"{self.key}: {one['name']}",
            "of": self.key,
            "needs_ground_truth": self.train.models(self.key)[0].prompt.is_oracle,
            "tested_on": test.name,
        }


def _arrow(train: Site, test: Site) -> str:
    return f"{train.name}{ARROW}{test.name}"


def row_key(train: Site, test: Site, key: str) -> str:
    """Names a row on the test images of the same fold."""
    return f"{_arrow(train, test)}, {key}"


def meet(
    train: Site,
    test: Site,
    key: str,
    kept: Mapping[str, Int64],
    memory_bytes: int,
    listener: Listener,
) -> Meeting:
    """Every decoder at its own threshold: on the images of its fold, and those of ``train`` on all.

    Those of ``train`` also vote, as ``predict`` lets them, at the mean of their thresholds.
    """

    def scored(site: Site, images_of: Mapping[str, Int64]) -> list[FoldScores]:
        models = site.models(key)
        tell_fewer_views(models, test.workspace, listener.note)
        listener.phase(f"scoring {row_key(site, test, key)}", n_scored(models, images_of))
        return rescore(models, test.workspace, images_of, memory_bytes, advance=listener.advance)

    everything = dict.fromkeys((*kept, VOTE), np.sort(np.concatenate(list(kept.values()))))
    same_fold = {site.name: scored(site, kept) for site in (train, test)}
    *everywhere, vote = scored(train, everything)
    return Meeting(train=train, test=test, key=key, same_fold=same_fold, everywhere=everywhere, vote=vote)
