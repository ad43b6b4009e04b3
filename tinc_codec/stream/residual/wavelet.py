"""A volume <-> the bands of its wavelet transform, whole or a window of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.stream.residual import lifting

Float32Array = npt.NDArray[np.float32]
Shape = tuple[int, int, int]
# Samples first to last (exclusive) along each axis.
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]

AXES = 3
MOST_LEVELS = 16
LOW_PASS = 0
# The last axis, and the bit of a direction that is high-pass along it.
_LINES, _ACROSS = 2, 4
# Samples that a part of the work has at least, when it is shared among threads.
_LEAST_PART, _MOST_PARTS = 1 << 17, 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Which axes are halved at which level, and the shapes that come of it.

    Attributes
    ----------
    shapes : tuple of shapes
        Of the volume, then of the low-pass band after each level, finest level first.
    splits : tuple of int
        For each level, finest first: bit k: axis k is halved.
    """

    shapes: tuple[Shape, ...]
    splits: tuple[int, ...]

    def directions(self, level: int) -> list[int]:
        """Return the bands of a level in coding order; bit k: high-pass along axis k."""
        split = self.splits[level]
        found = [d for d in range(1, 1 << AXES) if not d & ~split]
        return sorted(found, key=lambda d: (d.bit_count(), d))

    def band_shape(self, level: int, direction: int) -> Shape:
        """Return the shape of a band."""
        whole, low = self.shapes[level], self.shapes[level + 1]
        a, b, c = (
            n - m if direction >> k & 1 else m
            for k, (n, m) in enumerate(zip(whole, low, strict=True))
        )
        return a, b, c


def three_axes(shape: Sequence[int]) -> Shape:
    """Return a shape of 1 to 4 axes as one of three: of four, the first two become one."""
    lengths = [math.prod(shape[: len(shape) - 2]), *shape[-2:]] if len(shape) > AXES else shape
    a, b, c = (1,) * (AXES - len(lengths)) + tuple(lengths)
    return a, b, c


def layout(shape: Shape, splits: Sequence[int]) -> Layout:
    """Return the layout of a volume; ValueError if an axis of one sample is halved."""
    shapes = [shape]
    for split in splits:
        halved = [bool(split >> k & 1) for k in range(AXES)]
        if not 0 < split < 1 << AXES or any(
            h and n < 2 for h, n in zip(halved, shapes[-1], strict=True)
        ):
            raise ValueError(f"split {split} does not fit a band of shape {shapes[-1]}")
        a, b, c = ((n + 1) // 2 if h else n for h, n in zip(halved, shapes[-1], strict=True))
        shapes.append((a, b, c))
    return Layout(shapes=tuple(shapes), splits=tuple(splits))


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
    return list(pairwise(k * length // count for k in range(count + 1)))


def _along_columns(x: Float32Array, axis: int, lift: Callable[..., Any], run: Run) -> None:
    """Lift in place along axis 0 or 1."""
    n = x.shape[axis]
    if axis:
        list(run(lambda part: _planes(x[slice(*part)], lift), _parts(len(x), x.size)))
        return
    columns = x.reshape(n, -1)
    list(run(lambda part: lift(columns, *part), _parts(columns.shape[1], x.size)))


def _planes(x: Float32Array, lift: Callable[..., Any]) -> None:
    for plane in x:
        lift(plane, 0, plane.shape[1])


def _along_lines(
    low: Float32Array, high: Float32Array, x: Float32Array, at: tuple[int, int, int, int],
    lift: Callable[..., Any], run: Run,
) -> None:  # fmt: skip
    """Lift between lines of low and of high samples, and those of a level."""
    list(run(lambda part: lift(low, high, x, at, *part), _parts(len(low), 2 * low.size)))


def forward(
    volume: Float32Array, plan: Layout, run: Run = map
) -> tuple[Float32Array, list[dict[int, Float32Array]]]:
    """Return the low-pass band, and the other bands of each level, finest first.

    Parameters
    ----------
    volume : (z, y, x) float32
        Not changed.
    plan : Layout
        Of its shape.
    run : callable
        Maps a function over items, on threads perhaps.
    """
    levels: list[dict[int, Float32Array]] = []
    low: Float32Array = np.array(volume, np.float32, order="C")
    for level, split in enumerate(plan.splits):
        for axis in range(_LINES):
            if split >> axis & 1:
                _along_columns(low, axis, lifting.analyse_columns, run)
        bands = {}
        for d in _of_rows(plan, level):
            if not split >> _LINES & 1:
                bands[d] = np.ascontiguousarray(low[_rows(split, d)])
                continue
            for band in (d, d | _ACROSS):
                shape = plan.band_shape(level, band) if band else plan.shapes[level + 1]
                bands[band] = np.empty(shape, np.float32)
            _along_lines(
                bands[d], bands[d | _ACROSS], low, _places(split, d), lifting.analyse_lines, run
            )
        low = bands.pop(LOW_PASS)
        levels.append({d: bands[d] for d in plan.directions(level)})
    return low, levels


def _of_rows(plan: Layout, level: int) -> list[int]:
    """Return the bands of a level that are low-pass along the last axis."""
    return [d for d in [LOW_PASS, *plan.directions(level)] if not d & _ACROSS]


def windows(plan: Layout, window: Window) -> list[Window]:
    """Return what is needed of the volume, then of each level's low-pass band, finest first.

    Of a level that is halved, all samples that reach into the window, from an even one on.
    """
    needed = []
    for level, split in enumerate(plan.splits):
        wide = tuple(
            (max(0, a - lifting.REACH) & ~1, min(n, b + lifting.REACH))
            if split >> k & 1
            else (a, b)
            for k, ((a, b), n) in enumerate(zip(window, plan.shapes[level], strict=True))
        )
        needed.append(wide)
        window = tuple(
            (a // 2, (b + 1) // 2) if split >> k & 1 else (a, b) for k, (a, b) in enumerate(wide)
        )  # type: ignore[assignment]
    return [*needed, window]  # type: ignore[list-item]


def band_window(plan: Layout, needed: Sequence[Window], level: int, direction: int) -> Window:
    """Return the part of a band that the samples needed of its level are made of."""
    split = plan.splits[level]
    a, b, c = (
        ((first + 1) // 2 if direction >> k & 1 else first // 2,
         last // 2 if direction >> k & 1 else (last + 1) // 2)
        if split >> k & 1 else (first, last)
        for k, (first, last) in enumerate(needed[level])
    )  # fmt: skip
    return a, b, c


def inverse(
    plan: Layout,
    window: Window,
    band: Callable[[int, int, Window, Float32Array], None],
    run: Run = map,
) -> Float32Array:
    """Return a window of the volume.

    Parameters
    ----------
    plan : Layout
        Of the transform.
    window : Window
        What is wanted.
    band : callable
        (level, direction, window, out) sets a contiguous array to coefficients; direction 0 at the
        coarsest level is the low-pass band.
    run : callable
        Maps a function over items, on threads perhaps.
    """
    needed = windows(plan, window)
    low = np.empty(_lengths(needed[-1]), np.float32)
    band(len(plan.splits), LOW_PASS, needed[-1], low)
    # Bands take the same memory one after the other: fresh pages cost more than the work there.
    memory = np.empty((2, _largest_band(plan, needed)), np.float32)
    for level in reversed(range(len(plan.splits))):
        split, wide = plan.splits[level], needed[level]
        x = np.empty(_lengths(wide), np.float32)

        def coefficients(direction: int, room: Float32Array, level: int = level) -> Float32Array:
            part = band_window(plan, needed, level, direction)
            out = room[: math.prod(_lengths(part))].reshape(_lengths(part))
            band(level, direction, part, out)
            return out

        for d in _of_rows(plan, level):
            first = low if d == LOW_PASS else coefficients(d, memory[0])
            if not split >> _LINES & 1:
                x[_rows(split, d)] = first
                continue
            second = coefficients(d | _ACROSS, memory[1])
            _along_lines(first, second, x, _places(split, d), lifting.synthesise_lines, run)
        for axis in reversed(range(_LINES)):
            if split >> axis & 1:
                _along_columns(x, axis, lifting.synthesise_columns, run)
        # What the next finer level needs of its low-pass band.
        kept = band_window(plan, needed, level - 1, LOW_PASS) if level else window
        low = np.ascontiguousarray(
            x[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, wide, strict=True))]
        )
    return low


def _largest_band(plan: Layout, needed: Sequence[Window]) -> int:
    """Return the samples of the largest band that a window is made of."""
    return max(
        (
            math.prod(_lengths(band_window(plan, needed, level, d)))
            for level in range(len(plan.splits))
            for d in plan.directions(level)
        ),
        default=0,
    )


def _lengths(window: Window) -> Shape:
    a, b, c = (last - first for first, last in window)
    return a, b, c
