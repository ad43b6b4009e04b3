"""Which axes of a volume's transform are halved how early.

Voxels are rarely cubes, and what is smooth along one axis may be rough along another. What a volume
costs in a plan, squared error plus price of the bits, is foretold from the magnitudes of its
coefficients: from plan to plan within some 2 % of what coding finds.
"""

from __future__ import annotations

import itertools

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.fit.residual import Residual
from tinc_codec.parallel import Run
from tinc_codec.stream.residual.axes import AXES
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.threads import each

# Share of the cost that a move has to save, and how many moves are made at most.
_GAIN, _ROUNDS = 0.004, 3
# Plans whose costs differ by less are taken for alike, so many of them at most: coding tells.
_ALIKE, _MOST_ALIKE = 0.01, 3
# Axes are halved, for a part that stands for a volume, while this many samples are left.
_LEAST_SIDE = 32
# Of the lines of a part every so many are looked at, along either axis.
_STRIDE = 4


def choose_plan(rest: Residual, step: float, whole: Quantized) -> tuple[Residual, Quantized]:
    """Return a volume in the plan that does best at a step, and its coding there without cuts.

    Parameters
    ----------
    rest : Residual
        In the plan to begin with.
    step : float
        In normalised units.
    whole : Quantized
        Its coding at that step without cuts.
    """
    if rest.starts is None:
        return rest, whole
    first, least = rest, rest.cost(whole, step)
    # One by one, and none kept that is not the best: they take a lot of memory.
    for starts in _cheapest(rest, rest.starts, step, map):
        if starts != first.starts:
            moved = first.starting_at(starts)
            coded = moved.whole(step)
            assert coded is not None
            cost = moved.cost(coded, step)
            if cost < least:
                least, rest, whole = cost, moved, coded
            del moved, coded
    return rest, whole


def plan_by_rule(rest: Residual, step: float) -> Residual:
    """Return a volume in the plan that does best at a step for the part where most happens.

    The part is half as long along each axis; nothing is coded.
    """
    if rest.starts is None:
        return rest
    where = _liveliest(rest.values)
    weight = None if rest.weight is None else rest.weight[where]
    part = Residual.of(rest.values[where], weight).at_price(rest.price)
    starts = _cheapest(part, rest.starts, step, each)[0]
    return rest if starts == rest.starts else rest.starting_at(starts)


def _cheapest(
    rest: Residual, starts: tuple[int, ...], step: float, run: Run
) -> list[tuple[int, ...]]:
    """Return the plan that is found by moving axes while the cost foretold falls by enough.

    After it a few others that hardly differ, the least cost first.
    """

    def cost(starts: tuple[int, ...]) -> float:
        return rest.starting_at(starts).transform.magnitudes.cost(step, rest.price)

    known = {starts: rest.transform.magnitudes.cost(step, rest.price)}
    for _ in range(_ROUNDS):
        near = [other for other in _neighbours(starts) if other not in known]
        known.update(zip(near, run(cost, near), strict=True))
        nearest = min(near, key=known.__getitem__, default=starts)
        if known[nearest] >= known[starts] * (1 - _GAIN):
            break
        starts = nearest
    most = known[starts] * (1 + _ALIKE)
    alike = sorted((cost, other) for other, cost in known.items() if other != starts)
    return [starts, *(other for cost, other in alike if cost < most)][:_MOST_ALIKE]


def _neighbours(starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return plans with one axis halved later, or the other two."""
    found = []
    for k in range(AXES):
        for later in ((k,), tuple(j for j in range(AXES) if j != k)):
            moved = tuple(s + (j in later) for j, s in enumerate(starts))
            found.append(tuple(s - min(moved) for s in moved))
    return [s for s in dict.fromkeys(found) if s != starts]


def _liveliest(values: Float32Array) -> tuple[slice, ...]:
    """Return the part of a volume, half as long along each axis, in which lines vary most."""

    def halves(n: int) -> list[slice]:
        side = max(-(-n // 2), min(n, _LEAST_SIDE))
        return [slice(0, side), slice(n - side, n)] if side < n else [slice(0, n)]

    def variation(part: tuple[slice, ...]) -> float:
        lines = values[part][::_STRIDE, ::_STRIDE]
        return float(np.abs(np.diff(lines)).sum(dtype=np.float64))

    return max(itertools.product(*map(halves, values.shape)), key=variation)
