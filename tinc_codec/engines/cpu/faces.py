"""Faces of leaves made smooth along one axis after the other (numba).

In binary32, every operation rounded, none fused: see FORMAT.md, "Faces".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.compiled import compiled
from tinc_codec.tree.faces import AxisPlan

_HALF = np.float32(0.5)


@compiled()
def _correct(x: Any, firsts: Any, rows: Any, faces: Any, factors: Any) -> None:
    """Correct rows of x (outer, n, inner) in place by the excess of their faces."""
    outer, _, inner = x.shape
    excess = np.empty((len(firsts), inner), np.float32)
    for o in range(outer):
        block = x[o]
        for f in range(len(firsts)):
            a, b = block[firsts[f]], block[firsts[f] + 1]
            c, d = block[firsts[f] + 2], block[firsts[f] + 3]
            for i in range(inner):
                excess[f, i] = (c[i] - b[i]) - _HALF * ((b[i] - a[i]) + (d[i] - c[i]))
        for j in range(len(rows)):
            row, own, factor = block[rows[j]], excess[faces[j]], factors[j]
            for i in range(inner):
                row[i] += factor * own[i]


def smooth(values: Float32Array, plans: Sequence[AxisPlan]) -> Float32Array:
    """Correct the values of an outer product, and return those asked for.

    Parameters
    ----------
    values : float32 array
        The tree at the product of the plans' ``index``; may be changed.
    plans : one for each axis
        See :func:`tinc_codec.tree.faces.plans`.
    """
    values = np.ascontiguousarray(values)
    for axis, plan in enumerate(plans):
        if not len(plan.firsts):
            continue
        inner = math.prod(values.shape[axis + 1 :])
        x = values.reshape(-1, values.shape[axis], inner)
        _correct(x, plan.firsts, plan.rows, plan.faces, plan.factors)
        if len(plan.asked) != len(plan.index) or (np.diff(plan.asked) != 1).any():
            values = values.take(plan.asked, axis=axis)
    return values
