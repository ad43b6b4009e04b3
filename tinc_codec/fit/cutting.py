"""Where the finest levels of a transform are cut in two, for two threads to decode.

How many levels to cut is tried, or told by rule: what is cut loses a little context, and what is
not takes one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinc_codec.compiled import compiled
from tinc_codec.fit.residual import Residual
from tinc_codec.fit.steps import ZERO_BELOW
from tinc_codec.stream.residual.axes import AXES
from tinc_codec.stream.residual.wavelets import tiles
from tinc_codec.stream.residual.wavelets.contexts import BLOCK
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan
from tinc_codec.threads import each

Work = npt.NDArray[np.int64]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# Smaller sections are decoded in a few milliseconds.
_CUT_FROM_BYTES, _CUT_FROM_VOXELS = 6000, 1 << 18
# Share of a section's bytes that decoding all of it on one thread costs: with 0.05 two per cent of
# the bytes are worth 40 per cent of the time.
_TIME_WORTH = 0.05
# A level more is worth trying where it takes this share of the work from one thread.
_LEAST_GAIN = 0.02


def choose_cuts(rest: Residual, step: float, whole: Quantized) -> tuple[Residual, Quantized]:
    """Return a volume with the cuts that do best at a step, decoding time weighed in.

    And its coding there. ``whole`` is that without cuts.
    """
    if not _is_large(rest, len(whole.segments[0])):
        return replace(rest, cuts=NO_CUTS), whole
    best, last, taken = _cost(rest, step, whole), math.inf, whole

    def tried(cuts: Cuts) -> tuple[float, Quantized]:
        coded = rest.quantized(step, cuts)
        assert coded is not None
        return _cost(rest, step, coded), coded

    # Of most levels first, mostly the best: once fewer do no better, still fewer do not.
    for cost, coded in _in_pairs(tried, list(candidates(whole.bands))[::-1]):
        if cost >= last:
            break
        last = cost
        if cost < best:
            best, taken = cost, coded
    return replace(rest, cuts=taken.cuts), taken


def cut_by_rule(rest: Residual, step: float) -> Residual:
    """Return a volume with the cuts of most levels, mostly the best; none if a coding is small.

    Judged by what will not be 0 at a step, without coding anything.
    """
    transform = rest.transform
    size = 2 ** transform.magnitudes.sizes().value(math.log2(step))
    if not _is_large(rest, size):
        return replace(rest, cuts=NO_CUTS)
    room = np.abs(transform.bands.room) >= ZERO_BELOW * step
    cuts = [NO_CUTS, *candidates(Bands(plan=transform.plan, room=room))]
    return replace(rest, cuts=cuts[-1])


def _is_large(rest: Residual, size: float) -> bool:
    """Tell whether a section of so many bytes is worth cutting."""
    return rest.values.size >= _CUT_FROM_VOXELS and size >= _CUT_FROM_BYTES


def _cost(rest: Residual, step: float, coded: Quantized) -> float:
    """Return what a coding costs, two threads' time to decode it included."""
    first, *others = map(len, coded.segments)
    longest = first + max(sum(others) / 2, *others, 0)
    return rest.cost(coded, step) + 8 * rest.price * _TIME_WORTH * longest


def _in_pairs(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield function(item) of each item, two done together: more would take too much memory."""
    for at in range(0, len(items), 2):
        yield from each(function, items[at : at + 2])


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
