"""Voxels of WAVELET and CORRECTION sections, which decode a window at a time, not single voxels.

Both are over three axes, and are decoded in the smallest window around the voxels asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.threads import each

if TYPE_CHECKING:
    from tinc_codec.stream.residual.axes import Window
    from tinc_codec.stream.residual.wavelets.section import Below, Coefficients

# Voxels that a thread is worth.
_PART = 1 << 17


def wavelet_values(
    coded: Coefficients,
    shape: tuple[int, ...],
    axes: Sequence[Int64Array],
    *,
    pointwise: bool,
    below: Below | None = None,
) -> Float32Array:
    """Return voxels of a wavelet section, its offset added, in normalised units.

    Parameters
    ----------
    coded : Coefficients
        The section.
    shape : tuple of int
        Lengths of the axes of the box that are longer than one voxel, 1 to 4.
    axes : one int64 array per axis
        Voxel indices.
    pointwise : bool
        As in :class:`tinc_codec.decoding.selection.Selection`.
    below : Below, optional
        What is added to a low-pass band.
    """
    window, inside = _window(shape, axes, pointwise=pointwise)
    block = coded.values(window, each, below)
    offset = np.float32(coded.header.offset)
    planes = np.array_split(block, max(1, min(len(block), block.size // _PART)))
    each(lambda part: np.add(part, offset, out=part), planes)
    return _picked(block, inside, pointwise=pointwise)


def _window(
    shape: tuple[int, ...], axes: Sequence[Int64Array], *, pointwise: bool
) -> tuple[Window, list[Int64Array]]:
    """Return the smallest window of three axes around voxels, and the indices within it."""
    if len(axes) > 3:  # the first two axes are one
        first = axes[0] if pointwise else axes[0][:, None]
        axes = [(first * shape[1] + axes[1]).reshape(-1), *axes[2:]]
    spare = [np.zeros(len(axes[0]) if pointwise else 1, np.int64)] * (3 - len(axes))
    places = [*spare, *axes]
    a, b, c = ((int(p.min()), int(p.max()) + 1) for p in places)
    return (a, b, c), [p - first for p, (first, _) in zip(places, (a, b, c), strict=True)]


def _picked(
    block: npt.NDArray[Any], inside: Sequence[Int64Array], *, pointwise: bool
) -> npt.NDArray[Any]:
    """Return the voxels of a window that are asked for."""
    if pointwise:
        return block[tuple(inside)]
    for k, index in enumerate(inside):
        if len(index) != block.shape[k] or not np.array_equal(index, np.arange(len(index))):
            block = block.take(index, axis=k)
    return block


def field_values(
    data: bytes,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    axes: Sequence[Int64Array],
    *,
    pointwise: bool,
) -> npt.NDArray[np.int64]:
    """Return voxels of the field of a CORRECTION section.

    Parameters
    ----------
    data : bytes
        Of the section.
    dtype : numpy.dtype
        Of the array.
    shape, axes, pointwise
        As for :func:`wavelet_values`.
    """
    from tinc_codec.stream.residual.corrections import correction

    window, inside = _window(shape, axes, pointwise=pointwise)
    field = correction.decode(data, dtype, shape, window, each)
    return _picked(field, inside, pointwise=pointwise)
