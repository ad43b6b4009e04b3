"""Values of the stored dtype on the device: what decoding does after evaluation, bit for bit.

Torch's unsigned integers can do little, so values travel as bits: signed integers of the dtype's
size, which the receiver views as what they are.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.engines.gpu import fused, trust

if TYPE_CHECKING:
    import torch

# Voxels at which a kernel is compared with torch.
_COMPARED = 1 << 20


def denormalize(unit: torch.Tensor, low: float, high: float, dtype: np.dtype[Any]) -> torch.Tensor:
    """Map [0, 1] to values: :func:`tinc_codec.stream.normalize.denormalize` on the device.

    Memory: at most 40 bytes per voxel beside ``unit``.

    Parameters
    ----------
    unit : float32 tensor
        Any shape.
    low, high : int or float
        Exact values of the dtype, low <= high.
    dtype : numpy.dtype
        Of the values; its byte order is ignored.

    Returns
    -------
    tensor of signed integers of the dtype's size
        Same shape: the bits, in native order.
    """
    if dtype.kind != "f" and dtype.itemsize <= 4 and trust.are_asked_for(unit.device):
        bits, limits = _bits(dtype), (int(low), int(high))

        def compare() -> tuple[torch.Tensor, torch.Tensor]:
            some = unit.reshape(-1)[:_COMPARED].contiguous()
            return fused.to_integers(some, *limits, bits), _in_steps(some, low, high, dtype)

        if not unit.numel() or trust.agreed(("integers", bits), unit.device, compare, 0.0):
            return fused.to_integers(unit.contiguous(), *limits, bits)
    return _in_steps(unit, low, high, dtype)


def normalize(bits: torch.Tensor, low: float, high: float, dtype: np.dtype[Any]) -> torch.Tensor:
    """Map values to [0, 1]: :func:`tinc_codec.stream.normalize.normalize` on the device.

    Memory: at most 24 bytes per voxel beside ``bits``.

    Parameters
    ----------
    bits : tensor of signed integers
        As :func:`denormalize` gives.
    low, high, dtype
        As there, low < high.

    Returns
    -------
    float32 tensor
        Same shape.
    """
    import torch

    if dtype.kind == "f":
        kinds = {2: torch.float16, 4: torch.float32, 8: torch.float64}
        values = bits.view(kinds[dtype.itemsize]).double()
    else:
        values = bits.double()
        if dtype.kind == "u":
            values = torch.where(bits < 0, values + 2.0 ** (8 * dtype.itemsize), values)
    # Half of each, where the span of float64 extremes overflows.
    scale = 1.0 if math.isfinite(float(high) - float(low)) else 0.5
    values = (values * scale).sub_(low * scale).div_(high * scale - low * scale)
    return values.masked_fill_(values.isnan(), 0.0).clamp_(0.0, 1.0).float()


def _in_steps(unit: torch.Tensor, low: float, high: float, dtype: np.dtype[Any]) -> torch.Tensor:
    """Map [0, 1] to values by torch, step by step."""
    import torch

    u = unit.double()
    u = u.masked_fill_(u.isnan(), 0.0).clamp_(0.0, 1.0)
    values = (1.0 - u).mul_(float(low)).add_(u.mul_(float(high)))
    if dtype.kind != "f":
        values.round_()
    values.clamp_(float(low), float(high))
    bits = _bits(dtype)
    if dtype.kind != "f":
        return values.long().to(bits)  # keeps the low bits, as two's complement has it
    if dtype.itemsize == 2:
        return _rounded_to_odd(values).half().view(bits)
    return values.to(torch.float32 if dtype.itemsize == 4 else torch.float64).view(bits)


def _bits(dtype: np.dtype[Any]) -> torch.dtype:
    """Return the signed integers of a dtype's size."""
    import torch

    return {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def _rounded_to_odd(values: torch.Tensor) -> torch.Tensor:
    """Return float64 values as float32 from which rounding to float16 goes as from float64.

    Torch rounds to float16 by way of float32, twice. A float32 that is not exact is made the
    neighbour whose last bit is 1: no tie of the second rounding.
    """
    import torch

    nearest = values.float()
    back = nearest.double()
    bits = nearest.view(torch.int32)
    towards_zero = bits - (back.abs() > values.abs()).int()
    return (towards_zero | (back != values).int()).view(torch.float32)


def restore(
    bits: torch.Tensor, labels: npt.NDArray[np.uint8], patterns: npt.NDArray[Any]
) -> torch.Tensor:
    """Return bits with special values in their places.

    Parameters
    ----------
    bits : tensor of signed integers
        As :func:`denormalize` gives.
    labels : uint8 array of the same shape
        0 for an ordinary voxel, k for ``patterns[k - 1]``.
    patterns : array of unsigned integers of the same size
        Bit patterns.
    """
    import torch

    # A 0 of the same dtype: beside a signed one bits of 64 would become float64.
    ordinary = np.zeros(1, patterns.dtype)
    signed = np.concatenate([ordinary, patterns]).view(f"i{patterns.itemsize}")
    table = torch.tensor(signed, device=bits.device)
    where = torch.tensor(labels, device=bits.device)
    return torch.where(where == 0, bits, table[where.long()])


def to_numpy(bits: torch.Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return values on the host, in C order, of a dtype in its own byte order."""
    values: npt.NDArray[Any] = bits.cpu().numpy().view(dtype.newbyteorder("="))
    return values.astype(dtype, copy=False)


def to_cupy(bits: torch.Tensor, dtype: np.dtype[Any]) -> Any:
    """Return values as a cupy array in the same memory; ``dtype`` has native byte order."""
    return import_module("cupy").from_dlpack(bits).view(dtype)
