"""Gradient descent on a problem: the one loop of the package, for one chunk or many."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array
from tinc_codec.fit import optimiser


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
) -> tuple[Float32Array, Float64Array]:
    """Run an optimiser on chunks that share a tree; each goes its own way.

    Parameters
    ----------
    problem : an engine's ``Problem``
        Gives losses with gradients, and may do many steps itself (``run``), with Triton's kernels
        or without (``has_kernels``).
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
    sizes = optimiser.step_sizes(name, [rate_at(step) for step in range(steps)])
    if hasattr(problem, "run"):
        updates = optimiser.IN_ONE_LAUNCH if problem.has_kernels else optimiser.ON_TENSORS
        update = updates[name]
        parameters, losses = problem.run(start, factors, update, sizes, first_sample)
    else:
        update = optimiser.ON_ARRAYS[name]
        parameters, losses = _run(problem, start, factors, update, sizes, first_sample)
    tail = max(1, steps // 10)
    return parameters, losses[-tail:].mean(axis=0, dtype=np.float64)


def _run(
    problem: Any,
    start: Float32Array,
    factors: Float32Array,
    update: Callable[..., None],
    sizes: Float32Array,
    first_sample: int,
) -> tuple[Float32Array, Float64Array]:
    """Return the last parameters and the losses (steps, chunks), step by step on arrays."""
    parameters = problem.start(start)
    flat, scale = parameters.reshape(-1), factors.reshape(-1)
    first, second = np.zeros_like(flat), np.zeros_like(flat)
    losses = np.empty((len(sizes), len(start)))
    for step, (rate, root) in enumerate(sizes):
        losses[step], gradient = problem.gradient(parameters, first_sample + step)
        update(flat, gradient.reshape(len(gradient), -1), scale, first, second, rate, root)
    return problem.finish(parameters), losses
