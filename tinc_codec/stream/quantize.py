"""Real parameters <-> integers, one uniform step per group of parameters.

A step is ``base * 2**((code - 128) / 8)``, with base a float32 and code one byte per group. All
products are rounded to float32 as FORMAT.md states, so every decoder gets the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinc_codec.array_types import Float32Array, Int32Array

CODE_CENTRE = 128
_PER_OCTAVE = 8
# float32 nearest to 2**(k / 8); given as fractions of 2**23 so that every reader has these bits.
_MANTISSA = (8388608, 9147842, 9975792, 10878679, 11863283, 12937002, 14107901, 15384775)
_FRACTIONS = np.array(_MANTISSA, np.float32) / np.float32(2**23)


def step_size(base: float, code: int) -> np.float32:
    """Return the float32 step of a code: base times 2**((code - 128) / 8)."""
    return np.float32(step_sizes(base, [code])[0])


def step_sizes(base: float, codes: Sequence[int]) -> Float32Array:
    """Return the step of each code; see :func:`step_size`."""
    octaves, eighths = np.divmod(np.array(codes, np.int64) - CODE_CENTRE, _PER_OCTAVE)
    steps: Float32Array = np.ldexp(np.float32(base) * _FRACTIONS[eighths], octaves)
    return steps


def step_codes(relative: Sequence[float]) -> tuple[int, ...]:
    """Return the codes of steps nearest to the relative sizes given, on the grid of eighths.

    Parameters
    ----------
    relative : sequence of float
        Wanted steps up to a common factor, positive; zero or infinite where any step will do.
    """
    sizes = np.asarray(relative, np.float64)
    usable = np.isfinite(sizes) & (sizes > 0)
    if not usable.any():
        return (CODE_CENTRE,) * len(sizes)
    logs = np.log2(np.where(usable, sizes, 1.0))
    eighths = np.rint(_PER_OCTAVE * (logs - np.median(logs[usable])))
    eighths = np.where(usable, eighths, 0)
    return tuple(int(c) for c in np.clip(eighths + CODE_CENTRE, 0, 255))


def quantize(values: Float32Array, step: np.float32) -> Int32Array:
    """Return the integers nearest to values / step."""
    return np.rint(values.astype(np.float64) / float(step)).astype(np.int32)


def dequantize(integers: Int32Array, step: np.float32) -> Float32Array:
    """Return integers * step, rounded once to float32."""
    return integers.astype(np.float32) * step
