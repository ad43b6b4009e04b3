"""Borders between chunks made smooth on reading, where they step more than what is beside them.

Chunks are coded alone, and at high ratios values step from one to the next. Across a border, with
voxels a, b before and c, d behind it, the step is J = (c − b) − ((b − a) + (d − c)) / 2. Of J that
share is taken out by which steps across borders exceed steps within chunks, in the median of those
that are looked at: 0.4 of it from b and c each, 0.2 from a and d, none beyond the four's own range.
Steps that are several times the usual are edges of the image, and stay; and no special value
changes or comes into being, nor does what is beside one, or beside nothing but the fill value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive.info import codec_settings, provenance_of
from tinc_codec.archive.payloads import check_plain
from tinc_codec.decoding.selection import index_of, resolve
from tinc_codec.errors import InvalidSetting

FloatArray = NDArray[np.floating[Any]]

# Voxels on either side of a border that take part.
_REACH = 2
# Of the step, what b and c, and a and d, take of the share: together they take out all of it.
_NEAR, _FAR = 0.4, 0.2
# Steps from this many times the usual on are left more and more, from twice as many on wholly.
_EDGE = 4
# Borders looked at along an axis, and how far from them steps within the same two chunks are.
_LOOKS, _BESIDE = 8, (-6, -5, -4, 4, 5, 6)
_SIDE = max(_BESIDE) + _REACH
# Chunks that are shorter have no places to compare with, and too many borders.
_LEAST_EDGE = 2 * _SIDE
# Channels, or other places along axes of chunks of one voxel, that are looked at one by one.
_MOST_CHANNELS = 16


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


_NONE = Strength(share=0.0, limit=0.0)


@dataclass(frozen=True, slots=True)
class Special:
    """Values that do not change, besides NaN and infinities.

    Attributes
    ----------
    preserved : tuple of numbers
        Those that the codec restores exactly.
    fill : number
        That of chunks which are not stored.
    """

    preserved: tuple[float, ...]
    fill: float

    def among(self, values: FloatArray) -> NDArray[np.bool_]:
        """Return which values are special, the fill value left out."""
        return ~np.isfinite(values) | np.isin(values, self.preserved)


@dataclass(frozen=True, slots=True)
class Smoothed:
    """An array whose borders between chunks are made smooth when it is read.

    Axis by axis, in order: each takes what the ones before it gave.

    Attributes
    ----------
    array : array-like
        Gives the voxels.
    chunks : tuple of int
        Edges of chunks.
    special : Special
        What does not change.
    strengths : dict of tuple of int to tuple of Strength
        For each axis, by the places along axes of chunks of one voxel; of all of them for ().
    """

    array: Any
    chunks: tuple[int, ...]
    special: Special
    strengths: dict[tuple[int, ...], tuple[Strength, ...]]

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
        borders = [_borders(n, edge) for n, edge in zip(self.shape, self.chunks, strict=True)]
        wide = [
            _widened((int(index.min()), int(index.max()) + 1), at)
            for index, at in zip(wanted.axes, borders, strict=True)
        ]
        values = np.array(self.array[tuple(slice(*span) for span in wide)])
        for part, strengths in self._channels(values, wide):
            for axis, (at, (first, last)) in enumerate(zip(borders, wide, strict=True)):
                inside = [p - first for p in at if first < p < last]
                _smooth(np.moveaxis(part, axis, 0), inside, strengths[axis], self.special)
        places = [index - first for index, (first, _) in zip(wanted.axes, wide, strict=True)]
        chosen: NDArray[Any] = values[index_of(places, pointwise=wanted.pointwise)]
        return chosen.reshape(wanted.shape)

    def _channels(
        self, values: NDArray[Any], wide: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[NDArray[Any], tuple[Strength, ...]]]:
        """Yield views of what is read, each with the strengths of its borders."""
        if () in self.strengths:
            yield values, self.strengths[()]
            return
        unit = [axis for axis, edge in enumerate(self.chunks) if edge == 1]
        for place in product(*(range(*wide[axis]) for axis in unit)):
            part: list[slice] = [slice(None)] * values.ndim
            for axis, k in zip(unit, place, strict=True):
                part[axis] = slice(k - wide[axis][0], k - wide[axis][0] + 1)
            yield values[tuple(part)], self.strengths[place]


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
    CorruptPayload
        If a chunk that is looked at is damaged.
    InvalidSetting
        If its chunks are another codec's, or the errors of all or of some are bounded.
    """
    check_plain(array, "smooth_borders", "open it without")
    settings = codec_settings(array) or {}
    provenance = provenance_of(array.attrs) or {}
    if settings.get("max_error") is not None or provenance.get("lossless_chunks"):
        raise InvalidSetting(
            f"{array.store_path}: errors are bounded (max_error), or chunks stored without loss "
            "(--min-psnr), and smooth borders would change them; open it without smooth_borders"
        )
    fill = 0 if array.fill_value is None else array.fill_value
    special = Special(tuple(settings.get("preserve") or ()), float(fill))
    unit = [axis for axis, edge in enumerate(array.chunks) if edge == 1]
    places = list(product(*(range(array.shape[axis]) for axis in unit)))
    if len(places) > _MOST_CHANNELS:
        places = [()]
    strengths = {
        place: tuple(
            _strength(array, reader, axis, dict(zip(unit, place, strict=False)), special)
            for axis in range(array.ndim)
        )
        for place in places
    }
    return Smoothed(reader, array.chunks, special, strengths)


def _borders(n: int, edge: int) -> list[int]:
    """Return the first voxels of chunks but the first, where there is room on both sides."""
    if edge < _LEAST_EDGE:
        return []
    return [p for p in range(edge, n, edge) if p <= n - _REACH]


def _widened(span: tuple[int, int], borders: Sequence[int]) -> tuple[int, int]:
    """Return a span with all voxels that its own, near borders, are made of."""
    first, last = span
    for p in borders:
        if first < p + _REACH and last > p - _REACH:
            first, last = min(first, p - _REACH), max(last, p + _REACH)
    return first, last


def _steps(four: FloatArray, special: Special) -> FloatArray:
    """Return J of a, b, c, d along axis 0; NaN where nothing is to be changed."""
    kept = special.among(four).any(axis=0)
    empty = four == special.fill
    kept |= empty[:2].all(axis=0) | empty[2:].all(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):  # of the largest floats
        a, b, c, d = np.where(kept, 0, four)
        found: FloatArray = (c - b) - ((b - a) + (d - c)) / 2
    return np.where(kept | ~np.isfinite(found), np.nan, found)


def _smooth(
    lines: NDArray[Any], borders: Sequence[int], strength: Strength, special: Special
) -> None:
    """Make borders across axis 0 smooth, in place."""
    if not strength.share:
        return
    for p in borders:
        four = lines[p - _REACH : p + _REACH]
        with np.errstate(invalid="ignore"):  # of signalling NaN
            before = four.astype(np.float64)
        step = np.nan_to_num(_steps(before, special))
        size = np.abs(step)
        kept = np.minimum(size, np.maximum(0, 2 * strength.limit - size))
        taken = strength.share * np.copysign(kept, step)
        after = before + np.multiply.outer((_FAR, _NEAR, -_NEAR, -_FAR), taken)
        after = np.clip(after, before.min(axis=0), before.max(axis=0))
        if lines.dtype.kind != "f":
            after = np.rint(after)
        changed = (taken != 0) & ~special.among(after)
        four[changed] = after[changed].astype(lines.dtype)


def _strength(
    array: zarr.Array[Any], reader: Any, axis: int, channel: dict[int, int], special: Special
) -> Strength:
    """Look at borders across an axis, evenly spread over the array, or over a channel of it."""
    starts: list[Sequence[int]] = [
        range(0, n, edge) for n, edge in zip(array.shape, array.chunks, strict=True)
    ]
    for k, place in channel.items():
        starts[k] = [place]
    starts[axis] = _borders(array.shape[axis], array.chunks[axis])
    grid = [len(along) for along in starts]
    count = math.prod(grid)
    found: list[tuple[float, float]] = []
    for look in np.unique(np.linspace(0, count - 1, min(count, _LOOKS)).round().astype(int)):
        at = [along[k] for along, k in zip(starts, np.unravel_index(look, grid), strict=True)]
        box = [slice(first, first + edge) for first, edge in zip(at, array.chunks, strict=True)]
        box[axis] = slice(at[axis] - _SIDE, at[axis] + _SIDE)
        lines = np.moveaxis(np.asarray(reader[tuple(box)]).astype(np.float64), axis, 0)
        across = _usual(lines, [_SIDE], special)
        beside = _usual(lines, [_SIDE + k for k in _BESIDE], special)
        if across and beside:
            found.append((across, beside))
    if not found:
        return _NONE
    share = 1 - 1 / max(1.0, float(np.median([across / beside for across, beside in found])))
    return Strength(share=share, limit=_EDGE * float(np.median([across for across, _ in found])))


def _usual(lines: FloatArray, places: Sequence[int], special: Special) -> float:
    """Return the mean magnitude of the steps at places along axis 0; 0 where there are none."""
    sizes = [
        np.abs(_steps(lines[p - _REACH : p + _REACH], special))
        for p in places
        if p + _REACH <= len(lines)
    ]
    steps = np.concatenate([size[~np.isnan(size)] for size in sizes])
    return float(steps.mean()) if steps.size else 0.0
