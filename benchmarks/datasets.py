"""The volumes that benchmarks run on: real ones where there are any, and always a phantom.

Real volumes are .npy and .tif files in the folder that ``TINC_DATA`` names, by default
``../shared/data`` beside the repository. Axes z, y, x, or channel, z, y, x.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.phantom import phantom

PHANTOM = "phantom"
# Parts that published figures are of (benchmarks.experiments.peers); channel 0.
_CROPS = {
    "lsfm_axons_dense_trailmap": (100, 120, 120),
    "nuclei_embryo_qcanet_16cell": (50, 120, 122),
    "ct_tooth": (128, 94, 102),
    "cells2ch_cellfinder_a": (26, 128, 128),
}
SIDE = 128
_SUFFIXES = (".npy", ".tif", ".tiff")
_PHANTOM_SHAPE = (128, 128, 128)
_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


def folder() -> Path:
    """Return the folder of the real volumes, which may not be there."""
    named = os.environ.get("TINC_DATA")
    return Path(named) if named else _BESIDE_THE_REPOSITORY


def names() -> list[str]:
    """Return the names of all volumes at hand, the phantom last."""
    return [*sorted(_files()), PHANTOM]


def _files() -> dict[str, Path]:
    there = folder()
    found = sorted(there.iterdir()) if there.is_dir() else []
    return {path.stem: path for path in found if path.suffix in _SUFFIXES}


def select(wanted: Sequence[str] | None) -> list[str]:
    """Return the names wanted, all by default.

    Raises
    ------
    ValueError
        If there is no volume of a name.
    """
    there = names()
    for name in wanted or ():
        if name not in there:
            raise ValueError(
                f"no volume {name!r}; there are {', '.join(there)} (TINC_DATA names the folder)"
            )
    return list(wanted) if wanted else there


def selected(text: str) -> list[str]:
    """Return the names in a text, separated by commas; all where there are none.

    Raises
    ------
    ValueError
        If there is no volume of a name.
    """
    return select([name for name in text.split(",") if name])


def load(name: str) -> NDArray[Any]:
    """Return a volume, memory-mapped if it is a file; ValueError if there is none."""
    select([name])
    if name == PHANTOM:
        return phantom(_PHANTOM_SHAPE)
    path = _files()[name]
    if path.suffix != ".npy":
        from tifffile import imread

        return np.asarray(imread(path))
    volume: NDArray[Any] = np.load(path, mmap_mode="r")
    return volume


def first_block(volume: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the first block of up to ``side`` voxels along each axis, of channel 0."""
    if volume.ndim == 4:
        volume = volume[0]
    return np.ascontiguousarray(volume[tuple(slice(0, side) for _ in volume.shape)])


def block(name: str, side: int = SIDE) -> NDArray[Any]:
    """Return the part of a volume that experiments run on.

    The first corner of up to ``side`` voxels along each axis, of channel 0, or less where
    figures to compare with are of less.
    """
    corner = first_block(load(name), side)
    limits = _CROPS.get(name, corner.shape)
    return np.ascontiguousarray(corner[tuple(slice(0, limit) for limit in limits)])
