"""Which voxels of a chunk are asked for: numpy and zarr selections as index arrays per axis."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """Voxels of a chunk, in the order in which the result holds them (C order over ``shape``).

    Attributes
    ----------
    axes : tuple of int64 arrays, shape (n_k,) each
        One per axis of the chunk, indices from 0 to the axis' size - 1.
    pointwise : bool
        False: the voxels are the outer product of the axes. True: the axes are parallel lists of
        coordinates, all of one length.
    shape : tuple of int
        Shape of the result; its product is the number of voxels.
    """

    axes: tuple[npt.NDArray[np.int64], ...]
    pointwise: bool
    shape: tuple[int, ...]


def is_whole(selection: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a selection is None, or slices that take all of an array in order."""
    if not isinstance(selection, tuple):
        return selection is None
    return len(selection) == len(shape) and all(
        isinstance(s, slice) and s.indices(n) == (0, n, 1)
        for s, n in zip(selection, shape, strict=True)
    )


def index_of(axes: Sequence[npt.NDArray[np.int64]], *, pointwise: bool) -> tuple[Any, ...]:
    """Return what takes voxels of an array between brackets: slices, which copy nothing, if it can.

    Parameters
    ----------
    axes : sequence of int64 arrays
        Indices along each axis.
    pointwise : bool
        As in :class:`Selection`.
    """
    if pointwise:
        return tuple(axes)
    if all(len(index) > 0 and bool((np.diff(index) == 1).all()) for index in axes):
        return tuple(slice(int(index[0]), int(index[-1]) + 1) for index in axes)
    return np.ix_(*axes)


def resolve(selection: Any, shape: tuple[int, ...]) -> Selection:
    """Turn what numpy takes between brackets into index arrays.

    The result shape and the errors are numpy's own, for every kind of index: the selection is
    tried on a view that takes no memory.

    Parameters
    ----------
    selection : object
        Integers, slices (any step but 0), Ellipsis, ``None``, integer arrays, boolean masks, and
        tuples of them; open meshes as of :func:`numpy.ix_` are zarr's ``oindex``, coordinate
        arrays its ``vindex``.
    shape : tuple of int
        Shape of the chunk.

    Returns
    -------
    Selection
        An outer product wherever one gives numpy's order, else parallel coordinates.

    Raises
    ------
    IndexError
        If an index is out of range (names index, axis and size), of a wrong type, or too many.
    """
    result = np.broadcast_to(np.zeros((), np.bool_), shape)[selection].shape
    axes = _outer_axes(selection if isinstance(selection, tuple) else (selection,), shape)
    if axes is not None:
        return Selection(axes=axes, pointwise=False, shape=result)
    grids = np.ix_(*(np.arange(n, dtype=np.int64) for n in shape))
    points = tuple(np.broadcast_to(grid, shape)[selection].reshape(-1) for grid in grids)
    return Selection(axes=points, pointwise=True, shape=result)


def _outer_axes(
    items: tuple[Any, ...], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.int64], ...] | None:
    """Return the axes if the selection is an outer product in numpy's order, else None.

    The selection must be one that numpy accepts for this shape.
    """
    parsed = [_parse(item) for item in items]
    if any(isinstance(item, np.ndarray) and item.dtype == np.bool_ for item in parsed):
        return None  # a mask over several axes
    arrays = [item for item in parsed if isinstance(item, np.ndarray)]
    if arrays and not (_is_open_mesh(arrays) and _are_adjacent(parsed)):
        return None
    indices = [item for item in parsed if item is not None]
    gap = [slice(None)] * (len(shape) - sum(item is not Ellipsis for item in indices))
    at = next((i for i, item in enumerate(indices) if item is Ellipsis), len(indices))
    indices[at : at + 1] = gap
    return tuple(_axis_indices(item, size) for item, size in zip(indices, shape, strict=True))


def _parse(item: Any) -> Any:
    """Return None, Ellipsis, a slice, an int, an integer array, or a mask of no or many axes."""
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    array = np.asarray(item)
    if array.dtype == np.bool_:
        return np.flatnonzero(array) if array.ndim == 1 else array
    if array.ndim == 0:
        return operator.index(item)
    return array.astype(np.int64)  # an empty list is float64 to numpy, and a valid index


def _is_open_mesh(arrays: list[npt.NDArray[np.int64]]) -> bool:
    """Say whether broadcasting the arrays is their outer product, in their order."""
    if len(arrays) == 1:
        return True
    return all(
        array.ndim == len(arrays)
        and all(size == 1 for axis, size in enumerate(array.shape) if axis != place)
        for place, array in enumerate(arrays)
    )


def _are_adjacent(parsed: list[Any]) -> bool:
    """Say whether no slice parts the index arrays; numpy moves parted ones to the front.

    Beside an index array, an integer counts as one.
    """
    places = [i for i, item in enumerate(parsed) if isinstance(item, (int, np.ndarray))]
    return places[-1] - places[0] + 1 == len(places)


def _axis_indices(item: Any, size: int) -> npt.NDArray[np.int64]:
    if isinstance(item, slice):
        return np.arange(*item.indices(size), dtype=np.int64)
    indices = np.asarray(item, dtype=np.int64).reshape(-1)
    return np.where(indices < 0, indices + size, indices)
