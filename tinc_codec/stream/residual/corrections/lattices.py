"""In which order the elements of a slab are coded, and from which neighbours each is predicted.

Three modes: nothing is predicted, for fields that are nearly all within the bound of 0 (what a good
approximation leaves); each element is predicted from those before it; coarse lattices first, finer
ones interpolated. FORMAT.md has it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.stream.residual.axes import AXES

Offsets = tuple[tuple[int, int, int], ...]

SPARSE, CAUSAL, INTERPOLATED = 0, 1, 2
MOST_LEVELS = 5

# Neighbours of an element, nearest first, in units of the lattice.
BEFORE: Offsets = (
    (0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, -1, -1), (0, -1, 1), (-1, 0, -1), (-1, 0, 1),
    (-1, -1, 0), (-1, 1, 0), (0, 0, -2), (0, -2, 0), (-2, 0, 0), (-1, -1, -1), (-1, -1, 1),
    (-1, 1, -1), (-1, 1, 1), (0, -1, -2), (0, -1, 2),
)  # fmt: skip
# Of one that is interpolated along z; y; x.
BETWEEN: tuple[Offsets, ...] = (
    (
        (-1, 0, 0), (1, 0, 0), (0, 0, -2), (0, -2, 0), (-1, 0, -2), (-1, 0, 2), (1, 0, -2),
        (1, 0, 2), (-1, -2, 0), (-1, 2, 0), (1, -2, 0), (1, 2, 0), (-3, 0, 0), (3, 0, 0),
        (-2, 0, 0), (0, -2, -2), (0, -2, 2),
    ),
    (
        (0, -1, 0), (0, 1, 0), (-1, 0, 0), (0, 0, -2), (0, -1, -2), (0, -1, 2), (0, 1, -2),
        (0, 1, 2), (-1, -1, 0), (-1, 1, 0), (1, -1, 0), (1, 1, 0), (0, -3, 0), (0, 3, 0),
        (0, -2, 0), (-1, 0, -2), (-1, 0, 2),
    ),
    (
        (0, 0, -1), (0, 0, 1), (0, -1, 0), (-1, 0, 0), (0, -1, -1), (0, -1, 1), (-1, 0, -1),
        (-1, 0, 1), (0, 1, -1), (0, 1, 1), (1, 0, -1), (1, 0, 1), (0, 0, -3), (0, 0, 3),
        (0, 0, -2), (-1, -1, 0), (-1, 1, 0),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """Elements that are coded in one go.

    Attributes
    ----------
    first, stride : (3,) int64
        Where they are.
    neighbours : (n, 3) int64
        Of each of them.
    fitted : int
        Number of its set of weights; -1: all are 0.
    """

    first: Int64Array
    stride: Int64Array
    neighbours: Int64Array
    fitted: int


def _lattice(
    first: Sequence[int], stride: Sequence[int], near: Offsets, unit: int, fitted: int
) -> Lattice:
    return Lattice(
        first=np.array(first, np.int64) * unit, stride=np.array(stride, np.int64) * unit,
        neighbours=np.array(near, np.int64) * unit, fitted=fitted,
    )  # fmt: skip


def lattices(mode: int, shape: Sequence[int]) -> list[Lattice]:
    """Return the lattices of a slab in coding order."""
    if mode == CAUSAL:
        return [_lattice((0, 0, 0), (1, 1, 1), BEFORE, 1, 0)]
    levels = 0
    while levels < MOST_LEVELS and 2 << levels < max(shape):
        levels += 1
    found = [_lattice((0, 0, 0), (1, 1, 1), BEFORE, 1 << levels, -1)]
    for level in reversed(range(levels)):
        coarse = AXES if level else 0
        for axis in range(AXES):
            first = [int(k == axis) for k in range(AXES)]
            stride = [1 if k < axis else 2 for k in range(AXES)]
            found.append(_lattice(first, stride, BETWEEN[axis], 1 << level, coarse + axis))
    return found


def set_sizes(mode: int) -> list[int]:
    """Return how many weights each set of a mode has."""
    if mode == SPARSE:
        return []
    return [len(BEFORE) - 1] if mode == CAUSAL else [len(BETWEEN[0]) - 1] * (2 * AXES)
