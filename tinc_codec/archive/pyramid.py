"""Image pyramids: shapes and regions of the levels, and means of blocks. Pure functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region
from tinc_codec.archive.ome import Grid
from tinc_codec.errors import InvalidSetting, UnsupportedData

Factors = tuple[int, ...]


def level_factors(grid: Grid, shape: tuple[int, ...], levels: int) -> list[Factors]:
    """Return the factors of each level of a pyramid, those of level 0 first.

    Each level halves the axes of space; those along which voxels are at least twice as far apart
    as along the finest are left until the others have caught up. There are fewer levels than
    asked for where nothing is left to halve.

    Raises
    ------
    InvalidSetting
        If levels is below 1.
    """
    if levels < 1:
        raise InvalidSetting(f"levels={levels} must be at least 1 (level 0 is the volume itself)")
    space = [axis for axis, kind in enumerate(grid.types) if kind == "space"]
    spacing = [grid.scale[axis] for axis in space]
    same_unit = len({grid.units[axis] for axis in space}) == 1
    known = [s for s in spacing if s is not None]
    base = known if same_unit and len(known) == len(space) else [1.0] * len(space)
    found: list[Factors] = [(1,) * len(shape)]
    while len(found) < levels:
        factors = list(found[-1])
        long = [k for k, axis in enumerate(space) if math.ceil(shape[axis] / factors[axis]) > 1]
        if not long:
            break
        finest = min(base[k] * factors[space[k]] for k in long)
        for k in long:
            if base[k] * factors[space[k]] < 2 * finest:
                factors[space[k]] *= 2
        found.append(tuple(factors))
    return found


def level_shape(shape: tuple[int, ...], factors: Factors) -> tuple[int, ...]:
    """Return the shape of a level: an incomplete block at an end gives a voxel, too."""
    return tuple(math.ceil(n / f) for n, f in zip(shape, factors, strict=True))


def level_region(region: Region, factors: Factors, shape: tuple[int, ...]) -> Region:
    """Return the region of level 0 that a region of a level is made of.

    Parameters
    ----------
    region : tuple of slice
        In voxels of the level; start and stop given, no steps.
    factors : tuple of int
        Of the level.
    shape : tuple of int
        Shape of level 0, to which the result is clipped.
    """
    columns = zip(region, factors, shape, strict=True)
    return tuple(slice(s.start * f, min(s.stop * f, n)) for s, f, n in columns)


def downsample(
    array: NDArray[Any], factors: Factors, *, missing: float | None = None
) -> NDArray[Any]:
    """Return the means of blocks; the blocks at the ends may be incomplete.

    Integers are summed exactly, and rounded to the nearest, halves to the even one. NaN and
    ``missing`` are left out of the means; a block of nothing else keeps them.

    Parameters
    ----------
    array : ndarray
        Integers of up to 32 bits, or floats.
    factors : tuple of int
        Edges of a block in voxels, one for each axis.
    missing : float, optional
        Value that stands for no value.

    Returns
    -------
    ndarray
        Of :func:`level_shape`, same dtype in the machine's byte order.

    Raises
    ------
    UnsupportedData
        If the dtype is another.
    """
    if array.dtype.kind not in "iuf" or (array.dtype.kind in "iu" and array.dtype.itemsize > 4):
        raise UnsupportedData(
            f"means of {array.dtype} are not defined here; "
            "give integers of up to 32 bits or floats, or take one level"
        )
    integers = array.dtype.kind in "iu"
    out = np.isnan(array) if not integers else np.zeros((), bool)
    if missing is not None:
        out = out | (array == missing)
    if out.any():
        count = _block_sums(~out, factors, np.dtype(np.int64))
        array = np.where(out, array.dtype.type(0), array)
    else:
        count = _block_counts(array.shape, factors)
    filled = np.maximum(count, 1)
    with np.errstate(invalid="ignore"):  # a block that holds both infinities has no mean: NaN
        sums = _block_sums(array, factors, _accumulator(array.dtype, factors))
        means = _rounded(sums, filled) if integers else sums / filled
    if out.any():
        means = np.where(count == 0, np.nan if missing is None else missing, means)
    return means.astype(array.dtype.newbyteorder("="))


def _accumulator(dtype: np.dtype[Any], factors: Factors) -> np.dtype[Any]:
    """Return a dtype that holds the sum of a block exactly, or in binary64 if floats."""
    if dtype.kind == "f":
        return np.dtype(np.float64)
    small = dtype.itemsize <= 2 and math.prod(factors) <= 2**15
    return np.dtype(np.int32 if small else np.int64)


def _block_sums(array: NDArray[Any], factors: Factors, dtype: np.dtype[Any]) -> NDArray[Any]:
    for axis, factor in enumerate(factors):
        ahead = (slice(None),) * axis
        total = array[(*ahead, slice(0, None, factor))].astype(dtype)
        for k in range(1, factor):
            part = array[(*ahead, slice(k, None, factor))]
            total[(*ahead, slice(part.shape[axis]))] += part
        array = total
    return array


def _block_counts(shape: tuple[int, ...], factors: Factors) -> NDArray[np.int64]:
    count = np.ones((1,) * len(shape), np.int64)
    for axis, (n, factor) in enumerate(zip(shape, factors, strict=True)):
        starts = np.arange(0, n, factor)
        along = np.minimum(starts + factor, n) - starts
        count = count * along.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return count


def _rounded(sums: NDArray[Any], count: NDArray[np.int64]) -> NDArray[Any]:
    whole, rest = np.divmod(sums, count)
    up = (2 * rest > count) | ((2 * rest == count) & (whole % 2 == 1))
    rounded: NDArray[Any] = whole + up
    return rounded
