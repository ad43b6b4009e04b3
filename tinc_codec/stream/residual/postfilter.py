"""The FILTER section: what quantisation has done to the decoded values, undone in part.

Each value is moved by three terms: a curve over the value itself; a sum of differences to the
neighbours along the axes, times a curve over the activity around it; and another such sum, times a
curve over the value. Curves and weights are fitted by the encoder to the chunk, as adaptive loop
filters of video codecs are (Tsai et al., IEEE JSTSP 7, 2013), but continuous: neighbouring values
of engines that round differently stay neighbours.

All arithmetic is in binary32, none of it fused, in the order that FORMAT.md gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinc_codec.errors import CorruptPayload
from tinc_codec.stream.residual.binary import kernel
from tinc_codec.stream.wire import Reader, Writer

Float32Array = npt.NDArray[np.float32]

# Neighbours at distances 1 to REACH, on both sides along each axis.
REACH = 3
# Voxels filtered at once, of several lines or of a part of one, and the numbers that this takes:
# six rows, the voxels, the result, and a line with its neighbours.
BLOCK = 256
_OWN, _OUT, _LINE = 6, 7, 8
WORK = 9 * BLOCK + 2 * REACH
# Compiled loops take so many numbers in a turn; what is left over they take one by one, which is
# slower by as much. Lines are therefore kept a multiple of this apart.
_TURN = 32
MOST_AXES = 3
VALUE_UNIT, WEIGHT_UNIT = 255, 64
FEWEST_KNOTS, MOST_KNOTS, MOST_ACTIVITIES = 2, 64, 16
MOST_EXPONENT = 31
_BY_ACTIVITY, _BY_VALUE = 1, 2


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


def _write_curve(out: Writer, curve: Curve) -> None:
    out.u8(curve.exponent).raw(np.array(curve.integers, np.int8).tobytes())


def to_bytes(found: PostFilter) -> bytes:
    """Return the data of a FILTER section."""
    flags = _BY_ACTIVITY * bool(found.by_activity) + _BY_VALUE * bool(found.by_value)
    out = Writer().u8(flags).u8(len(found.knots)).raw(bytes(found.knots))
    _write_curve(out, found.tone)
    if found.by_activity:
        out.u8(len(found.by_activity.strength.integers)).u8(found.finest)
    for term in (found.by_activity, found.by_value):
        if term:
            _write_curve(out, term.strength)
            out.raw(np.array(term.weights, np.int8).tobytes())
    return out.getvalue()


def from_bytes(data: bytes, axes: int) -> PostFilter:
    """Read the data of a FILTER section of a volume with some axes longer than one voxel.

    Raises
    ------
    CorruptPayload
        If a field is out of its range.
    TruncatedPayload
        If the data end early.
    """
    reader = Reader(data, "FILTER section")
    flags, count = reader.u8(), reader.u8()
    if flags > _BY_ACTIVITY | _BY_VALUE:
        raise CorruptPayload(f"FILTER section: flags {flags:#04x} are reserved")
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
    taps = REACH * axes_filtered(axes)
    by_activity = _read_term(reader, activities, taps) if flags & _BY_ACTIVITY else None
    by_value = _read_term(reader, count, taps) if flags & _BY_VALUE else None
    reader.done()
    return PostFilter(
        knots=knots, tone=tone, by_activity=by_activity, by_value=by_value, finest=finest
    )


def _check_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise CorruptPayload(f"FILTER section: {what} {value} is not in {low} to {high}")


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
    knots : (2, most knots) float32
        Of activity and of value.
    slopes : (2, most knots) float32
        One over the way from the knot to the next.
    counts : (2,) int64
        Knots of each.
    curves : (3, most knots) float32
        :meth:`Curve.steps` of the strength by value, the tone and the strength by activity.
    weights : (2, taps) float32
        Of the terms by activity and by value.
    """

    knots: Float32Array
    slopes: Float32Array
    counts: npt.NDArray[np.int64]
    curves: Float32Array
    weights: Float32Array


def tables(found: PostFilter, axes: int) -> Tables:
    """Return the numbers that a filter of some axes is applied with; terms not there are 0."""
    activities = len(found.by_activity.strength.integers) if found.by_activity else FEWEST_KNOTS
    both = [activity_knots(activities, found.finest), value_knots(found.knots)]
    most = max(map(len, both))
    knots, slopes = np.zeros((2, 2, most), np.float32)
    for k, at in enumerate(both):
        knots[k, : len(at)] = at
        slopes[k, : len(at) - 1] = np.float32(1) / np.diff(at)
    curves = np.zeros((3, most), np.float32)
    weights = np.zeros((2, REACH * axes_filtered(axes)), np.float32)
    for k, term in enumerate((found.by_activity, found.by_value)):
        if term:
            curves[2 - 2 * k, : len(term.strength.integers)] = term.strength.steps()
            weights[k] = np.array(term.weights, np.float32) / np.float32(WEIGHT_UNIT)
    curves[1, : len(found.knots)] = found.tone.steps()
    counts = np.array([len(at) for at in both], np.int64)
    return Tables(knots=knots, slopes=slopes, counts=counts, curves=curves, weights=weights)


@kernel()
def _add_axis(
    own: Any, before: Any, after: Any, before_2: Any, after_2: Any, before_3: Any, after_3: Any,
    weights: Any, tap: int, work: Any,
) -> None:  # fmt: skip
    """Add an axis to rows of work: 0 the activity, 1 and 2 the weighted sums of differences.

    All three distances in one pass, and rows at distances known when this is compiled: LLVM
    makes vectors only where it has few pairs of arrays to check for overlaps.
    """
    half = np.float32(0.5)
    a, a_2, a_3 = weights[0, tap], weights[0, tap + 1], weights[0, tap + 2]
    b, b_2, b_3 = weights[1, tap], weights[1, tap + 1], weights[1, tap + 2]
    for i in range(len(own)):
        one = half * (before[i] + after[i]) - own[i]
        two = half * (before_2[i] + after_2[i]) - own[i]
        three = half * (before_3[i] + after_3[i]) - own[i]
        work[i] += abs(before[i] - own[i]) + abs(after[i] - own[i])
        work[BLOCK + i] = work[BLOCK + i] + a * one + a_2 * two + a_3 * three
        work[2 * BLOCK + i] = work[2 * BLOCK + i] + b * one + b_2 * two + b_3 * three


@kernel(inlined=True)
def _passed(x: Any, knot: Any, slope: Any) -> Any:
    """Return the part of the way from a knot to the next that x has passed, 0 to 1."""
    return min(max((x - knot) * slope, np.float32(0)), np.float32(1))


@kernel()
def _curves(
    x: Any, knots: Any, slopes: Any, count: int, steps: Any, out: Any, more_steps: Any, more: Any
) -> None:
    """Set out and more to curves over x: the first value, and of each step what is passed of it."""
    n = len(x)
    for i in range(n):
        out[i], more[i] = steps[0], more_steps[0]
    pairs = (count - 1) // 2 * 2
    for k in range(0, pairs, 2):  # so that x and the sums are fetched once for two
        knot, knot_1, slope, slope_1 = knots[k], knots[k + 1], slopes[k], slopes[k + 1]
        a, a_1, b, b_1 = steps[k + 1], steps[k + 2], more_steps[k + 1], more_steps[k + 2]
        for i in range(n):
            part, part_1 = _passed(x[i], knot, slope), _passed(x[i], knot_1, slope_1)
            out[i] = out[i] + a * part + a_1 * part_1
            more[i] = more[i] + b * part + b_1 * part_1
    for k in range(pairs, count - 1):
        knot, slope, a, b = knots[k], slopes[k], steps[k + 1], more_steps[k + 1]
        for i in range(n):
            part = _passed(x[i], knot, slope)
            out[i] += a * part
            more[i] += b * part


@kernel()
def _curve(x: Any, knots: Any, slopes: Any, count: int, steps: Any, out: Any) -> None:
    """Set out to one curve; as :func:`_curves`."""
    n = len(x)
    for i in range(n):
        out[i] = steps[0]
    pairs = (count - 1) // 2 * 2
    for k in range(0, pairs, 2):
        knot, knot_1, slope, slope_1 = knots[k], knots[k + 1], slopes[k], slopes[k + 1]
        a, a_1 = steps[k + 1], steps[k + 2]
        for i in range(n):
            passed = out[i] + a * _passed(x[i], knot, slope)
            out[i] = passed + a_1 * _passed(x[i], knot_1, slope_1)
    for k in range(pairs, count - 1):
        knot, slope, a = knots[k], slopes[k], steps[k + 1]
        for i in range(n):
            out[i] += a * _passed(x[i], knot, slope)


@kernel()
def _moved(own: Any, tables: Any, work: Any, out: Any) -> None:
    """Set out to values moved by the three terms, of which work has the activity and the sums."""
    n = len(own)
    knots, slopes, counts, curves = tables.knots, tables.slopes, tables.counts, tables.curves
    by_activity, by_value = work[3 * BLOCK :][:n], work[4 * BLOCK :][:n]
    tone = work[5 * BLOCK :][:n]
    _curve(work[:n], knots[0], slopes[0], counts[0], curves[2], by_activity)
    _curves(own, knots[1], slopes[1], counts[1], curves[0], by_value, curves[1], tone)
    for i in range(n):
        moved = own[i] + tone[i] + by_activity[i] * work[BLOCK + i]
        out[i] = moved + by_value[i] * work[2 * BLOCK + i]


@kernel()
def filter_columns(stencil: Any, tables: Any, work: Any, out: Any) -> None:
    """Filter values that are given with their neighbours.

    Parameters
    ----------
    stencil : (1 + 2 taps, n) float32
        Row 0: the values; then the neighbours of each tap, before and after.
    tables : Tables
        Of the filter.
    work : (WORK,) float32
        Overwritten.
    out : (n,) float32
        The result.
    """
    for start in range(0, len(out), BLOCK):
        stop = min(start + BLOCK, len(out))
        own = stencil[0, start:stop]
        _clear(work)
        for tap in range(0, tables.weights.shape[1], REACH):
            near = stencil[1 + 2 * tap : 1 + 2 * (tap + REACH), start:stop]
            _add_axis(
                own, near[0], near[1], near[2], near[3], near[4], near[5], tables.weights, tap, work
            )  # fmt: skip
        _moved(own, tables, work, out[start:stop])


@kernel()
def _clear(work: Any) -> None:
    for i in range(3 * BLOCK):
        work[i] = np.float32(0)


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
def _add_beside(
    own: Any, values: Any, at: int, places: Any, apart: int, weights: Any, tap: int, work: Any
) -> None:
    """Add the axis along which lines at these places are the neighbours of one."""
    m = len(own)
    b, a = at + places[1] * apart, at + places[2] * apart
    b_2, a_2 = at + places[3] * apart, at + places[4] * apart
    b_3, a_3 = at + places[5] * apart, at + places[6] * apart
    _add_axis(
        own, values[b : b + m], values[a : a + m], values[b_2 : b_2 + m], values[a_2 : a_2 + m],
        values[b_3 : b_3 + m], values[a_3 : a_3 + m], weights, tap, work,
    )  # fmt: skip


@kernel()
def _add_line(
    values: Any, strides: Any, z: Any, y: Any, first: int, n: int, apart: int, axes: int,
    weights: Any, here: int, work: Any,
) -> None:  # fmt: skip
    """Set a line's part of the rows of work, from ``here`` on: its voxels, activity and sums."""
    base, plane, row = strides
    at = base + z[0] * plane + y[0] * row + first
    # What follows a line in memory is taken along, to make up whole turns.
    end = base + z[2 * REACH] * plane + y[2 * REACH] * row + first + apart
    m = apart if end <= len(values) else n
    padded = work[_LINE * BLOCK :]
    _copy_line(values[at - first : at - first + row], first - REACH, padded[: n + 2 * REACH])
    own, sums = padded[REACH : REACH + m], work[here:]
    kept = work[_OWN * BLOCK + here : _OWN * BLOCK + here + m]
    for i in range(len(kept)):
        kept[i] = own[i]
    if axes > 2:
        _add_beside(own, values, at - z[0] * plane, z, plane, weights, 0, sums)
    if axes > 1:
        _add_beside(own, values, at - y[0] * row, y, row, weights, REACH * (axes - 2), sums)
    _add_axis(
        own, padded[2 : 2 + m], padded[4 : 4 + m], padded[1 : 1 + m], padded[5 : 5 + m],
        padded[:m], padded[6 : 6 + m], weights, REACH * (axes - 1), sums,
    )  # fmt: skip


@kernel()
def filter_lines(
    values: Any, shape: Any, near_z: Any, near_y: Any, start: int, axes: int, rows: Any,
    tables: Any, work: Any, out: Any,
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
    rows : (2,) int64
        The first line to do and the last, exclusive, of all in C order.
    tables : Tables
        Of the filter.
    work : (WORK,) float32
        Overwritten.
    out : (lines, n) float32
        The result, lines along b, z and y being one axis.
    """
    row = shape[3]
    plane = shape[2] * row
    for left in range(0, out.shape[1], BLOCK):
        n = min(BLOCK, out.shape[1] - left)
        apart = (n + _TURN - 1) // _TURN * _TURN
        for first in range(rows[0], rows[1], BLOCK // apart):
            last = min(first + BLOCK // apart, rows[1])
            _clear(work)
            for line in range(first, last):
                above = line // near_y.shape[1]
                y, z = line % near_y.shape[1], above % near_z.shape[1]
                strides = (above // near_z.shape[1] * shape[1] * plane, plane, row)
                _add_line(
                    values, strides, near_z[:, z], near_y[:, y], start + left, n, apart, axes,
                    tables.weights, (line - first) * apart, work,
                )  # fmt: skip
            done = (last - first) * apart
            moved = work[_OUT * BLOCK :][:done]
            _moved(work[_OWN * BLOCK :][:done], tables, work, moved)
            for line in range(first, last):
                source = moved[(line - first) * apart :][:n]
                target = out[line, left : left + n]
                for i in range(len(target)):
                    target[i] = source[i]


def neighbours(index: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
    """Return voxels along an axis, then those 1, 1, 2, 2, 3 and 3 before and after each.

    The first and last voxel of the axis stand for what is beyond.
    """
    shifts = [0, *(sign * k for k in range(1, REACH + 1) for sign in (-1, 1))]
    near: npt.NDArray[np.int64] = np.clip(index + np.array(shifts)[:, None], 0, length - 1)
    return near
