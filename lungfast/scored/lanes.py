"""Few edges against many pixels: 32 pixels between two input rows at once, their answers the bits of a word.

Comes in: stretched low-resolution rows, the two mixtures of them that are input rows, weights of the native
rows between these, truth bits. Goes out: pixels and true pixels above every edge. One comparison answers for
32 pixels, and counting its bits, alone and with the truth's, is an instruction each. A block of 32 columns
whose first and last row lie below all edges, or above all, is not looked at again: between two input rows a
column's values are monotone, rounding included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from lungfast.compiled import IS_COMPILED, inlined, lean
from lungfast.records import Float32, Int64
from lungfast.scored.bins import FIVE
from lungfast.scored.bits import Truth, ones, word_at
from lungfast.scored.stretch import LANES

ALL = np.uint64(2**LANES - 1)
PIXEL_OF_LANE = tuple(lane ^ 7 for lane in range(LANES))
"""Eights in reverse, as numpy.packbits lays the pixels of a byte: answers then stand as the truth's do."""


class Mixture(NamedTuple):
    """An input row: ``(1 - weight) * row first + weight * row second`` of the stretched ones."""

    first: int
    second: int
    weight: np.float32


class Pair(NamedTuple):
    """Native rows at ``weights`` between two input rows."""

    upper: Mixture
    lower: Mixture
    weights: Float32


class Stretched(NamedTuple):
    """Stretched rows at native columns, and two rows of :data:`LANES` to work with."""

    rows_YW: Float32
    base_L: Float32
    slope_L: Float32


class Span(NamedTuple):
    """Columns first..last, looked at in whole blocks from ``begin`` on (at most 7 earlier)."""

    begin: int
    first: int
    last: int


class Block(NamedTuple):
    """LANES columns: the truth's bit of the first one in the first row, and which of them count."""

    bit: int
    counted: np.uint64


# --- vectors ---------------------------------------------------------------------------------------


def _above_plain(base_L: Float32, slope_L: Float32, weight: np.float32, edge: np.float32) -> Any:
    above = base_L + weight * slope_L > edge
    return np.uint64(sum(1 << lane for lane in np.flatnonzero(above).tolist()))


def _mix_plain(
    rows_YW: Float32, upper: Mixture, lower: Mixture, at: int, base_L: Float32, slope_L: Float32
) -> None:
    mixed = []
    for row in (upper, lower):
        a_L, b_L = (rows_YW[y, at : at + LANES] for y in (row.first, row.second))
        mixed.append((a_L + row.weight * (b_L - a_L))[list(PIXEL_OF_LANE)])
    base_L[:], slope_L[:] = mixed[0], mixed[1] - mixed[0]


def _checked(array: Any, dimensions: int) -> None:
    if not (
        isinstance(array, types.Array)
        and (array.layout, array.ndim, array.dtype) == ("C", dimensions, types.float32)
    ):
        raise TypingError(f"lanes are read from contiguous float32 arrays, not {array}")


class _Vectors:
    """Loads, stores and constants of :data:`LANES` floats."""

    def __init__(self, context: Any, builder: Any) -> None:
        from llvmlite import ir

        self._context, self._builder, self._ir = context, builder, ir
        self._kind = ir.VectorType(ir.FloatType(), LANES)

    def pointer(self, kind: Any, array: Any, place: Any = None) -> Any:
        data = self._context.make_array(kind)(self._context, self._builder, array).data
        if place is not None:
            data = self._builder.gep(data, [place], inbounds=True)
        return self._builder.bitcast(data, self._kind.as_pointer())

    def width(self, kind: Any, array: Any) -> Any:
        """Of a row of a two-dimensional array."""
        shape = self._context.make_array(kind)(self._context, self._builder, array).shape
        return self._builder.extract_value(shape, 1)

    def load(self, pointer: Any) -> Any:
        return self._builder.load(pointer, align=4)

    def store(self, value: Any, pointer: Any) -> None:
        self._builder.store(value, pointer, align=4)

    def spread(self, value: Any) -> Any:
        ir = self._ir
        undefined = ir.Constant(self._kind, ir.Undefined)
        one = self._builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(one, [0] * LANES)

    def shuffled(self, value: Any, places: Sequence[int]) -> Any:
        ir = self._ir
        order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(places))
        return self._builder.shuffle_vector(value, ir.Constant(self._kind, ir.Undefined), order)


@intrinsic
def _above_lanes(context: Any, base_L: Any, slope_L: Any, weight: Any, edge: Any) -> Any:
    """Bit k: whether ``base_L[k] + weight * slope_L[k] > edge``."""
    _checked(base_L, 1)
    _checked(slope_L, 1)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        vectors, (base, slope, weight_1, edge_1) = _Vectors(context, builder), arguments
        base_L, slope_L = (
            vectors.load(vectors.pointer(kind, array))
            for kind, array in zip(signature.args, (base, slope), strict=False)
        )
        value = builder.fadd(base_L, builder.fmul(vectors.spread(weight_1), slope_L))
        above = builder.fcmp_ordered(">", value, vectors.spread(edge_1))
        return builder.zext(builder.bitcast(above, ir.IntType(LANES)), ir.IntType(64))

    return types.uint64(base_L, slope_L, types.float32, types.float32), build


@intrinsic
def _mix_lanes(context: Any, rows_YW: Any, upper: Any, lower: Any, at: Any, base_L: Any, slope_L: Any) -> Any:
    """LANES columns of two input rows, from column ``at`` on: the upper one, and what the lower is more.

    An input row is ``a + weight * (b - a)``; eights in reverse.
    """
    _checked(rows_YW, 2)
    _checked(base_L, 1)
    _checked(slope_L, 1)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vectors, (rows, upper_row, lower_row, start, base, slope) = _Vectors(context, builder), arguments
        kind, width = signature.args[0], vectors.width(signature.args[0], rows)

        def row_at(mixture: Any, number: int) -> Any:
            place = builder.add(builder.mul(builder.extract_value(mixture, number), width), start)
            return vectors.load(vectors.pointer(kind, rows, place))

        def mixed(mixture: Any) -> Any:
            a, b = row_at(mixture, 0), row_at(mixture, 1)
            moved = builder.fmul(vectors.spread(builder.extract_value(mixture, 2)), builder.fsub(b, a))
            return builder.fadd(a, moved)

        first = mixed(upper_row)
        difference = builder.fsub(mixed(lower_row), first)
        for value, kind_of, out in zip((first, difference), signature.args[4:], (base, slope), strict=True):
            vectors.store(vectors.shuffled(value, PIXEL_OF_LANE), vectors.pointer(kind_of, out))
        return context.get_dummy_value()

    return types.void(rows_YW, upper, lower, types.intp, base_L, slope_L), build


above_lanes: Callable[..., Any] = _above_lanes if IS_COMPILED else _above_plain
mix_lanes: Callable[..., Any] = _mix_lanes if IS_COMPILED else _mix_plain


# --- counts ----------------------------------------------------------------------------------------


@inlined
def count_pair_above(
    stretched: Stretched, pair: Pair, truth: Truth, row: int, span: Span, edges: Float32, above_Q: Int64
) -> None:
    """Add to ``above_Q`` the pixels above each of ``edges[1:]``, true ones in the upper half.

    ``row`` is the truth's of the first weight; ``span.begin`` is a multiple of 8, and ``rows_YW`` holds whole
    blocks from there on. ``above_Q`` is as long as the edges without their -inf and :data:`FIVE` inf, rounded
    up to fives.
    """
    rows_YW, base_L, slope_L = stretched
    weights, n_edges, row_bits = pair.weights, edges.size - 1 - FIVE, truth.packed.shape[1] * 8
    first_weight, last_weight = weights[0], weights[weights.size - 1]
    for at in range(span.begin, span.last, LANES):
        counted = _counted(span, at)
        mix_lanes(rows_YW, pair.upper, pair.lower, at, base_L, slope_L)
        top = above_lanes(base_L, slope_L, first_weight, edges[1]) & counted
        bottom = above_lanes(base_L, slope_L, last_weight, edges[1]) & counted
        if top | bottom == 0:
            continue
        bit = row * row_bits + at
        if top & bottom == counted:
            top = above_lanes(base_L, slope_L, first_weight, edges[n_edges])
            if top & above_lanes(base_L, slope_L, last_weight, edges[n_edges]) & counted == counted:
                true = np.int64(0)
                for r in range(weights.size):
                    true += ones(word_at(truth, bit + r * row_bits) & counted)
                for q in range(n_edges):
                    above_Q[q] += ones(counted) * weights.size + (true << 32)
                continue
        for q in range(0, n_edges, FIVE):
            _count_five(stretched, weights, truth, Block(bit, counted), edges, above_Q, q)


@lean
def _counted(span: Span, at: int) -> np.uint64:
    """The lanes of the block at a column that belong to the span."""
    counted = ALL
    if at < span.first:
        counted &= ~np.uint64(0xFF) | np.uint64(0xFF >> (span.first - at))
    if at + LANES > span.last:
        whole, rest = (span.last - at) & ~7, (span.last - at) & 7
        kept = (np.uint64(1) << np.uint64(whole)) - np.uint64(1)
        counted &= kept | (np.uint64(0xFF & ~(0xFF >> rest)) << np.uint64(whole))
    return counted


@inlined
def _count_five(
    stretched: Stretched,
    weights: Float32,
    truth: Truth,
    block: Block,
    edges: Float32,
    above_Q: Int64,
    q: int,
) -> None:
    """A block with all its rows, edges from ``q`` on: the sums stay in registers."""
    base_L, slope_L, (bit, counted) = stretched.base_L, stretched.slope_L, block
    row_bits = truth.packed.shape[1] * 8
    e0, e1, e2, e3, e4 = edges[q + 1], edges[q + 2], edges[q + 3], edges[q + 4], edges[q + 5]
    n0 = n1 = n2 = n3 = n4 = np.int64(0)
    for r in range(weights.size):
        weight = weights[r]
        true = word_at(truth, bit + r * row_bits)
        n0 += _both(above_lanes(base_L, slope_L, weight, e0) & counted, true)
        n1 += _both(above_lanes(base_L, slope_L, weight, e1) & counted, true)
        n2 += _both(above_lanes(base_L, slope_L, weight, e2) & counted, true)
        n3 += _both(above_lanes(base_L, slope_L, weight, e3) & counted, true)
        n4 += _both(above_lanes(base_L, slope_L, weight, e4) & counted, true)
    above_Q[q] += n0
    above_Q[q + 1] += n1
    above_Q[q + 2] += n2
    above_Q[q + 3] += n3
    above_Q[q + 4] += n4


@lean
def _both(above: np.uint64, true: np.uint64) -> np.int64:
    return ones(above) + (ones(above & true) << 32)
