"""The correction that brings values within a bound: which field of integers, and its section.

For integers what is missing; for floats in units, a fraction of the bound. prediction.py codes the
field.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float64Array, Int64Array
from tinc_codec.errors import InvalidSetting
from tinc_codec.fit import prediction
from tinc_codec.parallel import Run
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.corrections.header import LIMIT

# Units that a float's bound is made of, where the coder's integers allow it.
_UNITS_OF_BOUND = 20
# Of how many parts of a volume, and planes of each, its bytes are foretold.
_PARTS, _PLANES = 3, 3
_SMALL = 1 << 15
_LARGEST = float(np.finfo(np.float64).max)


def encode(
    wanted: npt.NDArray[Any], base: npt.NDArray[Any], max_error: float, run: Run = map
) -> bytes:
    """Return the data of the section that brings values within a bound of those wanted.

    Parameters
    ----------
    wanted : array, 1 to 4 axes
        Finite values.
    base : array of the same shape and dtype
        What is there without the section.
    max_error : float
        In units of the data; for floats above 0.
    run : callable
        Maps a function over items, on threads perhaps.

    Raises
    ------
    InvalidSetting
        If the bound is finer than the dtype, or than the coder's integers, can hold.
    """
    field, bound, unit = _field(wanted, base, max_error)
    return unit + prediction.encode(field, bound, run=run)


def some_planes(wanted: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a few planes of three parts of a volume, or all of a small one, as (z, y, x)."""
    wanted = wanted.reshape(three_axes(wanted.shape))
    depth = len(wanted)
    if depth <= _PARTS * _PLANES or wanted.size <= _SMALL:
        return wanted
    starts = np.linspace(0, depth - _PLANES, _PARTS).astype(int)
    return np.concatenate([wanted[start : start + _PLANES] for start in starts])


def foretold(planes: npt.NDArray[Any], max_error: float) -> int:
    """Return about how many bytes :func:`encode` takes for some planes, without a base.

    Errors are those of :func:`encode`.
    """
    field, bound, unit = _field(planes, np.full_like(planes, planes.min()), max_error)
    return len(unit) + prediction.foretold(field, bound)


def _field(
    wanted: npt.NDArray[Any], base: npt.NDArray[Any], max_error: float
) -> tuple[Int64Array, int, bytes]:
    """Return the field (z, y, x) to code, its bound, and the bytes of its unit."""
    shape = three_axes(wanted.shape)
    if wanted.dtype.kind != "f":
        field = wanted.astype(np.int64) - base.astype(np.int64)
        return field.reshape(shape), min(math.floor(max_error), LIMIT - 1), b""
    step = _step(wanted, max_error)
    for bound in (_UNITS_OF_BOUND, 0):
        unit = step / (2 * bound + 1)
        steps = _apart(wanted, base, unit)
        most = float(np.abs(steps).max())
        # What a reader multiplies may be as much more; in steps of the whole it is clipped.
        if most < LIMIT and (bound == 0 or (most + bound) * unit < _LARGEST):
            return steps.astype(np.int64).reshape(shape), bound, np.array(unit, "<f8").tobytes()
    raise InvalidSetting(
        f"max_error={max_error:g} is below 2**-33 of the range of these {wanted.dtype} values; "
        "use a larger one, or a lossless codec"
    )


def _apart(wanted: npt.NDArray[Any], base: npt.NDArray[Any], unit: float) -> Float64Array:
    """Return how many units floats are apart, rounded."""
    there, here = wanted.astype(np.float64), base.astype(np.float64)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        apart = (there - here) / unit
        if not np.isfinite(apart).all():  # further apart than float64 tells
            apart = there / unit - here / unit
    return np.rint(apart)


def finest(wanted: npt.NDArray[Any]) -> float:
    """Return what rounding adds to errors: bounds of these values have to be larger."""
    if wanted.dtype.kind != "f":
        return -1.0
    largest = float(np.abs(wanted).max())
    return 0.5 * _spacing(wanted.dtype.type(largest)) + 4 * _spacing(np.float64(largest))


def _step(wanted: npt.NDArray[Any], max_error: float) -> float:
    """Return the step of floats: twice the bound, less what rounding to the dtype may add."""
    rounding = finest(wanted)
    step = min(2 * (max_error - rounding), _LARGEST)
    if not step > 0:
        raise InvalidSetting(
            f"max_error={max_error:g} is finer than {wanted.dtype} values of "
            f"{float(np.abs(wanted).max()):g} are spaced (more than {rounding:.3g} is needed); use "
            "a larger one, or a lossless codec"
        )
    return step


def _spacing(value: np.floating[Any]) -> float:
    """Return how far numbers up to a value are apart; also where that is the largest of all."""
    below = value.dtype.type(np.nextafter(value, value.dtype.type(0)))
    return max(float(np.spacing(below)), float(value) - float(below))
