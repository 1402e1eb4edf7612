"""Generated X-rays: reproducible, anatomically sane, not trivial, and read back like the real sets."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from lungfast.data.datasets import list_montgomery, list_shenzhen
from lungfast.data.phantom_canvas import blur, ribbon
from lungfast.data.phantoms import (
    MONTGOMERY,
    SHENZHEN,
    PhantomStyle,
    render_phantom,
    write_montgomery,
    write_shenzhen,
)
from lungfast.records import Bool

STYLES = (MONTGOMERY, SHENZHEN)
style_and_seed = given(st.sampled_from(STYLES), st.integers(0, 10**9))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_the_seed_decides_every_pixel(style: PhantomStyle) -> None:
    first, again, other = (render_phantom(style, seed, (96, 80)) for seed in (4, 4, 5))
    assert np.array_equal(first.image_HW, again.image_HW)
    assert np.array_equal(first.left_HW, again.left_HW)
    assert not np.array_equal(first.image_HW, other.image_HW)
    assert (first.label, other.label) == ("normal", "tuberculosis")


@settings(max_examples=25, deadline=None)
@style_and_seed
def test_lungs_are_where_lungs_are(style: PhantomStyle, seed: int) -> None:
    sides = np.random.default_rng(seed).integers(150, 260, 2)
    size = (int(sides[0]), int(sides[1]))
    phantom = render_phantom(style, seed, size)
    assert phantom.image_HW.shape == phantom.left_HW.shape == phantom.right_HW.shape == size
    assert phantom.image_HW.dtype == np.uint8
    assert not (phantom.left_HW & phantom.right_HW).any()
    both_HW = phantom.left_HW | phantom.right_HW
    assert 0.06 < both_HW.mean() < 0.5
    rim_HW = np.pad(np.zeros((size[0] - 2, size[1] - 2), bool), 1, constant_values=True)
    assert not both_HW[rim_HW].any(), "no lung is cut off"
    for mask_HW in (phantom.left_HW, phantom.right_HW):
        pieces = np.bincount(ndimage.label(mask_HW)[0].ravel())[1:]
        assert pieces.max() > 0.99 * mask_HW.sum(), "one lung is one piece"
        rows = np.flatnonzero(mask_HW.any(1))
        columns = np.flatnonzero(mask_HW.any(0))
        assert len(rows) > 1.2 * len(columns), "a lung is taller than wide"
    centres = [ndimage.center_of_mass(mask_HW)[1] for mask_HW in (phantom.right_HW, phantom.left_HW)]
    assert centres[1] - centres[0] > 0.2 * size[1], "the patient's left is on the image's right"


def test_sides_differ_as_in_people() -> None:
    phantoms = [render_phantom(MONTGOMERY, seed, (160, 160)) for seed in range(40)]
    right_is_larger = np.mean([p.right_HW.sum() > p.left_HW.sum() for p in phantoms])
    right_rim_is_higher = np.mean([lowest_row(p.right_HW) < lowest_row(p.left_HW) for p in phantoms])
    assert right_is_larger > 0.8, "the heart takes room on the left"
    assert right_rim_is_higher > 0.8, "the liver lifts the right diaphragm"


def lowest_row(mask_HW: Bool) -> int:
    return int(np.flatnonzero(mask_HW.any(axis=1))[-1])


def test_a_threshold_does_not_segment_them() -> None:
    """Even the best threshold of each image, chosen with the truth in hand, stays below a lung mask."""
    best = []
    for seed in range(12):
        phantom = render_phantom(STYLES[seed % 2], seed, (160, 160))
        truth_HW = phantom.left_HW | phantom.right_HW
        scores = []
        for threshold in range(10, 250, 6):
            guess_HW = phantom.image_HW < threshold
            scores.append(2 * (guess_HW & truth_HW).sum() / (guess_HW.sum() + truth_HW.sum()))
        best.append(max(scores))
    assert np.mean(best) < 0.85


def test_the_styles_look_different() -> None:
    means = [np.mean([render_phantom(style, s, (128, 128)).image_HW for s in range(12)]) for style in STYLES]
    assert means[1] - means[0] > 20, "grey levels"


def test_no_warnings_and_tiny_or_odd_sizes() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in ((32, 32), (40, 97), (131, 33)):
            assert render_phantom(SHENZHEN, 1, size).image_HW.shape == size


def test_wide_blur_on_a_reduced_image_is_close_to_the_full_one() -> None:
    image_HW = render_phantom(MONTGOMERY, 0, (200, 180)).image_HW.astype(np.float32)
    exact_HW = ndimage.gaussian_filter(image_HW, 12.0, mode="nearest")
    inner = (slice(30, -30), slice(30, -30))
    assert np.abs(blur(image_HW, 12.0) - exact_HW)[inner].mean() < 3.0, "of 255"


def test_a_ribbon_of_a_straight_line_is_a_rectangle() -> None:
    outline = ribbon(np.stack([np.arange(5.0), np.zeros(5)], axis=1), np.full(5, 0.5))
    assert outline.shape == (10, 2)
    assert np.allclose(np.sort(np.unique(outline[:, 1])), [-0.5, 0.5])
    assert np.allclose(outline[:5, 0], np.arange(5.0))


def test_montgomery_layout_reads_back(tmp_path: Path) -> None:
    ticks: list[int] = []
    folder = write_montgomery(tmp_path, 4, seed=3, long_side=96, progress=lambda: ticks.append(1))
    assert folder == tmp_path / "MontgomerySet"
    assert len(ticks) == 4
    listing = list_montgomery(tmp_path)
    samples = [ref.load() for ref in listing.refs]
    assert listing.notes == ()
    assert [sample.id for sample in samples] == [
        f"MCUCXR_{i:04d}_{label}" for i, label in ((1, 0), (2, 1), (3, 0), (4, 1))
    ]
    assert {np.sign(s.native_size[0] - s.native_size[1]) for s in samples} == {-1, 0, 1}
    assert max(max(s.native_size) for s in samples) == 96
    expected = render_phantom(MONTGOMERY, 3_000_000, samples[0].native_size)
    assert np.array_equal(samples[0].image_HW, expected.image_HW)
    assert np.array_equal(samples[0].masks["left"], expected.left_HW)
    assert np.array_equal(samples[0].masks["right"], expected.right_HW)
    assert "normal" in (folder / "ClinicalReadings/MCUCXR_0001_0.txt").read_text()


def test_shenzhen_layout_reads_back(tmp_path: Path) -> None:
    folder = write_shenzhen(tmp_path, 6, seed=1, long_side=100, n_without_mask=2)
    listing = list_shenzhen(folder, tmp_path / "shcxr-lung-mask")
    assert listing.notes == ("2 images have no mask and are left out",)
    samples = [ref.load() for ref in listing.refs]
    assert len(samples) == 4
    assert {np.sign(s.native_size[0] - s.native_size[1]) for s in samples} == {-1, 0, 1}
    expected = render_phantom(SHENZHEN, 1_000_000, samples[0].native_size)
    assert np.array_equal(samples[0].image_HW, expected.image_HW)
    assert np.array_equal(samples[0].masks["lungs"], expected.left_HW | expected.right_HW)
    with Image.open(folder / "CXR_png/CHNCXR_0001_0.png") as image:
        assert image.mode == "RGB"


def test_a_longer_set_begins_with_the_shorter(tmp_path: Path) -> None:
    for n in (2, 3):
        write_montgomery(tmp_path / str(n), n, long_side=64)
        write_shenzhen(tmp_path / str(n), n, long_side=64)
    short = sorted((tmp_path / "2").rglob("*.*"))
    assert len(short) == 2 * (4 + 2) + 2  # and a mark in each set that they are generated
    for path in short:
        assert path.read_bytes() == (tmp_path / "3" / path.relative_to(tmp_path / "2")).read_bytes()
