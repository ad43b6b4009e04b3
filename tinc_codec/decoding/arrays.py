"""The array that a chunk holds, or a selection of it: the box of voxels, and what is around it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec import turns
from tinc_codec.array_types import Int64Array
from tinc_codec.decoding.opened import Chunk
from tinc_codec.decoding.selection import Selection, index_of, resolve
from tinc_codec.decoding.voxels import box_values, field_at
from tinc_codec.stream import special_values

# Voxels evaluated at once: working memory does not grow with the array.
_PART = 1 << 21


def array_of(chunk: Chunk, selection: Any = None) -> npt.NDArray[Any]:
    """Return the array that a chunk holds, or what numpy would take of it between brackets.

    Raises
    ------
    CorruptPayload
        If the data of a section end before its values do.
    IndexError
        If the selection does not fit the chunk.
    """
    with turns.counted():
        if selection is None:
            return _whole(chunk)
        return _selected(chunk, resolve(selection, chunk.info.shape))


def _parts(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield slices of at most _PART voxels that tile an array, in C order."""
    steps: list[int] = []
    room = _PART
    for n in reversed(shape):
        steps.insert(0, max(1, min(n, room)))
        room //= max(n, 1)
    starts = [range(0, n, step) for n, step in zip(shape, steps, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(at, at + step) for at, step in zip(corner, steps, strict=True))


def _fill_box(
    chunk: Chunk, out: npt.NDArray[Any], axes: Sequence[Int64Array | range], *, pointwise: bool
) -> None:
    """Write voxels of the box to ``out``, which has one axis per axis of the box or is a list."""
    added = None
    if chunk.correction is not None and out.size:  # once for all parts: 8 bytes for each voxel
        whole = [np.arange(a.start, a.stop) if isinstance(a, range) else a for a in axes]
        added = field_at(chunk, whole, pointwise=pointwise)
    for part in _parts(out.shape):
        cuts = part * len(axes) if pointwise else part
        some = [axis[cut] for axis, cut in zip(axes, cuts, strict=True)]
        index = [np.arange(a.start, a.stop) if isinstance(a, range) else a for a in some]
        given = None if added is None else added[part]
        room = out[part]
        direct = room if room.flags.c_contiguous else None
        values = box_values(chunk, index, pointwise=pointwise, added=given, out=direct)
        if values is not room:
            room[...] = values


def _whole(chunk: Chunk) -> npt.NDArray[Any]:
    """Return the whole array, in the memory order that the encoder saw."""
    out: npt.NDArray[Any] = np.empty(chunk.info.shape, chunk.info.dtype, order=chunk.info.order)
    box = out
    if chunk.crop is not None:
        special_values.fill_with(out, chunk.crop.fill)
        box = out[chunk.crop.slices]
    # Ranges, since an index of 8 bytes may be more than its voxel.
    _fill_box(chunk, box, [range(n) for n in box.shape], pointwise=False)
    return out


def _selected(chunk: Chunk, selection: Selection) -> npt.NDArray[Any]:
    """Return the selected voxels, in the chunk's dtype and the selection's shape."""
    pointwise = selection.pointwise
    size = [len(a) for a in selection.axes]
    out: npt.NDArray[Any] = np.empty(size[:1] if pointwise else size, chunk.info.dtype)
    if chunk.crop is None:
        _fill_box(chunk, out, selection.axes, pointwise=pointwise)
        return out.reshape(selection.shape)
    special_values.fill_with(out, chunk.crop.fill)
    inside = chunk.crop.holds(selection.axes)
    if pointwise:
        inside = [np.logical_and.reduce(inside)] * len(inside)
    axes = chunk.crop.places(selection.axes, inside)
    if not all(len(a) for a in axes):
        return out.reshape(selection.shape)
    kept = [np.flatnonzero(keep) for keep in (inside[:1] if pointwise else inside)]
    at = index_of(kept, pointwise=pointwise)
    box = out[at]
    _fill_box(chunk, box, axes, pointwise=pointwise)
    if box.base is not out:  # no view
        out[at] = box
    return out.reshape(selection.shape)
