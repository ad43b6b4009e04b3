"""Whether this engine and the reference agree on a payload, before it is handed out."""

from __future__ import annotations

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.decoding.opened import Chunk, open_chunk
from tinc_codec.decoding.voxels import unit_values
from tinc_codec.engines import current_engine

# What FORMAT.md promises of the engines, in normalised units: quantised and raw weights.
_TOLERANCE, _RAW_TOLERANCE = 1e-5, 1e-4
_CHECKED_VOXELS = 2048
_CHECKED_BOXES, _CHECKED_SIDE = 16, 5


def is_portable(payload: bytes, seed: int, *, raw: bool = False) -> bool:
    """Tell whether this engine agrees with the reference on a form, as FORMAT.md promises.

    Checked on voxels drawn from all of the box. Weights so large that rounding errors grow
    beyond the promise would decode differently elsewhere.
    """
    from tinc_codec.engines import reference

    chunk = open_chunk(payload)
    drawn, pointwise = _drawn(chunk, np.random.default_rng(seed))
    tolerance = _RAW_TOLERANCE if raw else _TOLERANCE

    def agree(axes: list[Int64Array]) -> bool:
        here, there = (
            unit_values(chunk, axes, pointwise=pointwise, engine=engine)
            for engine in (current_engine(), reference)
        )
        return bool(np.abs(here - there).max() <= tolerance)

    return all(map(agree, drawn))


def _drawn(chunk: Chunk, rng: np.random.Generator) -> tuple[list[list[Int64Array]], bool]:
    """Return voxels from all of the box, and whether they are lists of single ones.

    For a tree of a low-pass band, of which any voxel takes a neighbourhood, they are small boxes.
    """
    shape = chunk.box_shape
    if chunk.tree is None or not chunk.tree.halvings:
        return [[rng.integers(0, n, _CHECKED_VOXELS) for n in shape]], True
    corners = [rng.integers(0, shape) for _ in range(_CHECKED_BOXES)]
    return [
        [np.arange(a, min(a + _CHECKED_SIDE, n)) for a, n in zip(corner, shape, strict=True)]
        for corner in corners
    ], False
