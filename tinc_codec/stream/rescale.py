"""From stored to normalised values and back in one pass (numba): fast paths of the first stage.

Apart from normalize.py, which loads it when it is called: importing this is importing numba.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.compiled import compiled

# Sums that are added to in turns, so that vectors can.
_SUMS = 64


@compiled()
def _unit(value: Any, scale: float, base: float, span: float) -> Any:
    """Return a value normalised, clipped to [0, 1], NaN 0; in float64, rounded to float32."""
    u: Any = (np.float64(value) * scale - base) / span
    return np.float32(min(u, 1.0) if u > 0.0 else 0.0)


@compiled()
def fill_unit(values: Any, scale: float, base: float, span: float, out: Any) -> None:
    """Set out to the values normalised."""
    for i in range(len(values)):
        out[i] = _unit(values[i], scale, base, span)


@compiled()
def _squared(value: Any, scale: float, base: float, span: float, unit: Any) -> Any:
    error = np.float64(_unit(value, scale, base, span) - unit)
    return error * error


@compiled()
def squares(values: Any, scale: float, base: float, span: float, unit: Any) -> Any:
    """Return the sum of (value normalised - unit)^2."""
    sums, whole = np.zeros(_SUMS), len(values) - len(values) % _SUMS
    for start in range(0, whole, _SUMS):
        for k in range(_SUMS):
            sums[k] += _squared(values[start + k], scale, base, span, unit[start + k])
    for i in range(whole, len(values)):
        sums[i - whole] += _squared(values[i], scale, base, span, unit[i])
    return sums.sum()


@compiled()
def weighted_squares(
    values: Any, scale: float, base: float, span: float, unit: Any, weight: Any
) -> Any:
    """Return the sum of weight (value normalised - unit)^2."""
    sums, whole = np.zeros(_SUMS), len(values) - len(values) % _SUMS
    for start in range(0, whole, _SUMS):
        for k in range(_SUMS):
            square = _squared(values[start + k], scale, base, span, unit[start + k])
            sums[k] += np.float64(weight[start + k]) * square
    for i in range(whole, len(values)):
        square = _squared(values[i], scale, base, span, unit[i])
        sums[i - whole] += np.float64(weight[i]) * square
    return sums.sum()


@compiled()
def fill_integers(unit: Any, low: float, high: float, out: Any) -> None:
    """Set out to low (1 - u) + high u, rounded half to even; u clipped to [0, 1], NaN is 0.

    Without fused multiply-add and in float64, as FORMAT.md says.
    """
    for i in range(len(unit)):
        u: Any = np.float64(unit[i])
        u = min(u, 1.0) if u > 0.0 else 0.0
        x = np.rint(low * (1.0 - u) + high * u)
        out[i] = min(max(x, low), high)


@compiled()
def fill_floats(unit: Any, low: float, high: float, out: Any) -> None:
    """As :func:`fill_integers`, not rounded."""
    for i in range(len(unit)):
        u: Any = np.float64(unit[i])
        u = min(u, 1.0) if u > 0.0 else 0.0
        out[i] = min(max(low * (1.0 - u) + high * u, low), high)
