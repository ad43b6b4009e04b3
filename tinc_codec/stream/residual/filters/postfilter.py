"""The FILTER section: what quantisation has done to the decoded values, undone in part.

Each value is moved by three terms: a curve over the value itself; a sum of differences to the
neighbours along the axes, times a curve over the activity around it; and another such sum, times a
curve over the value. Curves and weights are fitted by the encoder to the chunk, as adaptive loop
filters of video codecs are (Tsai et al., IEEE JSTSP 7, 2013), but continuous: neighbouring values
of engines that round differently stay neighbours.

All arithmetic is in binary32, none of it fused, in the order that FORMAT.md gives.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.llvm import WIDTH
from tinc_codec.stream.residual.coder.binary import kernel
from tinc_codec.stream.residual.filters.filtering import LOOKED_UP, REACH, SIDES, filter_run
from tinc_codec.stream.wire import BitReader, BitWriter, Reader

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "11ea5e2e"

# Voxels of a line filtered at once.
BLOCK = 1024
MOST_AXES = 3
# What filtering takes: numbers for a piece of a line with its ends, and for a vector of each
# neighbour, of the voxels and of the result, where they are fewer than a vector has; and places of
# the neighbours of both.
_VECTORS = BLOCK + 2 * REACH
_SIDES = SIDES * MOST_AXES
WORK, PLACES = _VECTORS + (_SIDES + 2) * WIDTH, 2 * _SIDES
VALUE_UNIT, WEIGHT_UNIT = 255, 64
FEWEST_KNOTS, MOST_KNOTS, MOST_ACTIVITIES = 2, 64, 16
MOST_EXPONENT = 31
WEIGHT_LIMIT = 127
_BY_ACTIVITY, _BY_VALUE, _PACKED = 1, 2, 4
# Bits of what is packed; those of widths hold one less.
_COUNT_BITS, _VALUE_BITS, _GAP_WIDTH_BITS, _ACTIVITY_BITS, _EXPONENT_BITS = 7, 8, 4, 5, 5
_WIDTH_BITS, _MOST_SHIFT = 3, 7
# Numbers in a row of tables, at least: looking up loads LOOKED_UP from half of them on.
_ROOM = LOOKED_UP + LOOKED_UP // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Integers at knots, in units of 2**-exponent; between knots it is linear."""

    exponent: int
    integers: tuple[int, ...]

    def values(self) -> Float32Array:
        """Return the curve at its knots; exact."""
        return np.array(self.integers, np.float32) * np.float32(2.0**-self.exponent)

    def steps(self) -> Float32Array:
        """Return the curve at its first knot, then how far it goes from each knot to the next."""
        return np.diff(self.values(), prepend=np.float32(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """A weighted sum of differences to neighbours, and by what it is multiplied.

    Attributes
    ----------
    strength : Curve
        Over the activity, or over the value.
    weights : tuple of int
        In 1/64: for each axis, of the neighbours at distance 1, 2 and 3.
    """

    strength: Curve
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostFilter:
    """A FILTER section.

    Attributes
    ----------
    knots : tuple of int
        Of the curves over the value, in 1/255, increasing.
    tone : Curve
        Added to the value.
    by_activity, by_value : Term or None
        The two sums of differences.
    finest : int
        Activity has knots at 0 and at 2**(k - finest), k = 0, 1, ...
    """

    knots: tuple[int, ...]
    tone: Curve
    by_activity: Term | None
    by_value: Term | None
    finest: int = 0


def value_knots(knots: Sequence[int]) -> Float32Array:
    """Return where the curves over the value have knots."""
    return np.array(knots, np.float32) / np.float32(VALUE_UNIT)


def activity_knots(count: int, finest: int) -> Float32Array:
    """Return 0 and the powers of two from 2**-finest on."""
    return np.array([0.0, *(2.0 ** (k - finest) for k in range(count - 1))], np.float32)


def axes_filtered(axes: int) -> int:
    """Return how many of a volume's axes have neighbours: the last three of four."""
    return min(axes, MOST_AXES)


def to_bytes(found: PostFilter) -> bytes:
    """Return the data of a FILTER section, its numbers packed in as few bits as they need."""
    flags = _BY_ACTIVITY * bool(found.by_activity) + _BY_VALUE * bool(found.by_value)
    out = BitWriter().put(len(found.knots), _COUNT_BITS).put(found.knots[0], _VALUE_BITS)
    gaps = [b - a - 1 for a, b in pairwise(found.knots)]
    width = max(gaps).bit_length()
    out.put(width, _GAP_WIDTH_BITS)
    for gap in gaps:
        out.put(gap, width)
    _put_curve(out, found.tone)
    if found.by_activity:
        count = len(found.by_activity.strength.integers)
        out.put(count, _ACTIVITY_BITS).put(found.finest, _EXPONENT_BITS)
    for term in (found.by_activity, found.by_value):
        if term:
            _put_curve(out, term.strength)
            shift = _common_shift(term.weights)
            out.put(shift, _WIDTH_BITS)
            _put_integers(out, [weight >> shift for weight in term.weights])
    return bytes([flags | _PACKED]) + out.getvalue()


def _common_shift(weights: Sequence[int]) -> int:
    """Return how many lowest bits are 0 in all of them, 7 at most."""
    every = functools.reduce(operator.or_, weights)
    return min((every & -every).bit_length() - 1, _MOST_SHIFT) if every else 0


def _put_curve(out: BitWriter, curve: Curve) -> None:
    out.put(curve.exponent, _EXPONENT_BITS)
    _put_integers(out, curve.integers)


def _put_integers(out: BitWriter, integers: Sequence[int]) -> None:
    width = _width(integers)
    out.put(width - 1, _WIDTH_BITS)
    for integer in integers:
        out.put(integer, width)


def _width(integers: Sequence[int]) -> int:
    """Return how many bits the longest takes in two's complement."""
    return max((i if i >= 0 else ~i).bit_length() for i in integers) + 1


def from_bytes(data: bytes, axes: int) -> PostFilter:
    """Read the data of a FILTER section of a volume with some axes longer than one voxel.

    Raises
    ------
    CorruptPayload
        If a field is out of its range, or numbers take more bits than they need.
    TruncatedPayload
        If the data end early.
    """
    reader = Reader(data, "FILTER section")
    flags = reader.u8()
    if flags & ~(_BY_ACTIVITY | _BY_VALUE | _PACKED):
        raise CorruptPayload(f"FILTER section: flags {flags:#04x} are reserved")
    taps = REACH * axes_filtered(axes)
    if not flags & _PACKED:
        return _read_bytes(reader, flags, taps)
    bits = BitReader(reader.take(reader.remaining), "FILTER section")
    found = _read_packed(bits, flags, taps)
    bits.done()
    return found


def _read_packed(bits: BitReader, flags: int, taps: int) -> PostFilter:
    count, first = bits.take(_COUNT_BITS), bits.take(_VALUE_BITS)
    _check_range("knots", count, FEWEST_KNOTS, MOST_KNOTS)
    width = bits.take(_GAP_WIDTH_BITS)
    gaps = bits.several(count - 1, width)
    _check_shortest(width == max(gaps).bit_length())
    knots = tuple(accumulate((gap + 1 for gap in gaps), initial=first))
    _check_range("the last knot", knots[-1], 0, VALUE_UNIT)
    tone = _take_curve(bits, count)
    finest = activities = 0
    if flags & _BY_ACTIVITY:
        activities, finest = bits.take(_ACTIVITY_BITS), bits.take(_EXPONENT_BITS)
        _check_range("knots of activity", activities, FEWEST_KNOTS, MOST_ACTIVITIES)
    by_activity = _take_term(bits, activities, taps) if flags & _BY_ACTIVITY else None
    by_value = _take_term(bits, count, taps) if flags & _BY_VALUE else None
    return PostFilter(
        knots=knots, tone=tone, by_activity=by_activity, by_value=by_value, finest=finest
    )


def _take_integers(bits: BitReader, count: int) -> tuple[int, ...]:
    width = bits.take(_WIDTH_BITS) + 1
    half = 1 << (width - 1)
    integers = tuple((number ^ half) - half for number in bits.several(count, width))
    _check_shortest(width == _width(integers))
    return integers


def _take_curve(bits: BitReader, count: int) -> Curve:
    return Curve(exponent=bits.take(_EXPONENT_BITS), integers=_take_integers(bits, count))


def _take_term(bits: BitReader, knots: int, taps: int) -> Term:
    strength = _take_curve(bits, knots)
    shift = bits.take(_WIDTH_BITS)
    weights = tuple(weight << shift for weight in _take_integers(bits, taps))
    _check_range("a weight", min(weights), -WEIGHT_LIMIT - 1, WEIGHT_LIMIT)
    _check_range("a weight", max(weights), -WEIGHT_LIMIT - 1, WEIGHT_LIMIT)
    _check_shortest(shift == _common_shift(weights))
    return Term(strength=strength, weights=weights)


def _read_bytes(reader: Reader, flags: int, taps: int) -> PostFilter:
    """Read the rest of a section of before 0.12.0, in which every number takes a byte."""
    count = reader.u8()
    _check_range("knots", count, FEWEST_KNOTS, MOST_KNOTS)
    knots = tuple(reader.take(count))
    if list(knots) != sorted(set(knots)):
        raise CorruptPayload(f"FILTER section: the knots {knots} do not increase")
    tone = _read_curve(reader, count)
    finest, activities = 0, 0
    if flags & _BY_ACTIVITY:
        activities, finest = reader.u8(), reader.u8()
        _check_range("knots of activity", activities, FEWEST_KNOTS, MOST_ACTIVITIES)
        _check_range("exponent", finest, 0, MOST_EXPONENT)
    by_activity = _read_term(reader, activities, taps) if flags & _BY_ACTIVITY else None
    by_value = _read_term(reader, count, taps) if flags & _BY_VALUE else None
    reader.done()
    return PostFilter(
        knots=knots, tone=tone, by_activity=by_activity, by_value=by_value, finest=finest
    )


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise CorruptPayload(f"FILTER section: {what} {value} is not in {low} to {high}")


def _check_shortest(shortest: bool) -> None:
    if not shortest:
        raise CorruptPayload("FILTER section: numbers take more bits than they need")


def _signed(reader: Reader, count: int) -> tuple[int, ...]:
    return tuple(np.frombuffer(reader.take(count), np.int8).tolist())


def _read_curve(reader: Reader, count: int) -> Curve:
    exponent = reader.u8()
    _check_range("exponent", exponent, 0, MOST_EXPONENT)
    return Curve(exponent=exponent, integers=_signed(reader, count))


def _read_term(reader: Reader, knots: int, taps: int) -> Term:
    return Term(strength=_read_curve(reader, knots), weights=_signed(reader, taps))


class Tables(NamedTuple):
    """A filter as the kernels take it.

    Attributes
    ----------
    knots : (2, room) float32
        Of activity and of value; infinity for the last and beyond it.
    slopes : (2, room) float32
        One over the way from the knot to the next.
    counts : (2,) int64
        Knots of each.
    looked_up : (2,) int64
        1 where the segment that a number lies in tells the curves there; see :func:`_passed_whole`.
    steps : (3, room) float32
        :meth:`Curve.steps` of the strength by value, the tone and the strength by activity.
    sums : (3, room) float32
        Sums of the steps up to each.
    weights : (2, taps) float32
        Of the terms by activity and by value.
    """

    knots: Float32Array
    slopes: Float32Array
    counts: npt.NDArray[np.int64]
    looked_up: npt.NDArray[np.int64]
    steps: Float32Array
    sums: Float32Array
    weights: Float32Array


def _passed_whole(knots: Float32Array, slopes: Float32Array) -> bool:
    """Return whether every number beyond a segment has passed all of it, exactly.

    The part passed is a rounded quotient, and might be less than 1 just behind a knot.
    """
    beyond = np.nextafter(knots[1:], np.float32(np.inf))
    return bool(np.all((beyond - knots[:-1]) * slopes >= 1))


@lru_cache(maxsize=64)
def tables(found: PostFilter, axes: int) -> Tables:
    """Return the numbers that a filter of some axes is applied with; terms not there are 0.

    Those of the last filters are kept, not to be written to.
    """
    activities = len(found.by_activity.strength.integers) if found.by_activity else FEWEST_KNOTS
    both = [activity_knots(activities, found.finest), value_knots(found.knots)]
    room = max(_ROOM, *map(len, both))
    knots, slopes = np.full((2, room), np.inf, np.float32), np.zeros((2, room), np.float32)
    looked_up = np.zeros(2, np.int64)
    for k, at in enumerate(both):
        between = np.float32(1) / np.diff(at)
        knots[k, : len(at) - 1], slopes[k, : len(at) - 1] = at[:-1], between
        looked_up[k] = len(at) <= LOOKED_UP and _passed_whole(at, between)
    steps = np.zeros((3, room), np.float32)
    weights = np.zeros((2, REACH * axes_filtered(axes)), np.float32)
    for k, term in enumerate((found.by_activity, found.by_value)):
        if term:
            steps[2 - 2 * k, : len(term.strength.integers)] = term.strength.steps()
            weights[k] = np.array(term.weights, np.float32) / np.float32(WEIGHT_UNIT)
    steps[1, : len(found.knots)] = found.tone.steps()
    return Tables(
        knots=knots, slopes=slopes, counts=np.array([len(at) for at in both], np.int64),
        looked_up=looked_up, steps=steps, sums=np.cumsum(steps, axis=1, dtype=np.float32),
        weights=weights,
    )  # fmt: skip


@kernel(inlined=True)
def _run(
    own: Any, at: int, beside: Any, along: Any, places: Any, axes: int, tables: Any, work: Any,
    out: Any, n: int,
) -> None:  # fmt: skip
    """Filter voxels that follow one another, be they fewer than a vector has."""
    sides, others = SIDES * axes, SIDES * (axes - 1)
    if n >= WIDTH:
        filter_run(
            own, at, beside, places[:others], along, places[others:sides], tables, out, n
        )  # fmt: skip
        return
    vectors, moved = work[_VECTORS:], places[_SIDES:]
    for k in range(sides):
        source = beside if k < others else along
        for i in range(n):
            vectors[k * WIDTH + i] = source[places[k] + i]
        moved[k] = k * WIDTH
    here, result = _SIDES * WIDTH, vectors[(_SIDES + 1) * WIDTH :]
    for i in range(n):
        vectors[here + i] = own[at + i]
    filter_run(
        vectors, here, vectors, moved[:others], vectors, moved[others:sides], tables, result, WIDTH
    )
    for i in range(n):
        out[i] = result[i]


@kernel()
def filter_columns(stencil: Any, tables: Any, work: Any, places: Any, out: Any) -> None:
    """Filter values that are given with their neighbours.

    Parameters
    ----------
    stencil : (1 + 2 taps, n) float32
        Row 0: the values; then the neighbours of each tap, before and after.
    tables : Tables
        Of the filter.
    work, places : (WORK,) float32 and (PLACES,) int64
        Overwritten.
    out : (n,) float32
        The result.
    """
    rows, n = stencil.shape
    flat = stencil.reshape(-1)
    for row in range(1, rows):
        places[row - 1] = row * n
    _run(flat, 0, flat, flat, places, (rows - 1) // SIDES, tables, work, out, n)


@kernel()
def _copy_line(line: Any, first: int, out: Any) -> None:
    """Set out to voxels of a line from ``first`` on; its ends stand for what is beyond."""
    n, last = len(out), len(line) - 1
    before = min(max(-first, 0), n)
    inside = max(min(n, last + 1 - first), before)
    # Loops from 0: slices set to slices are first compared for overlaps, and other places checked
    # for being negative, which both take longer than the copying.
    for i in range(before):
        out[i] = line[0]
    source, target = line[first + before : first + inside], out[before:inside]
    for i in range(len(target)):
        target[i] = source[i]
    rest = out[inside:]
    for i in range(len(rest)):
        rest[i] = line[last]


@kernel()
def _set_places(places: Any, first: int, near: Any, apart: int, at: int) -> None:
    """Set places of neighbours along an axis: lines at those of ``near``, so far apart."""
    for k in range(SIDES):
        places[first + k] = at + near[1 + k] * apart


@kernel()
def filter_lines(
    values: Any, shape: Any, near_z: Any, near_y: Any, start: int, axes: int, rows: Any,
    tables: Any, work: Any, places: Any, out: Any,
) -> None:  # fmt: skip
    """Filter some lines of a window.

    Parameters
    ----------
    values : float32
        The window, with the neighbours of what is wanted, as one axis.
    shape : (4,) int64
        Its lengths: b, z, y, x.
    near_z, near_y : (7, lines wanted) int64
        Places in the window of each line wanted along that axis (row 0), then of its neighbours.
    start : int
        Place of the first voxel wanted along the last axis.
    axes : int
        How many of the last axes have neighbours.
    rows : two int
        The first line to do and the last, exclusive, of all in C order.
    tables : Tables
        Of the filter.
    work, places : (WORK,) float32 and (PLACES,) int64
        Overwritten.
    out : (lines, n) float32
        The result, lines along b, z and y being one axis.
    """
    row = shape[3]
    plane = shape[2] * row
    for k in range(SIDES):  # 1, 2 and 3 before and after, in a line with REACH more at its ends
        places[SIDES * (axes - 1) + k] = REACH + (k // 2 + 1) * (1 if k & 1 else -1)
    for line in range(rows[0], rows[1]):
        above = line // near_y.shape[1]
        y, z = near_y[:, line % near_y.shape[1]], near_z[:, above % near_z.shape[1]]
        base = above // near_z.shape[1] * shape[1] * plane
        at = base + z[0] * plane + y[0] * row
        for left in range(0, out.shape[1], BLOCK):
            n, first = min(BLOCK, out.shape[1] - left), start + left
            _copy_line(values[at : at + row], first - REACH, work[: n + 2 * REACH])
            if axes > 2:
                _set_places(places, 0, z, plane, base + y[0] * row + first)
            if axes > 1:
                _set_places(places, SIDES * (axes - 2), y, row, base + z[0] * plane + first)
            target = out[line, left : left + n]
            _run(work, REACH, values, work, places, axes, tables, work, target, n)


def neighbours(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return voxels along an axis, then those 1, 1, 2, 2, 3 and 3 before and after each.

    The first and last voxel of the axis stand for what is beyond.
    """
    shifts = [0, *(sign * k for k in range(1, REACH + 1) for sign in (-1, 1))]
    near: npt.NDArray[np.int64] = np.clip(index + np.array(shifts)[:, None], 0, length - 1)
    return near
