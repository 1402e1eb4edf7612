from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungfast.frozen.mask_summary import MaskSummary, _box_near, average_mask, summarise_mask
from lungfast.geometry import tight_box
from tests.frozen.maskkit import LEFT, RIGHT, SIZES, ellipse, two, union


def test_average_mask_is_the_mean_of_area_averages() -> None:
    mask_HW = np.zeros((512, 1024), bool)
    mask_HW[:, 512:] = True
    average_hw = average_mask([mask_HW, ~mask_HW, mask_HW])
    assert average_hw.shape == (256, 256)
    assert average_hw.dtype == np.float32
    assert np.allclose(average_hw[:, :128], 1 / 3)
    assert np.allclose(average_hw[:, 128:], 2 / 3)


@pytest.mark.parametrize("make", [two, union])
@pytest.mark.parametrize("size", SIZES)
def test_boxes_are_tight_and_left_to_right(make: object, size: tuple[int, int]) -> None:
    summary = summarise_mask(make(size))  # type: ignore[operator]
    for box_4, shape in zip(summary.boxes_S4, (LEFT, RIGHT), strict=True):
        assert np.array_equal(box_4, tight_box(ellipse(size, shape)))  # type: ignore[arg-type]
    assert np.array_equal(summary.whole_4, tight_box(union(size)["lungs"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [two, union])
def test_stray_blobs_do_not_widen_boxes(make: object) -> None:
    clean, dirty = make((400, 300)), make((400, 300))  # type: ignore[operator]
    next(iter(dirty.values()))[390:395, 2:6] = True
    assert np.array_equal(summarise_mask(clean).boxes_S4, summarise_mask(dirty).boxes_S4)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    share=st.sampled_from([0.02, 0.3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_box_is_that_of_all_pixels_in_its_cells(size, share, seed) -> None:
    """Specks and holes, cells of less than a pixel too; the twin opens every pixel."""
    rng = np.random.default_rng(seed)
    mask_HW, near_hw = rng.random(size) < share, rng.random((16, 16)) < 0.2
    rows, columns = (((np.arange(n) + 0.5) / n * 16).astype(int) for n in size)
    expected = tight_box(mask_HW & near_hw[rows[:, None], columns])
    found = _box_near(mask_HW, near_hw.astype(np.float32))
    assert (found is None) == (expected is None)
    assert expected is None or np.array_equal(found, expected)  # type: ignore[arg-type]


def test_touching_lungs_give_one_box_and_empty_masks_none() -> None:
    bridge = union((400, 300))["lungs"]
    bridge[150:160, 90:210] = True
    summary = summarise_mask({"lungs": bridge})
    assert len(summary.boxes_S4) == 1
    assert np.array_equal(summary.whole_4, tight_box(bridge))  # type: ignore[arg-type]
    empty = summarise_mask({"lungs": np.zeros((40, 30), bool)})
    assert empty.boxes_S4.shape == (0, 4)
    assert empty.whole_4.tolist() == [0, 0, 1, 1]
    one = summarise_mask({"left": ellipse((400, 300), LEFT), "right": np.zeros((400, 300), bool)})
    assert len(one.boxes_S4) == 1


@pytest.mark.parametrize("make", [two, union, lambda size: {"lungs": np.zeros(size, bool)}])
def test_bytes_there_and_back(make: object) -> None:
    summary = summarise_mask(make((401, 333)))  # type: ignore[operator]
    again = MaskSummary.from_bytes(summary.to_bytes())
    assert (again.packed, again.grid) == (summary.packed, summary.grid)
    np.testing.assert_array_equal(again.boxes_S4, summary.boxes_S4)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"",
        lambda content: b"hello",
        lambda content: content[:-1],
        lambda content: content + b"x",
        lambda content: content[:-9] + bytes([content[-9] ^ 255]) + content[-8:],
        lambda content: content.replace(b'"grid": 256', b'"grid": 255'),
        lambda content: content.replace(b'"boxes": [', b'"boxes": [3, '),
        lambda content: re.sub(rb'"structures": .*?}', b'"structures": 3', content),
    ],
)
def test_bytes_that_are_damaged_are_refused(spoil: object) -> None:
    content = summarise_mask(two((40, 30))).to_bytes()
    with pytest.raises(ValueError, match="no summary of masks"):
        MaskSummary.from_bytes(spoil(content))  # type: ignore[operator]
