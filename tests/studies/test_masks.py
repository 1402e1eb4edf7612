"""Distances equal MONAI's on whole images; cleaning is measured on the very masks that are counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.frozen.cache import EmbeddingCache
from lungfast.geometry import Frame, pack_mask, unpack_mask
from lungfast.records import Bool, Float32
from lungfast.scored.cleaning import counts_of_mask, two_largest_filled
from lungfast.scored.kernels import count_image, predict_mask, threshold_edges
from lungfast.scored.scores import scores_of
from lungfast.studies.comparisons import MINUS
from lungfast.studies.masks import (
    MaskMeasures,
    SurfaceDistances,
    cleaned_summary,
    mask_measures,
    measure_masks,
    surface_distances,
    surface_summary,
)

NOWHERE = SurfaceDistances()


def monai_distances(mask_HW: Bool, truth_HW: Bool, spacing: Sequence[float] | None) -> tuple[float, float]:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    pair, always = (
        (mask_HW[None, None], truth_HW[None, None]),
        {"include_background": True, "spacing": spacing},
    )
    hd95 = compute_hausdorff_distance(*pair, percentile=95, **always)
    assd = compute_average_surface_distance(*pair, symmetric=True, **always)
    return hd95.item(), assd.item()


def ellipse(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Bool:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.asarray(((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 < 1)


def logits_with(frame: Frame, seed: int) -> Float32:
    """Two lungs, a third speck, and waves that make holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64
    parts = [
        1 - ((x - cx) / r) ** 2 - ((y - 0.45) / (2 * r)) ** 2
        for cx, r in ((0.28, 0.17), (0.63, 0.16), (0.9, 0.06))
    ]
    waves = np.sin(x * rng.uniform(30, 60)) * np.cos(y * rng.uniform(30, 60))
    return (4 * np.maximum.reduce(parts) + 2 * waves).astype(np.float32)


# --- distances -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(3, 24), st.integers(3, 24)),
    shares=st.tuples(st.sampled_from([0.05, 0.5, 1.0]), st.sampled_from([0.05, 0.5, 1.0])),
    spacing=st.sampled_from([None, (0.4, 0.4), (0.139, 0.71)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_distances_equal_monai_uncropped(size, shares, spacing, seed) -> None:
    rng = np.random.default_rng(seed)
    mask_HW, truth_HW = (rng.random(size) < share for share in shares)
    mask_HW[rng.integers(size[0]), rng.integers(size[1])] = True
    truth_HW[rng.integers(size[0]), rng.integers(size[1])] = True
    found = surface_distances(mask_HW, truth_HW, spacing)
    assert (found.hd95_px, found.assd_px) == pytest.approx(monai_distances(mask_HW, truth_HW, None), rel=1e-5)
    if spacing is None:
        assert found.hd95_mm is found.assd_mm is None
    else:
        expected = monai_distances(mask_HW, truth_HW, spacing)
        assert (found.hd95_mm, found.assd_mm) == pytest.approx(expected, rel=1e-5)


def test_lungs_amid_an_image() -> None:
    size = (90, 120)
    mask_HW, truth_HW = ellipse(size, (40, 50), (25, 12)), ellipse(size, (42, 55), (25, 12))
    found = surface_distances(mask_HW, truth_HW, (0.5, 2.0))
    assert (found.hd95_px, found.assd_px) == pytest.approx(monai_distances(mask_HW, truth_HW, None), rel=1e-5)
    assert surface_distances(truth_HW, truth_HW, None) == SurfaceDistances(hd95_px=0.0, assd_px=0.0)


def test_millimetres_follow_the_axes() -> None:
    """Two pixels, 3 rows and 4 columns apart; spacing is (vertical, horizontal)."""
    mask_HW, truth_HW = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    mask_HW[1, 1], truth_HW[4, 5] = True, True
    found = surface_distances(mask_HW, truth_HW, (2.0, 0.5))
    assert (found.hd95_px, found.assd_px) == pytest.approx((5.0, 5.0))
    assert (found.hd95_mm, found.assd_mm) == pytest.approx((np.hypot(6, 2),) * 2)


@pytest.mark.parametrize(("predicted", "true"), [(False, True), (True, False), (False, False)])
def test_an_empty_mask_has_no_distance(predicted: bool, true: bool) -> None:
    masks = [np.full((5, 6), full) for full in (predicted, true)]
    assert surface_distances(masks[0], masks[1], (1.0, 1.0)) == NOWHERE


# --- images ----------------------------------------------------------------------------------------


def test_measures_are_those_of_the_counted_mask() -> None:
    frame = Frame.of((150, 130), 256, "longest")
    logits_hw, truth_HW = logits_with(frame, 0), ellipse((150, 130), (60, 36), (44, 22))
    packed = pack_mask(truth_HW)
    found = mask_measures(logits_hw, frame, packed, 0.6, None, surface=True, clean=True)
    counted = scores_of(count_image(logits_hw, frame, packed, threshold_edges([0.6])))
    mask_HW = predict_mask(logits_hw, frame, 0.6)
    cleaned_HW = two_largest_filled(mask_HW)
    assert found.f1 == counted.f1_Q[0]
    assert found.cleaned_f1 == scores_of(counts_of_mask(cleaned_HW, packed)).f1_Q[0]
    assert (cleaned_HW != mask_HW).any()
    assert found.surface == surface_distances(mask_HW, truth_HW, None)


def test_only_what_is_asked_for_is_measured() -> None:
    frame = Frame.of((20, 30), 64, "longest")
    packed = pack_mask(np.ones((20, 30), bool))
    found = mask_measures(logits_with(frame, 0), frame, packed, 0.5, None, surface=False, clean=False)
    assert (found.cleaned_f1, found.surface) == (None, None)


def test_images_of_a_cache_come_in_order(nano_cache: str) -> None:
    cache = EmbeddingCache.open(nano_cache)
    predictions = [
        (k, image, logits_with(cache.frame(image), image + k)) for image in range(9) for k in (1, 0)
    ]
    found = list(measure_masks(cache, iter(predictions), [0.4, 0.6], surface=True, clean=True))
    assert [(k, image) for k, image, _ in found] == [(k, image) for k, image, _ in predictions]
    for (k, image, logits_hw), (_, _, measures) in zip(predictions, found, strict=True):
        mask_HW = predict_mask(logits_hw, cache.frame(image), (0.4, 0.6)[k])
        truth_HW = unpack_mask(cache.packed_mask(image), mask_HW.shape[1])
        spacing_mm = cache.images[image].spacing_mm
        assert measures.surface == surface_distances(mask_HW, truth_HW, spacing_mm)


# --- summaries -------------------------------------------------------------------------------------


def measured(
    f1: float, cleaned_f1: float | None = None, surface: SurfaceDistances | None = None
) -> MaskMeasures:
    return MaskMeasures(f1=f1, cleaned_f1=cleaned_f1, surface=surface)


def test_distances_are_summarised_where_they_exist() -> None:
    def at(px: float, mm: float | None = None) -> MaskMeasures:
        return measured(0.9, None, SurfaceDistances(hd95_px=px, assd_px=px / 10, hd95_mm=mm, assd_mm=mm))

    nowhere = measured(0.0, None, NOWHERE)
    summary = surface_summary([[at(10, 1), at(20, 3)], [at(5), nowhere], [nowhere, nowhere]], ["a", "b", "c"])
    assert list(summary) == ["hd95_px", "assd_px", "hd95_mm", "assd_mm", "n_undefined"]
    assert (summary["hd95_px"]["mean"], summary["hd95_px"]["n"]) == (10.0, 2)  # 15 and 5
    assert (summary["hd95_mm"]["mean"], summary["hd95_mm"]["ci95"]) == (2.0, None)
    assert summary["n_undefined"] == 3


def test_no_distance_at_all_is_null() -> None:
    summary = surface_summary([[measured(0.0, None, NOWHERE)]], ["a"])
    assert summary == dict.fromkeys(("hd95_px", "assd_px", "hd95_mm", "assd_mm")) | {"n_undefined": 1}


def test_cleaning_is_compared_with_the_plain_mask() -> None:
    rng = np.random.default_rng(0)
    plain_NR = rng.uniform(0.8, 0.9, (6, 2))
    gain_NR = rng.uniform(0, 0.05, (6, 2))
    images = [
        [measured(f1, f1 + gain) for f1, gain in zip(*rows, strict=True)]
        for rows in zip(plain_NR, gain_NR, strict=True)
    ]
    folds = ["fold1", "fold0", "fold1", "fold0", "fold1", "fold1"]
    found = cleaned_summary(images, folds, list("abcdef"), n_train=60, n_test=20)
    first = [0, 2, 4, 5]
    cleaned_N = (plain_NR + gain_NR).mean(axis=1)
    assert found["name"] == "two largest components, holes filled"
    assert found["f1"]["folds"] == pytest.approx((cleaned_N[first].mean(), cleaned_N[[1, 3]].mean()))
    assert found["f1_image"]["mean"] == pytest.approx(cleaned_N.mean())
    difference = found["difference"]
    assert (difference["family"], difference["name"]) == ("cleaned", f"cleaned {MINUS} plain")
    assert difference["difference"] == pytest.approx(gain_NR.mean())
    assert difference["p_holm"] == difference["p_wilcoxon"]
    of_folds = (gain_NR[first].mean() + gain_NR[[1, 3]].mean()) / 2
    assert (difference["t"]["difference"], difference["t"]["n_values"]) == (pytest.approx(of_folds), 2)


def test_masks_that_were_not_cleaned_are_not_summarised() -> None:
    with pytest.raises(ValueError, match="not asked"):
        cleaned_summary([[measured(0.5)]], ["fold0"], ["a"], n_train=60, n_test=20)
