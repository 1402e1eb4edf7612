from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lungfast.frozen.mask_summary import MaskSummary, average_mask, summarise_mask
from lungfast.frozen.priors import (
    Placement,
    Prior,
    fold_averages,
    lung_averages,
    negative_points,
    prior_box,
    prior_points,
)
from lungfast.records import Bool, Float32, Float64
from tests.frozen.maskkit import LEFT, RIGHT, SIZES, ellipse, two, union


def inside(average_hw: Float32, points_N2: Float64, level: float) -> Bool:
    cells = (points_N2 * np.array(average_hw.shape[::-1])).astype(int)
    return np.asarray(average_hw[cells[:, 1], cells[:, 0]] > level)


@pytest.mark.parametrize("make", [two, union])
def test_mixed_frames_average_to_one_anatomy(make: object) -> None:
    """Portrait, landscape and square agree in normalised coordinates: nothing is smeared."""
    masks = [make(size) for size in SIZES]  # type: ignore[operator]
    averages = fold_averages([summarise_mask(m) for m in masks])
    union_hw = np.sum(list(averages.values()), axis=0)
    assert ((union_hw > 0.1) & (union_hw < 0.9)).mean() < 0.03  # only the cells on the border
    lungs = lung_averages(averages)
    assert len(lungs) == 2
    for lung_hw, shape in zip(lungs, (LEFT, RIGHT), strict=True):
        assert prior_points(lung_hw, 1)[0] == pytest.approx(shape[:2], abs=0.01)
        expected_4 = [shape[0] - shape[2], shape[1] - shape[3], shape[0] + shape[2], shape[1] + shape[3]]
        assert prior_box(lung_hw) == pytest.approx(expected_4, abs=0.01)


def test_touching_lungs_are_parted_by_a_higher_level() -> None:
    """Lungs that touch in most masks are still two where nearly all masks agree."""
    bridged = union((256, 256))["lungs"]
    bridged[100:110, 80:180] = True
    clean = union((256, 256))
    summaries = [summarise_mask({"lungs": bridged})] * 6 + [summarise_mask(clean)] * 4
    assert len(lung_averages(fold_averages(summaries))) == 2
    assert len(lung_averages(fold_averages(summaries[:6]))) == 1


def test_structures_are_kept_only_where_all_images_have_them() -> None:
    both = [summarise_mask(two((400, 300))), summarise_mask(two((300, 400)))]
    assert sorted(fold_averages(both)) == ["left", "right"]
    mixed = fold_averages([*both, summarise_mask(union((300, 300)))])
    assert list(mixed) == ["lungs"]
    assert len(lung_averages(mixed)) == 2


def test_disagreeing_masks_lower_the_level() -> None:
    """Nothing above 0.7: the points go where most masks agree."""
    masks = [ellipse((256, 256), (0.3 + dx, 0.45, 0.12, 0.28)) for dx in (-0.02, 0.02)]
    summaries = [summarise_mask({"lungs": mask_HW}) for mask_HW in [*masks, np.zeros_like(masks[0])]]
    (lung_hw,) = lung_averages(fold_averages(summaries))
    assert lung_hw.max() < 0.7
    assert inside(lung_hw, prior_points(lung_hw, 2), 0.5).all()
    assert prior_box(lung_hw)[0] == pytest.approx(0.2, abs=0.01)


def test_all_masks_empty_is_an_error() -> None:
    nothing = summarise_mask({"lungs": np.zeros((64, 64), bool)})
    with pytest.raises(ValueError, match="every training mask is empty"):
        lung_averages(fold_averages([nothing]))


@pytest.mark.parametrize("placement", ["deepest", "spread"])
@given(
    count=st.integers(1, 9),
    shape=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8), st.floats(0.02, 0.4), st.floats(0.02, 0.4)),
)
@settings(max_examples=20, deadline=None)
def test_points_lie_inside_and_apart(
    placement: Placement, count: int, shape: tuple[float, float, float, float]
) -> None:
    average_hw = average_mask([ellipse((200, 300), shape)])
    points_N2 = prior_points(average_hw, count, placement)
    assert points_N2.shape == (count, 2)
    assert inside(average_hw, points_N2, 0.7).all()
    gaps = np.linalg.norm(points_N2[:, None] - points_N2[None], axis=-1)[np.triu_indices(count, 1)]
    assert (gaps > 0).all()


def test_spread_shares_the_region_better_than_chance() -> None:
    average_hw = average_mask([ellipse((256, 256), LEFT)])
    points_N2 = prior_points(average_hw, 4, "spread")
    gaps = np.linalg.norm(points_N2[:, None] - points_N2[None], axis=-1)[np.triu_indices(4, 1)]
    assert gaps.min() > 0.1  # the ellipse is 0.24 wide and 0.56 high


@pytest.mark.parametrize("make", [two, union])
def test_negative_points_start_between_the_lungs(make: object) -> None:
    averages = fold_averages([summarise_mask(make(size)) for size in SIZES])  # type: ignore[operator]
    points_N2 = negative_points(averages, 4)
    assert points_N2.shape == (4, 2)
    assert 0.42 < points_N2[0, 0] < 0.58
    assert 0.17 < points_N2[0, 1] < 0.73
    union_hw = np.sum(list(averages.values()), axis=0)
    assert not inside(union_hw, points_N2, 0.05).any()
    assert negative_points(averages, 0).shape == (0, 2)


def test_negative_points_without_an_outside() -> None:
    full = {"lungs": np.ones((256, 256), np.float32)}
    assert negative_points(full, 2).shape == (2, 2)


def test_prior_json_round_trip() -> None:
    rng = np.random.default_rng(0)
    for n_points in (0, 3):
        prior = Prior(
            points_IN2=rng.random((2, n_points, 2)),
            labels_IN=rng.integers(0, 2, (2, n_points)),
            boxes_I4=rng.random((2, 4)),
        )
        again = Prior.from_dict(json.loads(json.dumps(prior.as_dict())))
        assert np.array_equal(again.points_IN2, prior.points_IN2)
        assert np.array_equal(again.labels_IN, prior.labels_IN)
        assert np.array_equal(again.boxes_I4, prior.boxes_I4)


@pytest.mark.real
@pytest.mark.skipif("LUNGFAST_DATA" not in os.environ, reason="LUNGFAST_DATA is not set")
def test_points_of_half_the_real_lungs_hit_the_other_half() -> None:
    folder = Path(os.environ["LUNGFAST_DATA"]) / "shcxr-lung-mask" / "mask"
    masks = [np.asarray(Image.open(path)) > 127 for path in sorted(folder.glob("*.png"))[:80]]
    summaries: list[MaskSummary] = [summarise_mask({"lungs": mask_HW}) for mask_HW in masks[:40]]
    lungs = lung_averages(fold_averages(summaries))
    assert len(lungs) == 2
    for lung_hw in lungs:
        column, row = (prior_points(lung_hw, 1)[0] * 512).astype(int)
        assert np.mean([mask_HW[row, column] for mask_HW in masks[40:]]) >= 0.95
