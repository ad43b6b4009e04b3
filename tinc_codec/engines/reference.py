"""The oracle: the tree evaluated in float64 by numpy, leaf by leaf, as plainly as it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.tree.geometry import boxes, leaf_affine
from tinc_codec.tree.network import Layout, Tree, layout


def forward(
    table: Layout, path: Int64Array, parameters: Float64Array, x: Float64Array
) -> Float64Array:
    """Return the outputs (points,) of one leaf's network for coordinates x (axes, points)."""
    for layer in path:
        n_in, n_out = table.n_in[layer], table.n_out[layer]
        weight_at, bias_at = table.weight_at[layer], table.bias_at[layer]
        weight = parameters[weight_at : weight_at + n_in * n_out].reshape(n_out, n_in)
        x = weight @ x + parameters[bias_at : bias_at + n_out, None]
        if layer != path[-1]:
            x = np.sin(x)
    output: Float64Array = x[0]
    return output


def evaluate_points(
    tree: Tree,
    parameters: Float32Array,
    points: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree at single voxels.

    Parameters
    ----------
    tree : Tree
        Its structure.
    parameters : (size,) float32
        Weights and biases.
    points : one (n,) int64 array per axis
        Voxel indices within the fitted box.
    steps : (groups,) float32, optional
        What the parameters of each group are multiples of, where they are; for engines that
        multiply integers faster.

    Returns
    -------
    (n,) float32
        Network outputs, normalised units.
    """
    table = layout(tree)
    weights = np.asarray(parameters, np.float64)
    start, stop = boxes(tree.geometry)[-1]
    scale, offset = leaf_affine(tree.geometry)
    index = np.stack([np.asarray(p, np.int64) for p in points], axis=1)
    out = np.zeros(len(index), np.float32)
    for leaf, path in enumerate(table.paths):
        inside = ((index >= start[leaf]) & (index < stop[leaf])).all(axis=1)
        if inside.any():
            x = (index[inside] * scale[leaf] + offset[leaf]).T
            out[inside] = forward(table, path, weights, x)
    return out


def evaluate_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree on the outer product of voxel indices.

    Parameters
    ----------
    tree, parameters
        As in :func:`evaluate_points`.
    axes : one (n_a,) int64 array per axis
        Voxel indices along each axis, any order, repeats allowed.
    steps
        As in :func:`evaluate_points`.

    Returns
    -------
    (n_0, n_1, ...) float32
        Network outputs, normalised units.
    """
    mesh = np.meshgrid(*axes, indexing="ij")
    return evaluate_points(tree, parameters, [m.ravel() for m in mesh]).reshape(mesh[0].shape)


@contextmanager
def begin_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Iterator[Callable[[], Float32Array]]:
    """Yield what evaluates the tree on an outer product; nothing is done before it is called."""
    yield partial(evaluate_grid, tree, parameters, axes, steps)
