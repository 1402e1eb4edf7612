"""Decoders trained on one set, tested on another, unchanged. Paper: Tables III and IV.

Comes in: a finished cross-validation on each of two caches of the same encoder, with equally many folds. The
decoders of fold i meet the other set's test images of fold i, so that A→B and B→B are paired image by image;
and all of its images, as a row of their own. Threshold, prior and hyperparameters stay those of the set that
trained. Images with the same pixels in both sets are dropped; look-alikes are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lungfast.errors import CacheError, DataError, UsageError
from lungfast.records import GENERATED, ImageRecord, Int64
from lungfast.runs import RunFolder, results
from lungfast.scored.scores import over_folds
from lungfast.studies.comparisons import Side, as_family, compare
from lungfast.studies.fitting import Listener
from lungfast.studies.lookalikes import look_alikes
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.rescoring import identity, n_scored, rescore, row_head, test_images
from lungfast.studies.scoring import MEASURES
from lungfast.studies.session import ScoreBody
from lungfast.studies.summaries import (
    FoldScores,
    fold_seed_values,
    fold_values,
    image_block,
    per_image,
    summary,
)
from lungfast.studies.workspace import Workspace

SAME_FOLD, ALL = "same fold", "all"
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


@dataclass(frozen=True, kw_only=True)
class TransferConfig:
    """Which sets meet, in which rows of their runs: runs that were there, or trained by ``training``.

    ``keys`` are the rows (prompts) whose decoders travel, ``data_sha256`` the fingerprints' hashes of both
    caches' images and masks.
    """

    sites: tuple[str, str]
    data_sha256: tuple[str | None, str | None]
    keys: tuple[str, ...]
    results_sha256: tuple[str, ...] = ()
    training: Any = None
    seed: int = 0


def transfer(config: TransferConfig, a: Site, b: Site, memory_bytes: int, listener: Listener) -> ScoreBody:
    """The body of the study. CacheError for caches of different encoders, UsageError for other folds."""
    check_sets(a.workspace, b.workspace)
    for site in (a, b):
        site.run.check_cache(site.workspace.cache)
    _check_folds(a, b)
    same = _same_pixels(a, b)
    kept_of = {site.name: _kept(site, same[site.name]) for site in (a, b)}

    def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        blocks, compared = {}, []
        for train, test in ((a, b), (b, a)):
            found: dict[str, Sequence[FoldScores]] = {}
            for key in config.keys:
                met = _meet(train, test, key, kept_of[test.name], memory_bytes, listener)
                rows += met.rows(seed=config.seed)
                found |= {_key(site, test, key): met.same_fold[site.name] for site in (train, test)}
                compared.append(met.compared(seed=config.seed))
            blocks[test.name] = image_block(found, test.images)
        content = results("transfer", rows, made_with) | {
            "images": blocks,
            "comparisons": as_family("transfer", compared),
            "duplicates": _named(a, b),
            "near_duplicates": look_alikes(a.workspace.cache, b.workspace.cache),
        }
        run.write_results(content)
        return content

    return body


def site_names(a: Workspace, b: Workspace) -> tuple[str, str]:
    """The sets of their images, where that tells the two apart; else the caches' names, which must differ."""
    sources = [{record.source for record in one.cache.images} for one in (a, b)]
    if all(len(one) == 1 for one in sources) and sources[0] != sources[1]:
        first, second = (source for one in sources for source in one)
        if not any(source.startswith(GENERATED) for source in (first, second)):
            return first, second
    names = [one.cache.url.rstrip("/").rsplit("/", maxsplit=1)[-1].removesuffix(".zarr") for one in (a, b)]
    if names[0] == names[1]:
        raise UsageError("A and B have the same name", found=names[0], fix="rename one of the caches")
    return names[0], names[1]


def config_of(a: Site, b: Site, keys: Sequence[str]) -> TransferConfig:
    """The question for runs that are there."""
    return TransferConfig(
        sites=(a.name, b.name),
        data_sha256=(a.run.data_sha256, b.run.data_sha256),
        keys=tuple(keys),
        results_sha256=(identity(a.run), identity(b.run)),
    )


def check_sets(a: Workspace, b: Workspace) -> None:
    """CacheError where embeddings of two caches cannot meet one decoder; DataError for the same set twice."""
    ours, theirs = a.cache.spec, b.cache.spec
    if ours != theirs:
        raise CacheError(
            "the two caches come from different encoders",
            found=f"{ours.name} {ours.weights_sha256[:12]}… and {theirs.name} {theirs.weights_sha256[:12]}…",
            expected="the same weights, input size and resize rule",
            fix="embed both sets with the same encoder",
        )
    pixels = [{record.content_sha256 for record in one.cache.images} for one in (a, b)]
    if pixels[0] <= pixels[1] or pixels[1] <= pixels[0]:
        raise DataError(
            "one of the two sets holds all images of the other",
            found=f"{len(pixels[0] & pixels[1])} images whose pixels both have",
            expected="two different sets",
        )


def _check_folds(a: Site, b: Site) -> None:
    folds = [len(site.test_images()) for site in (a, b)]
    if folds[0] != folds[1]:
        raise UsageError(
            "the two runs have different folds", found=f"{folds[0]} and {folds[1]}", expected="as many"
        )


def _same_pixels(a: Site, b: Site) -> dict[str, set[int]]:
    """By set: images whose pixels the other set has too."""
    hashes = {site.name: {record.content_sha256 for record in site.images} for site in (a, b)}
    common = hashes[a.name] & hashes[b.name]
    return {
        site.name: {i for i, record in enumerate(site.images) if record.content_sha256 in common}
        for site in (a, b)
    }


def _named(a: Site, b: Site) -> list[dict[str, str]]:
    theirs = {record.content_sha256: record.id for record in b.images}
    return [
        {"a": record.id, "b": theirs[record.content_sha256]}
        for record in a.images
        if record.content_sha256 in theirs
    ]


def _kept(site: Site, dropped: set[int]) -> dict[str, Int64]:
    """Test images by fold without those that the other set has too."""
    kept = {
        fold: np.array([image for image in images.tolist() if image not in dropped], np.int64)
        for fold, images in site.test_images().items()
    }
    empty = [fold for fold, images in kept.items() if not images.size]
    if empty:
        raise DataError(
            f"no image is left to test {', '.join(empty)} of {site.name}",
            found=f"{len(dropped)} images whose pixels both sets have",
            expected="two different sets",
        )
    return kept


@dataclass(frozen=True, kw_only=True, eq=False)
class _Meeting:
    """The decoders of ``train`` and those of ``test``, of one prompt, on images of ``test``."""

    train: Site
    test: Site
    key: str
    same_fold: Mapping[str, Sequence[FoldScores]]
    """By the set that trained: on the test images of the decoder's fold."""
    everywhere: Sequence[FoldScores]
    """Those of ``train`` on all images."""

    def rows(self, *, seed: int) -> list[dict[str, Any]]:
        """Trained elsewhere and at home, on the same images; then trained elsewhere, on all."""
        images = self.test.images
        rows = [
            self._head(site, SAME_FOLD) | summary(self.same_fold[site.name], images, seed=seed)
            for site in (self.train, self.test)
        ]
        # every decoder met every image: an image's value is its mean over the decoders, and counts once
        pooled = [replace(one, fold=ALL, seed=k) for k, one in enumerate(self.everywhere)]
        folds = {name: asdict(over_folds(fold_values(self.everywhere, name))) for name in MEASURES}
        return [*rows, self._head(self.train, ALL) | summary(pooled, images, seed=seed) | folds]

    def _head(self, site: Site, scope: str) -> dict[str, Any]:
        key = _key(site, self.test, self.key) + ("" if scope == SAME_FOLD else f", {scope}")
        model = site.models(self.key)[0]
        return row_head(key, model, train=site.name, test=self.test.name, scope=scope)

    def compared(self, *, seed: int) -> dict[str, Any]:
        """A→B − B→B on B's test images, paired."""
        test = self.test
        found = {name: per_image(folds) for name, folds in self.same_fold.items()}
        # folds and seeds of both runs must line up for a t-test over them
        shapes = {tuple((one.fold, one.seed) for one in folds) for folds in self.same_fold.values()}
        sides = [
            Side(
                name=_arrow(site, test),
                images_N=found[site.name].values["f1"],
                folds_J=fold_seed_values(self.same_fold[site.name], "f1") if len(shapes) == 1 else (),
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
        return one | {"name": f"{one['name']}, {self.key}", "prompt": self.key, "test": test.name}


def _arrow(train: Site, test: Site) -> str:
    return f"{train.name}{ARROW}{test.name}"


def _key(train: Site, test: Site, key: str) -> str:
    """Names a row on the test images of the same fold."""
    return f"{_arrow(train, test)}, {key}"


def _meet(
    train: Site,
    test: Site,
    key: str,
    kept: Mapping[str, Int64],
    memory_bytes: int,
    listener: Listener,
) -> _Meeting:
    """Every decoder at its own threshold: on the images of its fold, and those of ``train`` on all."""

    def scored(site: Site, images_of: Mapping[str, Int64]) -> list[FoldScores]:
        models = site.models(key)
        listener.phase(f"scoring {_key(site, test, key)}", n_scored(models, images_of))
        return rescore(models, test.workspace, images_of, memory_bytes, advance=listener.advance)

    everything = dict.fromkeys(kept, np.sort(np.concatenate(list(kept.values()))))
    return _Meeting(
        train=train,
        test=test,
        key=key,
        same_fold={site.name: scored(site, kept) for site in (train, test)},
        everywhere=scored(train, everything),
    )
