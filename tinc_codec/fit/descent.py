"""Gradient descent on a problem: the one loop of the package."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.fit import optimiser

Float32Array = npt.NDArray[np.float32]


def warmed_cosine(x: float, warm: float) -> float:
    """Return the factor of the rate at a share x of the steps: linear rise, then cosine to 0."""
    return min(1.0, x / warm) * 0.5 * (1 + math.cos(math.pi * x))


def descend(
    problem: Any,
    start: Float32Array,
    factors: Float32Array,
    name: str,
    rate_at: Callable[[int], float],
    steps: int,
    first_sample: int = 0,
) -> tuple[Float32Array, float]:
    """Run an optimiser.

    Parameters
    ----------
    problem : an engine's ``Problem``
        Gives losses with gradients.
    start : (size,) float32
        First parameters; not changed.
    factors : (size,) float32
        Factor of each parameter's rate; 0 keeps it.
    name : "adam" or "adamax"
        See :mod:`tinc_codec.fit.optimiser`.
    rate_at : callable
        Learning rate of a step, counted from 0.
    steps : int
        How many.
    first_sample : int
        Number of the first step's sample of voxels.

    Returns
    -------
    parameters : (size,) float32
        The last ones.
    loss : float
        Mean over the last tenth of the steps, when the rate is near zero.
    """
    parameters, scale = problem.start(start), problem.start(factors)
    first, second = problem.start(np.zeros_like(start)), problem.start(np.zeros_like(start))
    update = optimiser.update_of(name, parameters)
    losses: list[Any] = []
    tail = steps - max(1, steps // 10)
    for step in range(steps):
        loss, gradient = problem.gradient(parameters, first_sample + step)
        update(parameters, gradient, scale, first, second, rate_at(step), step)
        if step >= tail:
            losses.append(loss)
    return problem.finish(parameters), float(sum(losses) / len(losses))
