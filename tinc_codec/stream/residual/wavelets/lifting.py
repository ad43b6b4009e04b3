"""The CDF 9/7 wavelet by lifting, one axis at a time, with symmetric extension (numba).

Daubechies and Sweldens, 1998. In binary32, every operation rounded, none fused: the inverse gives
the same bits on every machine, and for a part of an axis the same as for all of it, but for the
:data:`cdf97.REACH` samples next to where the part was cut.

Columns are transformed in place, even samples low and odd ones high. Lines, along the last axis,
are taken from and put together to arrays of low and of high samples: both ways run over memory in
order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.compiled import compiled
from tinc_codec.llvm import WIDTH
from tinc_codec.stream.residual.wavelets.cdf97 import (
    CLOSED_END,
    ENDS_A,
    ENDS_B,
    ENDS_C,
    ENDS_D,
    HIGH,
    LOW,
    A,
    B,
    C,
    D,
)
from tinc_codec.stream.residual.wavelets.sweeping import LEAST_ROWS, sweep

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "e2fb2210"

# Columns worked on together: the rows of a block stay in the cache.
_COLUMNS = 256

_PLANE = "float32[:, ::1]"


@compiled()
def _step(x: Any, first: int, factor: Any, closed: bool, ends: Any, start: int, stop: int) -> None:
    """Add to every second row of x (n, inner) the sum of its neighbours times a factor."""
    n = x.shape[0]
    for i in range(first, n - CLOSED_END if closed else n, 2):
        before = x[i - 1 if i > 0 else i + 1, start:stop]
        after = x[i + 1 if i + 1 < n else i - 1, start:stop]
        row = x[i, start:stop]
        for k in range(stop - start):
            row[k] += factor * (before[k] + after[k])
    if closed:
        end = n - CLOSED_END
        for j in range(2):
            i = end + first + 2 * j
            before, after = x[i - 1, start:stop], x[i + 1 if i + 1 < n else end, start:stop]
            row, one, other = x[i, start:stop], ends[2 * j], ends[2 * j + 1]
            for k in range(stop - start):
                row[k] += factor * (one * before[k] + other * after[k])


@compiled()
def _exchange(x: Any, start: int, stop: int) -> None:
    """Let the last two rows change places."""
    last, other = x[x.shape[0] - 1, start:stop], x[x.shape[0] - 2, start:stop]
    for k in range(stop - start):
        last[k], other[k] = other[k], last[k]


@compiled()
def _scale(x: Any, low: Any, high: Any, start: int, stop: int) -> None:
    for i in range(x.shape[0]):
        factor = high if i & 1 else low
        row = x[i, start:stop]
        for k in range(stop - start):
            row[k] *= factor


@compiled(f"void({_PLANE}, boolean, int64, int64)")
def analyse_columns(x: Any, closed: bool, first: int, last: int) -> None:
    """Transform columns first to last (exclusive) of x (n, inner) in place.

    Closed: n is even and at least LEAST_CLOSED; the last sample is an even one then, in the last
    place but one.
    """
    if x.shape[0] < 2:
        return
    for start in range(first, last, _COLUMNS):
        stop = min(start + _COLUMNS, last)
        if closed:
            _exchange(x, start, stop)
        _step(x, 1, A, closed, ENDS_A, start, stop)
        _step(x, 0, B, closed, ENDS_B, start, stop)
        _step(x, 1, C, closed, ENDS_C, start, stop)
        _step(x, 0, D, closed, ENDS_D, start, stop)
        _scale(x, LOW, HIGH, start, stop)


@compiled(f"void({_PLANE}, boolean, int64, int64)")
def _synthesise_few_rows(x: Any, closed: bool, first: int, last: int) -> None:
    """Do the steps one by one, for columns that are too short for a way through all of them."""
    if x.shape[0] < 2:
        return
    for start in range(first, last, _COLUMNS):
        stop = min(start + _COLUMNS, last)
        _scale(x, HIGH, LOW, start, stop)
        _step(x, 0, -D, closed, ENDS_D, start, stop)
        _step(x, 1, -C, closed, ENDS_C, start, stop)
        _step(x, 0, -B, closed, ENDS_B, start, stop)
        _step(x, 1, -A, closed, ENDS_A, start, stop)
        if closed:
            _exchange(x, start, stop)


@compiled(f"void({_PLANE}, boolean, int64, int64)")
def synthesise_columns(x: Any, closed: bool, first: int, last: int) -> None:
    """Undo :func:`analyse_columns`."""
    n = x.shape[0]
    if n < LEAST_ROWS:
        _synthesise_few_rows(x, closed, first, last)
        return
    rest = last - (last - first) % WIDTH
    sweep(x, n, first, rest, closed)
    if rest < last:
        work = np.empty((n, WIDTH), np.float32)
        for i in range(n):
            for k in range(WIDTH):
                work[i, k] = x[i, rest + k] if rest + k < last else np.float32(0)
        sweep(work, n, 0, WIDTH, closed)
        for i in range(n):
            for k in range(last - rest):
                x[i, rest + k] = work[i, k]


@compiled()
def analyse_planes(x: Any, closed: bool, first: int, last: int) -> None:
    """Transform columns of the planes first to last (exclusive) of x (z, n, inner) in place."""
    for plane in range(first, last):
        analyse_columns(x[plane], closed, 0, x.shape[2])


@compiled()
def synthesise_planes(x: Any, closed: bool, first: int, last: int) -> None:
    """Undo :func:`analyse_planes`."""
    for plane in range(first, last):
        synthesise_columns(x[plane], closed, 0, x.shape[2])


@compiled()
def _sums_of_high(high: Any, ends: Any) -> Any:
    """Return the sums of neighbours of the last two even samples of a closed line."""
    n = len(high)
    one = ends[0] * high[n - 3] + ends[1] * high[n - 2]
    return one, ends[2] * high[n - 2] + ends[3] * high[n - 1]


@compiled()
def _sums_of_low(low: Any, ends: Any) -> Any:
    """Return the sums of neighbours of the last two odd samples of a closed line."""
    n = len(low)
    one = ends[0] * low[n - 2] + ends[1] * low[n - 1]
    return one, ends[2] * low[n - 1] + ends[3] * low[n - 2]


@compiled()
def _step_low(low: Any, high: Any, factor: Any, closed: bool, ends: Any) -> None:
    """Add to each even sample of a line the sum of its neighbours times a factor."""
    n = len(low)
    low[0] += factor * (high[0] + high[0])
    inner = n - 2 if closed else min(n, len(high))
    for i in range(inner - 1):
        low[i + 1] += factor * (high[i] + high[i + 1])
    if closed:
        one, other = _sums_of_high(high, ends)
        low[n - 2] += factor * one
        low[n - 1] += factor * other
    elif inner < n:
        low[inner] += factor * (high[inner - 1] + high[inner - 1])


@compiled()
def _step_high(low: Any, high: Any, factor: Any, closed: bool, ends: Any) -> None:
    """Add to each odd sample of a line the sum of its neighbours times a factor."""
    n = len(high)
    inner = n - 2 if closed else min(n, len(low) - 1)
    for i in range(inner):
        high[i] += factor * (low[i] + low[i + 1])
    if closed:
        one, other = _sums_of_low(low, ends)
        high[n - 2] += factor * one
        high[n - 1] += factor * other
    elif inner < n:
        high[inner] += factor * (low[inner] + low[inner])


@compiled()
def analyse_lines(
    low: Any, high: Any, x: Any, at: Any, closed: bool, first: int, last: int
) -> None:
    """Transform lines of x (z, y, n) to low (a, b, n - n // 2) and high (a, b, n // 2).

    Parameters
    ----------
    low, high : float32 arrays, contiguous
        Their planes first to last (exclusive) are written.
    x : float32 array, contiguous
        n at least 2.
    at : (z, step, y, step)
        Lines (i, j) of the bands are those of x at (z + i step, y + j step).
    closed : bool
        The last of n samples, even and at least LEAST_CLOSED, is a low one.
    first, last : int
        Planes of the bands.
    """
    n = x.shape[2]
    for i in range(first, last):
        for j in range(low.shape[1]):
            row, even, odd = x[at[0] + i * at[1], at[2] + j * at[3]], low[i, j], high[i, j]
            for k in range(n // 2):
                even[k], odd[k] = row[2 * k], row[2 * k + 1]
            if n & 1:
                even[n // 2] = row[n - 1]
            elif closed:
                even[n // 2 - 1], odd[n // 2 - 1] = row[n - 1], row[n - 2]
            _step_high(even, odd, A, closed, ENDS_A)
            _step_low(even, odd, B, closed, ENDS_B)
            _step_high(even, odd, C, closed, ENDS_C)
            _step_low(even, odd, D, closed, ENDS_D)
            for k in range(len(even)):
                even[k] *= LOW
            for k in range(len(odd)):
                odd[k] *= HIGH


@compiled()
def _restore(line: Any, start: int, scale: Any, factor: Any, out: Any) -> Any:
    """Set out to integers q of a line as sign(q) (|q| - bias) step factor; True if any is not 0."""
    step, bias = scale
    zero, some = np.float32(0), False
    values = line[start : start + len(out)]
    for k in range(len(out)):
        q = np.float32(values[k])
        moved = (abs(q) - bias) * step * factor
        out[k] = moved if q > zero else (-moved if q < zero else zero)
        some |= q != zero
    return some


@compiled()
def restore_lines(q: Any, corner: Any, scale: Any, x: Any, at: Any, first: int, last: int) -> None:
    """Set lines of x to those of the one band there is; parameters of :func:`synthesise_lines`."""
    one = np.float32(1)
    for i in range(first, last):
        plane = x[at[0] + i * at[1]]
        for j, y in enumerate(range(at[2], len(plane), at[3])):
            _restore(q[corner[0] + i, corner[1] + j], corner[2], scale, one, plane[y])


@compiled()
def synthesise_lines(
    low: Any, low_corner: Any, low_scale: Any, high: Any, high_corner: Any, high_scale: Any,
    x: Any, at: Any, closed: bool, first: int, last: int, work: Any,
) -> None:  # fmt: skip
    """Put lines together from those of two bands, as :func:`analyse_lines` took them apart.

    Parameters
    ----------
    low, high : integer arrays, or float32 with the scale (1, 0)
        The bands.
    low_corner, high_corner : (z, y, x)
        Where in them the part begins that the lines are made of.
    low_scale, high_scale : (step, bias) float32
        What the integers stand for.
    x : float32 array, contiguous
        n at least 2.
    at : (z, step, y, step)
        Lines (i, j) of that part become those of x at (z + i step, y + j step).
    closed : bool
        As for :func:`analyse_lines`.
    first, last : int
        Planes i to do.
    work : (2, 2 + n / 2, rounded up) float32
        Overwritten.
    """
    n = x.shape[2]
    even, odd = work[0, 1 : 1 + n - n // 2], work[1, 1 : 1 + n // 2]
    for i in range(first, last):
        plane = x[at[0] + i * at[1]]
        for j, y in enumerate(range(at[2], len(plane), at[3])):
            lows = low[low_corner[0] + i, low_corner[1] + j]
            highs = high[high_corner[0] + i, high_corner[1] + j]
            some = _restore(lows, low_corner[2], low_scale, HIGH, even)
            more = _restore(highs, high_corner[2], high_scale, LOW, odd)
            row = plane[y]
            if some or more:
                _put_together(work, row, closed)
            else:  # most lines of the finest level
                for k in range(n):
                    row[k] = np.float32(0)


@compiled()
def _add_sums(line: Any, before: Any, after: Any, factor: Any) -> None:
    for k in range(len(line)):
        line[k] += factor * (before[k] + after[k])


@compiled()
def _put_together(work: Any, row: Any, closed: bool) -> None:
    """Make a line of its low and high samples, scaled, in rows of work from place 1 on.

    At places before and after them stand the neighbours that the ends lack: loops then have the
    length of the line, and no rest that is too short for vectors.
    """
    n, half = len(row), len(row) // 2
    m = n - half
    even, odd = work[0, 1 : 1 + m], work[1, 1 : 1 + half]
    odd_before, odd_after, even_after = work[1, :m], work[1, 1 : 1 + m], work[0, 2 : 2 + half]
    for low_factor, high_factor, low_ends, high_ends in (
        (-D, -C, ENDS_D, ENDS_C), (-B, -A, ENDS_B, ENDS_A)
    ):  # fmt: skip
        work[1, 0] = odd[0]
        if m > half:
            work[1, m] = odd[half - 1]
        last_but_one, last = even[m - 2], even[m - 1]
        _add_sums(even, odd_before, odd_after, low_factor)
        if closed:
            one, other = _sums_of_high(odd, low_ends)
            even[m - 2] = last_but_one + low_factor * one
            even[m - 1] = last + low_factor * other
        work[0, 1 + m] = even[m - 1]
        last_but_one, last = odd[half - 2], odd[half - 1]
        _add_sums(odd, even, even_after, high_factor)
        if closed:
            one, other = _sums_of_low(even, high_ends)
            odd[half - 2] = last_but_one + high_factor * one
            odd[half - 1] = last + high_factor * other
    for k in range(half):
        row[2 * k], row[2 * k + 1] = even[k], odd[k]
    if m > half:
        row[n - 1] = even[half]
    elif closed:
        row[n - 2], row[n - 1] = odd[half - 1], even[m - 1]


# Columns of a table of lines: where they lie among those of x, as for :func:`synthesise_lines`;
# then of the bands of their low and of their high samples where these begin among all bands (-1:
# there is none), their shapes, and where in them the part begins that is wanted.
LOW_BAND, HIGH_BAND, LINE_COLUMNS = 4, 11, 18
_EXACT, _ORIGIN = (np.float32(1), np.float32(0)), (0, 0, 0)
_SYNTHESISE_LEVEL = (
    "void(float32[:, :, ::1], int32[::1], int64[:, ::1], UniTuple(float32, 2), float32[:, :, ::1],"
    "int64, UniTuple(boolean, 3), int64, int64, int64)"
)


@compiled()
def _band(room: Any, row: Any, first: int) -> Any:
    """Return the band that a row of the table of lines is about, and where its part begins."""
    at, z, y, x = row[first], row[first + 1], row[first + 2], row[first + 3]
    corner = (row[first + 4], row[first + 5], row[first + 6])
    return room[at : at + z * y * x].reshape((z, y, x)), corner


@compiled(_SYNTHESISE_LEVEL)
def synthesise_level(
    low: Any, room: Any, lines: Any, scale: Any, x: Any, split: int, closed: Any, piece: int,
    first: int, last: int,
) -> None:  # fmt: skip
    """Put planes of a level together from its bands.

    Parameters
    ----------
    low : float32
        What of the low-pass band the level is made of.
    room : int32
        All other bands.
    lines : (n, LINE_COLUMNS) int64
        Lines of x and the bands that they are made of; the first are those of ``low``.
    scale : (step, bias) float32
        What the integers of bands stand for.
    x : float32
        The level. Its planes first to last (exclusive) are written; if these are all, it is lifted
        along axis 0, too.
    split : int
        Bit k: axis k is halved.
    closed : three bool
        Whether the last sample of an axis is a low one; see :func:`analyse_columns`.
    piece : int
        Planes to be done at once: they stay in the cache.
    first, last : int
        Planes.
    """
    work = np.empty((2, 2 + (x.shape[2] + 1) // 2), np.float32)
    for start in range(first, last, piece):
        stop = min(start + piece, last)
        for k in range(len(lines)):
            row = lines[k]
            at = (row[0], row[1], row[2], row[3])
            begin, end = (start - at[0] + at[1] - 1) // at[1], (stop - at[0] + at[1] - 1) // at[1]
            if row[HIGH_BAND] < 0 and k == 0:
                restore_lines(low, _ORIGIN, _EXACT, x, at, begin, end)
            elif row[HIGH_BAND] < 0:
                band, corner = _band(room, row, LOW_BAND)
                restore_lines(band, corner, scale, x, at, begin, end)
            else:
                high, high_corner = _band(room, row, HIGH_BAND)
                if k == 0:
                    synthesise_lines(
                        low, _ORIGIN, _EXACT, high, high_corner, scale, x, at, closed[2], begin,
                        end, work,
                    )  # fmt: skip
                else:
                    band, corner = _band(room, row, LOW_BAND)
                    synthesise_lines(
                        band, corner, scale, high, high_corner, scale, x, at, closed[2], begin, end,
                        work,
                    )  # fmt: skip
        if split >> 1 & 1:
            synthesise_planes(x, closed[1], start, stop)
    if split & 1 and last - first == len(x):
        inner = x.shape[1] * x.shape[2]
        synthesise_columns(x.reshape((len(x), inner)), closed[0], 0, inner)
