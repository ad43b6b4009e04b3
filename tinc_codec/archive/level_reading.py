"""Reading regions of a level from the source, which stays open from one task to the next."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.arrays import Level
from tinc_codec.archive.layout import Region, within
from tinc_codec.archive.memory import PIECE_BYTES
from tinc_codec.archive.plan import Plan
from tinc_codec.archive.pyramid import downsample, level_region
from tinc_codec.archive.sources import Source, Staging, open_source

_OPENED: dict[str, tuple[Source, Source | Staging]] = {}


def read_level(plan: Plan, level: Level, region: Region) -> NDArray[Any]:
    """Read a region of a level: of a coarse one, the means of blocks of the source, in pieces.

    In one thread of a process at a time.

    Parameters
    ----------
    plan : Plan
        The plan.
    level : Level
        One of its levels.
    region : tuple of slice
        Voxels of the level.

    Returns
    -------
    ndarray
        Of the region's shape; of the level's dtype, but for the byte order of the source.

    Raises
    ------
    OSError
        If the source cannot be read.
    InvalidSetting
        If it gives more at once than a slab may take.
    """
    source = _source(plan, level)
    if math.prod(level.factors) == 1:
        return source.read(region)
    shape = (source.source if isinstance(source, Staging) else source).shape
    result = np.empty([axis.stop - axis.start for axis in region], level.dtype)
    pieces = [region]
    while pieces:
        piece = pieces.pop()
        fine = level_region(piece, level.factors, shape)
        size = math.prod(axis.stop - axis.start for axis in fine) * result.itemsize
        longest = max(range(len(piece)), key=lambda k: piece[k].stop - piece[k].start)
        start, stop = piece[longest].start, piece[longest].stop
        if size > PIECE_BYTES and stop - start > 1:
            for half in (slice(start, (start + stop) // 2), slice((start + stop) // 2, stop)):
                pieces.append((*piece[:longest], half, *piece[longest + 1 :]))
            continue
        voxels = source.read(fine)
        if level.labels:
            voxels = voxels[tuple(slice(None, None, f) for f in level.factors)]
        else:
            voxels = downsample(voxels, level.factors, missing=level.missing)
        result[within(piece, region)] = voxels
    return result


def _source(plan: Plan, level: Level) -> Source | Staging:
    """Open the source once in a process; the fingerprint keeps apart what a path meant before."""
    key = f"{plan.fingerprint}/{level.path}"
    if key not in _OPENED:
        close_sources()
        source = open_source(level.source)
        _OPENED[key] = source, source
        if level.staged:
            _OPENED[key] = source, Staging(source=source, folder=slab_folder(plan))
    return _OPENED[key][1]


def slab_folder(plan: Plan) -> Path:
    """Return the folder of slabs of the source, on a local disk of each machine, of this user."""
    return Path(tempfile.gettempdir()) / f"tinc-slabs-{os.getuid()}-{plan.fingerprint[:16]}"


def close_sources() -> None:
    """Let go of what :func:`read_level` has kept open in this process."""
    while _OPENED:
        _OPENED.popitem()[1][0].close()
