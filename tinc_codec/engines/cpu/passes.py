"""Passes of a tree over tiles of voxels: evaluate, and loss with gradient (numba).

The tables of a tree (see :class:`tinc_codec.tree.network.Layout`) come as plain arrays. Scratch
memory is the caller's, so that nothing is allocated inside a loop.

Leaves with the same coordinates go through a tile one after another. A layer that a leaf shares
with the leaf before it is not evaluated again, and the gradients of the leaves that share a layer
are added before they go through it: work on a node is done once per tile, not once per leaf.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinc_codec.engines.cpu.kernels import (
    add_outer,
    affine,
    affine_sine,
    affine_sine_cosine,
    backward_add,
    backward_times,
)
from tinc_codec.engines.cpu.vector import LANES, STRIDE

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "90e5f826"


@njit(nogil=True, cache=True)
def _evaluate_path(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, first: int, row: Any, x: Any
) -> None:
    """Run one leaf's layers from path position ``first`` on; row[k] is where layer k reads in x."""
    last = len(path) - 1
    for k in range(first, last + 1):
        layer = path[k]
        row[k + 1] = row[k] + n_in[layer] * STRIDE
        if k < last:
            affine_sine(
                p, w_at[layer], b_at[layer], n_in[layer], n_out[layer], x, row[k], x, row[k + 1]
            )
        else:
            affine(p, w_at[layer], b_at[layer], n_in[layer], n_out[layer], x, row[k], x, row[k + 1])


@njit(nogil=True, cache=True)
def _shared(paths: Any, leaf: int, other: int) -> Any:
    """Return how many layers, from the coordinates on, two leaves have in common."""
    k = 0
    while paths[leaf, k] == paths[other, k]:
        k += 1
    return k


@njit(nogil=True, cache=True)
def evaluate_points(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, coordinates: Any, where: Any,
    out: Any, x: Any, row: Any,
) -> None:  # fmt: skip
    """out[where[j]] = network of a leaf's path at coordinates[:, j], for all j."""
    n = len(where)
    for first in range(0, n, LANES):
        for axis in range(len(coordinates)):
            for v in range(LANES):
                x[axis * STRIDE + v] = coordinates[axis, min(first + v, n - 1)]
        _evaluate_path(p, n_in, n_out, w_at, b_at, path, 0, row, x)
        for v in range(min(LANES, n - first)):
            out[where[first + v]] = x[row[len(path)] + v]


@njit(nogil=True, cache=True)
def _fill_tile(
    number: int, coordinates: Any, first_at: Any, counts: Any, strides: Any, index: Any,
    x: Any, run_at: Any, run_place: Any,
) -> Any:  # fmt: skip
    """Fill a tile with the voxels of an outer product from a number on, in C order.

    Returns the number of runs along the last axis: run r has the lanes from run_at[r] to
    run_at[r + 1], and its first voxel lies at run_place[r] in the output. Lanes behind the last
    voxel repeat it.
    """
    last = len(counts) - 1
    rest = number
    for axis in range(last, -1, -1):
        index[axis] = rest % counts[axis]
        rest //= counts[axis]
    v = runs = 0
    while v < LANES:
        length = min(counts[last] - index[last], LANES - v)
        place = index[last]
        for axis in range(last):
            x[axis * STRIDE + v : axis * STRIDE + v + length] = coordinates[
                first_at[axis] + index[axis]
            ]
            place += index[axis] * strides[axis]
        at = first_at[last] + index[last]
        x[last * STRIDE + v : last * STRIDE + v + length] = coordinates[at : at + length]
        run_at[runs], run_place[runs] = v, place
        runs += 1
        v += length
        index[last] += length
        axis = last
        while axis > 0 and index[axis] == counts[axis]:
            index[axis] = 0
            axis -= 1
            index[axis] += 1
        if index[0] == counts[0]:
            break
    run_at[runs] = v
    for axis in range(last + 1):
        x[axis * STRIDE + v : axis * STRIDE + LANES] = x[axis * STRIDE + v - 1]
    return runs


@njit(nogil=True, cache=True)
def evaluate_grid(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, paths: Any, leaves: Any, bases: Any,
    coordinates: Any, first_at: Any, counts: Any, strides: Any, tile_start: int, tile_stop: int,
    out: Any, x: Any, row: Any, index: Any, run_at: Any, run_place: Any,
) -> None:  # fmt: skip
    """Evaluate tiles [tile_start, tile_stop) of an outer product in leaves that share coordinates.

    Axis ``k`` has ``counts[k]`` coordinates, ``coordinates[first_at[k]:]``, ``strides[k]`` apart
    in the flat output, the last 1; ``bases[j]`` is the place of the first voxel of ``leaves[j]``.
    """
    for tile in range(tile_start, tile_stop):
        runs = _fill_tile(
            tile * LANES, coordinates, first_at, counts, strides, index, x, run_at, run_place
        )
        for j in range(len(leaves)):
            path = paths[leaves[j]]
            first = _shared(paths, leaves[j], leaves[j - 1]) if j > 0 else 0
            _evaluate_path(p, n_in, n_out, w_at, b_at, path, first, row, x)
            result = row[len(path)]
            for r in range(runs):
                place = bases[j] + run_place[r] - run_at[r]
                for v in range(run_at[r], run_at[r + 1]):
                    out[place + v] = x[result + v]


@njit(nogil=True, cache=True)
def step_key(seed: int, step: int) -> Any:
    """Return the 32 pseudo-random bits that a step's draws start from (splitmix64 finaliser)."""
    z = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(step + 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32))


@njit(nogil=True, cache=True)
def _draw_tile(
    key: Any, number: int, side: Any, first: Any, scale: Any, offset: Any, strides: Any,
    x: Any, place: Any,
) -> None:  # fmt: skip
    """Draw the voxels numbered from ``number`` on, with replacement, from a box.

    Sets coordinates in x and, in place, the offset in the flat volume from the box's first voxel,
    whose coordinates are scale * first + offset.
    """
    axes = len(strides)
    place[:] = 0
    for axis in range(axes):
        row = x[axis * STRIDE : axis * STRIDE + LANES]
        length = np.uint64(side[axis])
        for v in range(LANES):
            h = np.uint32(np.uint32((number + v) * axes + axis) * np.uint32(0x9E3779B9)) + key
            h = np.uint32(h)
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
            h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
            h = h ^ (h >> np.uint32(16))
            i = np.int64((np.uint64(h) * length) >> np.uint64(32))
            row[v] = np.float32(scale[axis] * (first[axis] + i) + offset[axis])
            place[v] += i * strides[axis]


@njit(nogil=True, cache=True)
def _forward(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, first: int, row: Any,
    x: Any, c: Any,
) -> None:  # fmt: skip
    """As _evaluate_path, keeping cosines: c has them where x has the sines."""
    last = len(path) - 1
    for k in range(first, last + 1):
        layer = path[k]
        inputs, outputs = n_in[layer], n_out[layer]
        row[k + 1] = row[k] + inputs * STRIDE
        if k < last:
            affine_sine_cosine(
                p, w_at[layer], b_at[layer], inputs, outputs, x, row[k], x, row[k + 1], c
            )
        else:
            affine(p, w_at[layer], b_at[layer], inputs, outputs, x, row[k], x, row[k + 1])


@njit(nogil=True, cache=True)
def _backward(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any, kept: int, pending: Any,
    row: Any, x: Any, c: Any, d: Any, g: Any, sums: Any,
) -> None:  # fmt: skip
    """Go back from the output layer to path position ``kept``; add to the gradient g.

    d holds, where x holds a layer's outputs, the derivatives of the loss by its sums. Layers
    before ``kept`` are the next leaf's too: what comes to them is added up, as ``pending`` says.
    """
    for k in range(len(path) - 1, kept - 1, -1):
        layer = path[k]
        inputs, outputs = n_in[layer], n_out[layer]
        add_outer(inputs, outputs, d, row[k + 1], x, row[k], g, w_at[layer], b_at[layer], sums)
        if k == 0:
            return
        stop = row[k] + inputs * STRIDE
        if k > kept and not pending[k]:
            backward_times(p, w_at[layer], inputs, outputs, d, row[k + 1], c, row[k])
            continue
        if not pending[k]:
            d[row[k] : stop] = np.float32(0)
        backward_add(p, w_at[layer], inputs, outputs, d, row[k + 1], row[k])
        pending[k] = k == kept
        if k > kept:
            for v in range(row[k], stop):
                d[v] *= c[v]


@njit(nogil=True, cache=True)
def _square(first: int, stop: int, x: Any) -> None:
    for v in range(first, stop):
        x[v] *= x[v]


@njit(nogil=True, cache=True)
def _backward_squared(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, path: Any,
    row: Any, x: Any, c: Any, d: Any, g: Any, sums: Any,
) -> None:  # fmt: skip
    """As _backward with nothing kept, for the sums of the squares; x and d are used up."""
    for k in range(len(path) - 1, -1, -1):
        layer = path[k]
        inputs, outputs = n_in[layer], n_out[layer]
        if k > 0:
            backward_times(p, w_at[layer], inputs, outputs, d, row[k + 1], c, row[k])
        _square(row[k + 1], row[k + 1] + outputs * STRIDE, d)
        _square(row[k], row[k + 1], x)
        add_outer(inputs, outputs, d, row[k + 1], x, row[k], g, w_at[layer], b_at[layer], sums)


@njit(nogil=True, cache=True)
def _differentiate(
    y: Any, dz: Any, where: Any, target: Any, weight: Any, factor: Any, squared: bool
) -> Any:
    """Set dz to the derivative of factor * weight * (y - target)^2 by y; return the sum of it."""
    loss = np.float32(0)
    for v in range(LANES):
        w = factor
        if len(weight) > 0:
            w = factor * weight[where[v]]
        e = y[v] - target[where[v]]
        loss += w * e * e
        dz[v] = np.sqrt(w) if squared else np.float32(2) * w * e
    return loss


@njit(nogil=True, cache=True)
def accumulate(
    p: Any, n_in: Any, n_out: Any, w_at: Any, b_at: Any, paths: Any,
    start: Any, side: Any, first: Any, scale: Any, offset: Any, share: Any, strides: Any,
    target: Any, weight: Any, key: Any, order: Any, tasks: Any, part: int, parts: int,
    squared: bool, losses: Any, gradients: Any, scratch: Any, row: Any, place: Any, pending: Any,
) -> None:  # fmt: skip
    """Set the gradients and losses of parts ``part``, ``part + parts`` … of a step.

    A task is a tile of one drawing and the leaves ``order[from:to]`` that share its coordinates:
    rows (from, to, number of the first voxel). Task t belongs to part t % len(losses). The loss is
    the sum of share[leaf] * weight * (output - target)^2. With ``squared``, gradients get instead
    the sum of the squares of the output's derivatives; tasks must then have one leaf each.
    """
    x, c, d, sums = scratch
    where = np.empty(LANES, np.int64)
    depth = paths.shape[1]
    for one in range(part, len(losses), parts):
        g = gradients[one]
        g[:] = np.float32(0)
        loss = 0.0
        for task in range(one, len(tasks), len(losses)):
            begin, end = tasks[task, 0], tasks[task, 1]
            one_leaf = order[begin]
            _draw_tile(
                key, tasks[task, 2], side[one_leaf], first[one_leaf], scale[one_leaf],
                offset[one_leaf], strides, x, place,
            )  # fmt: skip
            for j in range(begin, end):
                leaf = order[j]
                path = paths[leaf]
                fresh = _shared(paths, leaf, order[j - 1]) if j > begin else 0
                kept = _shared(paths, leaf, order[j + 1]) if j + 1 < end else 0
                _forward(p, n_in, n_out, w_at, b_at, path, fresh, row, x, c)
                base = 0
                for axis in range(len(strides)):
                    base += start[leaf, axis] * strides[axis]
                for v in range(LANES):
                    where[v] = base + place[v]
                y = x[row[depth] : row[depth] + LANES]
                dz = d[row[depth] : row[depth] + LANES]
                loss += _differentiate(y, dz, where, target, weight, share[leaf], squared)
                if squared:
                    _backward_squared(p, n_in, n_out, w_at, b_at, path, row, x, c, d, g, sums)
                else:
                    _backward(
                        p, n_in, n_out, w_at, b_at, path, kept, pending, row, x, c, d, g, sums
                    )
        losses[one] = loss
