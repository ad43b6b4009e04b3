"""Scoring an archive against its source, from decoded bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import chunk_file, chunk_regions, file_size, stored_bytes
from tinc_codec.archive.scores import ChunkScore, ProgressCallback, Scores, gather
from tinc_codec.archive.sources import Source, open_source, zarr_array
from tinc_codec.errors import InvalidSetting
from tinc_codec.metrics import errors, ssim


def verify(src: str | Path, dst: str | Path, *, progress: ProgressCallback | None = None) -> Scores:
    """Compare an archive with its source: PSNR, SSIM, maximum error and ratio for each chunk.

    The source is read twice: first for the range of its values, the peak of PSNR and SSIM.

    Parameters
    ----------
    src : str or Path
        The original; see :func:`tinc_codec.archive.open_source`.
    dst : str or Path
        A zarr array or group.
    progress : callable, optional
        Called with a :class:`tinc_codec.archive.Progress` after each chunk.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidSetting
        If the shapes or dtypes differ, or a file is damaged or of an unknown kind.
    CorruptPayload
        If a chunk's bytes are damaged.
    OSError
        If a file cannot be read.
    """
    with open_source(src) as source, open_source(dst) as archive:
        array = zarr_array(archive)
        # Byte order aside: archives hold the machine's.
        kinds = [side.dtype.newbyteorder("=") for side in (source, archive)]
        if source.shape != archive.shape or kinds[0] != kinds[1]:
            raise InvalidSetting(
                f"{src} has shape {source.shape} and dtype {source.dtype}, {dst} has "
                f"{archive.shape} and {archive.dtype}: not the same volume"
            )
        scores = gather(_compared(source, archive), array.nchunks, progress)
    return replace(scores, stored_bytes=stored_bytes(array))


def _compared(source: Source, archive: Source) -> Iterator[ChunkScore]:
    array = zarr_array(archive)
    peak = _data_range(source, array.chunks)
    for position, region in chunk_regions(array.shape, array.chunks):
        voxels, decoded = source.read(region), archive.read(region)
        yield ChunkScore(
            region=region,
            errors=errors(voxels, decoded),
            ssim=_finite_ssim(voxels, decoded, peak),
            raw_bytes=voxels.nbytes,
            # Inside a shard a chunk has no file of its own.
            stored_bytes=0 if array.shards else file_size(chunk_file(array, position)),
        )


def _data_range(source: Source, chunks: tuple[int, ...]) -> float:
    low, high = math.inf, -math.inf
    for _, region in chunk_regions(source.shape, chunks):
        voxels = source.read(region)
        finite = voxels[np.isfinite(voxels)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return max(high - low, 0.0)


def _finite_ssim(reference: NDArray[Any], test: NDArray[Any], peak: float) -> float:
    if not (np.isfinite(reference).all() and np.isfinite(test).all()):
        return math.nan
    return ssim(reference, test, peak)
