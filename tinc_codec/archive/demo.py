"""The demonstration: a generated volume through an archive and back, with what it cost."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.convert import convert
from tinc_codec.archive.scores import ProgressCallback, Scores
from tinc_codec.encode import encode_chunk
from tinc_codec.metrics import ssim
from tinc_codec.phantom import phantom
from tinc_codec.settings import Settings

_ENLARGED = 3  # screen pixels a voxel


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    volume, archive, comparison : Path
        The generated volume (.npy), its archive, and a picture of the middle slice of the original
        (left) and of the archive (right).
    scores : Scores
        Of the conversion, with its time.
    ssim : float
        Structural similarity of the whole volume as xarray reads it.
    generating, decoding, slicing : float
        Seconds to generate the volume, to read all of it and to read one slice.
    encoding_again : float
        Seconds to encode one chunk once more: the first encoding on a machine compiles kernels.
    """

    volume: Path
    archive: Path
    comparison: Path
    scores: Scores
    ssim: float
    generating: float
    decoding: float
    slicing: float
    encoding_again: float


def demonstrate(
    folder: Path, size: int, settings: Settings, *, progress: ProgressCallback | None = None
) -> Demo:
    """Generate a phantom, convert it, read it back through xarray and compare.

    Parameters
    ----------
    folder : Path
        Made if absent; the demonstration's own files in it are replaced.
    size : int
        Edge of the volume in voxels.
    settings : Settings
        Of the encoder.
    progress : callable, optional
        See :func:`tinc_codec.archive.convert`.
    """
    import xarray as xr

    folder.mkdir(parents=True, exist_ok=True)
    npy, archive, picture = (folder / name for name in ("phantom.npy", "phantom.zarr", "slice.png"))
    started = time.perf_counter()
    volume = phantom((size, size, size))
    generating = time.perf_counter() - started
    np.save(npy, volume)
    scores = convert(npy, archive, settings, overwrite=True, progress=progress)

    data = xr.open_zarr(archive)["data"]
    started = time.perf_counter()
    decoded = data.to_numpy()
    decoding = time.perf_counter() - started
    started = time.perf_counter()
    middle = data[size // 2].to_numpy()
    slicing = time.perf_counter() - started
    started = time.perf_counter()
    encode_chunk(volume[scores.chunks[0].region], settings)
    encoding_again = time.perf_counter() - started
    _save_picture(picture, volume[size // 2], middle)
    return Demo(
        volume=npy,
        archive=archive,
        comparison=picture,
        scores=scores,
        ssim=ssim(volume, decoded),
        generating=generating,
        decoding=decoding,
        slicing=slicing,
        encoding_again=encoding_again,
    )


def _save_picture(path: Path, left: NDArray[Any], right: NDArray[Any]) -> None:
    import imagecodecs

    pair = np.hstack([left, right]).astype(np.float64)
    low, high = np.percentile(left, [0.5, 99.7])
    grey = np.clip((pair - low) / max(high - low, 1.0) * 255, 0, 255).astype(np.uint8)
    path.write_bytes(imagecodecs.png_encode(grey.repeat(_ENLARGED, 0).repeat(_ENLARGED, 1)))
