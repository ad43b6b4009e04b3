"""What the squared error of each voxel weighs: where the bytes of a ratio are spent.

The paper weighs nodes by their share of valid signals (sec. 4, sec. 5.3); here voxels are weighed,
in the loss of trees and the coding of wavelets alike, and nodes by the sum of their voxels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.errors import InvalidSetting

# What voxels weigh that are neither important nor beside one that is.
OTHERS = 1 / 16
# The least that an array of weights can say of a voxel, against the largest of the chunk: what
# weighs nothing would come back as anything.
LEAST = 1 / 256


def by_threshold(box: npt.NDArray[Any], threshold: float) -> Float32Array | None:
    """Return 1 where voxels reach a threshold or are near one that does, 1/16 elsewhere.

    Parameters
    ----------
    box : array
        Voxels; NaN reaches nothing.
    threshold : float
        In units of the data.

    Returns
    -------
    float32 array of the same shape, or None
        None where all voxels weigh the same.
    """
    with np.errstate(over="ignore"):  # a threshold beyond the dtype is infinity
        reached = box >= threshold
    for axis in range(box.ndim):
        reached = _widened(reached, axis)
    if reached.all() or not reached.any():
        return None
    return np.where(reached, np.float32(1), np.float32(OTHERS))


def _widened(reached: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """Add what lies beside along an axis."""
    along = np.moveaxis(reached, axis, 0)
    wide = along.copy()
    wide[1:] |= along[:-1]
    wide[:-1] |= along[1:]
    return np.moveaxis(wide, 0, axis)


def check_weights(weights: npt.NDArray[Any], shape: tuple[int, ...]) -> None:
    """Refuse an array that is not one weight, 0 or more, for each voxel.

    Raises
    ------
    InvalidSetting
        If the shape is another, or a weight is negative, NaN, infinite or no real number.
    """
    if weights.shape != shape:
        raise InvalidSetting(
            f"importance has shape {weights.shape}, the array {shape}; give one weight per voxel"
        )
    if weights.dtype.kind not in "buif":
        raise InvalidSetting(f"importance is of dtype {weights.dtype}; give real numbers")
    bad = weights[~((weights >= 0) & np.isfinite(weights))] if weights.size else weights
    if bad.size:
        raise InvalidSetting(
            f"importance holds {bad.flat[0]!s}; weights are finite numbers, 0 or more"
        )


def by_weights(weights: npt.NDArray[Any]) -> Float32Array | None:
    """Return weights over their largest, 1/256 at least; None where all are the same."""
    low, high = float(weights.min()), float(weights.max())
    if low == high:
        return None
    return np.maximum((weights / high).astype(np.float32), np.float32(LEAST))
