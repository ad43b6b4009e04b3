"""Adam and Adamax (Kingma and Ba 2015, algorithms 1 and 2), fused over the flat parameters.

A step's two sizes, of the rate and of the root, hold what depends on its number: see
:func:`step_sizes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.compiled import compiled

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8
# Parameters of a program of a kernel.
_BLOCK = 512


def step_sizes(name: str, rates: Sequence[float]) -> npt.NDArray[np.float32]:
    """Return the sizes (steps, 2) that the steps of "adam" or "adamax" are given.

    They are the learning rates, and 1, divided by what the moments still lack because they
    started from zero; Adamax' second needs no correction.
    """
    steps = np.arange(1, len(rates) + 1)
    first = np.array(rates) / (1 - BETA_1**steps)
    second = (1 - BETA_2**steps) ** -0.5 if name == "adam" else np.ones(len(rates))
    return np.stack([first, second], axis=1).astype(np.float32)


@compiled(fastmath={"contract", "nsz", "nnan", "ninf"})
def adam(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: Any, root: Any) -> None:
    """Do one Adam step in place.

    Parameters
    ----------
    p, m, v : (size,) float32
        Parameters, first and second moment.
    parts : (n, size) float32
        Gradient, in rows to be added.
    scale : (size,) float32
        Factor of the rate for each parameter.
    rate, root : float32
        The step's sizes.
    """
    b1, b2 = np.float32(BETA_1), np.float32(BETA_2)
    one = np.float32(1)
    eps = np.float32(EPSILON)
    for i in range(len(p)):
        g = parts[0, i]
        for k in range(1, len(parts)):
            g += parts[k, i]
        m[i] = b1 * m[i] + (one - b1) * g
        v[i] = b2 * v[i] + (one - b2) * g * g
        p[i] -= rate * scale[i] * m[i] / (np.sqrt(v[i]) * root + eps)


@compiled(fastmath={"contract", "nsz", "nnan", "ninf"})
def adamax(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: Any, root: Any) -> None:
    """Do one Adamax step in place; parameters as in :func:`adam`, v the infinity norm."""
    b1, b2 = np.float32(BETA_1), np.float32(BETA_2)
    one = np.float32(1)
    eps = np.float32(EPSILON)
    for i in range(len(p)):
        g = parts[0, i]
        for k in range(1, len(parts)):
            g += parts[k, i]
        m[i] = b1 * m[i] + (one - b1) * g
        v[i] = max(b2 * v[i], abs(g) + eps)
        p[i] -= rate * scale[i] * m[i] / v[i]


def adam_torch(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: Any, root: Any) -> None:
    """Do one Adam step in place on tensors, the sizes too; parameters as in :func:`adam`."""
    g = _added(parts)
    m.lerp_(g, 1 - BETA_1)
    v.mul_(BETA_2).addcmul_(g, g, value=1 - BETA_2)
    p.addcdiv_((scale * rate).mul_(m), v.sqrt().mul_(root).add_(EPSILON), value=-1)


def adamax_torch(p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: Any, root: Any) -> None:
    """Do one Adamax step in place on tensors; parameters as in :func:`adamax`."""
    g = _added(parts)
    m.lerp_(g, 1 - BETA_1)
    v.copy_(v.mul_(BETA_2).maximum(g.abs().add_(EPSILON)))
    p.addcdiv_((scale * rate).mul_(m), v, value=-1)


def _added(parts: Any) -> Any:
    return parts[0] if len(parts) == 1 else parts.sum(0)


def _in_one_launch(
    p: Any, parts: Any, scale: Any, m: Any, v: Any, rate: Any, root: Any, *, is_adamax: bool
) -> None:
    """Do one step in place on tensors by a kernel of Triton's; parameters as in :func:`adam`."""
    from tinc_codec.fit import kernels

    kernels.step[(-(-len(p) // _BLOCK),)](
        p, _added(parts), scale, m, v, rate, root, len(p),
        ADAMAX=is_adamax, BETA_1=BETA_1, BETA_2=BETA_2, EPSILON=EPSILON, BLOCK=_BLOCK,
        enable_fp_fusion=True,
    )  # fmt: skip


ON_ARRAYS = {"adam": adam, "adamax": adamax}
ON_TENSORS = {"adam": adam_torch, "adamax": adamax_torch}
IN_ONE_LAUNCH = {
    name: partial(_in_one_launch, is_adamax=name == "adamax") for name in ("adam", "adamax")
}
