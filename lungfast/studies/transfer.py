"""Decoders trained on one set, tested on another, unchanged. Paper: Tables III and IV.

Comes in: a finished cross-validation on each of two caches of the same encoder, with equally many folds. The
decoders of fold i meet the other set's test images of fold i, so that A→B and B→B are paired image by image;
and all of its images, as a row of their own. Threshold, prior and hyperparameters stay those of the set that
trained. Images with the same pixels in both sets are dropped; look-alikes are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungfast.errors import DataError, TrainingError, UsageError
from lungfast.records import GENERATED, Int64
from lungfast.runs import RunFolder, results
from lungfast.studies.comparisons import as_family
from lungfast.studies.fitting import Listener
from lungfast.studies.lookalikes import look_alikes
from lungfast.studies.meeting import Site, meet, row_key
from lungfast.studies.rescoring import identity
from lungfast.studies.session import ScoreBody
from lungfast.studies.summaries import (
    FoldScores,
    image_block,
)
from lungfast.studies.workspace import Workspace


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

    def __post_init__(self) -> None:
        if not self.keys or len(set(self.keys)) < len(self.keys):
            found = ", ".join(self.keys) or "none"
            raise UsageError("the rows that travel", found=found, expected="at least one, each once")


def transfer(config: TransferConfig, a: Site, b: Site, memory_bytes: int, listener: Listener) -> ScoreBody:
    """The body of the study.

    CacheError for caches of different encoders, UsageError for other folds and for a key that a run has not,
    TrainingError where all of them diverged; some that diverged are left out with a note.
    """
    check_sets(a.workspace, b.workspace)
    for site, other in ((a, b), (b, a)):
        site.run.check_cache(site.workspace.cache)
        site.run.check_encoder(other.workspace.cache)
    _check_folds(a, b)
    keys = _usable_keys(config.keys, a, b, listener)
    same = _same_pixels(a, b)
    kept_of = {site.name: _kept(site, same[site.name]) for site in (a, b)}

    def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        blocks, compared = {}, []
        for train, test in ((a, b), (b, a)):
            found: dict[str, Sequence[FoldScores]] = {}
            for key in keys:
                met = meet(train, test, key, kept_of[test.name], memory_bytes, listener)
                rows += met.rows(seed=config.seed)
                found |= {row_key(site, test, key): met.same_fold[site.name] for site in (train, test)}
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


def config_of(a: Site, b: Site, keys: str | Sequence[str]) -> TransferConfig:
    """The question for runs that are there; ``keys``: one row of theirs, or several."""
    return TransferConfig(
        sites=(a.name, b.name),
        data_sha256=(a.run.data_sha256, b.run.data_sha256),
        keys=(keys,) if isinstance(keys, str) else tuple(keys),
        results_sha256=(identity(a.run), identity(b.run)),
    )


def check_sets(a: Workspace, b: Workspace) -> None:
    """CacheError where embeddings of two caches cannot meet one decoder; DataError for the same set twice."""
    a.check_encoder_of(b)
    if a.pixels <= b.pixels or b.pixels <= a.pixels:
        raise DataError(
            "one of the two sets holds all images of the other",
            found=f"{len(a.pixels & b.pixels)} images whose pixels both have",
            expected="two different sets",
        )


def _check_folds(a: Site, b: Site) -> None:
    folds = [len(site.test_images()) for site in (a, b)]
    if folds[0] != folds[1]:
        raise UsageError(
            "the two runs have different folds", found=f"{folds[0]} and {folds[1]}", expected="as many"
        )


def _usable_keys(keys: Sequence[str], a: Site, b: Site, listener: Listener) -> list[str]:
    """Those whose folds all have a decoder in both runs."""
    for site in (a, b):
        if strangers := [key for key in keys if key not in site.run.all_rows()]:
            raise UsageError(
                f"{site.run.path} has no row {', '.join(strangers)}", expected=", ".join(site.run.all_rows())
            )
    usable = [key for key in keys if key in a.run.rows() and key in b.run.rows()]
    if left_out := [key for key in keys if key not in usable]:
        listener.note(f"left out, as a fold has no decoder that did not diverge: {', '.join(left_out)}")
    if not usable:
        raise TrainingError("no row of both runs has a decoder in every fold", fix="try a smaller --lr")
    return usable


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
