"""Figures of a row: every image counts once, whatever number of seeds scored it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lungfast.studies.scoring import MEASURES, Scored
from lungfast.studies.summaries import FoldScores, fold_values, image_block, per_image, summary

IMAGES = {"fold-0": np.array([2, 0]), "fold-1": np.array([1, 3])}
F1 = {
    ("fold-0", 0): [0.2, 0.4],
    ("fold-0", 1): [0.6, 0.5],
    ("fold-1", 0): [0.8, 0.1],
    ("fold-1", 1): [0.9, 0.7],
}
RECORDS: Any = [
    SimpleNamespace(id=f"i{n}", patient=f"p{n}", label="normal", source="montgomery") for n in range(4)
]


def two_seeds() -> list[FoldScores]:
    """Each seed reads its scores at a threshold of its own; at the other one everything is 0."""
    return [
        FoldScores(
            fold=fold,
            seed=seed,
            index=seed,
            scored=Scored(
                images=IMAGES[fold],
                values={name: np.outer(values, [1 - seed, seed]) for name in MEASURES},
            ),
        )
        for (fold, seed), values in F1.items()
    ]


def test_an_image_has_the_mean_of_its_seeds() -> None:
    found = per_image(two_seeds())
    assert found.images.tolist() == [2, 0, 1, 3]
    assert found.folds == ("fold-0", "fold-0", "fold-1", "fold-1")
    for name in MEASURES:
        np.testing.assert_allclose(found.values[name], [0.4, 0.45, 0.85, 0.4])


def test_a_fold_has_the_mean_of_its_seeds() -> None:
    assert fold_values(two_seeds(), "f1") == pytest.approx([0.425, 0.625])


def test_a_row_counts_every_image_once() -> None:
    row = summary(two_seeds(), RECORDS, seed=0)
    assert row["f1_image"]["n"] == 4
    assert row["f1_image"]["mean"] == row["f1"]["mean"] == pytest.approx(0.525)
    block = image_block({"points": two_seeds()}, RECORDS)
    assert block["id"] == ["i0", "i1", "i2", "i3"]
    assert block["f1"]["points"] == pytest.approx([0.45, 0.85, 0.4, 0.4])
