"""Altered views: masks go with the image, seeds are (image, view), geometry is that of the native film, and
what is said of a view finds back to its place on the film."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.data.views import ViewConfig, film_places, make_views, mean_on_film, random_placement
from lungfast.errors import UsageError
from lungfast.geometry import Frame, resize_image
from lungfast.records import Bool, Float32, Float64, ResizeRule, Sample, Size

STILL = ViewConfig(
    rotation_deg=0, scale=1, stretch=1, shift=0, gamma=1, contrast=1, brightness=0, share_rough=0
)


def sample(native_size: Size = (200, 160), name: str = "film") -> Sample:
    height, width = native_size
    rows, columns = np.ogrid[:height, :width]
    lungs = {
        side: ((rows / height - 0.5) / 0.3) ** 2 + ((columns / width - middle) / 0.13) ** 2 < 1
        for side, middle in (("left", 0.3), ("right", 0.7))
    }
    image_HW = np.where(lungs["left"] | lungs["right"], 200, 40).astype(np.uint8)
    return Sample(id=name, image_HW=image_HW, masks=lungs, source="s", patient="p", content_sha256=name)


def test_the_mask_goes_with_the_image() -> None:
    still_exposure = replace(ViewConfig(), gamma=1, contrast=1, brightness=0, share_rough=0)
    for view in make_views(sample(), 9, (128, 102), still_exposure, mask_scale=2):
        shown_HW = np.logical_or(*view.masks.values())
        assert view.size == (128, 102)
        assert view.mask_size == shown_HW.shape == (256, 204)
        assert ((view.image_HW > 120) != shown_HW[::2, ::2]).mean() < 0.02


def test_a_view_depends_on_the_image_and_its_number_alone() -> None:
    many, few = (make_views(sample(), n, (128, 102), ViewConfig()) for n in (6, 3))
    for one, other in zip(many, few, strict=False):
        np.testing.assert_array_equal(one.image_HW, other.image_HW)
    assert not make_views(sample(), 1, (128, 102), ViewConfig())
    other = make_views(sample(name="another"), 3, (128, 102), ViewConfig())
    assert len({view.image_HW.tobytes() for view in (*many, *other)}) == 7


def test_a_view_that_alters_nothing_is_the_film() -> None:
    made = sample((400, 320))
    (view,) = make_views(made, 2, (128, 102), STILL, mask_scale=2)
    assert np.abs(view.image_HW.astype(int) - resize_image(made.image_HW, (128, 102))).mean() < 2
    frame = Frame.of(made.native_size, 128, "longest")
    moved = Frame.of(view.mask_size, 128, "longest")
    assert frame.resized_size == moved.resized_size
    union, shown = (np.logical_or(*masks.values()) for masks in (made.masks, view.masks))
    assert (frame.target_hw(union, (32, 32)) != moved.target_hw(shown, (32, 32))).mean() < 0.02


@pytest.mark.parametrize("native", [(400, 320), (320, 400)])
@pytest.mark.parametrize("resize", ["longest", "squash"])
def test_masks_of_views_average_to_the_mask_of_the_film(native: Size, resize: ResizeRule) -> None:
    """Drawn by make_views and brought back by mean_on_film, as a decoder's answers about the views are."""
    made, config, low = sample(native), ViewConfig(), (64, 64)
    frame = Frame.of(native, 256, resize)

    def answer(mask_HW: Bool) -> Float32:
        of_view = Frame.of(mask_HW.shape, 256, resize)
        return np.where(of_view.target_hw(mask_HW, low), np.float32(1), np.float32(-1))

    views = make_views(made, 9, frame.resized_size, config, mask_scale=2)
    said = [answer(np.logical_or(*one.masks.values())) for one in (made, *views)]
    found_hw = mean_on_film(np.stack(said), made.id, frame, config) > 0
    differing = (found_hw != (said[0] > 0))[: frame.valid_extent(low)[0], : frame.valid_extent(low)[1]]
    assert differing.sum() < 0.05 * (said[0] > 0).sum()


sizes = st.tuples(st.integers(20, 5000), st.integers(20, 5000))


@given(sizes, sizes, st.integers(0, 99))
@settings(max_examples=50)
def test_a_turn_keeps_angles_and_areas_of_the_native_film(native: Size, size: Size, seed: int) -> None:
    """Whatever the aspect of view and film in between: lengths on the film change by the scale alone."""
    config = replace(STILL, rotation_deg=30, scale=1.3, shift=0.1)
    placement_23 = random_placement(config, np.random.default_rng(seed))
    a, b, c, d, e, f = film_places(placement_23, native, size, (2 * size[0], 2 * size[1]))
    to_native = np.diag([native[1] / (2 * size[1]), native[0] / (2 * size[0])])
    from_native = np.diag([size[1] / native[1], size[0] / native[0]])
    linear_22 = to_native @ np.array([[a, b], [d, e]]) @ from_native
    squared = linear_22 @ linear_22.T
    np.testing.assert_allclose(squared, np.eye(2) * squared[0, 0], atol=1e-9 * squared[0, 0])
    # the middle of the view shows the film's middle, moved back by the shift
    middle = np.array([a, d]) * size[1] / 2 + np.array([b, e]) * size[0] / 2 + np.array([c, f])
    moved = linear_22 @ (placement_23[:, 2] * native[::-1])
    np.testing.assert_allclose(to_native @ middle, np.array(native[::-1]) / 2 - moved, rtol=1e-6, atol=1e-6)


def test_beyond_the_film_it_is_black_and_nobody() -> None:
    config = replace(STILL, shift=0.5, brightness=0.2, contrast=1.5)
    made = sample()
    bright = replace(made, image_HW=np.full_like(made.image_HW, 255), masks={"lungs": made.image_HW > 0})
    for view in make_views(bright, 5, (100, 80), config):
        outside_HW = view.image_HW == 0
        assert outside_HW.any()
        assert not view.masks["lungs"][outside_HW].any()


def test_negatives_and_noise_come_in_their_share() -> None:
    negatives = make_views(sample(), 5, (64, 51), replace(STILL, share_inverted=1))
    assert all(view.image_HW[0, 0] > 200 for view in negatives)
    rough = make_views(sample(), 5, (64, 51), replace(STILL, share_rough=1, blur=0, noise=20))
    assert all(view.image_HW[:5, :5].std() > 0 for view in rough)


def test_a_factor_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match=r"gamma of a view is a factor; found 0\.5"):
        ViewConfig(gamma=0.5)


@given(st.floats(0, 30), st.floats(1, 3), st.floats(0, 1))
def test_the_text_of_a_configuration_makes_it_again(turn: float, scale: float, share: float) -> None:
    config = ViewConfig(rotation_deg=turn, scale=scale, share_rough=share)
    assert ViewConfig.from_text(f"{config}, masks x2") == config
    with pytest.raises(ValueError, match="no scale"):
        ViewConfig.from_text("rotation_deg 10")


@given(
    st.tuples(st.integers(40, 400), st.integers(40, 400)),
    st.text(max_size=5),
    st.sampled_from(["longest", "squash"]),
    st.sampled_from([64, 128]),
)
@settings(max_examples=30, deadline=None)
def test_views_of_a_smooth_field_average_to_the_field(
    native: Size, name: str, resize: ResizeRule, side: int
) -> None:
    """A field of the film, sampled where each view shows it, is the field again on the film.

    Padding, of which no decoder was asked anything, may say what it likes.
    """
    frame, config, low = Frame.of(native, 256, resize), ViewConfig(), (side, side)
    cell = 256 / side
    rows, columns = np.indices(low) + 0.5

    def field(x_input: Float64, y_input: Float64) -> Float64:
        return np.asarray(0.03 * x_input - 0.02 * y_input + 1)

    x, y = cell * columns, cell * rows
    padding_hw = ~frame.valid_hw(low)
    views = [field(x, y)]
    for number in (1, 2, 3):
        rng = np.random.default_rng([zlib.crc32(name.encode(errors="surrogateescape")), number])
        size = frame.resized_size
        a, b, c, d, e, f = film_places(random_placement(config, rng), native, size, size)
        views.append(np.where(padding_hw, 1e6, field(a * x + b * y + c, d * x + e * y + f)))
    found_hw = mean_on_film(np.stack(views).astype(np.float32), name, frame, config)
    high, wide = frame.valid_extent(low)
    np.testing.assert_allclose(found_hw[:high, :wide], views[0][:high, :wide], atol=1e-3)


def test_what_no_other_view_shows_is_the_films_own() -> None:
    """A view that shows another part of the film adds nothing elsewhere."""
    frame, far = Frame.of((128, 128), 128, "longest"), replace(STILL, shift=0.9)
    logits_2hw = np.stack([np.zeros((32, 32)), np.ones((32, 32))]).astype(np.float32)
    found_hw = mean_on_film(logits_2hw, "film", frame, far)
    assert set(np.unique(found_hw).tolist()) == {0.0, 0.5}
    np.testing.assert_array_equal(mean_on_film(logits_2hw[:1], "film", frame, far), logits_2hw[0])
