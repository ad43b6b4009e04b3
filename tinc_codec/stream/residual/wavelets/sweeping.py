"""All steps of the synthesis of columns in one way down the rows, as LLVM code.

Each row is loaded and stored once: what steps still need of the rows before stays in registers.
numba's own loops go down the rows for each step, with three loads for a sum. What is done to a
sample, and in which order, is the same, and so are its bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinc_codec.llvm import WIDTH, Array, i64, load, loop, splat, store
from tinc_codec.stream.residual.wavelets import cdf97
from tinc_codec.stream.residual.wavelets.cdf97 import CLOSED_END

# Rows that a way takes at least: two pairs to begin, one to go on with, and a closed end.
LEAST_ROWS = 6 + CLOSED_END

# Vectors of columns worked on at once.
_TOGETHER = 4
_PLANE = types.Array(types.float32, 2, "C")
# A part of a row: vectors of columns.
_Row = list[Any]


def _sweep(_: Any, x: Any, n: Any, first: Any, last: Any, closed: Any) -> Any:
    """Synthesise columns in place.

    Parameters
    ----------
    x : (n, inner) float32 array
    n : int
        Its rows; at least LEAST_ROWS.
    first, last : int
        Columns, the last exclusive: a multiple of WIDTH, 0 too.
    closed : bool
        The last two rows have changed places, and change back.
    """
    del x, n, first, last, closed
    kinds = _PLANE, types.int64, types.int64, types.int64, types.boolean

    def generate(context: Any, b: Any, _: Any, values: Any) -> Any:
        n, first, last, closed = values[1:]
        x = Array(context, b, kinds[0], values[0])
        several = i64(_TOGETHER * WIDTH)
        middle = b.add(first, b.mul(b.sdiv(b.sub(last, first), several), several))
        for start, stop, vectors in (first, middle, _TOGETHER), (middle, last, 1):
            with b.if_then(b.icmp_signed("<", start, stop)):

                def work(k: Any, _: list[Any], start: Any = start, vectors: int = vectors) -> Any:
                    _Columns(x, b.add(start, k), vectors).synthesise(b, n, closed)
                    return []

                loop(b, b.sub(stop, start), vectors * WIDTH, [], work)
        return context.get_dummy_value()

    return types.void(*kinds), generate


sweep: Any = intrinsic(_sweep)


class _Columns:
    """Some columns of an array, from one on.

    Names are as in FORMAT.md: even rows e and odd rows o, with the number of steps done.
    """

    def __init__(self, x: Array, first: Any, vectors: int) -> None:
        self.x, self.first, self.vectors = x, first, vectors

    def _places(self, b: Any, row: Any) -> list[Any]:
        start = b.add(b.mul(self.x.length, row), self.first)
        return [b.add(start, i64(k * WIDTH)) for k in range(self.vectors)]

    def _scaled(self, b: Any, row: Any, scale: np.float32) -> _Row:
        values = [load(b, self.x.data, at) for at in self._places(b, row)]
        return [b.fmul(value, splat(scale)) for value in values]

    def _set(self, b: Any, row: Any, values: _Row) -> None:
        for at, value in zip(self._places(b, row), values, strict=True):
            store(b, value, self.x.data, at)

    def _pair(self, b: Any, row: Any) -> tuple[_Row, _Row]:
        """Return an even row and the odd one after it, scaled."""
        after = b.add(row, i64(1))
        return self._scaled(b, row, cdf97.HIGH), self._scaled(b, after, cdf97.LOW)

    def synthesise(self, b: Any, n: Any, closed: Any) -> None:
        """Go down the rows: with each pair do the steps that waited for it, and set two rows."""
        e, o = self._pair(b, i64(0))
        e1 = _step(b, e, -cdf97.D, o, o)
        e_next, o_next = self._pair(b, i64(2))
        e1_next = _step(b, e_next, -cdf97.D, o, o_next)
        o1 = _step(b, o, -cdf97.C, e1, e1_next)
        e2 = _step(b, e1, -cdf97.B, o1, o1)
        self._set(b, i64(0), e2)

        def pair(i: Any, carried: list[Any]) -> list[Any]:
            row = b.add(b.mul(i, i64(2)), i64(4))
            o, e1, o1, e2 = self._parted(carried)
            e_next, o_next = self._pair(b, row)
            e1_next = _step(b, e_next, -cdf97.D, o, o_next)
            return [*o_next, *e1_next, *self._done(b, row, o, e1, o1, e2, e1_next)]

        end = b.select(closed, b.sub(n, i64(CLOSED_END)), n)
        pairs = b.sub(b.sdiv(end, i64(2)), i64(2))
        carried = loop(b, pairs, 1, [*o_next, *e1_next, *o1, *e2], pair)
        known = self._parted(carried)
        with b.if_else(closed) as (then, otherwise):
            with then:
                self._closed_end(b, end, *known)
            with otherwise:
                odd = b.trunc(n, ir.IntType(1))
                with b.if_else(odd) as (with_even, with_odd):
                    with with_even:
                        self._even_end(b, b.sub(n, i64(1)), *known)
                    with with_odd:
                        self._odd_end(b, n, *known)

    def _parted(self, values: list[Any]) -> list[_Row]:
        """Cut a list of vectors into rows."""
        m = self.vectors
        return [values[k : k + m] for k in range(0, len(values), m)]

    def _done(
        self, b: Any, row: Any, o: _Row, e1: _Row, o1: _Row, e2: _Row, e1_next: _Row
    ) -> list[Any]:
        """Do what the even row at ``row`` lets be done; return the next o1 and e2.

        Known are o and e1 of the rows before it, o1 and e2 of those before these.
        """
        o1_next = _step(b, o, -cdf97.C, e1, e1_next)
        e2_next = _step(b, e1, -cdf97.B, o1, o1_next)
        self._set(b, b.sub(row, i64(3)), _step(b, o1, -cdf97.A, e2, e2_next))
        self._set(b, b.sub(row, i64(2)), e2_next)
        return [*o1_next, *e2_next]

    def _even_end(self, b: Any, row: Any, o: _Row, e1: _Row, o1: _Row, e2: _Row) -> None:
        """End with an even row, without an odd one after it."""
        e1_last = _step(b, self._scaled(b, row, cdf97.HIGH), -cdf97.D, o, o)
        o1, e2 = self._parted(self._done(b, row, o, e1, o1, e2, e1_last))
        e2_last = _step(b, e1_last, -cdf97.B, o1, o1)
        self._set(b, b.sub(row, i64(1)), _step(b, o1, -cdf97.A, e2, e2_last))
        self._set(b, row, e2_last)

    def _odd_end(self, b: Any, row: Any, o: _Row, e1: _Row, o1: _Row, e2: _Row) -> None:
        """End with an odd row, before the row given."""
        o1, e2 = self._parted(self._done(b, row, o, e1, o1, e2, e1))
        self._set(b, b.sub(row, i64(1)), _step(b, o1, -cdf97.A, e2, e2))

    def _closed_end(self, b: Any, row: Any, o: _Row, e1: _Row, o1: _Row, e2: _Row) -> None:
        """End with the last four rows of a closed axis, from the row given on."""
        rows = [b.add(row, i64(k)) for k in range(CLOSED_END)]
        (even, odd), (last_even, last_odd) = self._pair(b, rows[0]), self._pair(b, rows[2])
        even, last_even = _end_steps(
            b, -cdf97.D, cdf97.ENDS_D, (even, o, odd), (last_even, odd, last_odd)
        )
        o1, e2 = self._parted(self._done(b, row, o, e1, o1, e2, even))
        odd, last_odd = _end_steps(
            b, -cdf97.C, cdf97.ENDS_C, (odd, even, last_even), (last_odd, last_even, even)
        )
        even, last_even = _end_steps(
            b, -cdf97.B, cdf97.ENDS_B, (even, o1, odd), (last_even, odd, last_odd)
        )
        self._set(b, b.sub(row, i64(1)), _step(b, o1, -cdf97.A, e2, even))
        odd, last_odd = _end_steps(
            b, -cdf97.A, cdf97.ENDS_A, (odd, even, last_even), (last_odd, last_even, even)
        )
        for at, values in zip(rows, (even, odd, last_odd, last_even), strict=True):
            self._set(b, at, values)


def _step(b: Any, row: _Row, factor: np.float32, before: _Row, after: _Row) -> _Row:
    """Return a row and the sum of its neighbours times a factor."""
    sums = [b.fadd(one, other) for one, other in zip(before, after, strict=True)]
    return _moved(b, row, factor, sums)


def _end_steps(
    b: Any, factor: np.float32, ends: Sequence[np.float32], *steps: tuple[_Row, _Row, _Row]
) -> list[_Row]:
    """Do a step to two rows, of which the neighbours before and after count as ``ends`` says."""
    found = []
    for (row, before, after), one, other in zip(steps, ends[::2], ends[1::2], strict=True):
        sums = [
            b.fadd(b.fmul(splat(one), x), b.fmul(splat(other), y))
            for x, y in zip(before, after, strict=True)
        ]
        found.append(_moved(b, row, factor, sums))
    return found


def _moved(b: Any, row: _Row, factor: np.float32, sums: _Row) -> _Row:
    return [b.fadd(x, b.fmul(splat(factor), s)) for x, s in zip(row, sums, strict=True)]
