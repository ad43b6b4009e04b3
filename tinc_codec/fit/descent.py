"""Gradient descent on a problem: the one loop of the package, for one chunk or many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.fit import optimiser

Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]


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
) -> tuple[Float32Array, FloatArray]:
    """Run an optimiser on chunks that share a tree; each goes its own way.

    Parameters
    ----------
    problem : an engine's ``Problem``
        Gives losses with gradients.
    start : (chunks, size) float32
        First parameters; not changed.
    factors : (chunks, size) float32
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
    parameters : (chunks, size) float32
        The last ones.
    losses : (chunks,) float64
        Mean over the last tenth of the steps, when the rate is near zero.
    """
    parameters, scale = problem.start(start), problem.start(factors)
    first, second = problem.start(np.zeros_like(start)), problem.start(np.zeros_like(start))
    update = optimiser.update_of(name, parameters)
    state = [values.reshape(-1) for values in (scale, first, second)]
    total: Any = 0.0
    tail = max(1, steps // 10)
    for step in range(steps):
        losses, gradient = problem.gradient(parameters, first_sample + step)
        rows = gradient.reshape(len(gradient), -1)
        update(parameters.reshape(-1), rows, *state, rate_at(step), step)
        if step >= steps - tail:
            total = total + losses
    return problem.finish(parameters), np.array([float(loss) for loss in total / tail])
