"""Where the nodes are: boxes of a 2^N-tree over the fitted voxels, in canonical order.

Level 0 is the root, the whole box. Between two levels some axes are halved (at most all), so a
node has ``2**k`` children. Nodes of a level are numbered ``parent * 2**k + child``; the bits of
``child`` say upper (1) or lower (0) half, the first halved axis in the most significant bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from tinc_codec.array_types import Float64Array, Int64Array

MAX_AXES = 4
MAX_LEVELS = 6
MIN_BLOCK = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Shape of the tree in space.

    Attributes
    ----------
    shape : tuple of int
        Voxels of the fitted box along its 1 to 4 axes, each longer than one voxel.
    splits : tuple of tuple of int
        For each level below the root, the axes halved on the way to it, increasing, at least one.
    coordinates : "global" or "block"
        Coordinates run over [-1, 1] along the fitted box, or along each leaf's own block.
    """

    shape: tuple[int, ...]
    splits: tuple[tuple[int, ...], ...]
    coordinates: Literal["global", "block"]

    @property
    def levels(self) -> int:
        """Number of levels, the root included."""
        return len(self.splits) + 1

    @property
    def node_counts(self) -> tuple[int, ...]:
        """Nodes of each level."""
        counts = [1]
        for axes in self.splits:
            counts.append(counts[-1] << len(axes))
        return tuple(counts)


def choose_splits(shape: Sequence[int], levels: int) -> tuple[tuple[int, ...], ...]:
    """Return the axes to halve at each level; fewer levels where no axis can be halved.

    An axis is halved while its blocks keep at least ``MIN_BLOCK`` voxels and are not shorter
    than half the longest block side, so that short axes stay whole and blocks stay compact.

    Parameters
    ----------
    shape : sequence of int
        Voxels along each axis.
    levels : int
        Levels wanted.
    """
    sides = list(shape)
    splits = []
    for _ in range(levels - 1):
        longest = max(sides)
        axes = tuple(
            axis
            for axis, side in enumerate(sides)
            if side // 2 >= MIN_BLOCK and 2 * side >= longest
        )
        if not axes:
            break
        for axis in axes:
            sides[axis] //= 2
        splits.append(axes)
    return tuple(splits)


@lru_cache(maxsize=16)  # a tree is asked for them a dozen times when it is decoded
def boxes(geometry: Geometry) -> tuple[tuple[Int64Array, Int64Array], ...]:
    """Return (start, stop) voxel indices of every node's box, a pair of (nodes, axes) per level.

    The lower half of an axis of length n has ``(n + 1) // 2`` voxels. Not to be written to.
    """
    start = np.zeros((1, len(geometry.shape)), np.int64)
    stop = np.array([geometry.shape], np.int64)
    out = [(start, stop)]
    for axes in geometry.splits:
        for axis in axes:
            middle = (start[:, axis] + stop[:, axis] + 1) // 2
            start, stop = np.repeat(start, 2, axis=0), np.repeat(stop, 2, axis=0)
            stop[0::2, axis] = middle
            start[1::2, axis] = middle
        out.append((start, stop))
    return tuple(out)


def leaf_affine(geometry: Geometry) -> tuple[Float64Array, Float64Array]:
    """Return (scale, offset), each (leaves, axes): coordinate = scale * voxel index + offset.

    The first and last voxel of the box (or of the leaf's block) lie at -1 and 1; a side of one
    voxel lies at 0. Paper sec. 3.1 and 5.1 for the box; the released code for the block.
    """
    start, stop = boxes(geometry)[-1]
    if geometry.coordinates == "global":
        start, stop = np.zeros_like(start), np.broadcast_to(geometry.shape, stop.shape)
    side = (stop - start).astype(np.float64)
    scale = np.divide(2.0, side - 1, out=np.zeros_like(side), where=side > 1)
    offset = np.where(side > 1, -1.0 - scale * start, 0.0)
    return scale, offset


def coordinate_leaders(geometry: Geometry) -> Int64Array:
    """Return, for each leaf, the first leaf whose voxels have the same coordinates, (leaves,).

    With block coordinates that is the first leaf with the same sides, else the leaf itself. A
    node's features are then the same in all leaves with one leader, and need evaluating once.
    """
    start, stop = boxes(geometry)[-1]
    if geometry.coordinates == "global":
        return np.arange(len(start))
    _, first, group = np.unique(stop - start, axis=0, return_index=True, return_inverse=True)
    leaders: Int64Array = first[group.reshape(-1)]
    return leaders


def leaf_of(geometry: Geometry, index: Int64Array) -> Int64Array:
    """Return the leaf that holds each voxel, (axes, n) indices to (n,)."""
    start = np.zeros_like(index)
    stop = np.zeros_like(index) + np.array(geometry.shape)[:, None]
    node = np.zeros(index.shape[1], np.int64)
    for axes in geometry.splits:
        for axis in axes:
            middle = (start[axis] + stop[axis] + 1) // 2
            upper = index[axis] >= middle
            start[axis] = np.where(upper, middle, start[axis])
            stop[axis] = np.where(upper, stop[axis], middle)
            node = 2 * node + upper
    return node
