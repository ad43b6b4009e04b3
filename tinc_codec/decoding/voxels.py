"""Voxels of a chunk's box: forms evaluated and added up, filtered, and put in the chunk's dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.decoding.filtered import filtered_values
from tinc_codec.decoding.opened import Chunk, long_axes
from tinc_codec.decoding.selection import index_of
from tinc_codec.decoding.smoothed import begin_grid, begin_low_pass, point_values
from tinc_codec.decoding.windowed import field_values, wavelet_values
from tinc_codec.engines import current_engine
from tinc_codec.stream import cosine, normalize, special_values
from tinc_codec.threads import each

if TYPE_CHECKING:
    from tinc_codec.engines import Engine
    from tinc_codec.stream.residual.wavelets.section import Below

_Item = TypeVar("_Item", bound=np.generic)


def unit_values(
    chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool, engine: Engine | None = None
) -> Float32Array:
    """Evaluate the tree, the wavelet or the low-order form on voxels of the box, and filter them.

    Parameters
    ----------
    chunk : Chunk
        Not a constant one.
    axes : one int64 array per axis of the box
        Voxel indices.
    pointwise : bool
        As in :class:`tinc_codec.decoding.selection.Selection`.
    engine : Engine, optional
        Evaluates the tree; by default that of the run-time settings.

    Returns
    -------
    float32 array
        (n,) pointwise, else one axis per axis of the box; nominally in [0, 1].
    """
    shape = chunk.box_shape
    kept = [index for index, n in zip(axes, shape, strict=True) if n > 1]
    evaluate = partial(_sum_of_forms, chunk, pointwise=pointwise, engine=engine)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that no encoder writes
        if chunk.postfilter is None:
            values = evaluate(kept)
        else:
            values = filtered_values(
                chunk.postfilter, long_axes(shape), kept, evaluate, pointwise=pointwise
            )
    return values if pointwise else _along_all_axes(values, shape, axes)


def _along_all_axes(
    values: npt.NDArray[_Item], shape: Sequence[int], axes: Sequence[Int64Array]
) -> npt.NDArray[_Item]:
    """Return values of the axes longer than one voxel along all: the others may be asked for often.

    Read-only where they are.
    """
    spread = tuple(len(a) if n > 1 else 1 for a, n in zip(axes, shape, strict=True))
    return np.broadcast_to(values.reshape(spread), [len(a) for a in axes])


def _sum_of_forms(
    chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool, engine: Engine | None
) -> Float32Array:
    """Return voxels of the axes longer than one voxel, not yet filtered; any shape in C order."""
    shape = long_axes(chunk.box_shape)
    if chunk.coefficients is not None:
        cosines = cosine.evaluate_points if pointwise else cosine.evaluate_grid
        return cosines(chunk.coefficients, shape, axes)
    if chunk.tree is None or chunk.tree.halvings:
        assert chunk.wavelet is not None
        below = None if chunk.tree is None else tree_below(chunk, engine or current_engine())
        return wavelet_values(chunk.wavelet, shape, axes, pointwise=pointwise, below=below)
    with _tree_begun(chunk, axes, engine or current_engine(), pointwise=pointwise) as finish:
        if chunk.wavelet is None:
            return finish()
        rest = wavelet_values(chunk.wavelet, shape, axes, pointwise=pointwise)
        values = finish()
    return values + rest.reshape(values.shape)


@contextmanager
def _tree_begun(
    chunk: Chunk, axes: Sequence[Int64Array], engine: Engine, *, pointwise: bool
) -> Iterator[Callable[[], Float32Array]]:
    """Let other threads begin voxels of a tree of the box; yields what gives them."""
    assert chunk.tree is not None
    assert chunk.parameters is not None
    if pointwise:
        evaluate = partial(engine.evaluate_points, chunk.tree, chunk.parameters, steps=chunk.steps)
        yield partial(point_values, chunk.tree, axes, evaluate)
        return
    begin = partial(engine.begin_grid, chunk.tree, chunk.parameters, steps=chunk.steps)
    with begin_grid(chunk.tree, axes, begin) as finish:
        yield finish


def tree_below(chunk: Chunk, engine: Engine) -> Below:
    """Return the level whose low-pass band a chunk's tree describes, and what begins a window."""
    assert chunk.tree is not None
    assert chunk.parameters is not None
    assert chunk.wavelet is not None
    begin = partial(engine.begin_grid, chunk.tree, chunk.parameters, steps=chunk.steps)
    depth = chunk.tree.halvings
    shape = chunk.wavelet.header.plan.shapes[depth]
    return depth, partial(begin_low_pass, chunk.tree, begin, shape)


def box_values(
    chunk: Chunk,
    axes: Sequence[Int64Array],
    *,
    pointwise: bool,
    added: npt.NDArray[np.int64] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return voxels of the box in the chunk's dtype, special values restored.

    ``added`` is the field of the CORRECTION section at these voxels, where it is known already;
    ``out``, C-contiguous, is where to put them if nothing is added.
    """
    info = chunk.info
    size = (len(axes[0]),) if pointwise else tuple(len(a) for a in axes)
    if chunk.form in ("constant", "correction"):
        values = np.full(size, info.low, info.dtype)
    else:
        unit = unit_values(chunk, axes, pointwise=pointwise)
        values = normalize.denormalize(unit, info.low, info.high, info.dtype, out, each)
    if chunk.correction is not None:
        from tinc_codec.stream.residual.corrections import correction

        if added is None:
            added = field_at(chunk, axes, pointwise=pointwise)
        values = correction.add(values, added, chunk.correction, info.low, info.high)
    if chunk.mask is not None:
        labels = chunk.mask.labels[index_of(axes, pointwise=pointwise)]
        special_values.restore(values, labels, chunk.mask.patterns)
    return values


def field_at(chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool) -> npt.NDArray[np.int64]:
    """Return the field of the CORRECTION section at voxels of the box."""
    assert chunk.correction is not None
    kept = [index for index, n in zip(axes, chunk.box_shape, strict=True) if n > 1]
    shape = long_axes(chunk.box_shape)
    field = field_values(chunk.correction, chunk.info.dtype, shape, kept, pointwise=pointwise)
    return field if pointwise else _along_all_axes(field, chunk.box_shape, axes)
