"""Between a volume's values and those that a codec takes; and threads for its slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tinc_codec.runtime import current_runtime

Array = NDArray[Any]
# The range of values in a header, which a codec of integers needs to get back to the data.
RANGE_BYTES = 16
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def like(values: Array, volume: Array) -> Array:
    """Return values in a volume's dtype, rounded and clipped where that is of integers."""
    if volume.dtype.kind == "f":
        return values.astype(volume.dtype)
    limits = np.iinfo(volume.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(volume.dtype)


def scaled(volume: Array, peak: int) -> NDArray[np.uint16]:
    """Return values scaled linearly from the volume's range to 0 … peak."""
    low, high = float(volume.min()), float(volume.max())
    return np.rint((volume - low) * (peak / (high - low))).astype(np.uint16)


def restored(values: Array, value_range: bytes, peak: int, volume: Array) -> Array:
    """Undo :func:`scaled` with the bytes of :func:`range_bytes`, into the volume's dtype."""
    low, high = np.frombuffer(value_range)
    return like(values * np.float32((high - low) / peak) + np.float32(low), volume)


def range_bytes(volume: Array) -> bytes:
    """Return smallest and largest value as two float64."""
    return np.array([volume.min(), volume.max()], np.float64).tobytes()


def on_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    """Map, on as many threads as the runtime gives."""
    threads = current_runtime().thread_count()
    if threads == 1:
        return list(map(function, items))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))
