"""Where the finest levels of a transform may be cut in two, for two threads to decode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.compiled import compiled
from tinc_codec.stream.residual.axes import AXES
from tinc_codec.stream.residual.wavelets import tiles
from tinc_codec.stream.residual.wavelets.contexts import BLOCK
from tinc_codec.stream.residual.wavelets.tiles import Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan

Work = npt.NDArray[np.int64]

# A level more is worth trying where it takes this share of the work from one thread.
_LEAST_GAIN = 0.02


def candidates(integers: Bands) -> Iterator[Cuts]:
    """Yield cuts into two tiles that are about the same work, of one level, then of more.

    Parameters
    ----------
    integers : Bands of int32 or bool
        Quantised, or whether that is not 0; what is not 0 is taken for the work.
    """
    plan = integers.plan
    works = [_along_axes(list(bands.values())) for bands in integers.levels]
    total = sum(int(work[0].sum()) for work in works) + int(np.count_nonzero(integers.low))
    longest = total
    for levels in range(1, min(len(plan.splits), tiles.MOST_CUT_LEVELS) + 1):
        halves = [_half(axis, levels, plan, works) for axis in range(AXES)]
        larger, axis, block = min(
            (larger, axis, block) for axis, (larger, block) in enumerate(halves)
        )
        in_tiles = sum(int(work[0].sum()) for work in works[:levels])
        if block and longest - (total - in_tiles + larger) > _LEAST_GAIN * total:
            longest = total - in_tiles + larger
            a, b, c = (block if k == axis else 0 for k in range(AXES))
            yield Cuts(levels=levels, at=(a, b, c))


def _along_axes(bands: list[npt.NDArray[Any]]) -> list[Work]:
    """Return how much of the bands of a level is not 0 at each place of each axis."""
    works = [np.zeros(max(b.shape[axis] for b in bands), np.int64) for axis in range(AXES)]
    for band in bands:
        _count(band, *works)
    return works


@compiled()
def _count(band: Any, along_z: Any, along_y: Any, along_x: Any) -> None:
    """Add what of a band is not 0 at each place of each axis."""
    for z in range(band.shape[0]):
        for y in range(band.shape[1]):
            row, count = band[z, y], 0
            for x in range(len(row)):
                there = row[x] != 0
                along_x[x] += there
                count += there
            along_z[z] += count
            along_y[y] += count


def _half(axis: int, levels: int, plan: TransformPlan, works: list[list[Work]]) -> tuple[int, int]:
    """Return the larger work of two parts of an axis, and the block that the second starts at.

    Where the axis is too short to be cut the block is 0.
    """
    length = plan.shapes[levels][axis]
    blocks = np.zeros(-(-length // BLOCK), np.int64)
    for level, work in enumerate(works[:levels]):
        halved = sum(split >> axis & 1 for split in plan.splits[level + 1 : levels])
        places = np.arange(len(work[axis])) >> halved
        np.add.at(blocks, places // BLOCK, work[axis])
    if length < tiles.LEAST_CUT:
        return int(blocks.sum()), 0
    before = np.cumsum(blocks)[:-1]
    larger = np.maximum(before, blocks.sum() - before)
    return int(larger.min()), int(larger.argmin()) + 1
