"""Borders between chunks made smooth on reading, where they step more than what is beside them.

Chunks are coded alone, and at high ratios values step from one to the next. Across a border, with
voxels a, b before and c, d behind it, the step is J = (c − b) − ((b − a) + (d − c)) / 2. Of J that
share is taken out by which its mean magnitude exceeds that of places within chunks: 0.4 of it from
b and c each, 0.2 from a and d. Steps that are several times the mean are edges of the image, and
stay; and no special value changes, nor what is beside one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive.info import codec_settings
from tinc_codec.archive.payloads import is_plain
from tinc_codec.errors import InvalidSetting
from tinc_codec.selection import resolve

FloatArray = NDArray[np.floating[Any]]

# Voxels on either side of a border that take part.
_REACH = 2
# Of the step, what b and c, and a and d, take of the share: together they take out all of it.
_NEAR, _FAR = 0.4, 0.2
# Steps from this many times the mean on are left more and more, from twice as many on wholly.
_EDGE = 4
# Borders looked at along an axis, and how far from them places within chunks are.
_LOOKS, _BESIDE = 8, (-6, -5, -4, 4, 5, 6)
_LEAST_EDGE = 16


@dataclass(frozen=True, slots=True)
class Strength:
    """How borders across an axis are made smooth.

    Attributes
    ----------
    share : float
        Of a step that is taken out, 0 to 1.
    limit : float
        Magnitude of steps that are taken for edges of the image.
    """

    share: float
    limit: float


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An array whose borders between chunks are made smooth when it is read.

    Attributes
    ----------
    array : array-like
        Gives the voxels.
    chunks : tuple of int
        Edges of chunks.
    special : tuple of numbers
        Values that were preserved exactly.
    strengths : tuple of Strength
        For each axis.
    """

    array: Any
    chunks: tuple[int, ...]
    special: tuple[float, ...]
    strengths: tuple[Strength, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.array.shape)

    @property
    def ndim(self) -> int:
        """Axes."""
        return len(self.chunks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the array."""
        found: np.dtype[Any] = self.array.dtype
        return found

    def __getitem__(self, selection: Any) -> NDArray[Any]:
        wanted = resolve(selection, self.shape)
        if any(len(index) == 0 for index in wanted.axes):
            return np.empty(wanted.shape, self.dtype)
        spans = [(int(index.min()), int(index.max()) + 1) for index in wanted.axes]
        borders = [_borders(n, edge) for n, edge in zip(self.shape, self.chunks, strict=True)]
        wide = [
            _widened(span, at) if strength.share else span
            for span, at, strength in zip(spans, borders, self.strengths, strict=True)
        ]
        values = np.array(self.array[tuple(slice(*span) for span in wide)])
        for axis, (first, last) in enumerate(wide):
            if self.strengths[axis].share:
                inside = [p - first for p in borders[axis] if first < p < last]
                _smooth(np.moveaxis(values, axis, 0), inside, self.strengths[axis], self.special)
        places = [index - first for index, (first, _) in zip(wanted.axes, wide, strict=True)]
        at = tuple(places) if wanted.pointwise else np.ix_(*places)
        return values[at].reshape(wanted.shape)


def smoothed(array: zarr.Array[Any], reader: Any) -> Smoothed:
    """Return an array with smooth borders, after a look at some of them.

    Parameters
    ----------
    array : zarr.Array
        Of payloads of TINC.
    reader : array-like
        Gives its voxels.

    Raises
    ------
    InvalidSetting
        If its chunks are another codec's, or their errors are bounded.
    """
    if not is_plain(array):
        raise InvalidSetting(
            f"{array.store_path}: smooth_borders is for chunks that TINC alone has encoded, and "
            "these are of another codec; open it without"
        )
    settings = codec_settings(array) or {}
    if settings.get("max_error") is not None:
        raise InvalidSetting(
            f"{array.store_path}: errors are bounded (max_error), and smooth borders would break "
            "the bound; open it without smooth_borders"
        )
    special = tuple(settings.get("preserve") or ())
    found = tuple(_strength(array, reader, axis, special) for axis in range(array.ndim))
    return Smoothed(reader, array.chunks, special, found)


def _borders(n: int, edge: int) -> list[int]:
    """Return the first voxels of chunks but the first, where there is room on both sides."""
    return [p for p in range(edge, n, edge) if _REACH <= p <= n - _REACH and edge >= _LEAST_EDGE]


def _widened(span: tuple[int, int], borders: Sequence[int]) -> tuple[int, int]:
    """Return a span with all voxels that its own, near borders, are made of."""
    first, last = span
    for p in borders:
        if first < p + _REACH and last > p - _REACH:
            first, last = min(first, p - _REACH), max(last, p + _REACH)
    return first, last


def _step(x: FloatArray, p: int, special: Sequence[float]) -> FloatArray:
    """Return J along axis 0, 0 where a voxel is special."""
    four = x[p - _REACH : p + _REACH]
    plain = (np.isfinite(four) & ~np.isin(four, special)).all(axis=0)
    a, b, c, d = np.where(plain, four, 0)
    step: FloatArray = (c - b) - ((b - a) + (d - c)) / 2
    return step


def _smooth(
    lines: NDArray[Any], borders: Sequence[int], strength: Strength, special: Sequence[float]
) -> None:
    """Make borders across axis 0 smooth, in place."""
    for p in borders:
        near = lines[p - _REACH : p + _REACH].astype(np.float64)
        step = _step(near, _REACH, special)
        size = np.abs(step)
        kept = np.minimum(size, np.maximum(0, 2 * strength.limit - size))
        taken = strength.share * np.copysign(kept, step)
        near += np.multiply.outer((_FAR, _NEAR, -_NEAR, -_FAR), taken)
        lines[p - _REACH : p + _REACH] = _of_dtype(near, lines.dtype)


def _of_dtype(values: FloatArray, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "f":
        return values.astype(dtype)
    ends = np.iinfo(dtype)
    return np.clip(np.rint(values), ends.min, ends.max).astype(dtype)


def _strength(array: zarr.Array[Any], reader: Any, axis: int, special: Sequence[float]) -> Strength:
    """Look at borders across an axis, evenly spread over the array."""
    borders = _borders(array.shape[axis], array.chunks[axis])
    most = max(map(abs, _BESIDE)) + _REACH
    borders = [p for p in borders if p + most <= array.shape[axis]]
    others = [range(0, n, edge) for n, edge in zip(array.shape, array.chunks, strict=True)]
    others[axis] = range(len(borders))
    shape = [len(corners) for corners in others]
    count = int(np.prod(shape))
    at: list[float] = []
    beside: list[float] = []
    for place in np.unique(np.linspace(0, count - 1, min(count, _LOOKS)).round().astype(int)):
        index = np.unravel_index(place, shape)
        box = [
            slice(corners[k], corners[k] + edge)
            for corners, k, edge in zip(others, index, array.chunks, strict=True)
        ]
        p = borders[index[axis]]
        box[axis] = slice(p - most, p + most)
        lines = np.moveaxis(np.asarray(reader[tuple(box)]).astype(np.float64), axis, 0)
        at.append(float(np.abs(_step(lines, most, special)).mean()))
        inner = [np.abs(_step(lines, most + k, special)).mean() for k in _BESIDE]
        beside.append(float(np.mean(inner)))
    if sum(at) <= sum(beside):
        return Strength(share=0.0, limit=0.0)
    return Strength(share=1 - sum(beside) / sum(at), limit=_EDGE * sum(at) / len(at))
