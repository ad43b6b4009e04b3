"""Faces of leaves made smooth on torch's device; as :mod:`tinc_codec.engines.cpu.faces`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tinc_codec.tree.faces import Plan

if TYPE_CHECKING:
    import torch


def smooth(values: torch.Tensor, plans: Sequence[Plan]) -> torch.Tensor:
    """Correct the values of an outer product, and return those asked for.

    Every operation is a call of its own, so that none are fused: the host's values bit for bit.

    Parameters
    ----------
    values : float32 tensor
        The tree at the product of the plans' ``index``.
    plans : one for each axis
        See :func:`tinc_codec.tree.faces.plans`.
    """
    import torch

    for axis, plan in enumerate(plans):
        if not len(plan.firsts):
            continue
        firsts, rows, faces, factors, asked = (
            torch.from_numpy(part).to(values.device)
            for part in (plan.firsts, plan.rows, plan.faces, plan.factors, plan.asked)
        )
        a, b, c, d = (values.index_select(axis, firsts + k) for k in range(4))
        excess = (c - b) - ((b - a) + (d - c)) * 0.5
        shape = [1] * values.ndim
        shape[axis] = len(rows)
        added = excess.index_select(axis, faces) * factors.view(shape)
        values = values.index_copy(axis, rows, values.index_select(axis, rows) + added)
        values = values.index_select(axis, asked)
    return values
