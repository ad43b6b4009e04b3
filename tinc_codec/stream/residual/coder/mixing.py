"""Adaptive probabilities of a bit, mixed to one and learnt from it, as LLVM code.

The probabilities are mixed in the logistic domain, by weights that are learnt on the way (Mahoney's
PAQ). A probability and how often it has learnt are one word; a decision takes and moves the words
of all its contexts together, in vectors of integers. numba's own loops, which cannot know that
arrays do not overlap, take several times as many instructions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from tinc_codec.llvm import INT32, INT64, Array, broadcast, call

# Contexts of a decision, at most; what a row of weights has room for.
INPUTS = 8
# A word: the probability of a 1 in 1/65536, and above it how often it has learnt.
PROBABILITY, COUNT_SHIFT = 0xFFFF, 16
EVEN = 1 << 15

# The logistic domain: 256 units per nat.
UNIT = 256
_P = np.arange(4096) / 4096 + 1 / 8192
STRETCH = np.rint(np.log(_P / (1 - _P)) * UNIT).astype(np.int16)

# A probability that has learnt n times moves by 655360 // (10 n + 16) in 1/65536 of the way.
_RATE, _PER_COUNT, _FIRST = 655360, 10, 16
_LEAST = 16
# A weight moves by the product of input and error over two to the power of this.
_LEARNING_SHIFT = 18

_WORDS, _WEIGHTS = types.Array(types.uint32, 1, "C"), types.Array(types.int32, 2, "C")
_TABLE = types.Array(types.int16, 1, "C", readonly=True)


def _lanes(n: int) -> int:
    return 4 if n <= 4 else INPUTS


def _vector(n: int, kind: Any = INT32) -> Any:
    return ir.VectorType(kind, _lanes(n))


def _constant(n: int, value: int) -> Any:
    return ir.Constant(_vector(n), [value] * _lanes(n))


def _slots(n: int) -> Any:
    return types.UniTuple(types.int64, n)  # type: ignore[no-untyped-call]


class _Lanes(types.Type):
    """A vector of int32 in a register: memory is slow to give back what was stored in halves."""

    def __init__(self, n: int) -> None:
        super().__init__(name=f"lanes{_lanes(n)}")
        self.n = n


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: _Lanes) -> None:
        super().__init__(manager, kind, _vector(kind.n))  # type: ignore[no-untyped-call]


def _row(b: Any, weights: Array, row: Any, n: int) -> Any:
    return b.bitcast(weights.row(b, row), _vector(n).as_pointer())


def _take(_: Any, words: Any, slots: Any, stretch: Any, weights: Any, row: Any) -> Any:
    """Return the sum of the stretched probabilities of a decision times their weights.

    And, for :func:`_give`, those probabilities and the words.

    Parameters
    ----------
    words : uint32 array
        All probabilities.
    slots : tuple of up to INPUTS int
        Those of this decision, all different.
    stretch : int16 array
        STRETCH.
    weights : (rows, INPUTS) int32
        Of each kind of decision.
    row : int
        The kind.
    """
    del words, stretch, weights, row
    n = len(slots)
    kinds = _WORDS, _slots(n), _TABLE, _WEIGHTS, types.int64
    found = types.Tuple((types.int64, _Lanes(n), _Lanes(n)))  # type: ignore[no-untyped-call]

    def generate(context: Any, b: Any, _: Any, values: Any) -> Any:
        words, stretch, weights = (Array(context, b, kinds[k], values[k]) for k in (0, 2, 3))
        taken = inputs = _constant(n, 0)
        for k, slot in enumerate(cgutils.unpack_tuple(b, values[1], n)):  # type: ignore[no-untyped-call]
            word = b.load(b.gep(words.data, [slot]))
            fine = b.and_(b.lshr(word, ir.Constant(INT32, 4)), ir.Constant(INT32, 4095))
            stretched = b.load(b.gep(stretch.data, [b.zext(fine, INT64)]))
            lane = ir.Constant(INT32, k)
            taken = b.insert_element(taken, word, lane)
            inputs = b.insert_element(inputs, b.sext(stretched, INT32), lane)
        weight = b.load(_row(b, weights, values[4], n), align=4)
        wide = _vector(n, INT64)
        products = b.mul(b.sext(inputs, wide), b.sext(weight, wide))
        total = call(b, f"llvm.vector.reduce.add.v{_lanes(n)}i64", INT64, [products])
        return context.make_tuple(b, found, [total, inputs, taken])

    return found(*kinds), generate


take: Any = intrinsic(_take)


def _give(
    _: Any, words: Any, slots: Any, weights: Any, row: Any, inputs: Any, taken: Any, error: Any,
    bit: Any, limit: Any,
) -> Any:  # fmt: skip
    """Move the probabilities of a decision and their weights towards the bit that came.

    Parameters
    ----------
    words, slots, weights, row, inputs, taken
        As for :func:`_take`, and what it has returned.
    error : int
        What the mixed probability lacked, in 1/65536, times the rate of weights; below 2**19.
    bit : int
        What came.
    limit : int
        Count that probabilities stop at.
    """
    del words, weights, row, inputs, taken, error, bit, limit
    n = len(slots)
    integers = (types.int64,) * 3
    kinds = _WORDS, _slots(n), _WEIGHTS, types.int64, _Lanes(n), _Lanes(n), *integers

    def generate(context: Any, b: Any, _: Any, values: Any) -> Any:
        words, weights = (Array(context, b, kinds[k], values[k]) for k in (0, 2))
        inputs, taken = values[4:6]
        error, bit, limit = (broadcast(b, b.trunc(value, INT32), _lanes(n)) for value in values[6:])
        place = _row(b, weights, values[3], n)
        moved = b.add(b.mul(inputs, error), _constant(n, 1 << (_LEARNING_SHIFT - 1)))
        moved = b.ashr(moved, _constant(n, _LEARNING_SHIFT))
        b.store(b.add(b.load(place, align=4), moved), place, align=4)
        learnt = _learnt(b, n, taken, bit, limit)
        for k, slot in enumerate(cgutils.unpack_tuple(b, values[1], n)):  # type: ignore[no-untyped-call]
            word = b.extract_element(learnt, ir.Constant(INT32, k))
            b.store(word, b.gep(words.data, [slot]))
        return context.get_dummy_value()

    return types.void(*kinds), generate


give: Any = intrinsic(_give)


def _learnt(b: Any, n: int, words: Any, bit: Any, limit: Any) -> Any:
    """Return words of which the probabilities have moved towards a bit.

    For a 1 all is done with the probability of a 0, which then falls as that of a 1 does for a 0.
    The rate is a quotient of numbers that binary32 holds, and rounds down as it does in integers:
    it is further below the next integer than rounding reaches.
    """
    whole = _constant(n, PROBABILITY)
    flip = b.and_(b.sub(_constant(n, 0), bit), whole)
    p = b.xor(b.and_(words, whole), flip)
    count = b.lshr(words, _constant(n, COUNT_SHIFT))
    floats = _vector(n, ir.FloatType())
    divisor = b.add(b.mul(count, _constant(n, _PER_COUNT)), _constant(n, _FIRST))
    quotient = b.fdiv(ir.Constant(floats, [float(_RATE)] * _lanes(n)), b.sitofp(divisor, floats))
    rate = b.fptosi(quotient, _vector(n))
    # Moves are rounded towards 0 for a 1, and away from 0 for a 0, as a shift does.
    moved = b.add(b.mul(p, rate), b.xor(flip, whole))
    p = b.sub(p, b.lshr(moved, _constant(n, 16)))
    least = _constant(n, _LEAST)
    p = b.select(b.icmp_unsigned("<", p, least), least, p)
    count = b.add(count, _constant(n, 1))
    count = b.select(b.icmp_unsigned("<", count, limit), count, limit)
    return b.or_(b.xor(p, flip), b.shl(count, _constant(n, COUNT_SHIFT)))
