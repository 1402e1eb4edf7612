"""Few edges against many pixels: 32 pixels between two input rows at once, their answers the bits of a word.

Comes in: two input rows of a patch at native columns, weights of the native rows between them, truth bits.
Goes out: pixels and true pixels above every edge. One comparison answers for 32 pixels and counting its bits,
alone and with the truth's, is an instruction each. A block of 32 columns whose first and last row lie below
all edges, or above all, is not looked at again: between two input rows a column's values are monotone,
rounding included.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from lungfast.compiled import lean
from lungfast.records import Float32, Int64
from lungfast.scored.bins import FIVE
from lungfast.scored.bits import Truth, ones, word_at
from lungfast.scored.stretch import LANES

ALL = np.uint64(2**LANES - 1)


class Pair(NamedTuple):
    """Native rows between two input rows: ``base_W + weight * slope_W`` for each of ``weights``."""

    base_W: Float32
    slope_W: Float32
    weights: Float32


def _above_plain(base_W: Float32, slope_W: Float32, at: int, weight: np.float32, edge: np.float32) -> Any:
    place = slice(at, at + LANES)
    above = base_W[place] + weight * slope_W[place] > edge
    return np.uint64(sum(1 << lane for lane in np.flatnonzero(above).tolist()))


@intrinsic
def _above_lanes(context: Any, base_W: Any, slope_W: Any, at: Any, weight: Any, edge: Any) -> Any:
    """Bit k: whether ``base_W[at + k] + weight * slope_W[at + k] > edge``. Reads LANES floats of both."""
    for one in (base_W, slope_W):
        if not (isinstance(one, types.Array) and one.layout == "C" and one.dtype == types.float32):
            raise TypingError(f"lanes are read from contiguous float32 arrays, not {one}")
    signature = types.uint64(base_W, slope_W, types.intp, types.float32, types.float32)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        vector, number = ir.VectorType(ir.FloatType(), LANES), ir.IntType(32)
        base_type, slope_type = signature.args[:2]
        base, slope, start, weight_1, edge_1 = arguments

        def lanes_of(kind: Any, array: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            where = builder.bitcast(builder.gep(data, [start], inbounds=True), vector.as_pointer())
            return builder.load(where, align=4)

        def spread(value: Any) -> Any:
            undefined = ir.Constant(vector, ir.Undefined)
            one = builder.insert_element(undefined, value, ir.Constant(number, 0))
            zeros = ir.Constant(ir.VectorType(number, LANES), [0] * LANES)
            return builder.shuffle_vector(one, undefined, zeros)

        product = builder.fmul(spread(weight_1), lanes_of(slope_type, slope))
        value = builder.fadd(lanes_of(base_type, base), product)
        bits = builder.bitcast(builder.fcmp_ordered(">", value, spread(edge_1)), ir.IntType(LANES))
        return builder.zext(bits, ir.IntType(64))

    return signature, build


above_lanes: Any = _above_lanes if hasattr(ones, "py_func") else _above_plain  # NUMBA_DISABLE_JIT


@lean
def count_pair_above(pair: Pair, truth: Truth, first_bit: int, edges: Float32, above_Q: Int64) -> None:
    """Add to ``above_Q`` the pixels above each of ``edges[1:]``, true ones in the upper half.

    Columns come in whole blocks; those that do not count hold -inf and slope 0. ``first_bit``, a multiple of
    8, is the truth's bit of the first column in the first row. ``above_Q`` is as long as the edges without
    their -inf and :data:`FIVE` inf, rounded up to fives.
    """
    base_W, slope_W, weights = pair
    n_edges, row_bits = edges.size - 1 - FIVE, truth.packed.shape[1] * 8
    lowest, highest = edges[1], edges[n_edges]
    for c in range(0, base_W.size - LANES + 1, LANES):
        top = above_lanes(base_W, slope_W, c, weights[0], lowest)
        bottom = above_lanes(base_W, slope_W, c, weights[-1], lowest)
        if top | bottom == 0:
            continue
        if top & bottom == ALL:
            top = above_lanes(base_W, slope_W, c, weights[0], highest)
            bottom = above_lanes(base_W, slope_W, c, weights[-1], highest)
            if top & bottom == ALL:
                true = np.int64(0)
                for r in range(weights.size):
                    true += ones(word_at(truth, first_bit + r * row_bits + c) & ALL)
                for q in range(n_edges):
                    above_Q[q] += np.int64(LANES * weights.size) + (true << 32)
                continue
        for q in range(0, n_edges, FIVE):
            _count_five(pair, truth, first_bit + c, edges, above_Q, c, q)


@lean
def _count_five(
    pair: Pair, truth: Truth, first_bit: int, edges: Float32, above_Q: Int64, c: int, q: int
) -> None:
    """The block at column ``c``, all its rows, edges from ``q`` on: the sums stay in registers."""
    base_W, slope_W, weights = pair
    row_bits = truth.packed.shape[1] * 8
    e0, e1, e2, e3, e4 = edges[q + 1], edges[q + 2], edges[q + 3], edges[q + 4], edges[q + 5]
    n0 = n1 = n2 = n3 = n4 = np.int64(0)
    for r in range(weights.size):
        weight = weights[r]
        true = word_at(truth, first_bit + r * row_bits)
        n0 += _both(above_lanes(base_W, slope_W, c, weight, e0), true)
        n1 += _both(above_lanes(base_W, slope_W, c, weight, e1), true)
        n2 += _both(above_lanes(base_W, slope_W, c, weight, e2), true)
        n3 += _both(above_lanes(base_W, slope_W, c, weight, e3), true)
        n4 += _both(above_lanes(base_W, slope_W, c, weight, e4), true)
    above_Q[q] += n0
    above_Q[q + 1] += n1
    above_Q[q + 2] += n2
    above_Q[q + 3] += n3
    above_Q[q + 4] += n4


@lean
def _both(above: np.uint64, true: np.uint64) -> np.int64:
    return ones(above) + (ones(above & true) << 32)
