"""Passes of a tree over tiles of voxels: evaluate, and loss with gradient (numba).

The tables of a tree (see :class:`tinc_codec.tree.network.Layout`) come as plain arrays. Scratch
memory is the caller's, so that nothing is allocated inside a loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinc_codec.engines.cpu.kernels import (
    LANES,
    STRICT,
    add_outer,
    affine,
    multiply,
    sine,
    sine_cosine,
)


@njit(nogil=True, fastmath=STRICT, cache=True)
def _evaluate_path(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, a: Any, b: Any
) -> None:
    """Run one leaf's network on the coordinates in a; the output is the first row of a."""
    last = len(path) - 1
    for k in range(last + 1):
        layer = path[k]
        affine(p, w_at[layer], b_at[layer], n_in[layer], n_out[layer], a, b)
        if k < last:
            sine(n_out[layer], b)
        rows = n_out[layer] * LANES
        for v in range(rows):
            a[v] = b[v]


@njit(nogil=True, fastmath=STRICT, cache=True)
def evaluate_points(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, paths: Any,
    scale: Any, offset: Any, leaf: int, points: Any, where: Any, out: Any, a: Any, b: Any,
) -> None:  # fmt: skip
    """out[where[j]] = network of ``leaf`` at voxel points[:, j], for all j."""
    n = len(where)
    axes = len(points)
    for first in range(0, n, LANES):
        for v in range(LANES):
            j = min(first + v, n - 1)
            for axis in range(axes):
                a[axis * LANES + v] = np.float32(
                    scale[leaf, axis] * points[axis, j] + offset[leaf, axis]
                )
        _evaluate_path(p, n_in, n_out, w_at, b_at, paths[leaf], a, b)
        for v in range(min(LANES, n - first)):
            out[where[first + v]] = a[v]


@njit(nogil=True, fastmath=STRICT, cache=True)
def evaluate_grid(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, paths: Any,
    scale: Any, offset: Any, leaf: int, index: Any, place: Any, first_at: Any, counts: Any,
    tile_start: int, tile_stop: int, out: Any, a: Any, b: Any,
) -> None:  # fmt: skip
    """Evaluate tiles [tile_start, tile_stop) of the outer product of a leaf's voxel indices.

    Axis ``k`` has ``counts[k]`` voxels, ``index[first_at[k]:]``, whose place in the flat output
    (times that axis's stride) is ``place[first_at[k]:]``.
    """
    axes = len(counts)
    n = 1
    for axis in range(axes):
        n *= counts[axis]
    where = np.empty(LANES, np.int64)
    for tile in range(tile_start, tile_stop):
        first = tile * LANES
        for v in range(LANES):
            rest = min(first + v, n - 1)
            at = 0
            for axis in range(axes - 1, -1, -1):
                j = first_at[axis] + rest % counts[axis]
                rest //= counts[axis]
                a[axis * LANES + v] = np.float32(scale[leaf, axis] * index[j] + offset[leaf, axis])
                at += place[j]
            where[v] = at
        _evaluate_path(p, n_in, n_out, w_at, b_at, paths[leaf], a, b)
        for v in range(min(LANES, n - first)):
            out[where[v]] = a[v]


@njit(nogil=True, cache=True)
def _hash(a: Any, b: Any) -> Any:
    """Mix two integers to 32 pseudo-random bits (splitmix64 finaliser)."""
    z = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)


@njit(nogil=True, fastmath=STRICT, cache=True)
def _sample(
    start: Any, stop: Any, scale: Any, offset: Any, strides: Any, leaf: int, key: Any, first: int,
    x: Any, where: Any,
) -> None:  # fmt: skip
    """Draw LANES voxels of a leaf's block, with replacement: coordinates and flat indices."""
    axes = len(strides)
    n = 1
    for axis in range(axes):
        n *= stop[leaf, axis] - start[leaf, axis]
    for v in range(LANES):
        bits = _hash(key, first + v)
        rest = np.int64((bits * np.uint64(n)) >> np.uint64(32))
        at = 0
        for axis in range(axes - 1, -1, -1):
            side = stop[leaf, axis] - start[leaf, axis]
            i = start[leaf, axis] + rest % side
            rest //= side
            x[axis * LANES + v] = np.float32(scale[leaf, axis] * i + offset[leaf, axis])
            at += i * strides[axis]
        where[v] = at


@njit(nogil=True, fastmath=STRICT, cache=True)
def _forward(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, row: Any, x: Any, c: Any
) -> None:
    """Run a path, keeping each layer's input rows in x and cosines in c, from row[k] on."""
    last = len(path) - 1
    for k in range(last + 1):
        layer = path[k]
        source, target = row[k] * LANES, row[k + 1] * LANES
        affine(p, w_at[layer], b_at[layer], n_in[layer], n_out[layer], x[source:target], x[target:])
        if k < last:
            sine_cosine(n_out[layer], x[target:], c[target:])


@njit(nogil=True, fastmath=STRICT, cache=True)
def _backward(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, row: Any, x: Any, c: Any,
    squared: bool, dz: Any, dx: Any, g: Any,
) -> None:  # fmt: skip
    """Backpropagate dz of the output layer; add to g the gradient, or the sum of its squares."""
    for k in range(len(path) - 1, -1, -1):
        layer = path[k]
        rows_in, rows_out = n_in[layer], n_out[layer]
        xk = x[row[k] * LANES : row[k + 1] * LANES]
        if k > 0:
            for v in range(rows_in * LANES):
                dx[v] = np.float32(0)
            multiply(p, w_at[layer], 1, rows_in, rows_out, rows_in, dz, dx)
            ck = c[row[k] * LANES : row[k + 1] * LANES]
            for v in range(rows_in * LANES):
                dx[v] *= ck[v]
        if squared:
            for v in range(rows_out * LANES):
                dz[v] *= dz[v]
            for v in range(rows_in * LANES):
                xk[v] *= xk[v]
        add_outer(rows_in, rows_out, dz, xk, g, w_at[layer], b_at[layer])
        if k > 0:
            for v in range(rows_in * LANES):
                dz[v] = dx[v]


@njit(nogil=True, fastmath=STRICT, cache=True)
def accumulate(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, paths: Any,
    start: Any, stop: Any, scale: Any, offset: Any, share: Any, strides: Any,
    target: Any, weight: Any, seed: int, step: int, part: int, parts: int, tiles: int,
    squared: bool, g: Any, x: Any, c: Any, dz: Any, dx: Any,
) -> float:  # fmt: skip
    """Add one part of a step's gradient to g and return its part of the loss.

    A step draws ``tiles`` tiles from every leaf; tile t of leaf l belongs to part
    ``(l * tiles + t) % parts``. The loss is the mean over voxels of weight * (output - target)^2,
    leaves counting by their voxels (``share``). With ``squared``, g gets instead the mean square
    of the output's derivatives: the diagonal of the Gauss-Newton matrix.
    """
    where = np.empty(LANES, np.int64)
    path_length = paths.shape[1]
    row = np.zeros(path_length + 1, np.int64)
    leaves = len(paths)
    scaling = 1.0 / (leaves * tiles * LANES)
    loss = 0.0
    for task in range(part, leaves * tiles, parts):
        leaf = task // tiles
        path = paths[leaf]
        for k in range(path_length):
            row[k + 1] = row[k] + n_in[path[k]]
        key = np.uint64(seed) + (np.uint64(step + 1) << np.uint64(32))
        _sample(start, stop, scale, offset, strides, leaf, key, task * LANES, x, where)
        _forward(p, n_in, n_out, w_at, b_at, path, row, x, c)
        y = x[row[path_length] * LANES :]
        factor = np.float32(scaling * share[leaf])
        for v in range(LANES):
            w = factor
            if len(weight) > 0:
                w *= weight[where[v]]
            e = y[v] - target[where[v]]
            loss += w * e * e
            dz[v] = np.sqrt(w) if squared else np.float32(2) * w * e
        _backward(p, n_in, n_out, w_at, b_at, path, row, x, c, squared, dz, dx, g)
    return loss
