"""The training loop: targets and tree -> parameters, whichever engine gives the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.fit.descent import descend
from tinc_codec.fit.initial import initial_parameters, rate_factors
from tinc_codec.fit.recipe import Recipe
from tinc_codec.tree.network import Layout, Tree, layout

_RETRIES = 2


def fit(
    problem_of: Any,
    tree: Tree,
    units: Float32Array,
    weights: Float32Array | None,
    recipe: Recipe,
    seed: int,
) -> tuple[Float32Array, Float32Array]:
    """Fit a tree to each of some volumes; what becomes of one does not depend on the others.

    Parameters
    ----------
    problem_of : callable
        An engine's ``Problem``.
    tree : Tree
        Structure.
    units : (chunks, *shape of the tree's box) float32
        Normalised voxels, in [0, 1].
    weights : float32 array of the same shape, or None
        Weight of each voxel in the loss, up to a factor; voxels of weight 0 are ignored.
    recipe : Recipe
        How and how long.
    seed : int
        Seed of initialisation and sampling.

    Returns
    -------
    parameters : (chunks, size) float32
        The trees' outputs approximate ``units``.
    sensitivity : (chunks, size) float32
        Mean square of the output's derivative by each parameter.
    """
    table = layout(tree)
    shifts, scales = _standard(units, weights, recipe)
    each = (-1,) + (1,) * (units.ndim - 1)
    targets = (units - shifts.reshape(each)) / scales.reshape(each)
    problem = problem_of(tree, targets, weights, recipe.samples, seed)
    frequencies = _best_frequencies(problem, table, recipe, seed, len(units))
    parameters, losses = _descend(problem, table, recipe, frequencies, seed, 1.0)
    level = _level_losses(units, weights)
    for attempt in range(1, _RETRIES + 1):
        lost = np.flatnonzero(~_has_learnt(parameters, losses / level, recipe))
        if not len(lost):
            break
        some = None if weights is None else weights[lost]
        again = problem_of(tree, targets[lost], some, recipe.samples, seed)
        chosen = [frequencies[chunk] for chunk in lost]
        parameters[lost], losses[lost] = _descend(again, table, recipe, chosen, seed, 0.3**attempt)
    _, squares = problem.gradient(problem.start(parameters), recipe.steps, squared=True)
    return _rescaled(table, parameters, problem.finish(squares.sum(0)), shifts, scales)


def _standard(
    units: Float32Array, weights: Float32Array | None, recipe: Recipe
) -> tuple[Float32Array, Float32Array]:
    """Return shift and scale (chunks,) of each volume: what the recipe's targets are in."""
    if recipe.paper:
        return np.zeros(len(units), np.float32), np.full(len(units), 0.01, np.float32)
    found = [moments(u, None if weights is None else weights[k]) for k, u in enumerate(units)]
    shifts, deviations = np.array(found, np.float32).T
    return shifts, np.maximum(deviations, np.float32(1e-6))


def moments(unit: Float32Array, weight: Float32Array | None) -> tuple[float, float]:
    """Return mean and standard deviation of the voxels that count."""
    mean = float(np.average(unit, weights=weight))
    variance = float(np.average((unit - np.float32(mean)) ** 2, weights=weight))
    return mean, variance**0.5


def _level_losses(units: Float32Array, weights: Float32Array | None) -> npt.NDArray[np.float64]:
    """Return each volume's loss if its mean were the value of all voxels, in standardised units."""
    if weights is None:
        return np.ones(len(units))
    means: npt.NDArray[np.float64] = weights.reshape(len(units), -1).mean(axis=1, dtype=np.float64)
    return means


def _has_learnt(
    parameters: Float32Array, losses: npt.NDArray[np.float64], recipe: Recipe
) -> npt.NDArray[np.bool_]:
    """Return which chunks' fits are finite, and not much worse than the mean of the voxels.

    ``losses`` are relative to what that mean loses. The paper's recipe is not judged.
    """
    finite = np.isfinite(losses) & np.isfinite(parameters).all(axis=1)
    found: npt.NDArray[np.bool_] = finite & ((losses <= 1.1) | recipe.paper)
    return found


def _best_frequencies(
    problem: Any, table: Layout, recipe: Recipe, seed: int, chunks: int
) -> list[tuple[float, ...]]:
    """Return for each chunk the candidate whose pilot fit ends lowest."""
    candidates = recipe.frequencies
    if len(candidates) == 1:
        return [candidates[0]] * chunks
    pilots = [
        _descend(problem, table, recipe.pilot(candidate), [candidate] * chunks, seed, 1.0)[1]
        for candidate in candidates
    ]
    best = np.where(np.isfinite(pilots), pilots, np.inf).argmin(axis=0)
    return [candidates[k] for k in best]


def _descend(
    problem: Any,
    table: Layout,
    recipe: Recipe,
    frequencies: list[tuple[float, ...]],
    seed: int,
    slower: float,
) -> tuple[Float32Array, npt.NDArray[np.float64]]:
    """Run the optimiser from the initial parameters; see :func:`tinc_codec.fit.descent.descend`."""
    start = np.stack(
        [initial_parameters(table, recipe, f, np.random.default_rng(seed)) for f in frequencies]
    )
    factors = np.tile(rate_factors(table, recipe), (len(start), 1))

    def rate_at(step: int) -> float:
        return slower * recipe.rate_at(step)

    return descend(problem, start, factors, recipe.optimiser, rate_at, recipe.steps)


def _rescaled(
    table: Layout,
    parameters: Float32Array,
    sensitivity: Float32Array,
    shifts: Float32Array,
    scales: Float32Array,
) -> tuple[Float32Array, Float32Array]:
    """Fold the targets' scales and shifts into the output layers, and the sensitivity's unit."""
    shifts, scales = shifts[:, None], scales[:, None]
    parameters = parameters.copy()
    sensitivity = sensitivity * scales**2
    weights, biases = table.groups[-2:]
    for group in (weights, biases):
        parameters[:, group.start : group.stop] *= scales
        sensitivity[:, group.start : group.stop] /= scales**2
    parameters[:, biases.start : biases.stop] += shifts
    return parameters, sensitivity
