"""Passes of a tree over tiles of voxels: evaluate, and loss with gradient (numba).

The tables of a tree (see :class:`tinc_codec.tree.network.Layout`) come as plain arrays. Scratch
memory is the caller's, so that nothing is allocated inside a loop.

Leaves with the same coordinates go through a tile one after another. A layer that a leaf shares
with the leaf before it is not evaluated again, and the gradients of the leaves that share a layer
are added before they go through it: work on a node is done once per tile, not once per leaf.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.compiled import compiled
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
BUILT_ON = "c8da0fbc"


class Network(NamedTuple):
    """The layers of a tree, as passes hand them on.

    Attributes
    ----------
    parameters : float32
        Weights and biases of all layers.
    n_in, n_out, weight_at, bias_at, paths : int64
        See :class:`tinc_codec.tree.network.Layout`.
    """

    parameters: Float32Array
    n_in: Int64Array
    n_out: Int64Array
    weight_at: Int64Array
    bias_at: Int64Array
    paths: Int64Array


class Grid(NamedTuple):
    """An outer product of coordinates: axis k has ``counts[k]``, from ``first_at[k]`` on.

    They are ``strides[k]`` apart in the flat output, the last 1.
    """

    coordinates: Float32Array
    first_at: Int64Array
    counts: Int64Array
    strides: Int64Array


class Runs(NamedTuple):
    """The runs of a tile along the last axis: run r has the lanes from at[r] to at[r + 1].

    Its first voxel lies at place[r] in the output; ``reached`` is how far the tile has come.
    """

    reached: Int64Array
    at: Int64Array
    place: Int64Array


class Boxes(NamedTuple):
    """The voxels of each leaf, as passes hand them on.

    Attributes
    ----------
    start, side, first : (leaves, axes) int64
        The first voxel of a leaf, in the volume and in the block that coordinates count from; and
        how many there are.
    scale, offset : (leaves, axes) float64
        Coordinates are scale * voxel in the block + offset.
    share : (leaves,) float32
        What a voxel drawn in a leaf counts in the loss.
    strides : (axes,) int64
        How far neighbours are apart in the flat volume.
    """

    start: Int64Array
    side: Int64Array
    first: Int64Array
    scale: Float64Array
    offset: Float64Array
    share: Float32Array
    strides: Int64Array


class Work(NamedTuple):
    """What a pass with gradients works in, of one thread.

    Attributes
    ----------
    x, c, d : float32
        Rows of STRIDE: inputs and outputs of a path's layers; cosines where x has the sines; and
        the derivatives of the loss by their sums.
    sums : float32
        A vector.
    row, place, where : int64
        Where layers read in x; of the voxels of a tile, the place in a box and in the volume.
    pending : bool
        Whether d has of a layer what comes from other leaves.
    """

    x: Float32Array
    c: Float32Array
    d: Float32Array
    sums: Float32Array
    row: Int64Array
    place: Int64Array
    where: Int64Array
    pending: npt.NDArray[np.bool_]


@compiled()
def _evaluate_path(net: Any, path: Any, first: int, row: Any, x: Any) -> None:
    """Run one leaf's layers from path position ``first`` on; row[k] is where layer k reads in x."""
    p, n_in, n_out, w_at, b_at, _ = net
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


@compiled()
def _shared(paths: Any, leaf: int, other: int) -> Any:
    """Return how many layers, from the coordinates on, two leaves have in common."""
    k = 0
    while paths[leaf, k] == paths[other, k]:
        k += 1
    return k


@compiled()
def evaluate_points(
    net: Any, path: Any, coordinates: Any, where: Any, out: Any, x: Any, row: Any
) -> None:
    """out[where[j]] = network of a leaf's path at coordinates[:, j], for all j."""
    n = len(where)
    for first in range(0, n, LANES):
        for axis in range(len(coordinates)):
            for v in range(LANES):
                x[axis * STRIDE + v] = coordinates[axis, min(first + v, n - 1)]
        _evaluate_path(net, path, 0, row, x)
        for v in range(min(LANES, n - first)):
            out[where[first + v]] = x[row[len(path)] + v]


@compiled()
def _fill_tile(number: int, grid: Any, x: Any, runs: Any) -> Any:
    """Fill a tile with the voxels of an outer product from a number on, in C order.

    Returns the number of runs along the last axis. Lanes behind the last voxel repeat it.
    """
    coordinates, first_at, counts, strides = grid
    index, run_at, run_place = runs
    last = len(counts) - 1
    rest = number
    for axis in range(last, -1, -1):
        index[axis] = rest % counts[axis]
        rest //= counts[axis]
    v = count = 0
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
        run_at[count], run_place[count] = v, place
        count += 1
        v += length
        index[last] += length
        axis = last
        while axis > 0 and index[axis] == counts[axis]:
            index[axis] = 0
            axis -= 1
            index[axis] += 1
        if index[0] == counts[0]:
            break
    run_at[count] = v
    for axis in range(last + 1):
        x[axis * STRIDE + v : axis * STRIDE + LANES] = x[axis * STRIDE + v - 1]
    return count


@compiled()
def evaluate_grid(
    net: Any, leaves: Any, bases: Any, grid: Any, tile_start: int, tile_stop: int, out: Any,
    x: Any, row: Any, runs: Any,
) -> None:  # fmt: skip
    """Evaluate tiles [tile_start, tile_stop) of an outer product in leaves that share coordinates.

    ``bases[j]`` is the place of the first voxel of ``leaves[j]`` in the flat output.
    """
    for tile in range(tile_start, tile_stop):
        count = _fill_tile(tile * LANES, grid, x, runs)
        for j in range(len(leaves)):
            path = net.paths[leaves[j]]
            first = _shared(net.paths, leaves[j], leaves[j - 1]) if j > 0 else 0
            _evaluate_path(net, path, first, row, x)
            result = row[len(path)]
            for r in range(count):
                place = bases[j] + runs.place[r] - runs.at[r]
                for v in range(runs.at[r], runs.at[r + 1]):
                    out[place + v] = x[result + v]


@compiled()
def step_key(seed: int, step: int) -> Any:
    """Return the 32 pseudo-random bits that a step's draws start from (splitmix64 finaliser)."""
    z = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(step + 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint32((z ^ (z >> np.uint64(31))) >> np.uint64(32))


@compiled()
def _draw_tile(key: Any, number: int, boxes: Any, leaf: int, x: Any, place: Any) -> None:
    """Draw the voxels numbered from ``number`` on, with replacement, from the box of a leaf.

    Sets coordinates in x and, in place, the offset in the flat volume from the box's first voxel.
    """
    _, side, first, scale, offset, _, strides = boxes
    axes = len(strides)
    place[:] = 0
    for axis in range(axes):
        row = x[axis * STRIDE : axis * STRIDE + LANES]
        length = np.uint64(side[leaf, axis])
        for v in range(LANES):
            h = np.uint32(np.uint32((number + v) * axes + axis) * np.uint32(0x9E3779B9)) + key
            h = np.uint32(h)
            h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
            h = np.uint32((h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B))
            h = h ^ (h >> np.uint32(16))
            i = np.int64((np.uint64(h) * length) >> np.uint64(32))
            row[v] = np.float32(scale[leaf, axis] * (first[leaf, axis] + i) + offset[leaf, axis])
            place[v] += i * strides[axis]


@compiled()
def _forward(net: Any, path: Any, first: int, work: Any) -> None:
    """As _evaluate_path, keeping cosines."""
    p, n_in, n_out, w_at, b_at, _ = net
    x, c, row = work.x, work.c, work.row
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


@compiled()
def _backward(net: Any, path: Any, kept: int, work: Any, g: Any) -> None:
    """Go back from the output layer to path position ``kept``; add to the gradient g.

    Layers before ``kept`` are the next leaf's too: what comes to them is added up.
    """
    p, n_in, n_out, w_at, b_at, _ = net
    x, c, d, sums, row, _, _, pending = work
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


@compiled()
def _square(first: int, stop: int, x: Any) -> None:
    for v in range(first, stop):
        x[v] *= x[v]


@compiled()
def _backward_squared(net: Any, path: Any, work: Any, g: Any) -> None:
    """As _backward with nothing kept, for the sums of the squares; x and d are used up."""
    p, n_in, n_out, w_at, b_at, _ = net
    x, c, d, sums, row, _, _, _ = work
    for k in range(len(path) - 1, -1, -1):
        layer = path[k]
        inputs, outputs = n_in[layer], n_out[layer]
        if k > 0:
            backward_times(p, w_at[layer], inputs, outputs, d, row[k + 1], c, row[k])
        _square(row[k + 1], row[k + 1] + outputs * STRIDE, d)
        _square(row[k], row[k + 1], x)
        add_outer(inputs, outputs, d, row[k + 1], x, row[k], g, w_at[layer], b_at[layer], sums)


@compiled()
def _differentiate(
    boxes: Any, leaf: int, target: Any, weight: Any, squared: bool, work: Any
) -> Any:
    """Set d to the derivative of share * weight * (y - target)^2 by y; return the sum of it."""
    result, base = work.row[-1], 0
    for axis in range(len(boxes.strides)):
        base += boxes.start[leaf, axis] * boxes.strides[axis]
    y, dz = work.x[result : result + LANES], work.d[result : result + LANES]
    where, place, share = work.where, work.place, boxes.share[leaf]
    for v in range(LANES):
        where[v] = base + place[v]
    loss = np.float32(0)
    for v in range(LANES):
        w = share
        if len(weight) > 0:
            w = share * weight[where[v]]
        e = y[v] - target[where[v]]
        loss += w * e * e
        dz[v] = np.sqrt(w) if squared else np.float32(2) * w * e
    return loss


@compiled()
def accumulate(
    net: Any, boxes: Any, target: Any, weight: Any, key: Any, order: Any, tasks: Any, part: int,
    parts: int, squared: bool, losses: Any, gradients: Any, work: Any,
) -> None:  # fmt: skip
    """Set the gradients and losses of parts ``part``, ``part + parts`` … of a step.

    A task is a tile of one drawing and the leaves ``order[from:to]`` that share its coordinates:
    rows (from, to, number of the first voxel). Task t belongs to part t % len(losses). The loss is
    the sum of share[leaf] * weight * (output - target)^2. With ``squared``, gradients get instead
    the sum of the squares of the output's derivatives; tasks must then have one leaf each.
    """
    for one in range(part, len(losses), parts):
        gradients[one] = np.float32(0)
        loss = 0.0
        for task in range(one, len(tasks), len(losses)):
            begin, end = tasks[task, 0], tasks[task, 1]
            _draw_tile(key, tasks[task, 2], boxes, order[begin], work.x, work.place)
            for j in range(begin, end):
                leaf = order[j]
                fresh = _shared(net.paths, leaf, order[j - 1]) if j > begin else 0
                kept = _shared(net.paths, leaf, order[j + 1]) if j + 1 < end else 0
                _forward(net, net.paths[leaf], fresh, work)
                loss += _differentiate(boxes, leaf, target, weight, squared, work)
                if squared:
                    _backward_squared(net, net.paths[leaf], work, gradients[one])
                else:
                    _backward(net, net.paths[leaf], kept, work, gradients[one])
        losses[one] = loss
