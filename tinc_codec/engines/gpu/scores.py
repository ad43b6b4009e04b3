"""How far decoded values that are on torch's device are from those that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinc_codec.array_types import Float32Array
from tinc_codec.engines.gpu import values
from tinc_codec.engines.gpu.device import current_device
from tinc_codec.engines.gpu.memory import available
from tinc_codec.stream.normalize import ArrayInfo

if TYPE_CHECKING:
    import torch

# Per voxel of all chunks their bits, up to 8 bytes; of the one that is scored, some in float64.
_KEPT, _SCORED = 8, 64


def most_scored(voxels: int) -> int:
    """Return how many chunks of so many voxels to decode and score at once."""
    return max(1, (available(current_device()) - _SCORED * voxels) // (_KEPT * voxels))


def mean_square(
    bits: torch.Tensor, info: ArrayInfo, unit: Float32Array, weight: Float32Array | None
) -> float:
    """Return the weighted mean of squared errors, in units of high - low.

    Parameters
    ----------
    bits : tensor of signed integers
        Decoded voxels, as of :mod:`tinc_codec.engines.gpu.values`.
    info : ArrayInfo
        Their range and dtype.
    unit : float32 array of as many voxels, in the same order
        What they stand for, normalised.
    weight : float32 array of the same shape, or None
        What each squared error weighs; None: 1.
    """
    import torch

    said = values.normalize(bits.reshape(-1), info.low, info.high, info.dtype)
    there = torch.as_tensor(unit, device=bits.device).reshape(-1)
    squares = said.sub_(there).double().square_()
    if weight is None:
        return float(squares.mean())
    factors = torch.as_tensor(weight, device=bits.device).reshape(-1).double()
    return float((squares * factors).sum() / factors.sum())
