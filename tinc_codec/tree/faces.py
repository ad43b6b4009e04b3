"""Faces between leaves, and which voxels near them are corrected by how much.

Leaves say their own values, so that a tree may jump where two of them meet. Along an axis, let
a, b | c, d be the values of the two voxels before a face and of the two after it. The face is
expected to step by the mean of the steps beside it; what it jumps beyond that is its excess,
``(c - b) - ((b - a) + (d - c)) / 2``. A part of the excess, the strength, is taken back: half of
it on each side at the face, and linearly less up to the reach, as filters against blocking do
(HEVC: Norkin et al., IEEE TCSVT 22, 2012). Since all leaves of an axis are halved alike, a face
runs through the whole box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.tree.geometry import Geometry

MAX_REACH = 255
MAX_STRENGTH = 16
# Voxels that a correction is made of: two before the face and two after it.
STENCIL = np.arange(-2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Smoothing:
    """How faces are made smooth.

    Attributes
    ----------
    reach : int
        Voxels corrected on each side of a face, 1 to 255; at most half of a leaf.
    strength : int
        Sixteenths of the excess that are taken back, 1 to 16.
    """

    reach: int
    strength: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPlan:
    """What to evaluate along an axis, and what to correct there.

    Attributes
    ----------
    index : int64 array
        Voxels to evaluate: those asked for and, where any of them is corrected, the stencils of
        its face.
    firsts : (faces,) int64
        For each face, the place in ``index`` of the first voxel of its stencil.
    rows, faces : (n,) int64
        Places in ``index`` of the voxels to correct, and the faces they are corrected by.
    factors : (n,) float32
        Of the faces' excess, to be added.
    asked : int64 array
        Places in ``index`` of the voxels asked for.
    """

    index: Int64Array
    firsts: Int64Array
    rows: Int64Array
    faces: Int64Array
    factors: Float32Array
    asked: Int64Array


def edges(geometry: Geometry, axis: int) -> Int64Array:
    """Return where the leaves' boxes start and end along an axis, increasing."""
    found = np.array([0, geometry.shape[axis]], np.int64)
    for axes in geometry.splits:
        if axis in axes:
            middles = (found[:-1] + found[1:] + 1) // 2
            found = np.sort(np.concatenate([found, middles]))
    return found


def corrections(
    geometry: Geometry, smoothing: Smoothing, axis: int, index: Int64Array
) -> tuple[Int64Array, Float32Array]:
    """Return by which faces voxels along an axis are corrected, and by what part of the excess.

    Parameters
    ----------
    geometry : Geometry
        Of the tree.
    smoothing : Smoothing
        Reach and strength.
    axis : int
        The axis.
    index : (n,) int64
        Voxels.

    Returns
    -------
    face : (n,) int64
        The first voxel after the face; -1 where a voxel is not corrected.
    factor : (n,) float32
        The k-th voxel beside a face, from 0, takes strength * (r - k) / 32r of the excess, r being
        the reach in its leaf: added before the face, subtracted after it.
    """
    bounds = edges(geometry, axis)
    leaf = np.searchsorted(bounds, index, "right") - 1
    sides = np.diff(bounds)
    lower, upper = index - bounds[leaf], bounds[leaf + 1] - 1 - index
    is_lower = lower < upper  # nearer to the face that the leaf starts at
    k = np.minimum(lower, upper)
    r = np.minimum(sides // 2, smoothing.reach)[leaf]
    other = np.where(is_lower, leaf - 1, leaf + 1)
    inside = (other >= 0) & (other < len(sides))
    thick = (sides[leaf] > 1) & (sides[np.where(inside, other, 0)] > 1)
    near = inside & thick & (k < r)
    face = np.where(near, bounds[np.where(is_lower, leaf, leaf + 1)], -1)
    whole = np.maximum(2 * MAX_STRENGTH * r, 1)
    part = (smoothing.strength * (r - k)).astype(np.float32) / whole.astype(np.float32)
    return face, np.where(near, np.where(is_lower, -part, part), np.float32(0))


@lru_cache(maxsize=64)
def _plan_of_range(
    geometry: Geometry, smoothing: Smoothing | None, axis: int, asked: range
) -> AxisPlan:
    """As :func:`plan`, of a range; its arrays are not to be written to."""
    return plan(geometry, smoothing, axis, np.arange(asked.start, asked.stop))


def plan(geometry: Geometry, smoothing: Smoothing | None, axis: int, asked: Int64Array) -> AxisPlan:
    """Return what to evaluate and to correct for voxels along an axis, any order, repeats allowed.

    Where no voxel asked for is near a face, that is they themselves and nothing.
    """
    if smoothing is None:
        return _untouched(asked)
    once = asked if (np.diff(asked) > 0).all() else np.unique(asked)
    beside = _beside(edges(geometry, axis)[1:-1], smoothing.reach, once)
    face, factor = corrections(geometry, smoothing, axis, beside)
    near = face >= 0
    if not near.any():
        return _untouched(asked)
    used, number = np.unique(face[near], return_inverse=True)
    index = _merged(once, np.unique(used[:, None] + STENCIL))
    return AxisPlan(
        index=index,
        firsts=np.searchsorted(index, used - 2),
        rows=np.searchsorted(index, beside[near]),
        faces=number,
        factors=factor[near],
        asked=np.searchsorted(index, asked),
    )


def _beside(at: Int64Array, reach: int, index: Int64Array) -> Int64Array:
    """Return those of some voxels, increasing, that are within reach of a face."""
    starts, stops = (np.searchsorted(index, at + shift).tolist() for shift in (-reach, reach))
    close = [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]
    found: Int64Array = index[np.unique(np.concatenate([np.zeros(0, np.int64), *close]))]
    return found


def _merged(index: Int64Array, more: Int64Array) -> Int64Array:
    """Return the voxels of either list, both increasing."""
    at = np.searchsorted(index, more)
    missing = index[np.minimum(at, len(index) - 1)] != more
    return np.insert(index, at[missing], more[missing])


def _untouched(asked: Int64Array) -> AxisPlan:
    none = np.zeros(0, np.int64)
    return AxisPlan(
        index=asked, firsts=none, rows=none, faces=none, factors=np.zeros(0, np.float32),
        asked=np.arange(len(asked)),
    )  # fmt: skip


def plans(
    geometry: Geometry, smoothing: Smoothing | None, axes: Sequence[Int64Array | range]
) -> list[AxisPlan]:
    """Return the plan of every axis of an outer product of voxel indices, looked up for ranges."""
    return [
        _plan_of_range(geometry, smoothing, axis, asked)
        if isinstance(asked, range)
        else plan(geometry, smoothing, axis, np.asarray(asked, np.int64))
        for axis, asked in enumerate(axes)
    ]
