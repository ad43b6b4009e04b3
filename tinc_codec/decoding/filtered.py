"""Voxels filtered by a FILTER section: those asked for, and the neighbours that this takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.parallel import even_parts
from tinc_codec.threads import each

if TYPE_CHECKING:
    from tinc_codec.stream.residual.filters.postfilter import PostFilter, Tables

Evaluate = Callable[[Sequence[Int64Array]], Float32Array]

# Single voxels filtered at once, with up to 18 neighbours each.
_PIECE = 1 << 14
# Voxels that a thread is worth.
_LEAST_PART = 1 << 16
# Lines are filtered in vectors: of fewer voxels than this, voxel by voxel is sooner.
_FEWEST_OF_A_LINE = 4


def filtered_values(
    postfilter: PostFilter,
    shape: tuple[int, ...],
    axes: Sequence[Int64Array],
    evaluate: Evaluate,
    *,
    pointwise: bool,
) -> Float32Array:
    """Return voxels of the box, filtered.

    Parameters
    ----------
    postfilter : PostFilter
        The section.
    shape : tuple of int
        Lengths of the axes of the box that are longer than one voxel, 1 to 4.
    axes : one int64 array per axis
        Voxel indices.
    evaluate : callable
        Gives voxels not yet filtered: pointwise those of lists, else those of an outer product.
    pointwise : bool
        As in :class:`tinc_codec.decoding.selection.Selection`.
    """
    form = _points if pointwise else _grid
    return form(postfilter, shape, axes, evaluate)


def _points(
    postfilter: PostFilter, shape: tuple[int, ...], points: Sequence[Int64Array], evaluate: Evaluate
) -> Float32Array:
    from tinc_codec.stream.residual.filters import postfilter as stage

    tables = stage.tables(postfilter, len(shape))
    first = len(shape) - stage.axes_filtered(len(shape))
    out, room = np.empty(len(points[0]), np.float32), _room()
    for at in range(0, len(out), _PIECE):
        some = [np.asarray(p[at : at + _PIECE], np.int64) for p in points]
        columns = [[p[None]] for p in some]
        for axis in range(first, len(shape)):
            around = stage.neighbours(some[axis], shape[axis])[1:]
            for k, p in enumerate(some):
                columns[k].append(around if k == axis else np.broadcast_to(p, around.shape))
        index = [np.concatenate(rows).reshape(-1) for rows in columns]
        stencil = evaluate(index).reshape(-1, len(some[0]))
        stage.filter_columns(stencil, tables, *room, out[at : at + _PIECE])
    return out


def _grid(
    postfilter: PostFilter, shape: tuple[int, ...], axes: Sequence[Int64Array], evaluate: Evaluate
) -> Float32Array:
    from tinc_codec.stream.residual.filters import postfilter as stage
    from tinc_codec.stream.residual.filters.filtering import REACH

    size = tuple(len(index) for index in axes)
    if 0 in size:
        return np.zeros(size, np.float32)
    filtered = stage.axes_filtered(len(shape))
    needed, near = list(axes), []
    for axis in range(len(shape) - filtered, len(shape) - 1):
        around = stage.neighbours(axes[axis], shape[axis])
        if len(axes[axis]) == shape[axis] and bool((around[0] == np.arange(shape[axis])).all()):
            near.append(around)  # all of the axis, in order: its neighbours are among it
            continue
        needed[axis] = np.unique(around)
        near.append(np.searchsorted(needed[axis], around))
    # Along the last axis all is done from the first voxel asked for to the last.
    low, high = int(axes[-1].min()), int(axes[-1].max())
    first = max(0, low - REACH)
    needed[-1] = np.arange(first, min(shape[-1], high + REACH + 1))
    four = [1] * (4 - len(shape)) + [len(index) for index in needed]
    window = np.array(four, np.int64)
    # Of four axes the first two may be one.
    values = np.ascontiguousarray(evaluate(needed)).reshape([len(index) for index in needed])
    tables = stage.tables(postfilter, len(shape))
    if size[-1] < _FEWEST_OF_A_LINE:
        near.append(stage.neighbours(axes[-1], shape[-1]) - first)
        return _columns(values, near, tables).reshape(size)
    alone = np.zeros((1, 1), np.int64)
    near_z, near_y = [alone, alone, *near][-2:]
    lines, flat = four[0] * near_z.shape[1] * near_y.shape[1], values.reshape(-1)
    out = np.empty((lines, high - low + 1), np.float32)

    def run(rows: tuple[int, int]) -> None:
        stage.filter_lines(
            flat, window, near_z, near_y, low - first, filtered, rows, tables, *_room(), out
        )

    each(run, _parts(lines, out.shape[-1]))
    wanted = axes[-1] - low
    whole = len(wanted) == out.shape[-1] and bool((np.diff(wanted) == 1).all())
    return (out if whole else out.take(wanted, axis=-1)).reshape(size)


def _columns(values: Float32Array, near: Sequence[Int64Array], tables: Tables) -> Float32Array:
    """Filter voxels of a window, given their places and their neighbours' along its last axes."""
    from tinc_codec.stream.residual.filters import postfilter as stage

    lead = [np.arange(n)[None] for n in values.shape[: values.ndim - len(near)]]
    # Places in memory along each axis: of the voxels, and how far from there the neighbours are.
    steps = [math.prod(values.shape[axis + 1 :]) for axis in range(values.ndim)]
    places = [step * rows for step, rows in zip(steps, [*lead, *near], strict=True)]
    own, *rest = (_along(rows[0], axis, values.ndim) for axis, rows in enumerate(places))
    others = sum(rest, start=np.zeros(1, np.int64))
    beside = [_along(rows[1:] - rows[0], axis, values.ndim) for axis, rows in enumerate(places)]
    flat, room, found = values.reshape(-1), _room(), []
    step = max(1, _PIECE // others.size)
    for start in range(0, len(own), step):
        part = slice(start, start + step)
        at = own[part] + others
        near_first, *near_rest = beside
        rows = [at[None], at + near_first[:, part], *(at + moves for moves in near_rest)]
        stencil = flat[np.concatenate(rows).reshape(-1, at.size)]
        out = np.empty(at.size, np.float32)
        stage.filter_columns(stencil, tables, *room, out)
        found.append(out)
    return np.concatenate(found)


def _along(numbers: Int64Array, axis: int, axes: int) -> Int64Array:
    """Return rows of numbers, the last axis of which is spread along one of several axes."""
    return numbers.reshape(
        *numbers.shape[:-1], *[1] * axis, numbers.shape[-1], *[1] * (axes - axis - 1)
    )


def _room() -> tuple[Float32Array, npt.NDArray[np.int64]]:
    """Return what filtering overwrites."""
    from tinc_codec.stream.residual.filters import postfilter as stage

    return np.empty(stage.WORK, np.float32), np.empty(stage.PLACES, np.int64)


def _parts(lines: int, length: int) -> list[tuple[int, int]]:
    """Cut lines in parts that are worth a thread each."""
    count = max(1, min(16, lines * length // _LEAST_PART))
    return even_parts(lines, count)
