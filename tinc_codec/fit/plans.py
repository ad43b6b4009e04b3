"""Which axes of a volume's transform are halved how early.

Voxels are rarely cubes, and what is smooth along one axis may be rough along another.
"""

from __future__ import annotations

from tinc_codec.fit.residual import Residual
from tinc_codec.stream.residual.axes import AXES
from tinc_codec.stream.residual.wavelets.segments import Quantized

# Share of the cost that a move has to save, and how many moves are made at most.
_GAIN, _ROUNDS = 0.004, 3


def choose_plan(rest: Residual, step: float, whole: Quantized) -> tuple[Residual, Quantized]:
    """Return a volume in the plan that does best at a step, and its coding there without cuts.

    A few plans are coded, and axes are moved while squared error plus price of the bytes falls.

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
    starts, best = rest.starts, rest.cost(whole, step)
    for _ in range(_ROUNDS):
        least, taken = best * (1 - _GAIN), starts
        for neighbour in _neighbours(starts):
            # One by one, and none kept that is not the best: they take a lot of memory.
            moved = rest.starting_at(neighbour)
            coded = moved.whole(step)
            assert coded is not None
            cost = moved.cost(coded, step)
            if cost < least:
                least, taken, rest, whole = cost, neighbour, moved, coded
            del moved, coded
        if taken == starts:
            break
        best, starts = least, taken
    return rest, whole


def _neighbours(starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return plans with one axis halved later, or the other two."""
    found = []
    for k in range(AXES):
        for later in ((k,), tuple(j for j in range(AXES) if j != k)):
            moved = tuple(s + (j in later) for j, s in enumerate(starts))
            found.append(tuple(s - min(moved) for s in moved))
    return [s for s in dict.fromkeys(found) if s != starts]
