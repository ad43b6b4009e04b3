"""What a conversion takes of memory, told before it begins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tinc_codec.archive.arrays import Level
from tinc_codec.archive.sources import SLAB_BYTES, Source
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings

# Measured bounds of tests/test_memory.py: what encoding takes per voxel of a chunk, beside it.
_SMALL_INTEGERS, _OTHERS = 20, 40  # trees
_WAVELETS, _SIMILAR, _BOUNDED = 64, 80, 112
_SCORING = 48  # threshold and errors, of one chunk after the other, when it has been encoded
_ENCODER = 32 << 20
_PROCESS = 400 << 20  # interpreter, compiled kernels, zarr and dask
_TORCH = 28  # bytes a voxel of all that a batch holds: normalised, weighted, and a band of each
PIECE_BYTES = 64 << 20  # bytes of the source that are read at once for a voxel of a coarse level
_STAGED_FROM = 4  # times what is asked for that the source has to be read for it


def peak_bytes(level: Level, settings: Settings, *, bounded: bool, torch: bool) -> int:
    """Return the peak memory of a process that works on a shard of a level, in bytes.

    Parameters
    ----------
    level : Level
        Of the archive.
    settings : Settings
        Of the encoder.
    bounded : bool
        Whether chunks are encoded under a bound: the settings have one, or chunks below a floor
        are stored losslessly.
    torch : bool
        Whether torch is to fit.
    """
    dtype = np.dtype(level.dtype)
    voxels, chunk = math.prod(level.clipped), math.prod(level.chunks)
    # Held twice, as a box and as chunks, then decoded again.
    held = 3 * voxels * dtype.itemsize + level.held
    if level.lossless:
        return _PROCESS + held + chunk * _SCORING
    encoder = _BOUNDED if bounded else _encoder_bytes(dtype, settings)
    work = chunk * max(encoder, _SCORING) + _ENCODER
    if torch:  # a shard at once, as many of its chunks as there are threads
        at_once = min(current_runtime().thread_count(), math.ceil(voxels / chunk))
        work = voxels * _TORCH + at_once * chunk * max(encoder, _SCORING) + _ENCODER
    return _PROCESS + held + work


def _encoder_bytes(dtype: np.dtype[np.generic], settings: Settings) -> int:
    """Return the bytes that the encoder takes for a voxel of a chunk, no bound being given."""
    if settings.form == "auto" and settings.preset == "default":
        return _BOUNDED  # a bounded form is tried where it may be better
    if settings.form != "tree":
        return _WAVELETS if settings.ssim is None else _SIMILAR
    small = dtype.kind in "iu" and dtype.itemsize <= 2 and settings.importance is None
    return _SMALL_INTEGERS if small else _OTHERS


def with_reading(level: Level, source: Source) -> Level:
    """Return the level with how its source is read, and what that holds."""
    itemsize = source.dtype.itemsize
    middle = tuple(
        slice(n // 2, min(n // 2 + s, n)) for n, s in zip(source.shape, level.clipped, strict=True)
    )
    asked, needed = (
        math.prod(s.stop - s.start for s in region)
        for region in (middle, source.preferred_region(middle))
    )
    staged = needed >= _STAGED_FROM * asked
    held = source.resident_bytes + (SLAB_BYTES if staged else 0)
    if source.chunks and not staged:
        held += math.prod(source.chunks) * itemsize
    if math.prod(level.factors) > 1:
        held += 2 * PIECE_BYTES
    if source.spec.mask:  # voxels masked beside those read, and which they are
        voxels = math.prod(level.clipped) if math.prod(level.factors) == 1 else PIECE_BYTES
        held += 3 * voxels * itemsize
    return replace(level, staged=staged, held=held)
