"""Attention weights with SAM's decomposed relative positions, in one pass over logits that lie in the cache.

Comes in: products of queries with all keys, and what every query adds for each row and each column of keys.
Goes out: exp(logit - greatest), unnormalised, in place of the products, and their sums. torch would add the
positions in an array of their own (67 MB a head of 64x64 tokens, more than the products) and read it again.

The exponential is 2^k times a polynomial of degree 6 (relative error 4e-7 in float32); bfloat16 comes and
goes as its 16 bits, and everything between is float32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lungfast.compiled import contracted
from lungfast.records import Float32

UInt16 = npt.NDArray[np.uint16]
Int32 = npt.NDArray[np.int32]
_LOG2_E, _ROUND, _LEAST = np.float32(1.4426950408889634), np.float32(12582912.0), np.float32(-126.0)
_C6, _C5, _C4, _C3, _C2, _C1 = (
    np.float32(c)
    for c in (
        1.5403530393381609e-4,
        1.3333558146428443e-3,
        9.618129107628477e-3,
        5.550410866482158e-2,
        2.402265069591007e-1,
        6.931471805599453e-1,
    )
)
_ONE = np.float32(1.0)


class Desk(NamedTuple):
    """What positions add, by query, and arrays used again for every query."""

    rows_Qh: Float32
    columns_Qw: Float32
    powers_N: Int32
    tops_w: Float32


def weigh(logits_QN: npt.NDArray[Any], scale: float, rows_Qh: Float32, columns_Qw: Float32) -> Float32:
    """Sums (Q,); ``logits_QN`` is float32, or uint16 that holds bfloat16, and is overwritten.

    N = h * w; the logit of a key at (y, x) is ``scale * product + rows_Qh[q, y] + columns_Qw[q, x]``.
    """
    sums_Q = np.empty(len(logits_QN), np.float32)
    powers_N, tops_w = np.empty(logits_QN.shape[1], np.int32), np.empty(columns_Qw.shape[1], np.float32)
    given = np.float32(scale), Desk(rows_Qh, columns_Qw, powers_N, tops_w)
    if logits_QN.dtype == np.uint16:
        buffer_N = np.empty(logits_QN.shape[1], np.float32)
        _weigh_bf16(logits_QN, buffer_N, buffer_N.view(np.int32), *given, sums_Q)
    else:
        _weigh_fp32(logits_QN, logits_QN.view(np.int32), *given, sums_Q)
    return sums_Q


@contracted
def _weigh_fp32(logits_QN: Float32, bits_QN: Int32, scale: np.float32, desk: Desk, sums_Q: Float32) -> None:
    for q in range(logits_QN.shape[0]):
        _exp_row(logits_QN[q], bits_QN[q], scale, desk, q)
        sums_Q[q] = _total(logits_QN[q], desk.tops_w)


@contracted
def _weigh_bf16(
    logits_QN: UInt16,
    row_N: Float32,
    bits_N: Int32,
    scale: np.float32,
    desk: Desk,
    sums_Q: Float32,
) -> None:
    for q in range(logits_QN.shape[0]):
        _widen(logits_QN[q], bits_N)
        _exp_row(row_N, bits_N, scale, desk, q)
        sums_Q[q] = _total(row_N, desk.tops_w)
        _narrow(bits_N, logits_QN[q])


@contracted
def _widen(half_N: UInt16, bits_N: Int32) -> None:
    for i in range(half_N.size):
        bits_N[i] = np.int32(half_N[i]) << 16


@contracted
def _narrow(bits_N: Int32, half_N: UInt16) -> None:
    """Rounded to nearest; values are in [0, 1]."""
    for i in range(half_N.size):
        half_N[i] = np.uint16((bits_N[i] + 0x8000) >> 16)


@contracted
def _exp_row(row_N: Float32, bits_N: Int32, scale: np.float32, desk: Desk, q: int) -> None:
    """``bits_N`` is ``row_N`` as integers: whole powers of two are added to its exponents."""
    rows_h, columns_w, powers_N, tops_w = desk.rows_Qh[q], desk.columns_Qw[q], desk.powers_N, desk.tops_w
    width = columns_w.size
    tops_w[:] = np.float32(-np.inf)
    for y in range(rows_h.size):
        _add(row_N[y * width : (y + 1) * width], scale, rows_h[y], columns_w, tops_w)
    top = tops_w[0]
    for x in range(1, width):
        top = max(top, tops_w[x])
    _powers(row_N, _LOG2_E * top, powers_N)
    for i in range(bits_N.size):
        bits_N[i] += powers_N[i]


@contracted
def _add(part_w: Float32, scale: np.float32, row: np.float32, columns_w: Float32, tops_w: Float32) -> None:
    for x in range(part_w.size):
        value = scale * part_w[x] + (row + columns_w[x])
        part_w[x] = value
        tops_w[x] = value if value > tops_w[x] else tops_w[x]


@contracted
def _powers(row_N: Float32, top: np.float32, powers_N: Int32) -> None:
    """2^(row/ln 2 - top) as a mantissa in place and an exponent, shifted to where float32 has it."""
    for i in range(row_N.size):
        power = row_N[i] * _LOG2_E - top
        power = power if power > _LEAST else _LEAST
        whole = (power + _ROUND) - _ROUND  # no addition in float32 keeps a fraction beyond 2^23
        x = power - whole
        powers_N[i] = np.int32(whole) << 23
        row_N[i] = (((((_C6 * x + _C5) * x + _C4) * x + _C3) * x + _C2) * x + _C1) * x + _ONE


@contracted
def _total(row_N: Float32, lanes_w: Float32) -> np.float32:
    """The sum, side by side in as many lanes as a row of keys is long, so that it vectorises."""
    width = lanes_w.size
    lanes_w[:] = np.float32(0)
    for y in range(row_N.size // width):
        part_w = row_N[y * width : (y + 1) * width]
        for x in range(width):
            lanes_w[x] += part_w[x]
    total = np.float32(0)
    for x in range(width):
        total += lanes_w[x]
    return total
