"""A volume <-> the bands of its wavelet transform, whole or a window of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.forks import cached_value
from tinc_codec.parallel import Run, even_parts
from tinc_codec.stream.residual.axes import AXES, Shape, Window
from tinc_codec.stream.residual.wavelets import cdf97, lifting

# The low-pass band after so many levels, and what gives what is to be added to a window of it.
Added = tuple[int, Callable[[], Float32Array]]
# Step and bias of integers, in binary32.
Scale = tuple[np.float32, np.float32]

MOST_LEVELS = 16
LOW_PASS = 0
# The last axis, and the bit of a direction that is high-pass along it.
_LINES, _ACROSS = 2, 4
# Samples that a part of the work has at least, when it is shared among threads.
_LEAST_PART, _MOST_PARTS = 1 << 17, 16
# Samples of a piece that is worked on at once.
_PIECE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformPlan:
    """Which axes are halved at which level, and the shapes that come of it.

    Attributes
    ----------
    shapes : tuple of shapes
        Of the volume, then of the low-pass band after each level, finest level first.
    splits : tuple of int
        For each level, finest first: bit k: axis k is halved.
    closed : bool
        Whether both ends of axes are low-pass samples, of the lengths that may be closed
        (:func:`cdf97.may_close`).
    """

    shapes: tuple[Shape, ...]
    splits: tuple[int, ...]
    closed: bool

    def closes(self, level: int, axis: int) -> bool:
        """Return whether a level halves an axis in the way of a closed one."""
        halved = bool(self.splits[level] >> axis & 1)
        return self.closed and halved and cdf97.may_close(self.shapes[level][axis])

    def closes_any(self) -> bool:
        """Return whether any level does."""
        return any(self.closes(k, axis) for k in range(len(self.splits)) for axis in range(AXES))

    def closed_where_possible(self) -> TransformPlan:
        """Return the plan with its axes closed; itself where none can be."""
        closed = replace(self, closed=True)
        return closed if closed.closes_any() else self

    def directions(self, level: int) -> tuple[int, ...]:
        """Return the bands of a level in coding order; bit k: high-pass along axis k."""
        return _directions(self.splits[level])

    def band_shape(self, level: int, direction: int) -> Shape:
        """Return the shape of a band."""
        whole, low = self.shapes[level], self.shapes[level + 1]
        return (
            whole[0] - low[0] if direction & 1 else low[0],
            whole[1] - low[1] if direction & 2 else low[1],
            whole[2] - low[2] if direction & 4 else low[2],
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Bands:
    """The bands of a transform, in the order in which they are coded.

    Attributes
    ----------
    plan : TransformPlan
        Of the transform.
    room : (n,) array
        The low-pass band, then those of each level, the coarsest first; finer levels may be left
        out. Each in C order.
    """

    plan: TransformPlan
    room: npt.NDArray[Any]

    @cached_value
    def low(self) -> npt.NDArray[Any]:
        """The low-pass band: a view."""
        shape = self.plan.shapes[-1]
        return self.room[: math.prod(shape)].reshape(shape)

    @cached_value
    def levels(self) -> list[dict[int, npt.NDArray[Any]]]:
        """The other bands of each level, finest first, by direction: views."""
        return [self._level(level) for level in range(len(self.plan.splits))]

    def _level(self, level: int) -> dict[int, npt.NDArray[Any]]:
        if math.prod(self.plan.shapes[level]) > len(self.room):
            return {}
        return {
            d: self.room[at : at + math.prod(shape)].reshape(shape)
            for d, (at, shape) in band_places(self.plan, level).items()
        }

    def each(self) -> list[npt.NDArray[Any]]:
        """Return all bands, the low-pass one first."""
        return [self.low, *(band for level in self.levels for band in level.values())]


# Geometry is looked up, not worked out again: it was a tenth of the time of decoding 64³ voxels.
_lookup = lru_cache(maxsize=4096)


@_lookup
def _directions(split: int) -> tuple[int, ...]:
    found = [d for d in range(1, 1 << AXES) if not d & ~split]
    return tuple(sorted(found, key=lambda d: (d.bit_count(), d)))


@_lookup
def band_places(plan: TransformPlan, level: int) -> dict[int, tuple[int, Shape]]:
    """Return where the bands of a level begin among all, and their shapes, in coding order.

    Not to be changed.
    """
    found, at = {}, math.prod(plan.shapes[level + 1])
    for d in plan.directions(level):
        shape = plan.band_shape(level, d)
        found[d] = at, shape
        at += math.prod(shape)
    return found


def transform_plan(shape: Shape, splits: Sequence[int], *, closed: bool = False) -> TransformPlan:
    """Return the plan of a volume.

    Parameters
    ----------
    shape : Shape
        Of the volume.
    splits : sequence of int
        As in :class:`TransformPlan`.
    closed : bool
        As in :class:`TransformPlan`.

    Raises
    ------
    ValueError
        If an axis of one sample is halved, or no axis can be closed where they are to be.
    """
    shapes = [shape]
    for split in splits:
        halved = [bool(split >> k & 1) for k in range(AXES)]
        if not 0 < split < 1 << AXES or any(
            h and n < 2 for h, n in zip(halved, shapes[-1], strict=True)
        ):
            raise ValueError(f"split {split} does not fit a band of shape {shapes[-1]}")
        a, b, c = ((n + 1) // 2 if h else n for h, n in zip(halved, shapes[-1], strict=True))
        shapes.append((a, b, c))
    found = TransformPlan(shapes=tuple(shapes), splits=tuple(splits), closed=closed)
    if closed and not found.closes_any():
        raise ValueError(f"no axis of shape {shape} can be closed")
    return found


def coarser(plan: TransformPlan, level: int) -> TransformPlan:
    """Return what is left of a transform after its finest levels."""
    return replace(plan, shapes=plan.shapes[level:], splits=plan.splits[level:])


def finer(plan: TransformPlan, level: int) -> TransformPlan:
    """Return the finest levels of a transform."""
    return replace(plan, shapes=plan.shapes[: level + 1], splits=plan.splits[:level])


def whole(shape: Shape) -> Window:
    """Return the window of all samples."""
    a, b, c = ((0, n) for n in shape)
    return a, b, c


def places(plan: TransformPlan, level: int) -> list[npt.NDArray[np.int64]]:
    """Return the voxels, along each axis, that the low-pass samples after so many levels are at."""
    found = [np.arange(n) for n in plan.shapes[0]]
    for k in range(level):
        for axis, at in enumerate(found):
            if plan.closes(k, axis):  # the last two samples have changed places
                found[axis] = np.append(at[:-2:2], at[-1])
            elif plan.splits[k] >> axis & 1:
                found[axis] = at[::2]
    return found


def _rows(split: int, direction: int) -> tuple[slice, slice]:
    """Return where the rows of a band lie among those of its level."""
    z, step_z, y, step_y = _places(split, direction)
    return slice(z, None, step_z), slice(y, None, step_y)


def _places(split: int, direction: int) -> tuple[int, int, int, int]:
    """Return the first row of a band, and how far the next ones are, along axes 0 and 1."""
    z, y = ((direction >> k & 1, 1 + (split >> k & 1)) for k in range(_LINES))
    return *z, *y


def _parts(length: int, samples: int) -> list[tuple[int, int]]:
    """Cut an axis in parts that are worth a thread each."""
    count = max(1, min(_MOST_PARTS, samples // _LEAST_PART, length))
    return even_parts(length, count)


def _across_planes(x: Float32Array, lift: Callable[..., Any], closed: bool, run: Run) -> None:
    """Lift in place along axis 0."""
    columns = x.reshape(len(x), -1)
    list(run(lambda part: lift(columns, closed, *part), _parts(columns.shape[1], x.size)))


def _within_planes(x: Float32Array, closed: bool, run: Run) -> None:
    """Analyse in place along axis 1."""
    list(run(lambda part: lifting.analyse_planes(x, closed, *part), _parts(len(x), x.size)))


def _analyse_lines(
    low: Float32Array, high: Float32Array, x: Float32Array, at: tuple[int, int, int, int],
    closed: bool, run: Run,
) -> None:  # fmt: skip
    """Take lines of low and of high samples from those of a level."""
    parts = _parts(len(low), 2 * low.size)
    list(run(lambda part: lifting.analyse_lines(low, high, x, at, closed, *part), parts))


def forward(volume: Float32Array, plan: TransformPlan, run: Run = map) -> Bands:
    """Return the bands of a volume, in float32.

    Parameters
    ----------
    volume : (z, y, x) float32
        Not changed.
    plan : TransformPlan
        Of its shape.
    run : callable
        Maps a function over items, on threads perhaps.
    """
    found = Bands(plan=plan, room=np.empty(volume.size, np.float32))
    low: Float32Array = np.array(volume, np.float32, order="C")
    for level, split in enumerate(plan.splits):
        if split & 1:
            _across_planes(low, lifting.analyse_columns, plan.closes(level, 0), run)
        if split >> 1 & 1:
            _within_planes(low, plan.closes(level, 1), run)
        bands = {LOW_PASS: np.empty(plan.shapes[level + 1], np.float32), **found.levels[level]}
        for d in _of_rows(plan, level):
            if not split >> _LINES & 1:
                bands[d][...] = low[_rows(split, d)]
                continue
            closed = plan.closes(level, _LINES)
            _analyse_lines(bands[d], bands[d | _ACROSS], low, _places(split, d), closed, run)
        low = bands[LOW_PASS]
    found.low[...] = low
    return found


def _of_rows(plan: TransformPlan, level: int) -> list[int]:
    """Return the bands of a level that are low-pass along the last axis."""
    return [d for d in [LOW_PASS, *plan.directions(level)] if not d & _ACROSS]


@_lookup
def _widened(plan: TransformPlan, level: int, window: Window) -> Window:
    """Return the samples of a level that reach into a window of it.

    Along axes that are halved, from an even one on; of a closed end all its samples.
    """
    a, b, c = (
        _reaching(span, n, plan.closes(level, k)) if plan.splits[level] >> k & 1 else span
        for k, (span, n) in enumerate(zip(window, plan.shapes[level], strict=True))
    )
    return a, b, c


def _reaching(span: tuple[int, int], n: int, closed: bool) -> tuple[int, int]:
    """Return the samples, of n, that reach into some of them."""
    first, last = span
    end = n - cdf97.CLOSED_END if closed else n
    if last > end:
        first = min(first, end)
    last += cdf97.REACH
    return max(0, first - cdf97.REACH) & ~1, n if last > end else last


@_lookup
def _band_part(split: int, wide: Window, direction: int) -> Window:
    """Return the part of a band that samples of its level, from even ones on, are made of."""
    a, b, c = (
        ((first + 1) // 2 if direction >> k & 1 else first // 2,
         last // 2 if direction >> k & 1 else (last + 1) // 2)
        if split >> k & 1 else (first, last)
        for k, (first, last) in enumerate(wide)
    )  # fmt: skip
    return a, b, c


@_lookup
def windows(plan: TransformPlan, window: Window) -> tuple[Window, ...]:
    """Return what is needed of the volume, then of each level's low-pass band, finest first."""
    needed = [window]
    for level, split in enumerate(plan.splits):
        needed.append(_band_part(split, _widened(plan, level, needed[-1]), LOW_PASS))
    return tuple(needed)


def _lengths(window: Window) -> Shape:
    a, b, c = (last - first for first, last in window)
    return a, b, c


def _within(window: Window, outer: Window) -> tuple[slice, ...]:
    """Return where a window lies in an array of an outer one."""
    return tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(window, outer, strict=True))


def inverse(
    bands: Bands, window: Window, scale: Scale, run: Run = map, added: Added | None = None
) -> Float32Array:
    """Return a window of the volume.

    Parameters
    ----------
    bands : Bands of int32
        As :func:`forward` gives them, quantised. Read where the window needs them.
    window : Window
        What is wanted.
    scale : Scale
        What they stand for.
    run : callable
        Maps a function over items, on threads perhaps.
    added : Added, optional
        What is added to a low-pass band, of the window that :func:`windows` says; the plan has as
        many levels. Asked for when all coarser levels are done.
    """
    plan = bands.plan
    needed = windows(plan, window)
    known = np.empty(_lengths(needed[-1]), np.float32)
    lifting.restore_lines(bands.low, _corner(needed[-1]), scale, known, (0, 1, 0, 1), 0, len(known))
    for level in reversed(range(len(plan.splits))):
        if added is not None and level + 1 == added[0]:
            known = known + added[1]()
        made = _synthesis(plan, level, needed[level])
        known = _level(bands, made, np.ascontiguousarray(known), scale, run)
    return known


def _corner(window: Window) -> tuple[int, int, int]:
    (a, _), (b, _), (c, _) = window
    return a, b, c


@dataclass(frozen=True, slots=True, kw_only=True)
class _Synthesis:
    """How a window of a level is made.

    Attributes
    ----------
    split : int
        Which axes are halved.
    closed : three bool
        Which axes are closed and go to their end.
    shape : Shape
        Of the samples that reach into the window.
    inside : tuple of slice
        The window among them.
    lines : (n, LINE_COLUMNS) int64
        As :func:`lifting.synthesise_level` takes them. Not to be written to.
    """

    split: int
    closed: tuple[bool, bool, bool]
    shape: Shape
    inside: tuple[slice, ...]
    lines: npt.NDArray[np.int64]


@_lookup
def _synthesis(plan: TransformPlan, level: int, window: Window) -> _Synthesis:
    """Return how a window of a level is made."""
    split, wide = plan.splits[level], _widened(plan, level, window)
    a, b, c = (plan.closes(level, k) and wide[k][1] == plan.shapes[level][k] for k in range(AXES))
    places = band_places(plan, level)

    def band(direction: int) -> list[int]:
        if direction not in places:  # the low-pass one, or none
            return [-1] * (lifting.HIGH_BAND - lifting.LOW_BAND)
        at, shape = places[direction]
        return [at, *shape, *_corner(_band_part(split, wide, direction))]

    lines = [
        [*_places(split, d), *band(d), *band(d | _ACROSS if split >> _LINES & 1 else LOW_PASS)]
        for d in _of_rows(plan, level)
    ]
    return _Synthesis(
        split=split,
        closed=(a, b, c),
        shape=_lengths(wide),
        inside=_within(window, wide),
        lines=np.array(lines, np.int64),
    )


def _level(
    bands: Bands, made: _Synthesis, low: Float32Array, scale: Scale, run: Run
) -> Float32Array:
    """Return a window of a level, made of the low-pass samples that it needs; a view."""
    x = np.empty(made.shape, np.float32)
    parts, piece = _parts(len(x), x.size), max(1, _PIECE // max(x[0].size, 1))
    fixed = low, bands.room, made.lines, scale, x, made.split, made.closed, piece
    list(run(lambda part: lifting.synthesise_level(*fixed, *part), parts))
    if made.split & 1 and len(parts) > 1:
        _across_planes(x, lifting.synthesise_columns, made.closed[0], run)
    return x[made.inside]
