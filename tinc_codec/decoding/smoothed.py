"""Voxels of the TREE section: the tree evaluated, and the faces of its leaves made smooth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.tree import faces
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree

if TYPE_CHECKING:
    from tinc_codec.stream.residual.axes import Shape, Window

Evaluate = Callable[[Sequence[Int64Array]], Float32Array]

# Voxels evaluated at once for single voxels near faces, which take up to five along each axis.
_PIECE = 1 << 16


def tree_values(
    tree: Tree, axes: Sequence[Int64Array], evaluate: Evaluate, *, pointwise: bool
) -> Float32Array:
    """Return voxels of a tree, the faces of its leaves made smooth if it says so.

    Parameters
    ----------
    tree : Tree
        Its structure.
    axes : one int64 array per axis
        Voxel indices.
    evaluate : callable
        An engine's ``evaluate_points`` (pointwise) or ``evaluate_grid``, of this tree.
    pointwise : bool
        As in :class:`tinc_codec.decoding.selection.Selection`.
    """
    if tree.smoothing is None:
        return evaluate(axes)
    if pointwise:
        return _points(tree.geometry, tree.smoothing, axes, evaluate)
    from tinc_codec.engines.cpu.faces import smooth

    plans = faces.plans(tree.geometry, tree.smoothing, axes)
    return smooth(evaluate([plan.index for plan in plans]), plans)


def low_pass_values(tree: Tree, evaluate: Evaluate, shape: Shape, window: Window) -> Float32Array:
    """Return a window of the low-pass band, of a shape of three axes, that a tree is of.

    Parameters
    ----------
    tree : Tree
        Structure and smoothing.
    evaluate : callable
        An engine's ``evaluate_grid``, of this tree.
    shape : tuple of int
        Of the band.
    window : three (first, last)
        Which part of it.
    """
    axes = [np.arange(*span) for span, n in zip(window, shape, strict=True) if n > 1]
    values = tree_values(tree, axes, evaluate, pointwise=False)
    return values.reshape([last - first for first, last in window])


def _points(
    geometry: Geometry, smoothing: Smoothing, points: Sequence[Int64Array], evaluate: Evaluate
) -> Float32Array:
    """Return single voxels, those near a face evaluated together with the stencil of that face."""
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
