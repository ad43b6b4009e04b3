"""Where the bands of a segment lie in memory, and what each is coded after.

A kernel codes all bands of a segment in one call: told one by one they would take Python as long
as coding small ones takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import rshift
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.stream.residual.axes import AXES, Shape
from tinc_codec.stream.residual.wavelets.coefficients import COLUMNS, NO_FLAGS
from tinc_codec.stream.residual.wavelets.contexts import BLOCK, CLASSES, PAD
from tinc_codec.stream.residual.wavelets.tiles import Tile
from tinc_codec.stream.residual.wavelets.wavelet import LOW_PASS, TransformPlan, band_places

# Of the first place, then how far rows and planes are apart.
Place = tuple[int, int, int]

_FAR = (40,) * AXES
_LOW_CLASS = CLASSES - 8
_LEVEL_CLASSES = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class BandTable:
    """The bands of a segment in coding order.

    Attributes
    ----------
    rows : (bands, COLUMNS) int64
        As :func:`coefficients.code_bands` takes them. Not to be written to.
    sizes : tuple of int
        Of all magnitudes, all contexts, all flags.
    largest : tuple of int
        Places and flags of the largest band.
    finest : dict of direction to int
        Rows of the finest level.
    """

    rows: npt.NDArray[np.int64]
    sizes: tuple[int, int, int]
    largest: tuple[int, int]
    finest: dict[int, int]

    def contexts(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Return magnitudes, contexts and flags of bands of which nothing has been coded yet."""
        own, around, flags = self.sizes
        return np.zeros(own, np.int8), np.zeros(around, np.int16), np.zeros(flags, np.uint8)

    def work(self) -> tuple[npt.NDArray[Any], ...]:
        """Return what a kernel works in."""
        places, flags = self.largest
        kinds = (np.int16, np.uint8, np.uint8, np.int16)
        return *(np.empty(places, kind) for kind in kinds), np.empty(flags, np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Above:
    """The bands one level up, for those of a level.

    Attributes
    ----------
    rows : dict of direction to int
        Their rows.
    is_far : bool
        Whether these are of the table of the first segment.
    origin : (3,) sequence of int
        Place among theirs of the first of the level's places.
    shift : (3,) sequence of int
        1 for each axis that halves towards them.
    """

    rows: dict[int, int]
    is_far: bool = False
    origin: Sequence[int] = (0,) * AXES
    shift: Sequence[int] = _FAR


class _Rows:
    """The rows of a table, written level by level."""

    def __init__(self, plan: TransformPlan) -> None:
        depth, height, _ = plan.shapes[0]
        # None along the axes that a volume of fewer lacks: a line would take 24 times its memory.
        self._pads = PAD * (depth > 1), PAD * (depth > 1 or height > 1), PAD
        self._rows: list[list[int]] = []
        self._ends = 1, 1, NO_FLAGS
        self._largest = 1, NO_FLAGS

    def add(
        self, kind: int, bands: dict[int, tuple[Place, Shape]], above: _Above, *, has_finer: bool
    ) -> dict[int, int]:
        """Add the bands of a level, each with its place among all and shape; return their rows."""
        largest = [max(shape[k] for _, shape in bands.values()) for k in range(AXES)]
        depth, height, width = (n + 2 * p for n, p in zip(largest, self._pads, strict=True))
        size, blocks = depth * height * width, [2 + -(-n // BLOCK) for n in largest]
        # These are 0 where there is one, not padded.
        row, plane = width * (height > 1), height * width * (depth > 1)
        places = PAD * (plane + row + 1), row, plane
        found: dict[int, int] = {}
        for direction, (in_room, shape) in bands.items():
            begins, (own, around, flags) = not found, self._ends
            parent = above.rows.get(direction, -1)
            shift = above.shift if parent >= 0 else _FAR
            found[direction] = len(self._rows)
            self._rows.append([
                kind + direction, direction, begins, own, around * has_finer, flags, size, parent,
                above.is_far, *shape, *in_room, *places, *blocks,
                *map(rshift, above.origin, shift), *shift,
            ])  # fmt: skip
            self._ends = own + size, around + size * has_finer, flags + math.prod(blocks)
        most, most_flags = self._largest
        self._largest = max(most, size), max(most_flags, math.prod(blocks))
        return found

    def add_levels(
        self, plan: TransformPlan, levels: range, above: _Above, tile: Tile | None
    ) -> BandTable:
        """Add levels, the coarsest first, or a tile's parts of them; return the table."""
        for level in reversed(levels):
            kind = 8 * min(level, _LEVEL_CLASSES - 1)
            rows = self.add(kind, _parts(plan, level, tile), above, has_finer=level > 0)
            above = _Above(rows=rows, shift=_halved(plan, level))
        return BandTable(
            rows=np.array(self._rows, np.int64).reshape(-1, COLUMNS),
            sizes=self._ends,
            largest=self._largest,
            finest=above.rows,
        )


def _halved(plan: TransformPlan, level: int) -> tuple[int, ...]:
    return tuple(plan.splits[level] >> k & 1 for k in range(AXES))


@lru_cache(maxsize=256)
def coarse_table(plan: TransformPlan, finest: int) -> BandTable:
    """Return the table of the first segment: the low-pass band, and levels down to ``finest``."""
    rows, nothing, low = _Rows(plan), _Above(rows={}), plan.shapes[-1]
    place = 0, low[2], low[1] * low[2]
    rows.add(_LOW_CLASS, {LOW_PASS: (place, low)}, nothing, has_finer=False)
    return rows.add_levels(plan, range(finest, len(plan.splits)), nothing, None)


@lru_cache(maxsize=256)
def tile_table(plan: TransformPlan, tile: Tile, finest: int = 0) -> BandTable:
    """Return the table of a tile's segment; its coarsest level comes after the first segment's."""
    coarse = len(tile)
    above = _Above(
        rows=coarse_table(plan, coarse).finest,
        is_far=True,
        origin=[first for first, _ in tile[-1]],
        shift=_halved(plan, coarse) if coarse < len(plan.splits) else _FAR,
    )
    return _Rows(plan).add_levels(plan, range(finest, coarse), above, tile)


def _parts(plan: TransformPlan, level: int, tile: Tile | None) -> dict[int, tuple[Place, Shape]]:
    """Return the place among all, and the shape, of each band of a level or of a tile of it."""
    found = {}
    for direction, (at, shape) in band_places(plan, level).items():
        window = tile[level] if tile is not None else tuple((0, n) for n in shape)
        (z, _), (y, _), (x, _) = window
        row, plane = shape[2], shape[1] * shape[2]
        a, b, c = _lengths(window, shape)
        found[direction] = (at + z * plane + y * row + x, row, plane), (a, b, c)
    return found


def _lengths(window: Iterable[tuple[int, int]], shape: Shape) -> Iterable[int]:
    """Return how many places of a band a window has; a band may be one place short of it."""
    return (min(b, n) - a for (a, b), n in zip(window, shape, strict=True))
