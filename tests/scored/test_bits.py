"""Counts of set bits equal numpy's sums of the unpacked mask."""

from __future__ import annotations

import os

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.geometry import pack_mask
from lungfast.scored.bits import Patch, Truth, column_sums, rectangle, word_at

many = settings(max_examples=30 if os.environ.get("NUMBA_DISABLE_JIT") == "1" else 300, deadline=None)


@many
@given(data=st.data(), height=st.integers(1, 9), width=st.integers(1, 300), seed=st.integers(0, 99))
def test_a_rectangle_and_its_true_pixels(data, height, width, seed) -> None:
    mask_HW = np.random.default_rng(seed).random((height, width)) < 0.5
    start = data.draw(st.integers(0, height - 1))
    stop = data.draw(st.integers(start + 1, height))
    first = data.draw(st.integers(0, width - 1))
    last = data.draw(st.integers(first + 1, width))
    counted = int(rectangle(Truth.of(pack_mask(mask_HW)), Patch(start, stop, first, last)))
    part = mask_HW[start:stop, first:last]
    assert (counted & 0xFFFFFFFF, counted >> 32) == (part.size, part.sum())


@many
@given(height=st.integers(1, 255), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_true_pixels_of_every_column(height, width, seed) -> None:
    mask_HW = np.random.default_rng(seed).random((height, width)) < 0.9
    packed = pack_mask(mask_HW)
    words = np.empty(packed.shape[1], np.uint64)
    column_sums(packed, words)
    assert words.view(np.uint8)[:width].tolist() == mask_HW.sum(0).tolist()


@many
@given(height=st.integers(1, 9), width=st.integers(1, 300), data=st.data())
def test_32_pixels_from_any_byte_on_are_a_word_of_bytes_as_they_lie(height, width, data) -> None:
    mask_HW = np.random.default_rng(height * width).random((height, width)) < 0.5
    packed = pack_mask(mask_HW)
    bits = np.concatenate([np.unpackbits(packed, bitorder="little"), np.zeros(32, np.uint8)])
    place = 8 * data.draw(st.integers(0, packed.size - 1))
    word = int(word_at(Truth.of(packed), place))
    assert [word >> k & 1 for k in range(32)] == bits[place : place + 32].tolist()
