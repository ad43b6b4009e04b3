"""Faces of leaves made smooth on torch's device; as :mod:`tinc_codec.engines.cpu.faces`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tinc_codec import metrics
from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.engines.gpu import fused, trust
from tinc_codec.engines.gpu.device import current_device
from tinc_codec.tree.faces import STENCIL, Smoothing, plans
from tinc_codec.tree.geometry import Geometry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A plan of :mod:`tinc_codec.tree.faces` along an axis, its arrays on a device.

    Attributes
    ----------
    index : int64 array
        Voxels to evaluate.
    firsts : (faces,) int64 tensor
        Places in ``index`` where the faces' stencils begin.
    rows, faces : (n,) int64 tensor
        Places of the voxels to correct, and the faces they are corrected by.
    factors : (n,) float32 tensor
        Of the faces' excess, to be added.
    asked : int64 tensor or None
        Places of the voxels asked for; None where they are all in order.
    """

    index: Int64Array
    firsts: torch.Tensor
    rows: torch.Tensor
    faces: torch.Tensor
    factors: torch.Tensor
    asked: torch.Tensor | None


@lru_cache(maxsize=8)
def axes_of(
    geometry: Geometry,
    smoothing: Smoothing | None,
    indices: tuple[bytes, ...],
    device: torch.device,
) -> tuple[Axis, ...]:
    """Return the plan of every axis of an outer product of voxel indices, the last ones kept.

    The indices are the bytes of an int64 array for each axis.
    """
    import torch

    axes = []
    for plan in plans(geometry, smoothing, [np.frombuffer(index, np.int64) for index in indices]):
        in_order = np.array_equal(plan.asked, np.arange(len(plan.index)))
        firsts, rows, faces, factors, asked = (
            torch.tensor(part, device=device)
            for part in (plan.firsts, plan.rows, plan.faces, plan.factors, plan.asked)
        )
        axes.append(
            Axis(
                index=plan.index,
                firsts=firsts,
                rows=rows,
                faces=faces,
                factors=factors,
                asked=None if in_order else asked,
            )
        )
    return tuple(axes)


def measure(
    geometry: Geometry,
    said: Float32Array | torch.Tensor,
    unit: Float32Array,
    weight: Float32Array | None,
    levels: Sequence[Sequence[Sequence[int]]],
) -> Callable[[Smoothing | None], tuple[float, float]]:
    """Return a function that tries a smoothing on the device.

    As the one of :mod:`tinc_codec.fit.faces` for the host; memory: up to 32 bytes per voxel.
    """
    import torch

    device = current_device()
    values, target = (torch.as_tensor(array, device=device) for array in (said, unit))
    of_voxels = None if weight is None else torch.as_tensor(weight, device=device)
    indices = tuple(np.arange(n).tobytes() for n in geometry.shape)
    places = [[torch.tensor(p, device=device) for p in faces] for faces in levels]

    def jumps_of(made: torch.Tensor, *more: torch.Tensor) -> tuple[list[float], list[float]]:
        steps = [total for faces in places for total in _steps_at(made, faces)]
        sums = torch.stack([*steps, *more]).tolist()
        pairs = zip(sums[: len(steps) : 2], sums[1 : len(steps) : 2], strict=True)
        return [at / near if near > 0 else math.nan for at, near in pairs], sums[len(steps) :]

    own, _ = jumps_of(target)

    def tried(smoothing: Smoothing | None) -> tuple[float, float]:
        made = smooth(values.clone()[None], axes_of(geometry, smoothing, indices, device))[0]
        if of_voxels is not None:
            made = torch.where(of_voxels == 0, target, made)
        rest = made.clamp(0, 1).sub_(target)
        squares = rest * rest if of_voxels is None else rest * rest * of_voxels
        jumps, (error,) = jumps_of(made, squares.sum(dtype=torch.float64))
        return error, max(map(metrics.relative_jump, jumps, own))

    return tried


def _steps_at(
    values: torch.Tensor, faces: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how far values step at faces, all added up, and half of how far beside them."""
    import torch

    at, beside = torch.zeros((2,), dtype=torch.float64, device=values.device).unbind()
    for axis, positions in enumerate(faces):
        if len(positions):
            a, b, c, d = (values.index_select(axis, positions + int(k)).double() for k in STENCIL)
            at = at + (c - b).abs_().sum()
            beside = beside + ((b - a).abs_().sum() + (d - c).abs_().sum()) / 2
    return at, beside


def smooth(values: torch.Tensor, axes: tuple[Axis, ...]) -> torch.Tensor:
    """Correct the values of an outer product in place, and return those asked for.

    Every operation is a call of its own, so that none are fused: the host's values bit for bit.

    Parameters
    ----------
    values : (chunks, *axes) float32 tensor
        The trees at the product of the axes' ``index``.
    axes : tuple of Axis
        Of :func:`axes_of`.
    """
    for number, axis in enumerate(axes, start=1):
        if len(axis.rows):
            if values.numel() and _kernels_agree(values, number, axis):
                fused.correct_faces(values, number, axis)
            else:
                _correct(values, number, axis)
        if axis.asked is not None:
            values = values.index_select(number, axis.asked)
    return values


def _correct(values: torch.Tensor, number: int, axis: Axis) -> None:
    """Correct values along an axis in place, by torch."""
    stencils = (axis.firsts + k for k in range(len(STENCIL)))
    a, b, c, d = (values.index_select(number, places) for places in stencils)
    excess = (c - b) - ((b - a) + (d - c)) * 0.5
    shape = [1] * values.ndim
    shape[number] = len(axis.rows)
    added = excess.index_select(number, axis.faces) * axis.factors.view(shape)
    values.index_add_(number, axis.rows, added)


def _kernels_agree(values: torch.Tensor, number: int, axis: Axis) -> bool:
    """Tell whether Triton's kernels give the same bits, in the first chunk they meet."""
    if not trust.are_asked_for(values.device):
        return False

    def compare() -> tuple[torch.Tensor, torch.Tensor]:
        found, expected = values[:1].clone(), values[:1].clone()
        fused.correct_faces(found, number, axis)
        _correct(expected, number, axis)
        return found, expected

    return trust.agreed(("faces",), values.device, compare, 0.0)
