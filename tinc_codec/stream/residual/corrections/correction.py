"""The CORRECTION section: what is added to the values so that every voxel is within a bound.

For integers the field that header.py and slabs.py are of. For floats its multiples of a unit, a
fraction of the bound: the section then starts with the unit. fit/correction.py writes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run
from tinc_codec.stream.residual.axes import Window, three_axes
from tinc_codec.stream.residual.corrections import slabs
from tinc_codec.stream.residual.corrections.header import NAME, from_bytes
from tinc_codec.stream.wire import Reader

Number = int | float


def decode(
    data: bytes, dtype: np.dtype[Any], shape: Sequence[int], window: Window, run: Run = map
) -> Int64Array:
    """Return a window of the field.

    Parameters
    ----------
    data : bytes
        Of the section.
    dtype : numpy.dtype
        Of the array.
    shape : sequence of int
        Lengths of the axes of the box that are longer than one voxel, 1 to 4.
    window : Window
        Of these axes made three.
    run : callable
        Maps a function over items, on threads perhaps.

    Raises
    ------
    CorruptPayload, TruncatedPayload
        If the data are not such a section.
    """
    return slabs.decode(_without_unit(data, dtype), three_axes(shape), window=window, run=run)


def check(data: bytes, dtype: np.dtype[Any], shape: Sequence[int]) -> None:
    """Refuse a section whose header is not sound; nothing is decoded.

    Parameters
    ----------
    data, dtype, shape
        As for :func:`decode`.

    Raises
    ------
    CorruptPayload, TruncatedPayload
        If it is not.
    """
    from_bytes(_without_unit(data, dtype), three_axes(shape)[0])


def _without_unit(data: bytes, dtype: np.dtype[Any]) -> bytes:
    return data if dtype.kind != "f" else data[_read_unit(data)[1] :]


def add(
    values: npt.NDArray[Any], field: Int64Array, data: bytes, low: Number, high: Number
) -> npt.NDArray[Any]:
    """Return values plus the field, within [low, high], in their dtype."""
    if values.dtype.kind != "f":
        total = values.astype(np.int64)
        total += field
        return np.clip(total, low, high, out=total).astype(values.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        exact = values.astype(np.float64) + field * _read_unit(data)[0]
        return np.clip(exact, low, high).astype(values.dtype)


def _read_unit(data: bytes) -> tuple[float, int]:
    """Return the unit of floats, and the bytes that it takes."""
    reader = Reader(data, NAME)
    unit = float(np.frombuffer(reader.take(8), "<f8")[0])
    if not 0 < unit < math.inf:
        raise CorruptPayload(f"{NAME}: unit {unit} is not a positive number")
    return unit, reader.offset
