"""The CPU engine: the numba passes behind the engine signatures, with threads.

Threads come from one small pool of our own; the kernels free the GIL. Work is cut into parts
whose number does not depend on the number of threads, so results do not either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from tinc_codec import turns
from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.engines.cpu import passes
from tinc_codec.engines.cpu.vector import LANES, STRIDE
from tinc_codec.llvm import WIDTH
from tinc_codec.parallel import even_parts
from tinc_codec.runtime import current_runtime
from tinc_codec.threads import begun, shared
from tinc_codec.tree.geometry import (
    Geometry,
    boxes,
    coordinate_leaders,
    leaf_affine,
    leaf_of,
)
from tinc_codec.tree.network import Layout, Tree, layout

PARTS = 8
_TILES_A_TASK = 64
_NO_WEIGHTS = np.zeros(0, np.float32)


def run_parts(function: Callable[[int], None], parts: int, threads: int) -> None:
    """Call function(part) for every part, on so many threads."""
    threads = min(threads, parts)

    def every(first: int) -> None:
        for part in range(first, parts, threads):
            function(part)

    shared(every, threads)


def _network(table: Layout, parameters: Float32Array) -> passes.Network:
    return passes.Network(
        parameters=parameters, n_in=table.n_in, n_out=table.n_out, weight_at=table.weight_at,
        bias_at=table.bias_at, paths=table.paths,
    )  # fmt: skip


def _aligned(size: int) -> Float32Array:
    """Return uninitialised float32 that start on a cache line, as whole vectors should."""
    spare = np.empty(size + 16, np.float32)
    first = -(spare.ctypes.data // 4) % 16
    return spare[first : first + size]


def _rows(table: Layout) -> int:
    """Return how many rows hold the inputs of a path's layers and its output."""
    return int(table.n_in[table.paths].sum(axis=1).max()) + 1


@lru_cache(maxsize=16)
def _coordinates(geometry: Geometry) -> tuple[Int64Array, Float64Array, Float64Array]:
    """Return (origin, scale, offset), each (leaves, axes).

    A voxel's coordinate is scale * (index - origin) + offset: what ``leaf_affine`` says, rounded
    alike in all blocks of the same side. Not to be written to.
    """
    start = boxes(geometry)[-1][0]
    origin = start if geometry.coordinates == "block" else np.zeros_like(start)
    scale = leaf_affine(geometry)[0]
    return origin, scale, np.where(scale > 0, -1.0, 0.0)


def evaluate_points(
    tree: Tree,
    parameters: Float32Array,
    points: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree at single voxels; as :func:`tinc_codec.engines.reference`'s."""
    table = layout(tree)
    index = np.stack([np.asarray(p, np.int64) for p in points])
    out = np.empty(index.shape[1], np.float32)
    if not out.size:
        return out
    leaf = leaf_of(tree.geometry, index)
    order = np.argsort(leaf, kind="stable")
    leaves, firsts = np.unique(leaf[order], return_index=True)
    origin, scale, offset = (factor[leaf].T for factor in _coordinates(tree.geometry))
    coordinates = (scale * (index - origin) + offset).astype(np.float32)
    x, row = _aligned(_rows(table) * STRIDE), np.zeros(table.paths.shape[1] + 1, np.int64)
    net = _network(table, parameters)
    for number, where in zip(leaves, np.split(order, firsts[1:]), strict=True):
        path = table.paths[number]
        at = np.ascontiguousarray(coordinates[:, where])
        passes.evaluate_points(net, path, at, where, out, x, row)
    return out


@dataclass(frozen=True, slots=True)
class _Span:
    """The indices of one axis that lie in one side of a block.

    Attributes
    ----------
    first : int
        Position of the first of them.
    coordinates : (n,) float32
        Theirs.
    kind : int
        Spans of an axis with the same number have the same coordinates.
    """

    first: int
    coordinates: Float32Array
    kind: int


def _spans(geometry: Geometry, axis: int, index: Int64Array) -> dict[int, _Span]:
    """Return the spans of an axis by the first voxel of the side; ``index`` increases."""
    start, stop = (bound[:, axis] for bound in boxes(geometry)[-1])
    origin, scale, offset = (factor[:, axis] for factor in _coordinates(geometry))
    out: dict[int, _Span] = {}
    kinds: dict[tuple[int, bytes], tuple[int, Float32Array]] = {}
    for leaf, a in enumerate(start.tolist()):
        if a in out:
            continue
        b = int(stop[leaf])
        first, last = index.searchsorted((a, b)).tolist()
        own = index[first:last]
        local = own - origin[leaf]
        coordinates = (scale[leaf] * local + offset[leaf]).astype(np.float32)
        kind, coordinates = kinds.setdefault((b - a, local.tobytes()), (len(kinds), coordinates))
        out[a] = _Span(first, coordinates, kind)
    return out


@dataclass(frozen=True, slots=True)
class _LeafGrid:
    """The part of an outer product that lies in leaves which share its coordinates.

    Attributes
    ----------
    leaves : (n,) int64
        Numbers of the leaves, increasing.
    bases : (n,) int64
        Place of each one's first voxel in the flat output.
    points : passes.Grid
        The coordinates.
    """

    leaves: Int64Array
    bases: Int64Array
    points: passes.Grid

    @property
    def tiles(self) -> int:
        return -(-int(self.points.counts.prod()) // LANES)


def _leaf_grids(tree: Tree, axes: Sequence[Int64Array], strides: Int64Array) -> list[_LeafGrid]:
    """Return the outer product of increasing indices, cut up by leaf and put together again."""
    start = boxes(tree.geometry)[-1][0]
    spans = [_spans(tree.geometry, axis, index) for axis, index in enumerate(axes)]
    members: dict[tuple[int, ...], list[tuple[int, list[_Span]]]] = {}
    for leaf, corner in enumerate(start.tolist()):
        own = [by_start[a] for by_start, a in zip(spans, corner, strict=True)]
        if all(len(span.coordinates) for span in own):
            members.setdefault(tuple(span.kind for span in own), []).append((leaf, own))
    grids = []
    for group in members.values():
        one = [span.coordinates for span in group[0][1]]
        counts = np.array([len(c) for c in one])
        firsts = np.array([[span.first for span in own] for _, own in group])
        points = passes.Grid(
            coordinates=np.concatenate(one), first_at=np.cumsum(counts) - counts, counts=counts,
            strides=strides,
        )  # fmt: skip
        leaves = np.array([leaf for leaf, _ in group])
        grids.append(_LeafGrid(leaves=leaves, bases=firsts @ strides, points=points))
    return grids


def _increasing(index: Int64Array) -> bool:
    return bool((np.diff(index) > 0).all())


def evaluate_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree on an outer product; as :func:`tinc_codec.engines.reference`'s."""
    with begin_grid(tree, parameters, axes, steps) as finish:
        return finish()


@contextmanager
def begin_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Iterator[Callable[[], Float32Array]]:
    """Let other threads begin that; yields what does the rest, and gives the values."""
    axes = [np.asarray(a, np.int64) for a in axes]
    if all(_increasing(a) for a in axes):
        with _begin_increasing(tree, parameters, axes) as finish:
            yield finish
        return
    once, inverse = zip(*(np.unique(a, return_inverse=True) for a in axes), strict=True)
    with _begin_increasing(tree, parameters, once) as finish:
        yield lambda: finish()[np.ix_(*inverse)]


@contextmanager
def _begin_increasing(
    tree: Tree, parameters: Float32Array, axes: Sequence[Int64Array]
) -> Iterator[Callable[[], Float32Array]]:
    table = layout(tree)
    out = np.empty([len(a) for a in axes], np.float32)
    flat = out.reshape(-1)
    strides = np.array([math.prod(out.shape[k + 1 :]) for k in range(out.ndim)])
    tasks = []
    for grid in _leaf_grids(tree, axes, strides):
        pieces = min(-(-grid.tiles * len(grid.leaves) // _TILES_A_TASK), grid.tiles)
        tasks += [(grid, *ends) for ends in even_parts(grid.tiles, pieces)]
    left, net = iter(tasks), _network(table, parameters)

    def run(_: int) -> None:
        x, row = _aligned(_rows(table) * STRIDE), np.zeros(table.paths.shape[1] + 1, np.int64)
        runs = passes.Runs(
            reached=np.empty(len(axes), np.int64), at=np.empty(LANES + 1, np.int64),
            place=np.empty(LANES, np.int64),
        )  # fmt: skip
        for grid, first, last in left:  # whichever thread is free takes the next one
            passes.evaluate_grid(
                net, grid.leaves, grid.bases, grid.points, first, last, flat, x, row, runs
            )

    def values() -> Float32Array:
        finish()
        return out

    with begun(run, max(1, min(turns.threads(), len(tasks)))) as finish:
        try:
            yield values
        finally:
            tasks.clear()  # where values were not asked for, as after an error, no more is begun


def _drawing_tasks(leaders: Int64Array, tiles: int) -> tuple[Int64Array, Int64Array]:
    """Return the leaves so that those that share drawings follow one another, and the tasks.

    Returns
    -------
    order : (leaves,) int64
        Leaves; see ``tasks``.
    tasks : (n, 3) int64
        Leaves ``order[from:to]`` and the number of the first voxel drawn for all of them. Few
        drawings are cut into several tasks, so that every part of a step has one.
    """
    order = np.argsort(leaders, kind="stable")
    groups, firsts, counts = np.unique(leaders[order], return_index=True, return_counts=True)
    pieces = -(-PARTS // (tiles * len(groups)))
    tasks = []
    for tile in range(tiles):
        for leader, first, count in zip(groups, firsts, counts, strict=True):
            cuts = first + np.unique(np.linspace(0, count, min(pieces, count) + 1).astype(int))
            number = (leader * tiles + tile) * LANES
            tasks += [(a, b, number) for a, b in pairwise(cuts.tolist())]
    return order, np.array(tasks, np.int64)


class Problem:
    """A tree and the volume that it is to fit: gives losses with gradients.

    Volumes, parameters, losses and gradients have an axis of chunks, as in the torch engine; here
    it has length 1. Leaves with the same coordinates are given the same drawings.

    Memory: the volume and its weights are used in place; the gradients take 4 * PARTS bytes per
    parameter, scratch rows 3 * 4 * STRIDE bytes per feature on a path, for each thread.

    Parameters
    ----------
    tree : Tree
        Its structure.
    targets : (1, *shape of the tree's box) float32
        Values to reach.
    weights : float32 array of the same shape, or None
        Weight of each voxel in the loss; None means 1 everywhere.
    samples : int
        Voxels drawn at each step, about; every leaf gives the same number of whole tiles.
    seed : int
        Seed of the draws.
    """

    def __init__(
        self,
        tree: Tree,
        targets: Float32Array,
        weights: Float32Array | None,
        samples: int,
        seed: int,
    ) -> None:
        (target,) = targets
        self._table = layout(tree)
        start, stop = boxes(tree.geometry)[-1]
        origin, scale, offset = _coordinates(tree.geometry)
        voxels = (stop - start).prod(axis=1)
        tiles = max(1, round(samples / (LANES * len(voxels))))
        share = (voxels / (voxels.sum() * tiles * LANES)).astype(np.float32)
        strides = np.array(target.strides, np.int64) // target.itemsize
        weight = _NO_WEIGHTS if weights is None else weights.reshape(-1)
        self._boxes = passes.Boxes(
            start=start, side=stop - start, first=start - origin, scale=scale, offset=offset,
            share=share, strides=strides,
        )  # fmt: skip
        self._target, self._weight = target.reshape(-1), weight
        self._seed = seed
        self._order, self._tasks = _drawing_tasks(coordinate_leaders(tree.geometry), tiles)
        self._one_by_one = _one_leaf_each(self._tasks)
        self._gradients = np.zeros((PARTS, 1, self._table.size), np.float32)
        self._losses = np.zeros(PARTS)
        most = min(current_runtime().thread_count(), PARTS)
        self._work = [self._new_work() for _ in range(most)]

    def _new_work(self) -> passes.Work:
        """Return what one thread works in."""
        size, depth = _rows(self._table) * STRIDE, self._table.paths.shape[1]
        return passes.Work(
            x=_aligned(size), c=_aligned(size), d=_aligned(size), sums=_aligned(WIDTH),
            row=np.zeros(depth + 1, np.int64), place=np.empty(LANES, np.int64),
            where=np.empty(LANES, np.int64), pending=np.zeros(depth + 1, np.bool_),
        )  # fmt: skip

    def start(self, parameters: Float32Array) -> Float32Array:
        """Return a copy of a parameter-like array where this engine works on it."""
        return np.array(parameters, np.float32)

    def finish(self, parameters: Float32Array) -> Float32Array:
        """Return such an array as numpy float32."""
        return parameters

    def gradient(
        self, parameters: Float32Array, step: int, *, squared: bool = False
    ) -> tuple[Float64Array, Float32Array]:
        """Return the loss at a step's sample and its gradient, in PARTS rows still to be added.

        Parameters
        ----------
        parameters : (1, size) float32
            Weights and biases.
        step : int
            Number of the step: chooses the voxels.
        squared : bool
            Instead of the gradient, give the mean square of the output's derivative by each
            parameter (the diagonal of the Gauss-Newton matrix).

        Returns
        -------
        losses : (1,) float64
        gradient : (PARTS, 1, size) float32
        """
        (values,) = parameters
        key = passes.step_key(self._seed, step)
        tasks = self._one_by_one if squared else self._tasks
        net, gradients = _network(self._table, values), self._gradients[:, 0]
        threads = min(turns.threads(), len(self._work))

        def run(thread: int) -> None:
            passes.accumulate(
                net, self._boxes, self._target, self._weight, key, self._order, tasks, thread,
                threads, squared, self._losses, gradients, self._work[thread],
            )  # fmt: skip

        run_parts(run, threads, threads)
        return self._losses.sum(keepdims=True), self._gradients


def _one_leaf_each(tasks: Int64Array) -> Int64Array:
    """Return tasks with the same drawings, one leaf in each."""
    return np.array([(j, j + 1, n) for a, b, n in tasks.tolist() for j in range(a, b)], np.int64)
