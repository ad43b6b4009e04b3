"""The CPU engine: the numba passes behind the engine signatures, with threads.

Threads come from one small pool of our own; the kernels free the GIL. Work is cut into parts
whose number does not depend on the number of threads, so results do not either.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinc_codec.engines.cpu import passes
from tinc_codec.engines.cpu.kernels import LANES
from tinc_codec.runtime import current_runtime
from tinc_codec.tree.geometry import FloatArray, IntArray, boxes, leaf_affine
from tinc_codec.tree.network import Layout, Tree, layout

Float32Array = npt.NDArray[np.float32]

PARTS = 8
_TILES_A_TASK = 64
_NO_WEIGHTS = np.zeros(0, np.float32)

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_active = 0


def _forget_threads() -> None:
    """Start afresh in a forked child, which has none of its parent's threads."""
    global _lock, _pool, _pool_size, _active
    _lock, _pool, _pool_size, _active = threading.Lock(), None, 0, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _shared_pool(size: int) -> ThreadPoolExecutor:
    """Return a pool of at least ``size`` threads; a smaller one ends when its last user is done."""
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < size:
            _pool, _pool_size = ThreadPoolExecutor(size, "tinc"), size
        return _pool


@contextmanager
def _share_of_threads() -> Iterator[int]:
    """Yield the threads this call may use: its setting, divided among the calls under way."""
    global _active
    threads = current_runtime().thread_count()
    with _lock:
        _active += 1
        share = max(1, threads // _active)
    try:
        yield share
    finally:
        with _lock:
            _active -= 1


def run_parts(function: Callable[[int], None], parts: int, threads: int) -> None:
    """Call function(part) for every part, on this thread and threads - 1 of the pool."""
    threads = min(threads, parts)

    def every(first: int) -> None:
        for part in range(first, parts, threads):
            function(part)

    if threads == 1:
        every(0)
        return
    pool = _shared_pool(threads - 1)
    waiting = [pool.submit(every, first) for first in range(1, threads)]
    every(0)
    for future in waiting:
        future.result()


def _scratch_rows(table: Layout, n_axes: int) -> int:
    return max(n_axes, int(table.n_out.max()))


def _tables(table: Layout) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
    return table.n_in, table.n_out, table.weight_at, table.bias_at, table.paths


def evaluate_points(
    tree: Tree, parameters: Float32Array, points: Sequence[IntArray]
) -> Float32Array:
    """Evaluate the tree at single voxels; as :func:`tinc_codec.engines.reference`'s."""
    table = layout(tree)
    start, stop = boxes(tree.geometry)[-1]
    scale, offset = leaf_affine(tree.geometry)
    index = np.stack([np.asarray(p, np.int64) for p in points])
    out = np.empty(index.shape[1], np.float32)
    rows = _scratch_rows(table, len(index))
    a, b = np.empty(rows * LANES, np.float32), np.empty(rows * LANES, np.float32)
    for leaf in range(len(start)):
        inside = (index >= start[leaf][:, None]) & (index < stop[leaf][:, None])
        where = np.flatnonzero(inside.all(axis=0))
        if len(where):
            at = np.ascontiguousarray(index[:, where])
            passes.evaluate_points(
                parameters, *_tables(table), scale, offset, leaf, at, where, out, a, b
            )
    return out


@dataclass(frozen=True, slots=True)
class _LeafGrid:
    """The voxels of an outer product that lie in one leaf."""

    leaf: int
    index: IntArray
    place: IntArray
    first_at: IntArray
    counts: IntArray

    @property
    def tiles(self) -> int:
        return -(-int(self.counts.prod()) // LANES)


def _leaf_grids(tree: Tree, axes: Sequence[IntArray]) -> Iterator[_LeafGrid]:
    """Yield the part of the outer product that falls into each leaf, where there is one."""
    start, stop = boxes(tree.geometry)[-1]
    strides = [math.prod(len(a) for a in axes[k + 1 :]) for k in range(len(axes))]
    chosen: list[dict[tuple[int, int], IntArray]] = []
    for axis, index in enumerate(axes):
        spans = {(int(a), int(b)) for a, b in zip(start[:, axis], stop[:, axis], strict=True)}
        chosen.append({s: np.flatnonzero((index >= s[0]) & (index < s[1])) for s in spans})
    for leaf in range(len(start)):
        at = [
            chosen[axis][int(start[leaf, axis]), int(stop[leaf, axis])] for axis in range(len(axes))
        ]
        counts = np.array([len(a) for a in at], np.int64)
        if counts.all():
            yield _LeafGrid(
                leaf=leaf,
                index=np.concatenate([axes[k][a] for k, a in enumerate(at)]),
                place=np.concatenate([a * strides[k] for k, a in enumerate(at)]),
                first_at=np.concatenate([[0], np.cumsum(counts)[:-1]]),
                counts=counts,
            )


def evaluate_grid(tree: Tree, parameters: Float32Array, axes: Sequence[IntArray]) -> Float32Array:
    """Evaluate the tree on an outer product; as :func:`tinc_codec.engines.reference`'s."""
    axes = [np.asarray(a, np.int64) for a in axes]
    table = layout(tree)
    scale, offset = leaf_affine(tree.geometry)
    out = np.empty([len(a) for a in axes], np.float32)
    flat = out.reshape(-1)
    tasks = [
        (grid, first, min(first + _TILES_A_TASK, grid.tiles))
        for grid in _leaf_grids(tree, axes)
        for first in range(0, grid.tiles, _TILES_A_TASK)
    ]
    rows = _scratch_rows(table, len(axes))

    def run(part: int) -> None:
        a, b = np.empty(rows * LANES, np.float32), np.empty(rows * LANES, np.float32)
        for grid, first, last in tasks[part::parts]:
            passes.evaluate_grid(
                parameters, *_tables(table), scale, offset, grid.leaf, grid.index, grid.place,
                grid.first_at, grid.counts, first, last, flat, a, b,
            )  # fmt: skip

    with _share_of_threads() as threads:
        parts = max(1, min(threads, len(tasks)))
        run_parts(run, parts, threads)
    return out


class Problem:
    """A tree and the volume that it is to fit: gives losses with gradients.

    Volumes, parameters, losses and gradients have an axis of chunks, as in the torch engine; here
    it has length 1.

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
        self._start, self._stop = boxes(tree.geometry)[-1]
        self._scale, self._offset = leaf_affine(tree.geometry)
        volume = (self._stop - self._start).prod(axis=1)
        self._share: FloatArray = volume / volume.mean()
        self._strides = np.array(target.strides, np.int64) // target.itemsize
        self._target = target.reshape(-1)
        self._weight = _NO_WEIGHTS if weights is None else weights.reshape(-1)
        self._tiles = max(1, round(samples / (LANES * len(volume))))
        self._seed = seed
        depth_rows = int(self._table.n_in[self._table.paths].sum(axis=1).max()) + 1
        widest = _scratch_rows(self._table, len(tree.geometry.shape))
        self._gradients = np.zeros((PARTS, self._table.size), np.float32)
        self._losses = np.zeros(PARTS)
        self._x = np.empty((PARTS, depth_rows * LANES), np.float32)
        self._c = np.empty_like(self._x)
        self._dz = np.empty((PARTS, widest * LANES), np.float32)
        self._dx = np.empty_like(self._dz)

    @staticmethod
    def most_chunks(tree: Tree, samples: int, *, weighted: bool) -> int:
        """Return how many chunks to fit at once."""
        return 1

    def start(self, parameters: Float32Array) -> Float32Array:
        """Return a copy of a parameter-like vector where this engine works on it."""
        return np.array(parameters, np.float32)

    def finish(self, parameters: Float32Array) -> Float32Array:
        """Return such a vector as numpy float32."""
        return parameters

    def gradient(
        self, parameters: Float32Array, step: int, *, squared: bool = False
    ) -> tuple[FloatArray, Float32Array]:
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
        self._gradients.fill(0)
        (values,) = parameters

        def run(part: int) -> None:
            self._losses[part] = passes.accumulate(
                values, *_tables(self._table), self._start, self._stop, self._scale,
                self._offset, self._share, self._strides, self._target, self._weight, self._seed,
                step, part, PARTS, self._tiles, squared, self._gradients[part], self._x[part],
                self._c[part], self._dz[part], self._dx[part],
            )  # fmt: skip

        with _share_of_threads() as threads:
            run_parts(run, PARTS, threads)
        return self._losses.sum(keepdims=True), self._gradients[:, None]
