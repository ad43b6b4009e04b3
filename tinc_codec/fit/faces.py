"""How the faces of a fitted tree's leaves are best made smooth, by trying."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinc_codec import metrics
from tinc_codec.array_types import Float32Array
from tinc_codec.engines.cpu.faces import smooth
from tinc_codec.engines.gpu.faces import measure as on_torch
from tinc_codec.engines.gpu.memory import out_of_memory
from tinc_codec.forks import Lock
from tinc_codec.runtime import current_runtime
from tinc_codec.tree.faces import Smoothing, edges, plans
from tinc_codec.tree.geometry import Geometry

if TYPE_CHECKING:
    import torch

# Gives, of a smoothing, the error that is left, and by how much more values jump at faces than they
# should, at most.
Measure: TypeAlias = Callable[[Smoothing | None], tuple[float, float]]

# On a device one chunk is tried at a time: its values take much of the memory.
_device = Lock()

_REACHES = (1, 2, 4, 8)
_STRENGTHS = (4, 6, 8, 10, 12, 14, 16)
# Faces that jump by no more than this (metrics.block_jump) are taken for unseen. What more error
# that may cost (0.02 dB), and a wider reach, which blends leaves that differ as a whole (0.01 dB).
_UNSEEN, _MORE_ERROR, _MORE_FOR_REACH = 1.05, 10**0.002, 10**0.001


def choose(
    geometry: Geometry,
    said: Float32Array | torch.Tensor,
    unit: Float32Array,
    weight: Float32Array | None,
) -> Smoothing | None:
    """Return the smoothing of the tree's faces that is best; None if that is none.

    Of those whose faces cannot be seen, and that add at most 0.02 dB of error, the widest with
    hardly more than the least error; if there is none, the same of all smoothings.

    Parameters
    ----------
    geometry : Geometry
        Of the tree.
    said, unit : float32 arrays
        What the tree says, not yet smooth, and what it should say. With torch's engine it is tried
        on its device, where what is said may be already, unless that is full.
    weight : float32 array or None
        What each voxel's squared error weighs; None: 1.
    """
    if not geometry.splits:
        return None
    levels = _faces_of_levels(geometry)
    if current_runtime().uses_torch:
        try:
            with _device:
                return _best(on_torch(geometry, said, unit, weight, levels))
        except out_of_memory():
            pass  # the host has room
    values = said if isinstance(said, np.ndarray) else said.cpu().numpy()
    return _best(_measure(geometry, values, unit, weight, levels))


def _best(measured: Measure) -> Smoothing | None:
    """Return the best smoothing by what is measured."""

    def tried(smoothing: Smoothing | None) -> tuple[float, bool, Smoothing | None]:
        error, jump = measured(smoothing)
        return error, jump <= _UNSEEN, smoothing

    trials = [tried(None)]
    least = trials[0][0]
    for reach in _REACHES:
        # One after the other: several at once take several times the memory.
        some = [tried(Smoothing(reach=reach, strength=strength)) for strength in _STRENGTHS]
        trials += some
        lowest = min(error for error, _, _ in some)
        if lowest > _MORE_FOR_REACH * least:
            break
        least = min(least, lowest)
    unseen = [trial for trial in trials if trial[1] and trial[0] <= _MORE_ERROR * trials[0][0]]
    return _widest(unseen or trials)


def _measure(
    geometry: Geometry,
    said: Float32Array,
    unit: Float32Array,
    weight: Float32Array | None,
    levels: Sequence[Sequence[Sequence[int]]],
) -> Measure:
    """Return a function that tries a smoothing."""
    axes = [np.arange(n) for n in geometry.shape]
    own = [metrics.jump_at(unit, faces) for faces in levels]

    def tried(smoothing: Smoothing | None) -> tuple[float, float]:
        values = said.copy()
        if smoothing is not None:
            values = smooth(values, plans(geometry, smoothing, axes))
        if weight is not None:
            values[weight == 0] = unit[weight == 0]
        jumps = [metrics.jump_at(values, faces) for faces in levels]
        return _error(values, unit, weight), max(map(metrics.relative_jump, jumps, own))

    return tried


def _widest(trials: Sequence[tuple[float, bool, Smoothing | None]]) -> Smoothing | None:
    """Return the smoothing of the widest reach that has hardly more than the least error.

    None where that is best.
    """
    least, _, best = min(trials, key=lambda trial: trial[0])
    near = [(error, found) for error, _, found in trials if found is not None]
    near = [(error, found) for error, found in near if error <= _MORE_FOR_REACH * least]
    if best is None:
        return None
    return min(near, key=lambda trial: (-trial[1].reach, trial[0]))[1]


def _faces_of_levels(geometry: Geometry) -> list[list[list[int]]]:
    """Return for each level below the root where its faces are along each axis."""
    out = []
    seen: list[set[int]] = [{0, n} for n in geometry.shape]
    for level in range(1, geometry.levels):
        upper = Geometry(
            shape=geometry.shape, splits=geometry.splits[:level], coordinates=geometry.coordinates
        )
        found = [set(edges(upper, axis).tolist()) for axis in range(len(geometry.shape))]
        out.append([sorted(new - old) for new, old in zip(found, seen, strict=True)])
        seen = found
    return out


def _error(values: Float32Array, unit: Float32Array, weight: Float32Array | None) -> float:
    """Return the weighted sum of squares of what is left once values are clipped."""
    total = 0.0
    for k, (said, wanted) in enumerate(zip(values, unit, strict=True)):
        rest = np.clip(said, 0, 1) - wanted
        counted = rest if weight is None else weight[k] * rest
        total += float(np.einsum("i,i", rest.reshape(-1), counted.reshape(-1)))
    return total
