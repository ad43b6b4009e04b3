"""Adam and Adamax (Kingma and Ba 2015, algorithms 1 and 2), fused over the flat parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8


@njit(nogil=True, fastmath={"contract", "nsz", "nnan", "ninf"}, cache=True)
def adam(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: float, step: int) -> None:
    """Do one Adam step in place.

    Parameters
    ----------
    p, m, v : (size,) float32
        Parameters, first and second moment.
    parts : (n, size) float32
        Gradient, in rows to be added.
    scale : (size,) float32
        Factor of the rate for each parameter.
    rate : float
        Learning rate.
    step : int
        Counts from 0.
    """
    b1, b2 = np.float32(BETA_1), np.float32(BETA_2)
    one = np.float32(1)
    c1 = np.float32(rate / (1 - BETA_1 ** (step + 1)))
    c2 = np.float32(1 / np.sqrt(1 - BETA_2 ** (step + 1)))
    eps = np.float32(EPSILON)
    for i in range(len(p)):
        g = parts[0, i]
        for k in range(1, len(parts)):
            g += parts[k, i]
        m[i] = b1 * m[i] + (one - b1) * g
        v[i] = b2 * v[i] + (one - b2) * g * g
        p[i] -= c1 * scale[i] * m[i] / (np.sqrt(v[i]) * c2 + eps)


@njit(nogil=True, fastmath={"contract", "nsz", "nnan", "ninf"}, cache=True)
def adamax(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: float, step: int) -> None:
    """Do one Adamax step in place; parameters as in :func:`adam`, v the infinity norm."""
    b1, b2 = np.float32(BETA_1), np.float32(BETA_2)
    one = np.float32(1)
    c1 = np.float32(rate / (1 - BETA_1 ** (step + 1)))
    eps = np.float32(EPSILON)
    for i in range(len(p)):
        g = parts[0, i]
        for k in range(1, len(parts)):
            g += parts[k, i]
        m[i] = b1 * m[i] + (one - b1) * g
        v[i] = max(b2 * v[i], abs(g) + eps)
        p[i] -= c1 * scale[i] * m[i] / v[i]


def adam_torch(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: float, step: int) -> None:
    """Do one Adam step in place on tensors; parameters as in :func:`adam`."""
    c1 = rate / (1 - BETA_1 ** (step + 1))
    c2 = (1 - BETA_2 ** (step + 1)) ** -0.5
    g = parts.sum(0)
    m.mul_(BETA_1).add_(g, alpha=1 - BETA_1)
    v.mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
    p.addcdiv_(scale * m, v.sqrt().mul_(c2).add_(EPSILON), value=-c1)


def adamax_torch(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: float, step: int) -> None:
    """Do one Adamax step in place on tensors; parameters as in :func:`adamax`."""
    c1 = rate / (1 - BETA_1 ** (step + 1))
    g = parts.sum(0)
    m.mul_(BETA_1).add_(g, alpha=1 - BETA_1)
    v.copy_(v.mul_(BETA_2).maximum(g.abs_().add_(EPSILON)))
    p.addcdiv_(scale * m, v, value=-c1)


def update_of(name: str, parameters: Any) -> Any:
    """Return the step of "adam" or "adamax" for parameters of this kind: array or tensor."""
    if isinstance(parameters, np.ndarray):
        return {"adam": adam, "adamax": adamax}[name]
    return {"adam": adam_torch, "adamax": adamax_torch}[name]
