"""Where the finest levels of a transform are cut into tiles, and how the header says so."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from tinc_codec.errors import CorruptPayload
from tinc_codec.stream.residual.axes import AXES, Window
from tinc_codec.stream.residual.wavelets.contexts import BLOCK
from tinc_codec.stream.residual.wavelets.wavelet import TransformPlan
from tinc_codec.stream.wire import Reader

# An axis is cut only where both parts have a block at least.
LEAST_CUT = 8
# The byte of cuts: axes, then how many levels more than one, then whether places are given.
MOST_CUT_LEVELS = 8
PLACES_GIVEN = MOST_CUT_LEVELS << AXES

# Windows of a tile in the low-pass bands of the levels that are cut, finest first.
Tile = tuple[Window, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Where the finest levels are cut into tiles.

    Attributes
    ----------
    levels : int
        How many levels are cut, up to MOST_CUT_LEVELS; 0: there are no tiles.
    at : (3,) tuple of int
        The first block of the second part along each axis, in the low-pass band of the coarsest
        level that is cut; 0: that axis is not.
    """

    levels: int
    at: tuple[int, int, int]

    @property
    def axes(self) -> int:
        """Return the axes that are cut as bits."""
        return sum(1 << k for k, block in enumerate(self.at) if block)

    def tiles(self, plan: TransformPlan) -> list[Tile]:
        """Return the tiles of a plan, in the order of their segments."""
        if not self.levels:
            return []
        parts = []
        for n, block in zip(plan.shapes[self.levels], self.at, strict=True):
            place = BLOCK * block
            parts.append([(0, place), (place, n)] if block else [(0, n)])
        return [self._finer((a, b, c), plan) for a, b, c in product(*parts)]

    def _finer(self, window: Window, plan: TransformPlan) -> Tile:
        """Return the windows of a tile, given the coarsest of them."""
        windows = [window]
        for level in range(self.levels - 1, 0, -1):
            a, b, c = (
                (2 * first, min(2 * last, n)) if plan.splits[level] >> k & 1 else (first, last)
                for k, ((first, last), n) in enumerate(
                    zip(windows[0], plan.shapes[level], strict=True)
                )
            )
            windows.insert(0, (a, b, c))
        return tuple(windows)


NO_CUTS = Cuts(levels=0, at=(0, 0, 0))


def in_the_middle(axes: int, levels: int, plan: TransformPlan) -> Cuts:
    """Return the cuts of a plan's finest levels in the middle of axes, given as bits."""
    a, b, c = (
        math.ceil(n / (2 * BLOCK)) if axes >> k & 1 else 0
        for k, n in enumerate(plan.shapes[levels])
    )
    return Cuts(levels=levels, at=(a, b, c))


def to_byte(cuts: Cuts, plan: TransformPlan) -> int:
    """Return the byte of the header that tells of the cuts of a plan."""
    if not cuts.levels:
        return 0
    given = cuts != in_the_middle(cuts.axes, cuts.levels, plan)
    return cuts.axes | (cuts.levels - 1) << AXES | given * PLACES_GIVEN


def from_byte(byte: int, plan: TransformPlan, reader: Reader) -> Cuts:
    """Return the cuts that a byte of the header stands for, with the places that follow it.

    Raises
    ------
    CorruptPayload
        If the plan has no such cuts.
    TruncatedPayload
        If the data end before the places do.
    """
    if byte == 0:
        return NO_CUTS
    axes, levels = byte & (1 << AXES) - 1, (byte >> AXES) % MOST_CUT_LEVELS + 1
    lengths = plan.shapes[levels] if levels < len(plan.shapes) else (0,) * AXES
    if (
        not axes
        or byte >= 2 * PLACES_GIVEN
        or any(axes >> k & 1 and n < LEAST_CUT for k, n in enumerate(lengths))
    ):
        raise CorruptPayload(f"WAVELET section: cuts {byte:#04x} do not fit bands of {lengths}")
    if not byte & PLACES_GIVEN:
        return in_the_middle(axes, levels, plan)
    a, b, c = (reader.varint() if axes >> k & 1 else 0 for k in range(AXES))
    for k, (block, n) in enumerate(zip((a, b, c), lengths, strict=True)):
        if axes >> k & 1 and not 0 < BLOCK * block < n:
            raise CorruptPayload(f"WAVELET section: no cut of {n} places at block {block}")
    cuts = Cuts(levels=levels, at=(a, b, c))
    if cuts == in_the_middle(axes, levels, plan):
        raise CorruptPayload("WAVELET section: cuts in the middle need no places")
    return cuts
