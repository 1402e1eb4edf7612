"""Folds: patients never divided, every image exactly once, the same on every run."""

from __future__ import annotations

import json
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.data.splits import duplicates, make_folds, splits_as_dict, splits_from_dict
from lungfast.errors import DataError, UsageError
from lungfast.records import ImageRecord


def record(
    name: str, patient: str, *, label: str | None = None, source: str = "s", pixels: str = ""
) -> ImageRecord:
    return ImageRecord(
        id=name,
        native_size=(4, 4),
        structures=("lungs",),
        patient=patient,
        source=source,
        content_sha256=pixels or name,
        label=label,
    )


@st.composite
def image_sets(draw: st.DrawFn) -> list[ImageRecord]:
    n = draw(st.integers(6, 60))
    n_patients = draw(st.integers(3, n))
    patients = [i if i < n_patients else draw(st.integers(0, n_patients - 1)) for i in range(n)]
    return [
        record(
            f"i{i}",
            f"p{patients[i]}",
            label=draw(st.sampled_from([None, "a", "b", "c"])),
            source=draw(st.sampled_from(["s", "t"])),
        )
        for i in range(n)
    ]


@settings(max_examples=60, deadline=None)
@given(image_sets(), st.integers(3, 8), st.integers(0, 99), st.randoms(use_true_random=False))
def test_folds(images: list[ImageRecord], n_folds: int, seed: int, shuffler) -> None:
    n_patients = len({image.patient for image in images})
    n_folds = min(n_folds, n_patients)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = make_folds(images, n_folds, seed=seed)
    assert [split.name for split in splits] == [f"fold-{i}" for i in range(n_folds)]
    tests = [set(split.test.tolist()) for split in splits]
    assert sorted(i for part in tests for i in part) == list(range(len(images)))
    for i, split in enumerate(splits):
        assert set(split.val.tolist()) == tests[(i + 1) % n_folds]
        parts = [split.train.tolist(), split.val.tolist(), split.test.tolist()]
        assert sorted(i for part in parts for i in part) == list(range(len(images)))
        owners = [{images[j].patient for j in part} for part in parts]
        assert all(owners), "no part is empty"
        assert sum(len(owner) for owner in owners) == n_patients
    order = list(range(len(images)))
    shuffler.shuffle(order)
    moved = make_folds([images[j] for j in order], n_folds, seed=seed)
    for split, other in zip(splits, moved, strict=True):
        assert set(split.test.tolist()) == {order[j] for j in other.test.tolist()}


def test_names_that_share_a_film_are_one_patient_in_any_order() -> None:
    images = [record(f"i{i}", f"p{i}") for i in range(12)]
    images += [record("a1", "a", pixels="shared"), record("a2", "a"), record("b1", "b", pixels="shared")]
    images += [record("b2", "b", pixels="chain"), record("c1", "c", pixels="chain"), record("c2", "c")]
    for seed in range(10):
        for listed in (images, images[::-1]):
            for split in make_folds(listed, 5, seed=seed):
                parts = [{listed[i].id for i in part} for part in (split.train, split.val, split.test)]
                assert sum({"a1", "a2", "b2", "c2"} <= part for part in parts) == 1
                assert not {"b1", "c1"} & set.union(*parts)


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_stratified_by_source_and_label(seed: int) -> None:
    kinds = [("s", "normal")] * 80 + [("s", "tb")] * 58 + [("t", "normal")] * 40
    images = [record(f"i{i}", f"p{i}", label=label, source=source) for i, (source, label) in enumerate(kinds)]
    for split in make_folds(images, 5, seed=seed):
        count = Counter(kinds[i] for i in split.test.tolist())
        assert abs(count["s", "normal"] - 16) <= 1
        assert abs(count["s", "tb"] - 11.6) <= 1.4
        assert abs(count["t", "normal"] - 8) <= 1


def test_the_seed_decides() -> None:
    images = [record(f"i{i}", f"p{i}") for i in range(40)]
    first, again, other = (make_folds(images, 5, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.test, b.test) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a.test, b.test) for a, b in zip(first, other, strict=True))


def test_duplicates_are_dropped_and_the_first_by_id_is_kept() -> None:
    images = [record(f"i{i:02}", f"p{i}", pixels=f"h{i % 12}") for i in range(24)]
    assert duplicates(images).tolist() == [False] * 12 + [True] * 12
    tested = np.concatenate([split.test for split in make_folds(images, 4, seed=0)])
    assert sorted(tested.tolist()) == list(range(12))


@pytest.mark.parametrize(
    "labels", [["rare"] + [None] * 29, [f"own {i}" for i in range(30)], ["a"] * 15 + ["b"] * 15]
)
def test_tiny_classes_and_missing_labels_do_not_warn(labels: list[str | None]) -> None:
    images = [record(f"i{i}", f"p{i // 2}", label=label) for i, label in enumerate(labels)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = make_folds(images, 5, seed=3)
    assert [len(split.test) for split in splits] == [6] * 5


@pytest.mark.parametrize(
    ("n_folds", "complaint"), [(2, "found 2; expected 3"), (7, "7 folds and 6 patients"), (-1, "-1")]
)
def test_impossible_folds(n_folds: int, complaint: str) -> None:
    images = [record(f"i{i}", f"p{i % 6}") for i in range(30)]
    with pytest.raises(UsageError, match=complaint):
        make_folds(images, n_folds, seed=0)


def test_saved_splits_come_back_by_id_in_any_order() -> None:
    images = [record(f"i{i}", f"p{i}") for i in range(20)]
    splits = make_folds(images, 4, seed=0)
    content = json.loads(json.dumps(splits_as_dict(splits, images)))
    for split, back in zip(splits, splits_from_dict(content, images), strict=True):
        assert (split.name, split.meta) == (back.name, back.meta)
        assert all(np.array_equal(getattr(split, p), getattr(back, p)) for p in ("train", "val", "test"))
    turned = images[::-1]
    moved = splits_from_dict(content, turned)
    assert [turned[i].id for i in moved[1].test] == [images[i].id for i in splits[1].test]
    with pytest.raises(DataError, match="not in this cache"):
        splits_from_dict(content, images[1:])
