"""Where the fit starts: SIREN's initialisation (Sitzmann et al. 2020, sec. 3.2; paper sec. 5.1).

SIREN writes a layer as ``sin(w_0 (W x + b))``; trees store ``w_0 W`` and ``w_0 b``, so that
evaluation needs no w_0. The paper's recipe keeps its steps by a rate w_0 times higher on them.
"""

from __future__ import annotations

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.fit.recipe import PAPER_FREQUENCY, Recipe
from tinc_codec.tree.network import Layout

# Outputs start near the mean of the target, so that the first steps do not overshoot.
_SMALL_OUTPUT = 0.1
# The first layer's weights are larger than the others', and gain from larger steps.
_FIRST_LAYER_RATE = 3.0


def initial_parameters(
    table: Layout, recipe: Recipe, frequencies: tuple[float, ...], rng: np.random.Generator
) -> Float32Array:
    """Return random parameters (size,) of a tree, its first layer of the frequencies per axis."""
    out = np.empty(table.size, np.float32)
    outputs = set(table.paths[:, -1].tolist())
    for layer in range(len(table.n_in)):
        n_in, n_out = int(table.n_in[layer]), int(table.n_out[layer])
        is_output = layer in outputs
        spread = np.array(frequencies) / n_in if layer == 0 else np.sqrt(6 / n_in)
        if recipe.paper:
            # torch's default biases, uniform over 1 / sqrt(n_in), times w_0
            bias_spread = PAPER_FREQUENCY / np.sqrt(n_in)
            if is_output:
                spread, bias_spread = spread / PAPER_FREQUENCY, bias_spread / PAPER_FREQUENCY
        else:
            bias_spread = np.pi
            if is_output:
                spread, bias_spread = spread * _SMALL_OUTPUT, 0.0
        weight_at, bias_at = int(table.weight_at[layer]), int(table.bias_at[layer])
        weights = rng.uniform(-1, 1, (n_out, n_in)) * spread
        out[weight_at : weight_at + n_in * n_out] = weights.ravel()
        out[bias_at : bias_at + n_out] = rng.uniform(-bias_spread, bias_spread, n_out)
    return out


def rate_factors(table: Layout, recipe: Recipe) -> Float32Array:
    """Return the factor (size,) of each parameter's learning rate."""
    factors = np.ones(table.size, np.float32)
    if recipe.paper:
        factors[: table.groups[-2].start] = PAPER_FREQUENCY
    else:
        factors[: table.groups[1].stop] = _FIRST_LAYER_RATE
    return factors
