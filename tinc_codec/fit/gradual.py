"""Quantise layer by layer, letting the layers after it make up for the rounding.

Steps, for each sine layer from the coordinates on:

1. Round the layer's weights and biases to their steps, and keep them from then on.
2. Train the layers after it for a while, at a tenth of the fit's rate.

The output layer is rounded at last; its rounding costs little. Other than with rounding simulated
during the fit, every layer is trained on exactly the features that the decoder will give it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.fit.descent import descend, warmed_cosine
from tinc_codec.fit.rate import at_base
from tinc_codec.fit.recipe import Recipe
from tinc_codec.stream import quantize
from tinc_codec.tree import weights
from tinc_codec.tree.network import Layout

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
    output_scales: Sequence[float],
    plain: Sequence[bytes],
    sizes: Sequence[int],
) -> list[bytes]:
    """Return WEIGHTS sections with the steps of given ones, and a lower loss.

    Parameters
    ----------
    problem : an engine's ``Problem``
        Whose targets are the normalised volumes themselves.
    table : Layout
        The tables of the chunks' common tree.
    recipe : Recipe
        Of the fit that gave the parameters.
    parameters : (chunks, size) float32
        Before rounding.
    output_scales : sequence of float
        Standard deviation of each target: the scale of the output layers' weights.
    plain : sequence of bytes
        The sections of the parameters rounded at once; their steps are used.
    sizes : sequence of int
        The most bytes that each result may take.

    Returns
    -------
    list of bytes
        A chunk's ``plain`` itself where its loss did not fall, or the bytes did not suffice.
    """
    steps_of = [weights.steps_of(section, table) for section in plain]
    factors = np.ones_like(parameters)
    for group in table.groups[-2:]:
        factors[:, group.start : group.stop] = np.array(output_scales)[:, None]
    layers = len(table.groups) // 2 - 1
    least = min(_LEAST_STEPS, recipe.steps)
    count = max(least, round(_SHARE * recipe.steps / layers))
    current = parameters.copy()
    first_step = recipe.steps

    def rate_at(step: int) -> float:
        return _RATE * recipe.rate * warmed_cosine((step + 0.5) / count, _WARM)

    for layer in range(layers):
        for number in (2 * layer, 2 * layer + 1):
            group = table.groups[number]
            for values, (base, codes) in zip(current, steps_of, strict=True):
                step = quantize.step_size(base, codes[number])
                rounded = quantize.quantize(values[group.start : group.stop], step)
                values[group.start : group.stop] = quantize.dequantize(rounded, step)
            factors[:, group.start : group.stop] = 0
        current, _ = descend(problem, current, factors, "adam", rate_at, count, first_step)
        first_step += count
    coded = [
        _coded(table, *chunk, size)
        for chunk, size in zip(zip(current, steps_of, plain, strict=True), sizes, strict=True)
    ]
    before = _losses(problem, table, plain, first_step)
    after = _losses(problem, table, coded, first_step)
    return [
        new if lower else old for new, lower, old in zip(coded, after < before, plain, strict=True)
    ]


def _coded(
    table: Layout,
    parameters: Float32Array,
    steps: tuple[float, tuple[int, ...]],
    plain: bytes,
    size: int,
) -> bytes:
    """Return the section of a chunk's parameters at its steps; ``plain`` where it cannot be."""
    base, codes = steps
    if not np.isfinite(parameters).all():
        return plain
    quantized = at_base(table, parameters, codes, base)
    coded = plain if quantized is None else weights.pack_quantized(quantized)
    return coded if len(coded) <= size else plain


def _losses(
    problem: Any, table: Layout, sections: Sequence[bytes], first_step: int
) -> npt.NDArray[np.float64]:
    """Return each chunk's loss, summed over a few steps' samples."""
    current = problem.start(np.stack([weights.unpack(section, table) for section in sections]))
    steps = range(first_step, first_step + _COMPARED_STEPS)
    losses = [problem.gradient(current, step)[0].tolist() for step in steps]
    summed: npt.NDArray[np.float64] = np.array(losses).sum(axis=0)
    return summed
