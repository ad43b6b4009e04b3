"""What payloads say, and how well: every score is of what a reader gets, of the decoded payload."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import metrics
from tinc_codec.array_types import Float32Array
from tinc_codec.decoding.opened import Chunk, long_axes, open_chunk
from tinc_codec.decoding.voxels import box_values, unit_values
from tinc_codec.engines import current_engine
from tinc_codec.forms.volume import Volume
from tinc_codec.runtime import current_runtime
from tinc_codec.stream import normalize, special_values
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

if TYPE_CHECKING:
    import torch

# Above, what binary32 rounds counts.
ROUNDED_FROM_DB = 90


def said(payload: bytes, volume: Volume) -> Float32Array:
    """Return what a payload says of the box, in normalised units, of the volume's shape."""
    chunk = open_chunk(payload)
    axes = [np.arange(n) for n in chunk.box_shape]
    return unit_values(chunk, axes, pointwise=False).reshape(volume.unit.shape)


def tree_says(chunk: Chunk, volume: Volume) -> Float32Array | torch.Tensor:
    """Return what a tree alone says of the box, of the volume's shape, its faces not yet smooth.

    With torch's engine it stays on its device.
    """
    assert chunk.tree is not None
    assert chunk.parameters is not None
    axes = [np.arange(n) for n in volume.unit.shape]
    if not current_runtime().uses_torch:
        return current_engine().evaluate_grid(chunk.tree, chunk.parameters, axes, chunk.steps)
    from tinc_codec.engines.gpu.engine import evaluate_alone

    return evaluate_alone(chunk.tree, chunk.parameters, axes, chunk.steps, pointwise=False)


def decoded(payload: bytes, volume: Volume) -> npt.NDArray[Any]:
    """Return the voxels of the box as a reader gets them, but for the masked ones."""
    chunk = replace(open_chunk(payload), mask=None)
    native = volume.info.dtype.newbyteorder("=")
    return box_values(chunk, [np.arange(n) for n in chunk.box_shape], pointwise=False).astype(
        native
    )


def _decoded_unit(payload: bytes, volume: Volume) -> Float32Array:
    """Return the decoded voxels normalised again, of the volume's shape."""
    ends = volume.info.low, volume.info.high
    return normalize.normalize(decoded(payload, volume), *ends, each).reshape(volume.unit.shape)


def ssim(payload: bytes, volume: Volume) -> float:
    """Return the SSIM of a payload over the box, where what is not fitted counts as exact."""
    unit = _decoded_unit(payload, volume)
    if volume.weight is not None:
        unit = np.where(volume.weight == 0, volume.unit, unit)
    return metrics.ssim(volume.unit, unit, 1.0, ndim=_windowed(volume.values.shape))


def _windowed(shape: tuple[int, ...]) -> int:
    """Return how many axes a window of SSIM spans: the last three, but those of one voxel."""
    return max(1, len(long_axes(shape[-3:])))


def chunk_ssim(payload: bytes, volume: Volume) -> float:
    """Return the SSIM of a payload as readers find it: of the box or, where less, of the chunk.

    Values are in units of the range, but from the dtype's 0 on, since SSIM compares means, too.
    """
    low, high = float(volume.info.low), float(volume.info.high)
    span, crop = high - low, open_chunk(payload).crop
    shape, box, fill = volume.unit.shape, (slice(None),) * volume.unit.ndim, math.nan
    axes = _windowed(volume.values.shape)
    if crop is not None:
        fill = special_values.value_of(crop.fill, volume.info.dtype)
        if math.isfinite(fill):
            shape, axes = long_axes(volume.info.shape), _windowed(volume.info.shape)
            box = tuple(s for s, n in zip(crop.slices, volume.info.shape, strict=True) if n > 1)
    # Where values are far from 0 for their range, binary32 would round what SSIM looks at.
    kind = np.float32 if max(abs(low), abs(high)) <= 2 * span else np.float64
    original, given = np.full((2, *shape), fill / span, kind)
    inside = original[box].shape
    np.add(volume.unit.reshape(inside), low / span, out=original[box], dtype=np.float64)
    decoded_unit = _decoded_unit(payload, volume).reshape(inside)
    np.add(decoded_unit, low / span, out=given[box], dtype=np.float64)
    del decoded_unit
    if volume.weight is not None:
        np.copyto(given[box], original[box], where=volume.weight.reshape(inside) == 0)
    found = metrics.ssim(original[box], given[box], 1.0, ndim=axes)
    if volume.weight is not None and np.isfinite(volume.values).all():
        found = min(found, _ssim_of_values(payload, volume, crop if math.isfinite(fill) else None))
    if not math.isfinite(fill):
        return found
    ends = (max(high, fill) - min(low, fill)) / span
    return min(found, metrics.ssim(original, given, ends, ndim=axes))


def _ssim_of_values(payload: bytes, volume: Volume, crop: special_values.Crop | None) -> float:
    """Return the SSIM of a chunk's values themselves, those restored exactly included.

    Within the box, where its surroundings (``crop``) are not given.
    """
    values, given = volume.values, decoded(payload, volume).reshape(volume.values.shape)
    if volume.weight is not None:
        given = np.where(volume.weight.reshape(values.shape) == 0, values, given)
    if crop is not None:
        fill = special_values.value_of(crop.fill, volume.info.dtype)
        pair = np.full((2, *volume.info.shape), fill, given.dtype)
        pair[0][crop.slices], pair[1][crop.slices] = values, given
        values, given = pair
    stack = long_axes(values.shape)
    return metrics.ssim(values.reshape(stack), given.reshape(stack), ndim=_windowed(values.shape))


def psnr_of(payload: bytes, volume: Volume) -> float:
    """Return the PSNR in dB of a payload against high - low, voxels as they weigh."""
    info = volume.info
    found = decibels(
        normalize.mean_square(
            decoded(payload, volume), info.low, info.high, volume.unit, volume.weight, each
        )
    )
    if found <= ROUNDED_FROM_DB or volume.importance() is not None:
        return found
    return precise_psnr(payload, volume)


def precise_psnr(payload: bytes, volume: Volume) -> float:
    """Return the PSNR in dB without normalising to binary32; inf where all voxels are equal."""
    error = of_range(errors(decoded(payload, volume), volume), volume.info)
    return decibels(float(np.mean(error**2)))


def of_range(error: npt.NDArray[np.float64], info: ArrayInfo) -> npt.NDArray[np.float64]:
    """Return errors in units of high - low, which may be more than float64 holds."""
    low, high = float(info.low), float(info.high)
    if math.isfinite(high - low):
        return error / (high - low)
    return error / 2 / (high / 2 - low / 2)


def errors(given: npt.NDArray[Any], volume: Volume) -> npt.NDArray[np.float64]:
    """Return how far values of the box are from those to be fitted, masked voxels left out."""
    pair = [values.reshape(-1) for values in (given, volume.values)]
    if volume.weight is not None:  # masked voxels may be NaN of any kind
        counted = volume.weight.reshape(-1) != 0
        pair = [values[counted] for values in pair]
    found, original = (values.astype(np.float64) for values in pair)
    with np.errstate(over="ignore"):
        return found - original


def decibels(loss: float) -> float:
    """Return how far a loss is below 1, in dB; inf for none."""
    return -10 * math.log10(loss) if loss > 0 else math.inf
