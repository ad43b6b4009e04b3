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
# Samples that a part of the work has at least, when it is shared among threads.
_LEAST_PART = 1 << 15


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


def _samples(split: int, direction: int) -> tuple[slice, slice, slice]:
    """Return where a band lies among the samples of its level."""
    a, b, c = (
        slice(direction >> k & 1, None, 2) if split >> k & 1 else slice(None) for k in range(AXES)
    )
    return a, b, c


def _along(x: Float32Array, axis: int, lift: Callable[[Any], Any], run: Run) -> None:
    """Lift along an axis, shared out along another one."""
    n = x.shape[axis]
    parts = max(1, min(16, x.size // _LEAST_PART))
    if axis > 0:
        lines = x.reshape(math.prod(x.shape[:axis]), n, -1)
        cuts = np.linspace(0, len(lines), parts + 1, dtype=int)
        pieces = [lines[a:b] for a, b in pairwise(cuts) if a < b]
        list(run(lift, pieces))
        return
    columns = x.reshape(1, n, -1)
    if parts == 1:
        lift(columns)
        return
    cuts = np.linspace(0, columns.shape[2], parts + 1, dtype=int)

    def lift_part(bounds: tuple[int, int]) -> None:
        piece = np.ascontiguousarray(columns[:, :, bounds[0] : bounds[1]])
        lift(piece)
        columns[:, :, bounds[0] : bounds[1]] = piece

    list(run(lift_part, [(a, b) for a, b in pairwise(cuts) if a < b]))


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
        for axis in range(AXES):
            if split >> axis & 1:
                _along(low, axis, lifting.analyse, run)
        bands = {
            d: np.ascontiguousarray(low[_samples(split, d)])
            for d in [LOW_PASS, *plan.directions(level)]
        }
        low = bands.pop(LOW_PASS)
        levels.append(bands)
    return low, levels


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
    plan: Layout, window: Window, band: Callable[[int, int, Window], Float32Array], run: Run = map
) -> Float32Array:
    """Return a window of the volume.

    Parameters
    ----------
    plan : Layout
        Of the transform.
    window : Window
        What is wanted.
    band : callable
        (level, direction, window) to the coefficients; direction 0 at the coarsest level is the
        low-pass band.
    run : callable
        Maps a function over items, on threads perhaps.
    """
    needed = windows(plan, window)
    low = band(len(plan.splits), LOW_PASS, needed[-1])
    for level in reversed(range(len(plan.splits))):
        split, wide = plan.splits[level], needed[level]
        x = np.empty([b - a for a, b in wide], np.float32)
        x[_samples(split, LOW_PASS)] = low
        for d in plan.directions(level):
            x[_samples(split, d)] = band(level, d, band_window(plan, needed, level, d))
        for axis in reversed(range(AXES)):
            if split >> axis & 1:
                _along(x, axis, lifting.synthesise, run)
        # What the next finer level needs of its low-pass band.
        kept = band_window(plan, needed, level - 1, LOW_PASS) if level else window
        low = x[tuple(slice(a - c, b - c) for (a, b), (c, _) in zip(kept, wide, strict=True))]
    return np.ascontiguousarray(low)
