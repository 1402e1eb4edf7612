"""Frames against segment-anything and torch; averages against a naive loop; round trips by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from lungfast.geometry import Frame, area_average, bounding_box, resize_image, tight_box

sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
FILMS = [(4020, 4892), (4892, 4020), (2991, 3000), (512, 512), (3, 700)]


@given(sizes)
def test_longest_is_segment_anythings_rule(native: tuple[int, int]) -> None:
    frame = Frame.of(native, 1024, "longest")
    expected = ResizeLongestSide.get_preprocess_shape(native[0], native[1], 1024)
    assert frame.resized_size == tuple(max(1, side) for side in expected)


@pytest.mark.parametrize("native", [(402, 489), (489, 402), (512, 512)])
def test_the_resized_image_is_segment_anythings(native: tuple[int, int]) -> None:
    image_HW = np.random.default_rng(0).integers(0, 256, native, dtype=np.uint8)
    expected = ResizeLongestSide(256).apply_image(np.repeat(image_HW[..., None], 3, axis=2))
    found = resize_image(image_HW, Frame.of(native, 256, "longest").resized_size)
    np.testing.assert_array_equal(found, expected[..., 0])


@given(sizes, st.sampled_from(["longest", "squash"]), st.floats(0, 1), st.floats(0, 1))
def test_points_go_to_the_input_and_back(native: tuple[int, int], rule: str, u: float, v: float) -> None:
    frame = Frame.of(native, 1024, rule)  # type: ignore[arg-type]
    points = np.array([[u, v]])
    np.testing.assert_allclose(frame.points_from_input(frame.points_to_input(points)), points, atol=1e-12)


@given(sizes, st.sampled_from(["longest", "squash"]), st.integers(1, 900))
def test_a_finer_input_holds_the_image_in_the_same_place(
    native: tuple[int, int], rule: str, side: int
) -> None:
    frame = Frame.of(native, 256, rule)  # type: ignore[arg-type]
    fine = frame.at_least(side)
    assert side <= fine.input_size < max(256, side) + 256
    assert fine.native_size == native
    shares = [tuple(one / f.input_size for one in f.resized_size) for f in (frame, fine)]
    assert shares[0] == shares[1]
    assert frame.at_least(256) == frame


def test_a_pixel_centre_lands_where_the_prompt_encoder_expects_it() -> None:
    frame = Frame.of((1024, 1024), 1024, "longest")
    centre = np.array([[10.5 / 1024, 20.5 / 1024]])
    np.testing.assert_allclose(frame.points_to_input(centre), [[10, 20]])


@pytest.mark.parametrize("native", FILMS)
@pytest.mark.parametrize("rule", ["longest", "squash"])
def test_valid_covers_the_cells_whose_centre_is_on_the_image(native: tuple[int, int], rule: str) -> None:
    frame = Frame.of(native, 1024, rule)  # type: ignore[arg-type]
    centres = (np.arange(256) + 0.5) * 4
    rows, columns = (centres < side for side in frame.resized_size)
    rows[0] = columns[0] = True  # an image always has a cell
    np.testing.assert_array_equal(frame.valid_hw((256, 256)), rows[:, None] & columns[None, :])


@given(
    st.integers(1, 9), st.integers(1, 9), st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1)
)
def test_area_average_is_the_naive_integral(h: int, w: int, height: int, width: int, seed: int) -> None:
    image_HW = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    fine = np.kron(image_HW.astype(np.float64), np.ones((h, w)))  # every cell now holds whole fine pixels
    expected = fine.reshape(h, height, w, width).mean(axis=(1, 3))
    np.testing.assert_allclose(area_average(image_HW, (h, w)), expected, atol=1e-6)


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 40)),
    out_size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    stretch=st.none() | st.floats(0.5, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_are_averaged_as_any_image_is(size, out_size, stretch, seed) -> None:
    """Bands of rows summed as bytes, up to more than 255 of them, beside the general weights."""
    mask_HW = np.random.default_rng(seed).random(size) < 0.8
    cell = None if stretch is None else (size[0] / out_size[0] * stretch, size[1] / out_size[1] * stretch)
    expected = area_average(mask_HW.astype(np.float32), out_size, cell_size=cell)
    np.testing.assert_allclose(area_average(mask_HW, out_size, cell_size=cell), expected, atol=1e-5)


def test_targets_are_average_pooling_of_the_padded_frame_where_sizes_divide() -> None:
    mask_HW = np.random.default_rng(1).random((512, 384)) > 0.5
    mask_HW[:256] |= np.random.default_rng(2).random((256, 384)) > 0.3
    frame = Frame.of((512, 384), 512, "longest")
    padded = torch.zeros(1, 1, 512, 512)
    padded[0, 0, :512, :384] = torch.from_numpy(mask_HW.astype(np.float32))
    expected = torch.nn.functional.avg_pool2d(padded, 4)[0, 0].numpy() > 0.5
    np.testing.assert_array_equal(frame.target_hw(mask_HW, (128, 128)), expected)


@pytest.mark.parametrize("native", FILMS[:3])
def test_a_target_keeps_the_area_and_stays_on_the_image(native: tuple[int, int]) -> None:
    mask_HW = np.zeros(native, bool)
    mask_HW[native[0] // 4 : native[0] // 2, native[1] // 4 :] = True
    frame = Frame.of(native, 1024, "longest")
    target_hw = frame.target_hw(mask_HW, (256, 256))
    share = target_hw.sum() / frame.valid_hw((256, 256)).sum()
    assert share == pytest.approx(mask_HW.mean(), abs=0.01)
    assert not (target_hw & ~frame.valid_hw((256, 256))).any()


def test_the_tight_box_has_outer_pixel_edges() -> None:
    mask_HW = np.zeros((10, 20), bool)
    mask_HW[2:5, 4:10] = True
    np.testing.assert_allclose(tight_box(mask_HW), [4 / 20, 2 / 10, 10 / 20, 5 / 10])
    assert tight_box(np.zeros((3, 3), bool)) is None


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        Frame.of((0, 5), 1024, "longest")


def test_box_of_a_mask() -> None:
    mask_HW = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], bool)
    assert bounding_box(mask_HW) == (slice(1, 3), slice(1, 3))
    assert bounding_box(np.zeros((2, 2), bool)) is None
