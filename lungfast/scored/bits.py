"""Packed truth masks: how many pixels of a rectangle are true, and of each column of it.

Comes in: bits as ``numpy.packbits`` lays them, row after row. Goes out: numbers of set bits, counted 64 at a
time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lungfast.compiled import lean
from lungfast.records import UInt8

_BIT_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).view(np.uint64)[:, 0].copy()
"""Packed byte -> eight bytes 0/1 of one word in pixel order: one add sums eight columns."""
_FROM = np.packbits(np.arange(64) >= np.arange(64)[:, None], axis=1).view(np.uint64)[:, 0].copy()
"""Place of a bit in a packed word -> the word in which it and all that follow are set."""


class Truth(NamedTuple):
    """Packed bits (H, ceil(W / 8)); the same bytes on end, as words, and the last few in one word more."""

    packed: UInt8
    octets: UInt8
    words: npt.NDArray[np.uint64]
    tail: np.uint64

    @classmethod
    def of(cls, truth_packed: UInt8) -> Truth:
        packed = np.ascontiguousarray(truth_packed)
        octets, whole = packed.reshape(-1), packed.size // 8 * 8
        rest = np.zeros(8, np.uint8)
        rest[: packed.size - whole] = octets[whole:]
        return cls(packed, octets, octets[:whole].view(np.uint64), rest.view(np.uint64)[0])


class Patch(NamedTuple):
    """A rectangle of native pixels: rows start..stop, columns first..last."""

    start: int
    stop: int
    first: int
    last: int


@lean
def rectangle(truth: Truth, patch: Patch) -> np.int64:
    """The pixels of a rectangle, and in the upper half the true ones."""
    true, row_bits = np.int64(0), truth.packed.shape[1] * 8
    for r in range(patch.start, patch.stop):
        true += _ones_between(truth, r * row_bits + patch.first, r * row_bits + patch.last)
    return np.int64((patch.stop - patch.start) * (patch.last - patch.first)) + (true << 32)


@lean
def _ones_between(truth: Truth, start: int, stop: int) -> np.int64:
    """How many of the bits start..stop of all rows on end are set."""
    first, last = start >> 6, stop >> 6
    head, rest = _FROM[start & 63], ~_FROM[stop & 63]
    if first == last:
        return ones(_word(truth, first) & head & rest)
    total = ones(_word(truth, first) & head)
    for k in range(np.uintp(first + 1), np.uintp(last)):
        total += ones(truth.words[k])
    return total + ones(_word(truth, last) & rest)


@lean
def _word(truth: Truth, k: int) -> np.uint64:
    return truth.words[k] if k < truth.words.size else truth.tail


@lean
def ones(word: np.uint64) -> np.int64:
    """Bits set; the compiler knows this form for the processor's own instruction."""
    word -= (word >> np.uint64(1)) & np.uint64(0x5555555555555555)
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@lean
def word_at(truth: Truth, bit: int) -> np.uint64:
    """32 bits from one that begins a byte on, byte by byte as they lie (0 beyond the last of all)."""
    octets, k = truth.octets, bit >> 3
    if k + 4 <= octets.size:
        at = np.uintp(k)
        word = np.uint32(octets[at])  # the four are one load: the compiler knows this form
        for n in range(1, 4):
            word |= np.uint32(octets[at + np.uintp(n)]) << np.uint32(8 * n)
        return np.uint64(word)
    return _last_word(octets, k)


@lean
def _last_word(octets: UInt8, k: int) -> np.uint64:
    word = np.uint64(0)
    for n in range(octets.size - k):
        word |= np.uint64(octets[k + n]) << np.uint64(8 * n)
    return word


@lean
def column_sums(packed: UInt8, words: npt.NDArray[np.uint64]) -> None:
    """True pixels of every column, one byte a column, from the first bit of the first byte on."""
    words[:] = 0
    for r in range(packed.shape[0]):
        for k in range(words.size):
            words[k] += _BIT_BYTES[packed[r, k]]


@lean
def total(true_W: UInt8) -> np.int64:
    total = np.int64(0)
    for c in range(true_W.size):
        total += true_W[c]
    return total


@lean
def pixel(truth_packed: UInt8, r: int, c: int) -> np.int64:
    """One pixel, and in the upper half whether it is true."""
    bit = (truth_packed[r, c >> 3] >> np.uint8(7 - (c & 7))) & np.uint8(1)
    return np.int64(1) + (np.int64(bit) << 32)
