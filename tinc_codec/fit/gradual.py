"""Quantise layer by layer, letting the layers after it make up for the rounding.

Steps, for each sine layer from the coordinates on:

1. Round the layer's weights and biases to their steps, and keep them from then on.
2. Train the layers after it for a while, at a tenth of the fit's rate.

The output layer is rounded at last; its rounding costs little. Other than with rounding simulated
during the fit, every layer is trained on exactly the features that the decoder will give it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec import weights
from tinc_codec.fit.descent import descend, warmed_cosine
from tinc_codec.fit.rate import at_base
from tinc_codec.fit.recipe import Recipe
from tinc_codec.stream import quantize
from tinc_codec.tree.network import Layout

Float32Array = npt.NDArray[np.float32]

# Of the fit's steps, the share that all stages take together.
_SHARE = 0.25
_LEAST_STEPS = 20
_RATE = 0.1
_WARM = 0.1
_COMPARED_STEPS = 8


def quantize_gradually(
    problem: Any,
    table: Layout,
    recipe: Recipe,
    parameters: Float32Array,
    output_scale: float,
    plain: bytes,
    size: int,
) -> bytes:
    """Return a WEIGHTS section with the steps of a given one, and a lower loss.

    Parameters
    ----------
    problem : an engine's ``Problem``
        Whose target is the normalised volume itself.
    table : Layout
        The tree's tables.
    recipe : Recipe
        Of the fit that gave the parameters.
    parameters : (size,) float32
        Before rounding.
    output_scale : float
        Standard deviation of the target: the scale of the output layers' weights.
    plain : bytes
        The section of the parameters rounded at once; its steps are used.
    size : int
        The most bytes that the result may take.

    Returns
    -------
    bytes
        ``plain`` itself where the loss did not fall, or the bytes did not suffice.
    """
    base, codes = weights.steps_of(plain, table)
    factors = np.ones_like(parameters)
    for group in table.groups[-2:]:
        factors[group.start : group.stop] = output_scale
    layers = len(table.groups) // 2 - 1
    least = min(_LEAST_STEPS, recipe.steps)
    count = max(least, round(_SHARE * recipe.steps / layers))
    current = parameters.copy()
    first_step = recipe.steps

    def rate_at(step: int) -> float:
        return _RATE * recipe.rate * warmed_cosine((step + 0.5) / count, _WARM)

    for layer in range(layers):
        for number in (2 * layer, 2 * layer + 1):
            group, step = table.groups[number], quantize.step_size(base, codes[number])
            rounded = quantize.quantize(current[group.start : group.stop], step)
            current[group.start : group.stop] = quantize.dequantize(rounded, step)
            factors[group.start : group.stop] = 0
        current, _ = descend(problem, current, factors, "adam", rate_at, count, first_step)
        first_step += count
    quantized = at_base(table, current, codes, base) if np.isfinite(current).all() else None
    if quantized is None:
        return plain
    coded = weights.pack_quantized(quantized)
    before = _loss(problem, weights.unpack(plain, table), first_step)
    after = _loss(problem, weights.unpack(coded, table), first_step)
    return coded if len(coded) <= size and after < before else plain


def _loss(problem: Any, parameters: Float32Array, first_step: int) -> float:
    """Return the mean loss over a few steps' samples."""
    current = problem.start(parameters)
    steps = range(first_step, first_step + _COMPARED_STEPS)
    return float(sum(float(problem.gradient(current, step)[0]) for step in steps))
