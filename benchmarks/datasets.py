"""The volumes that benchmarks run on: real ones where there are any, and always a phantom.

Real volumes are .npy files in the folder that ``TINC_DATA`` names, by default ``../shared/data``
beside the repository. Axes z, y, x, or channel, z, y, x.
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
_PHANTOM_SHAPE = (128, 128, 128)
_BESIDE_THE_REPOSITORY = Path(__file__).parents[2] / "shared" / "data"


def folder() -> Path:
    """Return the folder of the real volumes, which may not be there."""
    named = os.environ.get("TINC_DATA")
    return Path(named) if named else _BESIDE_THE_REPOSITORY


def names() -> list[str]:
    """Return the names of all volumes at hand, the phantom last."""
    return [*sorted(path.stem for path in folder().glob("*.npy")), PHANTOM]


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


def load(name: str) -> NDArray[Any]:
    """Return a volume, memory-mapped if it is a file; ValueError if there is none."""
    select([name])
    if name == PHANTOM:
        return phantom(_PHANTOM_SHAPE)
    volume: NDArray[Any] = np.load(folder() / f"{name}.npy", mmap_mode="r")
    return volume


def first_block(volume: NDArray[Any], side: int) -> NDArray[Any]:
    """Return the first block of up to ``side`` voxels along each axis, of channel 0."""
    if volume.ndim == 4:
        volume = volume[0]
    return np.ascontiguousarray(volume[tuple(slice(0, side) for _ in volume.shape)])
