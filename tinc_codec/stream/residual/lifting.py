"""The CDF 9/7 wavelet by lifting, one axis at a time, with symmetric extension (numba).

Daubechies and Sweldens, 1998. In binary32, every operation rounded, none fused: the inverse gives
the same bits on every machine, and for a part of an axis the same as for all of it, but for the
:data:`REACH` samples next to where the part was cut.
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


@njit(nogil=True, cache=True)
def _step(x: Any, first: int, factor: Any, start: int, stop: int) -> None:
    """Add to every second row of x (n, inner) the sum of its neighbours times a factor."""
    n = x.shape[0]
    for i in range(first, n, 2):
        before = x[i - 1 if i > 0 else i + 1]
        after = x[i + 1 if i + 1 < n else i - 1]
        row = x[i]
        for k in range(start, stop):
            row[k] += factor * (before[k] + after[k])


@njit(nogil=True, cache=True)
def _step_rows(low: Any, high: Any, odd: bool, factor: Any) -> None:
    """Do the same within one line, whose even and odd samples lie apart."""
    if odd:
        n = len(high)
        inner = min(n, len(low) - 1)
        for i in range(inner):
            high[i] += factor * (low[i] + low[i + 1])
        if inner < n:
            high[inner] += factor * (low[inner] + low[inner])
    else:
        n = len(low)
        low[0] += factor * (high[0] + high[0])
        inner = min(n, len(high))
        for i in range(1, inner):
            low[i] += factor * (high[i - 1] + high[i])
        if inner < n:
            low[inner] += factor * (high[inner - 1] + high[inner - 1])


@njit(nogil=True, cache=True)
def _scale(x: Any, low: Any, high: Any, start: int, stop: int) -> None:
    for i in range(x.shape[0]):
        factor = high if i & 1 else low
        row = x[i]
        for k in range(start, stop):
            row[k] *= factor


@njit(nogil=True, cache=True)
def analyse(x: Any) -> None:
    """Transform each (n, inner) of x (outer, n, inner) in place: even rows low, odd ones high."""
    outer, n, inner = x.shape
    if n < 2:
        return
    for o in range(outer):
        for start in range(0, inner, _COLUMNS):
            stop = min(start + _COLUMNS, inner)
            _step(x[o], 1, _A, start, stop)
            _step(x[o], 0, _B, start, stop)
            _step(x[o], 1, _C, start, stop)
            _step(x[o], 0, _D, start, stop)
            _scale(x[o], _LOW, _HIGH, start, stop)


@njit(nogil=True, cache=True)
def synthesise(x: Any) -> None:
    """Undo :func:`analyse`."""
    outer, n, inner = x.shape
    if n < 2:
        return
    if inner == 1:
        _synthesise_lines(x[:, :, 0])
        return
    for o in range(outer):
        for start in range(0, inner, _COLUMNS):
            stop = min(start + _COLUMNS, inner)
            _scale(x[o], _HIGH, _LOW, start, stop)
            _step(x[o], 0, -_D, start, stop)
            _step(x[o], 1, -_C, start, stop)
            _step(x[o], 0, -_B, start, stop)
            _step(x[o], 1, -_A, start, stop)


@njit(nogil=True, cache=True)
def _synthesise_lines(x: Any) -> None:
    """Undo the transform of each line of x (lines, n): the same operations on samples apart."""
    lines, n = x.shape
    low, high = np.empty((n + 1) // 2, np.float32), np.empty(n // 2, np.float32)
    for line in range(lines):
        row = x[line]
        for i in range(len(low)):
            low[i] = row[2 * i] * _HIGH
        for i in range(len(high)):
            high[i] = row[2 * i + 1] * _LOW
        _step_rows(low, high, False, -_D)
        _step_rows(low, high, True, -_C)
        _step_rows(low, high, False, -_B)
        _step_rows(low, high, True, -_A)
        for i in range(len(low)):
            row[2 * i] = low[i]
        for i in range(len(high)):
            row[2 * i + 1] = high[i]
