"""Voxels of the TREE section: the tree evaluated, and the faces of its leaves made smooth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import numpy as np

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.tree import faces
from tinc_codec.tree.network import Tree

if TYPE_CHECKING:
    from tinc_codec.stream.residual.axes import Shape, Window

Evaluate = Callable[[Sequence[Int64Array]], Float32Array]
Values = Callable[[], Float32Array]
Begin = Callable[[Sequence[Int64Array]], AbstractContextManager[Values]]

# Voxels evaluated at once for single voxels near faces, which take up to five along each axis.
_PIECE = 1 << 16


@contextmanager
def begin_grid(tree: Tree, axes: Sequence[Int64Array | range], begin: Begin) -> Iterator[Values]:
    """Let other threads begin to evaluate a tree, the faces of its leaves made smooth.

    Yields what does the rest, and gives the values.

    Parameters
    ----------
    tree : Tree
        Its structure, and whether faces are to be made smooth.
    axes : one int64 array or range per axis
        Voxel indices: the values are of their outer product.
    begin : callable
        An engine's ``begin_grid``, of this tree.
    """
    from tinc_codec.engines.cpu.faces import smooth

    plans = faces.plans(tree.geometry, tree.smoothing, axes)
    with begin([plan.index for plan in plans]) as finish:
        yield lambda: smooth(finish(), plans)


@contextmanager
def begin_low_pass(tree: Tree, begin: Begin, shape: Shape, window: Window) -> Iterator[Values]:
    """Let other threads begin a window of the low-pass band that a tree is of.

    Yields what does the rest, and gives the window.

    Parameters
    ----------
    tree : Tree
        Structure and smoothing.
    begin : callable
        An engine's ``begin_grid``, of this tree.
    shape : tuple of int
        Of the band, along three axes.
    window : three (first, last)
        Which part of it.
    """
    axes = [range(*span) for span, n in zip(window, shape, strict=True) if n > 1]
    with begin_grid(tree, axes, begin) as finish:
        yield lambda: finish().reshape([last - first for first, last in window])


def made_smooth(tree: Tree, values: Float32Array) -> Float32Array:
    """Return what a tree says of its whole box, the faces of its leaves made smooth, in place."""
    from tinc_codec.engines.cpu.faces import smooth

    whole = [range(n) for n in tree.geometry.shape]
    return smooth(values, faces.plans(tree.geometry, tree.smoothing, whole))


def point_values(tree: Tree, points: Sequence[Int64Array], evaluate: Evaluate) -> Float32Array:
    """Return single voxels of a tree, the faces of its leaves made smooth if it says so.

    Those near a face are evaluated together with the stencil of that face.

    Parameters
    ----------
    tree : Tree
        Its structure.
    points : one (n,) int64 array per axis
        Voxel indices.
    evaluate : callable
        An engine's ``evaluate_points``, of this tree.
    """
    if tree.smoothing is None:
        return evaluate(points)
    geometry, smoothing = tree.geometry, tree.smoothing
    index = [np.asarray(p, np.int64) for p in points]
    found = [faces.corrections(geometry, smoothing, axis, p) for axis, p in enumerate(index)]
    near = sum((face >= 0) << axis for axis, (face, _) in enumerate(found))
    out = np.empty(len(index[0]), np.float32)
    for kind in np.unique(near):
        alike = np.flatnonzero(near == kind)
        step = max(1, _PIECE // 5 ** int(kind).bit_count())
        for at in range(0, len(alike), step):
            some = alike[at : at + step]
            out[some] = _alike(
                [p[some] for p in index], [(face[some], part[some]) for face, part in found],
                evaluate,
            )  # fmt: skip
    return out


def _alike(
    points: Sequence[Int64Array],
    found: Sequence[tuple[Int64Array, Float32Array]],
    evaluate: Evaluate,
) -> Float32Array:
    """Return voxels that are all corrected along the same axes."""
    columns = [
        p[:, None] if face[0] < 0 else np.column_stack([p, face[:, None] + faces.STENCIL])
        for p, (face, _) in zip(points, found, strict=True)
    ]
    size = [len(points[0]), *(column.shape[1] for column in columns)]
    spread = []
    for axis, column in enumerate(columns):
        shape = [1] * len(size)
        shape[0], shape[axis + 1] = column.shape
        spread.append(np.broadcast_to(column.reshape(shape), size).reshape(-1))
    values = evaluate(spread).reshape(size)
    for _, factor in found:
        if values.shape[1] == 1:
            values = values[:, 0]
            continue
        own, a, b, c, d = np.moveaxis(values, 1, 0)
        excess = (c - b) - np.float32(0.5) * ((b - a) + (d - c))
        values = own + factor.reshape(-1, *[1] * (excess.ndim - 1)) * excess
    return values
