"""The CDF 9/7 wavelet by lifting, one axis at a time, with symmetric extension (numba).

Daubechies and Sweldens, 1998. In binary32, every operation rounded, none fused: the inverse gives
the same bits on every machine, and for a part of an axis the same as for all of it, but for the
:data:`REACH` samples next to where the part was cut.

Columns are transformed in place, even samples low and odd ones high. Lines, along the last axis,
are taken from and put together to arrays of low and of high samples: both ways run over memory in
order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

# Samples next to an artificial end that the missing neighbours make wrong.
REACH = 4

_A, _B, _C, _D = map(np.float32, (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522))
# Scales of low and high samples that make the transform almost orthonormal.
_LOW, _HIGH = np.float32(1.149604398), np.float32(0.869864452)
# Columns worked on together: the rows of a block stay in the cache.
_COLUMNS = 256

_PLANE = "float32[:, ::1]"


@njit(nogil=True, cache=True)
def _step(x: Any, first: int, factor: Any, start: int, stop: int) -> None:
    """Add to every second row of x (n, inner) the sum of its neighbours times a factor."""
    n = x.shape[0]
    for i in range(first, n, 2):
        before = x[i - 1 if i > 0 else i + 1, start:stop]
        after = x[i + 1 if i + 1 < n else i - 1, start:stop]
        row = x[i, start:stop]
        for k in range(stop - start):
            row[k] += factor * (before[k] + after[k])


@njit(nogil=True, cache=True)
def _scale(x: Any, low: Any, high: Any, start: int, stop: int) -> None:
    for i in range(x.shape[0]):
        factor = high if i & 1 else low
        row = x[i, start:stop]
        for k in range(stop - start):
            row[k] *= factor


@njit(f"void({_PLANE}, int64, int64)", nogil=True, cache=True)
def analyse_columns(x: Any, first: int, last: int) -> None:
    """Transform columns first to last (exclusive) of x (n, inner) in place."""
    if x.shape[0] < 2:
        return
    for start in range(first, last, _COLUMNS):
        stop = min(start + _COLUMNS, last)
        _step(x, 1, _A, start, stop)
        _step(x, 0, _B, start, stop)
        _step(x, 1, _C, start, stop)
        _step(x, 0, _D, start, stop)
        _scale(x, _LOW, _HIGH, start, stop)


@njit(f"void({_PLANE}, int64, int64)", nogil=True, cache=True)
def synthesise_columns(x: Any, first: int, last: int) -> None:
    """Undo :func:`analyse_columns`."""
    if x.shape[0] < 2:
        return
    for start in range(first, last, _COLUMNS):
        stop = min(start + _COLUMNS, last)
        _scale(x, _HIGH, _LOW, start, stop)
        _step(x, 0, -_D, start, stop)
        _step(x, 1, -_C, start, stop)
        _step(x, 0, -_B, start, stop)
        _step(x, 1, -_A, start, stop)


@njit(nogil=True, cache=True)
def _step_low(low: Any, high: Any, factor: Any) -> None:
    """Add to each even sample of a line the sum of its neighbours times a factor."""
    n = len(low)
    low[0] += factor * (high[0] + high[0])
    inner = min(n, len(high))
    for i in range(inner - 1):
        low[i + 1] += factor * (high[i] + high[i + 1])
    if inner < n:
        low[inner] += factor * (high[inner - 1] + high[inner - 1])


@njit(nogil=True, cache=True)
def _step_high(low: Any, high: Any, factor: Any) -> None:
    """Add to each odd sample of a line the sum of its neighbours times a factor."""
    n = len(high)
    inner = min(n, len(low) - 1)
    for i in range(inner):
        high[i] += factor * (low[i] + low[i + 1])
    if inner < n:
        high[inner] += factor * (low[inner] + low[inner])


@njit(nogil=True, cache=True)
def analyse_lines(low: Any, high: Any, x: Any, at: Any, first: int, last: int) -> None:
    """Transform lines of x (z, y, n) to low (a, b, n - n // 2) and high (a, b, n // 2).

    Parameters
    ----------
    low, high : float32 arrays, contiguous
        Their planes first to last (exclusive) are written.
    x : float32 array, contiguous
        n at least 2.
    at : (z, step, y, step)
        Lines (i, j) of the bands are those of x at (z + i step, y + j step).
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
            _step_high(even, odd, _A)
            _step_low(even, odd, _B)
            _step_high(even, odd, _C)
            _step_low(even, odd, _D)
            for k in range(len(even)):
                even[k] *= _LOW
            for k in range(len(odd)):
                odd[k] *= _HIGH


@njit(nogil=True, cache=True)
def synthesise_lines(low: Any, high: Any, x: Any, at: Any, first: int, last: int) -> None:
    """Undo :func:`analyse_lines`; ``low`` and ``high`` are changed."""
    n = x.shape[2]
    for i in range(first, last):
        for j in range(low.shape[1]):
            row, even, odd = x[at[0] + i * at[1], at[2] + j * at[3]], low[i, j], high[i, j]
            for k in range(len(even)):
                even[k] *= _HIGH
            for k in range(len(odd)):
                odd[k] *= _LOW
            _step_low(even, odd, -_D)
            _step_high(even, odd, -_C)
            _step_low(even, odd, -_B)
            _step_high(even, odd, -_A)
            for k in range(n // 2):
                row[2 * k], row[2 * k + 1] = even[k], odd[k]
            if n & 1:
                row[n - 1] = even[n // 2]
