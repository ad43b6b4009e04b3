"""The arithmetic of a FILTER section on voxels that follow one another, as LLVM code.

Voxels stay in registers from their neighbours to the result. The segment of a curve that a voxel
lies in is looked up in registers too, with the sum of all before it; where that is not sure to be
the same sum, knots beyond which none lies are left out, which changes none. numba's own loops store
and load each sum for every two knots.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tinc_codec.llvm import (
    BITS,
    VECTOR,
    WIDTH,
    Array,
    call,
    i64,
    load,
    load_broadcast,
    loop,
    repeat,
    splat,
    store,
)  # fmt: skip

# Neighbours at distances 1 to REACH, on both sides along each axis.
REACH = 3
SIDES = 2 * REACH

# Vectors worked on at once: numbers of the tables are loaded once for all of them.
_TOGETHER = 3
# Knots of curves that may be looked up in registers, at most.
LOOKED_UP = 16
_MASK = ir.IntType(WIDTH)
_LINE, _TABLE = types.Array(types.float32, 1, "C"), types.Array(types.float32, 2, "C")
_PLACES = types.Array(types.int64, 1, "C")


def _filter_run(
    _: Any, own: Any, own_at: Any, beside: Any, places: Any, along: Any, last: Any, tables: Any,
    out: Any, n: Any,
) -> Any:  # fmt: skip
    """Filter voxels that follow one another.

    Parameters
    ----------
    own, own_at : float32 array, int
        The first voxel.
    beside, places : float32 array, int64 array
        Where the first voxel's neighbours are along all axes but the last: for each axis those
        before and after it at distance 1, then at 2 and 3.
    along, last : float32 array, (6,) int64
        The same along the last axis.
    tables : postfilter.Tables
        Of the filter.
    out : float32 array
        The results; no part of what is read.
    n : int
        Voxels; at least WIDTH.
    """
    del own, own_at, beside, places, along, last, out, n
    kinds = (
        _LINE, types.int64, _LINE, _PLACES, _LINE, _PLACES, tables, _LINE, types.int64
    )  # fmt: skip

    def generate(context: Any, b: Any, _: Any, values: Any) -> Any:
        def array(k: int) -> Array:
            return Array(context, b, kinds[k], values[k])

        parts = cgutils.unpack_tuple(b, values[6], len(tables))  # type: ignore[no-untyped-call]
        numbers = [Array(context, b, *pair) for pair in zip(tables, parts, strict=True)]
        beside, along = _Sides(array(2), array(3)), _Sides(array(4), array(5))
        filter_ = _Filter(b, *numbers, beside=beside, along=along)
        own, out, n = b.gep(array(0).data, [values[1]]), array(7).data, values[8]
        latest = b.sub(n, i64(WIDTH))

        def run(i: Any, _: list[Any]) -> list[Any]:
            # The last ones are done more than once where n is no multiple.
            places = [b.add(i, i64(k * WIDTH)) for k in range(_TOGETHER)]
            places = [b.select(b.icmp_signed("<", at, latest), at, latest) for at in places]
            found = filter_.moved(b, [load(b, own, at) for at in places], places)
            for at, vector in zip(places, found, strict=True):
                store(b, vector, out, at)
            return []

        loop(b, n, _TOGETHER * WIDTH, [], run)
        return context.get_dummy_value()

    return types.void(*kinds), generate


filter_run: Any = intrinsic(_filter_run)


class _Sides:
    """Neighbours along axes: an array, and the places of the first voxel's."""

    def __init__(self, array: Array, places: Array) -> None:
        self.data, self.places, self.count = array.data, places.data, places.length

    def vectors(self, b: Any, runs: list[Any], first: Any) -> list[list[Any]]:
        """Return the neighbours of each run along the axis whose places start at ``first``."""
        places = [b.load(b.gep(self.places, [b.add(first, i64(k))])) for k in range(SIDES)]
        return [[load(b, self.data, b.add(place, at)) for place in places] for at in runs]


class _Curves:
    """Curves over the same knots."""

    def __init__(self, b: Any, tables: Sequence[Array], over: int, *curves: int) -> None:
        knots, slopes, counts, looked_up, steps, sums = tables
        self.knots, self.slopes = (array.row(b, i64(over)) for array in (knots, slopes))
        self.count, self.looked_up = (
            b.load(b.gep(array.data, [i64(over)])) for array in (counts, looked_up)
        )
        self.steps, self.sums = (
            [array.row(b, i64(row)) for row in curves] for array in (steps, sums)
        )

    def values(self, b: Any, xs: list[Any]) -> list[list[Any]]:
        """Return each curve at each x."""
        if WIDTH < LOOKED_UP // 2:
            return self._summed(b, xs)
        found = []
        with b.if_else(b.icmp_unsigned("!=", self.looked_up, i64(0))) as branches:
            for branch, form in zip(branches, (self._looked_up, self._summed), strict=True):
                with branch:
                    values = form(b, xs)
                    found.append((values, b.block))
        return [[_either(b, found, c, k) for k in range(len(xs))] for c in range(len(self.steps))]

    def _looked_up(self, b: Any, xs: list[Any]) -> list[list[Any]]:
        """Look up the segment that each x lies in, by halves, and the sum of all before it."""
        places, step = [ir.Constant(BITS, [0] * WIDTH)] * len(xs), LOOKED_UP // 2
        while step:
            further = ir.Constant(BITS, [step] * WIDTH)
            knots = [_permuted(b, b.gep(self.knots, [i64(step)]), k) for k in places]
            beyond = [b.fcmp_ordered(">", x, knot) for x, knot in zip(xs, knots, strict=True)]
            moved = [b.add(k, further) for k in places]
            places = [b.select(*each) for each in zip(beyond, moved, places, strict=True)]
            step //= 2
        parts = [
            _passed(b, x, _permuted(b, self.knots, k), _permuted(b, self.slopes, k))
            for x, k in zip(xs, places, strict=True)
        ]
        found = []
        for sums, steps in zip(self.sums, self.steps, strict=True):
            following = b.gep(steps, [i64(1)])
            products = [
                b.fmul(_permuted(b, following, k), part)
                for k, part in zip(places, parts, strict=True)
            ]
            before = [_permuted(b, sums, k) for k in places]
            found.append(list(map(b.fadd, before, products)))
        return found

    def _summed(self, b: Any, xs: list[Any]) -> list[list[Any]]:
        """Add up the first value, and of each step what is passed of it."""

        def more(carried: list[Any]) -> Any:
            knot = load_broadcast(b, self.knots, carried[0])
            beyond = [b.bitcast(b.fcmp_ordered(">", x, knot), _MASK) for x in xs]
            some = b.icmp_unsigned("!=", functools.reduce(b.or_, beyond), ir.Constant(_MASK, 0))
            return b.and_(some, b.icmp_signed("<", b.add(carried[0], i64(1)), self.count))

        def body(carried: list[Any]) -> list[Any]:
            k, *sums = carried
            knot, slope = load_broadcast(b, self.knots, k), load_broadcast(b, self.slopes, k)
            parts = [_passed(b, x, knot, slope) for x in xs]
            following = b.add(k, i64(1))
            steps = [load_broadcast(b, row, following) for row in self.steps]
            products = [b.fmul(step, part) for step in steps for part in parts]
            return [following, *map(b.fadd, sums, products)]

        start = [load_broadcast(b, row, i64(0)) for row in self.steps for _ in xs]
        _, *sums = repeat(b, [i64(0), *start], more, body)
        return [sums[k : k + len(xs)] for k in range(0, len(sums), len(xs))]


def _either(b: Any, found: list[tuple[list[list[Any]], Any]], curve: int, k: int) -> Any:
    """Return a curve at an x, from the branch that was taken."""
    phi = b.phi(VECTOR)
    for values, block in found:
        phi.add_incoming(values[curve][k], block)
    return phi


def _permuted(b: Any, row: Any, at: Any) -> Any:
    """Return the numbers of a row at some places, all below LOOKED_UP."""
    if WIDTH == LOOKED_UP:
        return call(b, "llvm.x86.avx512.permvar.sf.512", VECTOR, [load(b, row, i64(0)), at])
    halves = [load(b, row, i64(k)) for k in range(0, LOOKED_UP, WIDTH)]
    low, high = (call(b, "llvm.x86.avx2.permps", VECTOR, [half, at]) for half in halves)
    return b.select(b.icmp_signed("<", at, ir.Constant(BITS, [WIDTH] * WIDTH)), low, high)


def _passed(b: Any, x: Any, knot: Any, slope: Any) -> Any:
    """Return the part of the way from a knot to the next that x has passed, 0 to 1."""
    part = b.fmul(b.fsub(x, knot), slope)
    part = b.select(b.fcmp_ordered(">", part, splat(0)), part, splat(0))
    return b.select(b.fcmp_ordered("<", part, splat(1)), part, splat(1))


def _absolute(b: Any, x: Any) -> Any:
    return call(b, f"llvm.fabs.v{WIDTH}f32", VECTOR, [x])


class _Filter:
    """The three terms: by value, tone, by activity."""

    def __init__(self, b: Any, *tables: Array, beside: _Sides, along: _Sides) -> None:
        *of_curves, weights = tables
        self.by_activity = _Curves(b, of_curves, 0, 2)
        self.by_value_and_tone = _Curves(b, of_curves, 1, 0, 1)
        self.weights = [weights.row(b, i64(k)) for k in range(2)]
        self.beside, self.along = beside, along

    def moved(self, b: Any, own: list[Any], runs: list[Any]) -> list[Any]:
        """Return the vectors of voxels at some places, moved by the three terms."""

        def axis(carried: list[Any]) -> list[Any]:
            near = self.beside.vectors(b, runs, carried[0])
            sums = self._with_axis(b, own, near, carried[0], carried[1:])
            return [b.add(carried[0], i64(SIDES)), *sums]

        def more(carried: list[Any]) -> Any:
            return b.icmp_signed("<", carried[0], self.beside.count)

        place, *sums = repeat(b, [i64(0), *[splat(0)] * (3 * len(own))], more, axis)
        sums = self._with_axis(b, own, self.along.vectors(b, runs, i64(0)), place, sums)
        (strengths,) = self.by_activity.values(b, sums[::3])
        others, tones = self.by_value_and_tone.values(b, own)
        found = []
        for k, x in enumerate(own):
            moved = b.fadd(b.fadd(x, tones[k]), b.fmul(strengths[k], sums[3 * k + 1]))
            found.append(b.fadd(moved, b.fmul(others[k], sums[3 * k + 2])))
        return found

    def _with_axis(
        self, b: Any, own: list[Any], near: list[list[Any]], place: Any, sums: list[Any]
    ) -> list[Any]:
        """Add an axis to each run's activity and weighted sums of differences."""
        tap = b.sdiv(place, i64(2))
        taps = [b.add(tap, i64(d)) for d in range(REACH)]
        weights = [[load_broadcast(b, row, at) for at in taps] for row in self.weights]
        found = []
        for k, (x, sides) in enumerate(zip(own, near, strict=True)):
            differences = [
                b.fsub(b.fmul(splat(0.5), b.fadd(before, after)), x)
                for before, after in zip(sides[::2], sides[1::2], strict=True)
            ]
            moves = [_absolute(b, b.fsub(side, x)) for side in sides[:2]]
            found.append(b.fadd(sums[3 * k], b.fadd(*moves)))
            for row, total in zip(weights, sums[3 * k + 1 : 3 * k + 3], strict=True):
                products = map(b.fmul, row, differences)
                found.append(functools.reduce(b.fadd, products, total))
        return found
