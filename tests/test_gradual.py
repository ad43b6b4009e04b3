"""gradual: rounding layer by layer loses less than rounding at once, at the same steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from small_fit import RECIPE as SMALL_RECIPE
from small_fit import SHAPE, TABLE, TREE, UNIT

from tinc_codec.engines import reference
from tinc_codec.engines.cpu.engine import Problem
from tinc_codec.fit.gradual import quantize_gradually
from tinc_codec.fit.rate import quantize_to_size
from tinc_codec.fit.recipe import Recipe
from tinc_codec.fit.train import fit
from tinc_codec.tree import weights

RECIPE = replace(SMALL_RECIPE, steps=400)
(FITTED,), (SENSITIVITY,) = fit(Problem, TREE, UNIT[None], None, RECIPE, 0)


def mse(section: bytes) -> float:
    axes = [np.arange(n) for n in SHAPE]
    output = reference.evaluate_grid(TREE, weights.unpack(section, TABLE), axes)
    return float(((output - UNIT) ** 2).mean())


def plain(bits: float) -> bytes:
    coded = quantize_to_size(TABLE, FITTED, SENSITIVITY, round(TABLE.size * bits / 8))
    assert coded is not None
    return coded


def gradual(at_once: bytes, size: int, recipe: Recipe = RECIPE) -> bytes:
    problem = Problem(TREE, UNIT[None], None, recipe.samples, 0)
    scales = [float(UNIT.std())]
    return quantize_gradually(problem, TABLE, recipe, FITTED[None], scales, [at_once], [size])[0]


def test_coarse_steps_lose_less() -> None:
    at_once = plain(4.5)
    layered = gradual(at_once, 2 * len(at_once))
    assert mse(layered) < 0.8 * mse(at_once)
    assert weights.steps_of(layered, TABLE) == weights.steps_of(at_once, TABLE)


def test_the_size_is_kept_or_nothing_is_changed() -> None:
    at_once = plain(4.5)
    assert gradual(at_once, len(at_once) // 2) == at_once


def test_training_that_diverges_is_dropped() -> None:
    at_once = plain(6)
    assert gradual(at_once, 2 * len(at_once), replace(RECIPE, rate=1e6)) == at_once
