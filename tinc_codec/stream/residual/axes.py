"""The axes of a box that are longer than one voxel, made three: z, y and x."""

from __future__ import annotations

import math
from collections.abc import Sequence

AXES = 3
Shape = tuple[int, int, int]
# Voxels or samples first to last (exclusive) along each axis.
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def three_axes(shape: Sequence[int]) -> Shape:
    """Return a shape of 1 to 4 axes as one of three: of four, the first two become one."""
    lengths = [math.prod(shape[: len(shape) - 2]), *shape[-2:]] if len(shape) > AXES else shape
    a, b, c = (1,) * (AXES - len(lengths)) + tuple(lengths)
    return a, b, c
