"""fit: the trainer learns, recovers, repeats itself, and ignores what carries no weight."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_fit import GEOMETRY, RECIPE, SHAPE, TABLE, TREE, UNIT

from tinc_codec import Settings, decode, encode, runtime
from tinc_codec.engines import reference
from tinc_codec.engines.cpu.engine import Problem
from tinc_codec.fit import train
from tinc_codec.fit.chunk import FittedTree, fit_trees
from tinc_codec.fit.initial import initial_parameters, rate_factors
from tinc_codec.fit.recipe import PAPER_FREQUENCY, Recipe, candidate_frequencies, recipe_for
from tinc_codec.stream.container import section_overhead
from tinc_codec.tree.network import Tree, count_parameters, layout
from tinc_codec.tree.section import from_bytes

PAPER = replace(RECIPE, optimiser="adamax", rate=1e-3, milestones=(100,), paper=True)


def fit(
    tree: Tree, unit: np.ndarray, weight: np.ndarray | None, recipe: Recipe, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    weights = None if weight is None else weight[None]
    parameters, sensitivity = train.fit(Problem, tree, unit[None], weights, recipe, seed)
    return parameters[0], sensitivity[0]


def fit_tree(unit: np.ndarray, settings: Settings, room: int) -> FittedTree | None:
    return fit_trees([unit], [None], settings, [room])[0]


def output(parameters: np.ndarray, tree: Tree = TREE) -> np.ndarray:
    axes = [np.arange(n) for n in tree.geometry.shape]
    return reference.evaluate_grid(tree, parameters, axes)


def mse(parameters: np.ndarray) -> float:
    return float(((output(parameters) - UNIT) ** 2).mean())


# Training.


@pytest.mark.parametrize(
    # the paper's own rate needs some 10,000 steps to reach the mean of [0, 100]
    "recipe",
    [RECIPE, replace(PAPER, steps=3000, rate=5e-3, milestones=(2500,))],
)
def test_the_output_approaches_the_volume(recipe: Recipe) -> None:
    parameters, sensitivity = fit(TREE, UNIT, None, recipe, 0)
    assert parameters.dtype == sensitivity.dtype == np.float32
    assert parameters.shape == sensitivity.shape == (TABLE.size,)
    assert mse(parameters) < 0.2 * UNIT.var()


def test_more_steps_come_closer() -> None:
    errors = [
        mse(fit(TREE, UNIT, None, replace(RECIPE, steps=steps), 0)[0]) for steps in (10, 60, 400)
    ]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


@pytest.mark.parametrize("failure", [math.nan, math.inf, 1.5])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_fit_that_collapses_is_tried_again_more_slowly(
    monkeypatch: pytest.MonkeyPatch, failure: float, failures: int
) -> None:
    plain = train._descend
    slower = []

    def descend(*args: Any) -> tuple[np.ndarray, np.ndarray]:
        slower.append(args[-1])
        parameters, losses = plain(*args)
        return parameters, np.full_like(losses, failure) if len(slower) <= failures else losses

    monkeypatch.setattr(train, "_descend", descend)
    parameters, _ = fit(TREE, UNIT, None, RECIPE, 0)
    assert slower == pytest.approx([1.0, 0.3, 0.09][: failures + 1])
    assert mse(parameters) < 0.8 * UNIT.var()


@pytest.mark.parametrize("rate", [3.0, 1e3])
def test_a_rate_too_high_gives_finite_parameters(rate: float) -> None:
    parameters, sensitivity = fit(TREE, UNIT, None, replace(RECIPE, rate=rate), 0)
    assert np.isfinite(parameters).all()
    assert np.isfinite(sensitivity).all()


@pytest.mark.parametrize("value", [0.0, 0.37, 1.0])
def test_a_level_volume(value: float) -> None:
    level = np.full(SHAPE, value, np.float32)
    parameters, sensitivity = fit(TREE, level, None, RECIPE, 0)
    np.testing.assert_allclose(output(parameters), value, atol=1e-3)
    assert np.isfinite(sensitivity).all()


def test_the_seed_decides() -> None:
    first, again, other = (fit(TREE, UNIT, None, RECIPE, seed)[0] for seed in (4, 4, 5))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_threads_do_not_matter() -> None:
    found = []
    for threads in (1, 2, 5):
        with runtime(threads=threads):
            found.append(fit(TREE, UNIT, None, RECIPE, 0)[0].tobytes())
    assert len(set(found)) == 1


def test_voxels_without_weight_are_ignored() -> None:
    weight = np.ones_like(UNIT)
    weight[5:9, 3:] = 0
    mean = UNIT[weight == 1].mean()
    found = []
    for filler in (mean, 0.9):
        unit = np.where(weight == 1, UNIT, np.float32(filler)).astype(np.float32)
        before = unit.copy()
        found.append(fit(TREE, unit, weight, RECIPE, 0)[0])
        assert unit.tobytes() == before.tobytes()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-3)
    error = ((output(found[1]) - UNIT) ** 2)[weight == 1].mean()
    assert error < 0.2 * UNIT.var()


def test_sensitivity_is_the_mean_square_derivative() -> None:
    many = replace(RECIPE, samples=480 * 60, steps=60)
    parameters, sensitivity = fit(TREE, UNIT, None, many, 0)
    rng = np.random.default_rng(0)
    for k in [*rng.integers(0, TABLE.size, 30), TABLE.size - 1, TABLE.groups[-2].start]:
        up, down = parameters.copy(), parameters.copy()
        up[k] += 1e-2
        down[k] -= 1e-2
        slope = (output(up).astype(float) - output(down)) / float(up[k] - down[k])
        assert sensitivity[k] == pytest.approx((slope**2).mean(), rel=0.15, abs=1e-8)


# Where it starts, and for how long.


def test_initial_spread_is_sirens() -> None:
    rng = np.random.default_rng(0)
    tree = replace(TREE, widths=tuple(np.full((n, 2), 60) for n in GEOMETRY.node_counts))
    table = layout(tree)
    start = initial_parameters(table, RECIPE, (10.0, 40.0), rng)
    first = start[: table.groups[0].stop].reshape(-1, 2)
    assert 9 / 2 < np.abs(first[:, 0]).max() <= 10 / 2
    assert 36 / 2 < np.abs(first[:, 1]).max() <= 40 / 2
    hidden = start[table.groups[2].start : table.groups[2].stop]
    assert 0.95 < np.abs(hidden).max() / np.sqrt(6 / 60) <= 1
    assert not start[table.groups[-1].start :].any()


def test_paper_starts_as_siren_does() -> None:
    paper = initial_parameters(TABLE, PAPER, (30.0, 30.0), np.random.default_rng(0))
    biases = paper[TABLE.groups[1].start : TABLE.groups[1].stop]
    assert np.abs(biases).max() <= 30 / np.sqrt(2)
    last = paper[TABLE.groups[-2].start : TABLE.groups[-2].stop]
    assert np.abs(last).max() <= np.sqrt(6 / 8) / 30
    factors = rate_factors(TABLE, PAPER)
    assert (factors[: TABLE.groups[-2].start] == PAPER_FREQUENCY).all()
    assert (factors[TABLE.groups[-2].start :] == 1).all()
    default = rate_factors(TABLE, RECIPE)
    assert (default[: TABLE.groups[1].stop] == 3).all()
    assert (default[TABLE.groups[1].stop :] == 1).all()


def test_the_rate_warms_up_and_goes_to_zero() -> None:
    rates = [RECIPE.rate_at(step) for step in range(RECIPE.steps)]
    top = int(np.argmax(rates))
    assert 4 <= top <= 10
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0.95 * RECIPE.rate < max(rates) <= RECIPE.rate
    assert rates[-1] < 1e-3 * RECIPE.rate


def test_the_papers_rate_falls_at_the_milestones() -> None:
    recipe = recipe_for(Settings(preset="paper", milestones=(2000, 5000)), (64, 64, 64), 500.0)
    assert recipe.optimiser == "adamax"
    rates = [recipe.rate_at(step) for step in (0, 1999, 2000, 4999, 5000, 90_000)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 2e-4, 2e-4, 4e-5, 4e-5])


def test_the_papers_default_schedule_is_the_released_one_and_runs_through() -> None:
    recipe = recipe_for(Settings(preset="paper"), (64, 64, 64), 500.0)
    assert recipe.milestones == (20_000, 50_000)
    assert recipe.steps > 50_000
    assert recipe.frequencies == ((30.0, 30.0, 30.0),)


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_effort_is_work(preset: str) -> None:
    work = []
    for effort in range(1, 10):
        recipe = recipe_for(Settings(effort=effort, preset=preset), (64, 64, 64), 800.0)
        work.append(recipe.steps * recipe.samples)
    assert work == sorted(work)
    assert work[-1] / work[0] == pytest.approx(100, rel=0.1)


def test_iterations_are_taken_as_given() -> None:
    for preset in ("default", "paper"):
        settings = Settings(iterations=7, effort=9, preset=preset)
        assert recipe_for(settings, (64, 64), 100.0).steps == 7


def test_pilots_are_short() -> None:
    recipe = replace(RECIPE, steps=4000)
    assert recipe.pilot((5.0, 5.0)).steps < 400
    assert recipe.pilot((5.0, 5.0)).frequencies == ((5.0, 5.0),)
    assert replace(RECIPE, steps=3).pilot((5.0, 5.0)).steps == 3


def test_candidates_cover_flat_boxes_per_voxel() -> None:
    cube = candidate_frequencies((64, 64, 64))
    assert all(len(set(candidate)) == 1 for candidate in cube)
    flat = candidate_frequencies((8, 128, 128))
    assert set(flat) > set(cube)
    assert any(c[0] == pytest.approx(c[1] / 16) for c in flat)


# One chunk.


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("levels", ["auto", 1, 3])
@pytest.mark.parametrize("allocation", ["auto", "signal", "variance"])
@pytest.mark.parametrize("room", [1500, 9000])
def test_sections_fill_their_room(
    preset: str, levels: int | str, allocation: str, room: int
) -> None:
    unit = np.random.default_rng(0).random((24, 24, 24), np.float32) ** 4
    unit[:12] *= 0.1
    settings = Settings(preset=preset, levels=levels, allocation=allocation, iterations=2)
    fitted = fit_tree(unit, settings, room)
    assert fitted is not None
    sizes = [len(fitted.tree), len(fitted.weights)]
    used = sum(n + section_overhead(n) for n in sizes)
    assert 0.97 * room <= used <= room
    tree = from_bytes(fitted.tree, unit.shape, 1 << 20)
    if levels != "auto" and room > 2000:
        assert tree.geometry.levels == levels
    if preset == "paper":
        assert sizes[1] == 1 + 4 * count_parameters(tree)
    uneven = any(np.ptp(widths, axis=0).any() for widths in tree.widths)
    assert uneven or allocation == "auto" or tree.geometry.levels == 1


def test_no_room_for_a_tree() -> None:
    unit = np.random.default_rng(0).random((16, 16), np.float32)
    for room in (1, 12, 30):
        assert fit_tree(unit, Settings(iterations=1), room) is None
    assert fit_tree(unit, Settings(iterations=1, levels=3), 60) is not None


def test_coordinates_are_as_asked_for() -> None:
    unit = np.random.default_rng(0).random((16, 16), np.float32)
    for wanted in ("global", "block"):
        settings = Settings(iterations=1, levels=2, coordinates=wanted)
        fitted = fit_tree(unit, settings, 900)
        assert fitted is not None
        assert from_bytes(fitted.tree, unit.shape, 1 << 20).geometry.coordinates == wanted


def test_effort_buys_fidelity() -> None:
    z, y, x = np.meshgrid(*[np.linspace(0, 1, 24)] * 3, indexing="ij")
    array = (1000 + 900 * np.sin(7 * x + 5 * y) * np.cos(6 * z)).astype(np.uint16)
    errors = []
    for iterations in (5, 50, 300):
        decoded = decode(encode(array, ratio=24, levels=2, iterations=iterations, form="tree"))
        errors.append(float(((decoded.astype(float) - array) ** 2).mean()))
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]
