"""Folds by patient: who trains, who chooses, who is tested, kept apart and the same on every machine.

In: image records. Out: :class:`Split` objects of positions in that sequence. Duplicated pixels are dropped
first, patients (names that share a film are one) are never divided, and the parts follow (source, label) as
closely as patients allow. Which fold an image falls into depends on the set of images and the seed, not on
their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lungfast.errors import DataError, UsageError
from lungfast.records import Bool, ImageRecord, Int64, Split

PARTS = ("train", "val", "test")


def duplicates(images: Sequence[ImageRecord]) -> Bool:
    """True where an earlier image has the same ``content_sha256``; shape (len(images),)."""
    seen: set[str] = set()
    repeated = np.zeros(len(images), bool)
    for i, image in enumerate(images):
        repeated[i] = image.content_sha256 in seen
        seen.add(image.content_sha256)
    return repeated


def make_folds(images: Sequence[ImageRecord], n_folds: int, *, seed: int) -> tuple[Split, ...]:
    """``n_folds`` splits: fold i tests on part i, validates on part i + 1, trains on the others.

    Raises UsageError where ``n_folds`` is below 3 or above the number of patients.
    """
    by_id = sorted(range(len(images)), key=lambda i: images[i].id)
    repeated = duplicates([images[i] for i in by_id])
    kept = [i for i, again in zip(by_id, repeated, strict=True) if not again]
    owner = _owners(images)
    patients = [owner[images[i].patient] for i in kept]
    _check_n_folds(n_folds, len(set(patients)))
    parts = _parts([images[i] for i in kept], patients, n_folds, seed=seed)
    positions = [np.sort(np.array(kept, np.int64)[part]) for part in parts]
    return tuple(_fold(positions, i, seed=seed) for i in range(n_folds))


def splits_as_dict(splits: Sequence[Split], images: Sequence[ImageRecord]) -> dict[str, Any]:
    """JSON-ready, by image id, so that a saved split outlives a cache with other positions."""
    return {"splits": [_split_as_dict(split, images) for split in splits]}


def splits_from_dict(content: Mapping[str, Any], images: Sequence[ImageRecord]) -> tuple[Split, ...]:
    """The inverse of :func:`splits_as_dict` for these images; DataError where an id is not among them."""
    position = {image.id: i for i, image in enumerate(images)}
    return tuple(_split_from_dict(item, position) for item in content["splits"])


def _check_n_folds(n_folds: int, n_patients: int) -> None:
    if n_folds < 3:
        raise UsageError(
            "too few folds: one part tests, one chooses, the rest trains",
            found=str(n_folds),
            expected="3 or more",
            fix="use --folds 5",
        )
    if n_folds > n_patients:
        raise UsageError(
            "more folds than patients",
            found=f"{n_folds} folds and {n_patients} patients (duplicates dropped)",
            expected="at least one patient per fold",
            fix=f"use --folds {n_patients}" if n_patients >= 3 else "add images",
        )


def _owners(images: Sequence[ImageRecord]) -> dict[str, str]:
    """Of every patient the first of all those that are one person, as films with the same pixels say."""
    owner = {image.patient: image.patient for image in images}
    by_pixels: dict[str, set[str]] = {}
    for image in images:
        by_pixels.setdefault(image.content_sha256, set()).add(image.patient)
    for names in by_pixels.values():
        joined = {owner[name] for name in names}
        if len(joined) > 1:
            owner = {name: min(joined) if of in joined else of for name, of in owner.items()}
    return owner


def _parts(images: Sequence[ImageRecord], patients: Sequence[str], n_folds: int, *, seed: int) -> list[Int64]:
    """Positions in ``images`` of each part."""
    from sklearn.model_selection import StratifiedGroupKFold

    strata = _strata(images, n_folds)
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return [part for _, part in folds.split(np.zeros(len(images)), strata, np.array(patients))]


def _strata(images: Sequence[ImageRecord], n_folds: int) -> Int64:
    """A class per image: (source, label), where a class has a member for every fold.

    Smaller classes are pooled (scikit-learn warns about them, and they cannot be spread anyway); a pool that
    is still too small joins the largest class.
    """
    keys = [(image.source, image.label or "") for image in images]
    count = Counter(keys)
    large = sorted(key for key in count if count[key] >= n_folds)
    n_pooled = sum(count[key] for key in count if count[key] < n_folds)
    pool = len(large)
    if large and n_pooled < n_folds:
        pool = large.index(max(large, key=lambda key: count[key]))
    code = {key: i for i, key in enumerate(large)}
    return np.array([code.get(key, pool) for key in keys], np.int64)


def _fold(positions: Sequence[Int64], i: int, *, seed: int) -> Split:
    n_folds = len(positions)
    val = (i + 1) % n_folds
    rest = [positions[part] for part in range(n_folds) if part not in (i, val)]
    return Split(
        train=np.sort(np.concatenate(rest)),
        val=positions[val],
        test=positions[i],
        name=f"fold-{i}",
        meta={"fold": i, "n_folds": n_folds, "seed": seed},
    )


def _split_as_dict(split: Split, images: Sequence[ImageRecord]) -> dict[str, Any]:
    parts = {part: [images[i].id for i in getattr(split, part)] for part in PARTS}
    return {"name": split.name, "meta": dict(split.meta), **parts}


def _split_from_dict(item: Mapping[str, Any], position: Mapping[str, int]) -> Split:
    unknown = [name for part in PARTS for name in item[part] if name not in position]
    if unknown:
        raise DataError(
            f"split {item['name']} names images that are not in this cache",
            found=", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""),
            fix="use the cache the split was made from",
        )
    train, val, test = (np.array([position[name] for name in item[part]], np.int64) for part in PARTS)
    return Split(train=train, val=val, test=test, name=item["name"], meta=item["meta"])
