"""The training loop: target and tree -> parameters, whichever engine gives the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.fit.descent import descend
from tinc_codec.fit.initial import initial_parameters, rate_factors
from tinc_codec.fit.recipe import Recipe
from tinc_codec.tree.network import Layout, Tree, layout

Float32Array = npt.NDArray[np.float32]

_RETRIES = 2


def fit(
    problem_of: Any,
    tree: Tree,
    unit: Float32Array,
    weight: Float32Array | None,
    recipe: Recipe,
    seed: int,
) -> tuple[Float32Array, Float32Array]:
    """Fit a tree to a volume.

    Parameters
    ----------
    problem_of : callable
        An engine's ``Problem``.
    tree : Tree
        Structure.
    unit : float32 array, shape of the tree's box
        Normalised voxels, in [0, 1].
    weight : float32 array of the same shape, or None
        Weight of each voxel in the loss; voxels of weight 0 are ignored.
    recipe : Recipe
        How and how long.
    seed : int
        Seed of initialisation and sampling.

    Returns
    -------
    parameters : (size,) float32
        The tree's output approximates ``unit``.
    sensitivity : (size,) float32
        Mean square of the output's derivative by each parameter.
    """
    table = layout(tree)
    if recipe.paper:
        shift, scale = 0.0, 0.01
    else:
        shift, deviation = moments(unit, weight)
        scale = max(deviation, 1e-6)
    target = ((unit - np.float32(shift)) / np.float32(scale)).astype(np.float32)
    problem = problem_of(tree, target, weight, recipe.samples, seed)
    frequencies = _best_frequencies(problem, table, recipe, seed)
    for attempt in range(_RETRIES + 1):
        parameters, loss = _descend(problem, table, recipe, frequencies, seed, 0.3**attempt)
        if np.isfinite(loss) and np.isfinite(parameters).all() and (loss <= 1.1 or recipe.paper):
            break
    start = problem.start(parameters)
    _, squares = problem.gradient(start, recipe.steps, squared=True)
    sensitivity = problem.finish(squares.sum(0))
    return _rescaled(table, parameters, sensitivity, shift, scale)


def moments(unit: Float32Array, weight: Float32Array | None) -> tuple[float, float]:
    """Return mean and standard deviation of the voxels that count."""
    mean = float(np.average(unit, weights=weight))
    variance = float(np.average((unit - np.float32(mean)) ** 2, weights=weight))
    return mean, variance**0.5


def _best_frequencies(problem: Any, table: Layout, recipe: Recipe, seed: int) -> tuple[float, ...]:
    """Return the candidate whose pilot fit ends lowest."""
    if len(recipe.frequencies) == 1:
        return recipe.frequencies[0]
    losses = []
    for candidate in recipe.frequencies:
        _, loss = _descend(problem, table, recipe.pilot(candidate), candidate, seed, 1.0)
        losses.append(loss if np.isfinite(loss) else np.inf)
    return recipe.frequencies[int(np.argmin(losses))]


def _descend(
    problem: Any,
    table: Layout,
    recipe: Recipe,
    frequencies: tuple[float, ...],
    seed: int,
    slower: float,
) -> tuple[Float32Array, float]:
    """Run the optimiser from the initial parameters; see :func:`tinc_codec.fit.descent.descend`."""
    start = initial_parameters(table, recipe, frequencies, np.random.default_rng(seed))
    factors = rate_factors(table, recipe)

    def rate_at(step: int) -> float:
        return slower * recipe.rate_at(step)

    return descend(problem, start, factors, recipe.optimiser, rate_at, recipe.steps)


def _rescaled(
    table: Layout,
    parameters: Float32Array,
    sensitivity: Float32Array,
    shift: float,
    scale: float,
) -> tuple[Float32Array, Float32Array]:
    """Fold the target's scale and shift into the output layers, and the sensitivity's unit."""
    parameters = parameters.copy()
    sensitivity = sensitivity * np.float32(scale) ** 2
    weights, biases = table.groups[-2:]
    for group in (weights, biases):
        parameters[group.start : group.stop] *= np.float32(scale)
        sensitivity[group.start : group.stop] /= np.float32(scale) ** 2
    parameters[biases.start : biases.stop] += np.float32(shift)
    return parameters, sensitivity
