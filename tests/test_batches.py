"""Many chunks at once: the same payloads as one by one, in batches that memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trees import parameters_of

from tinc_codec import weights as weights_section
from tinc_codec.engines import reference
from tinc_codec.fit import chunk, train
from tinc_codec.fit.batches import in_batches
from tinc_codec.fit.recipe import Recipe
from tinc_codec.runtime import runtime
from tinc_codec.settings import Settings
from tinc_codec.tree import section
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, layout

Float32Array = npt.NDArray[np.float32]

SHAPE = (12, 9, 10)
TREE = Tree(
    geometry=Geometry(shape=SHAPE, splits=((0, 2), (1,)), coordinates="global"),
    widths=tuple(
        np.random.default_rng(level).integers(2, 9, (nodes, 2))
        for level, nodes in enumerate((1, 4, 8))
    ),
)


@pytest.fixture(autouse=True)
def torch() -> Iterator[ModuleType]:
    """Torch on one thread: its sums depend on how it shares them out."""
    module = pytest.importorskip("torch", reason="torch is not installed")
    threads = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(threads)


def units(chunks: int, shape: tuple[int, ...] = SHAPE) -> Float32Array:
    """Return smooth volumes that differ."""
    axes = np.meshgrid(*[np.linspace(0, 1, n) for n in shape], indexing="ij")
    waves = [np.sin((3 + k) * sum(axes) + k) for k in range(chunks)]
    return (0.5 + 0.4 * np.stack(waves)).astype(np.float32)


def problem_of(targets: Float32Array, weights: Float32Array | None) -> Any:
    from tinc_codec.engines.gpu.engine import Problem

    with runtime(device="torch"):
        return Problem(TREE, targets, weights, 3000, seed=7)


def output(fitted: chunk.FittedTree, shape: tuple[int, ...]) -> Float32Array:
    tree = section.from_bytes(fitted.tree, shape, 1 << 20)
    parameters = weights_section.unpack(fitted.weights, layout(tree))
    return reference.evaluate_grid(tree, parameters, [np.arange(n) for n in shape])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_losses_and_gradients_are_those_of_each_chunk_alone(weighted: bool, squared: bool) -> None:
    targets = units(3)
    weights = np.random.default_rng(0).random(targets.shape, np.float32) if weighted else None
    parameters = np.stack([parameters_of(TREE, seed) for seed in range(3)])
    together = problem_of(targets, weights)
    losses, rows = together.gradient(together.start(parameters), 5, squared=squared)
    gradient = together.finish(rows.sum(0))
    assert gradient.shape == parameters.shape
    for k in range(3):
        alone = problem_of(targets[[k]], None if weights is None else weights[[k]])
        loss, rows = alone.gradient(alone.start(parameters[[k]]), 5, squared=squared)
        # Not bit for bit: sums depend on how matrices lie in memory.
        np.testing.assert_allclose(losses[[k]].numpy(), loss.numpy(), rtol=1e-5)
        expected = alone.finish(rows.sum(0))
        np.testing.assert_allclose(gradient[[k]], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_a_batch_gives_what_each_chunk_gives_alone(
    monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    given = [*units(3), *units(2, (10, 12, 9))]
    weights: list[Float32Array | None] = [None] * 5
    weights[1] = (given[1] < 0.8).astype(np.float32)
    rooms = [700, 700, 700, 500, 500]
    settings = Settings(preset=preset, iterations=40, levels=2, level_ratio=0.3)
    sizes: list[int] = []
    plain = chunk._fit_alike

    def fit_alike(tree: Tree, some: Any, *args: Any) -> Any:
        sizes.append(len(some))
        return plain(tree, some, *args)

    monkeypatch.setattr(chunk, "_fit_alike", fit_alike)
    with runtime(device="torch"):
        together = chunk.fit_trees(given, weights, settings, rooms)
        assert sorted(sizes) == [1, 2, 2]
        for k in range(5):
            (alone,) = chunk.fit_trees([given[k]], [weights[k]], settings, [rooms[k]])
            assert alone is not None
            assert together[k] is not None
            assert together[k].tree == alone.tree
            values, expected = output(together[k], given[k].shape), output(alone, given[k].shape)
            np.testing.assert_allclose(values, expected, rtol=0, atol=2e-3)


def test_memory_that_runs_out_halves_the_batch(torch: ModuleType) -> None:
    done: list[int] = []
    tried: list[int] = []

    def run(some: Any) -> None:
        tried.append(len(some))
        if len(some) > 3:
            raise torch.cuda.OutOfMemoryError(f"{len(some)} chunks")
        done.extend(some)

    in_batches(run, range(10, 27), 11)
    assert done == list(range(10, 27))
    assert tried == [11, 6, 3, 3, 3, 3, 3, 2]

    def never(some: Any) -> None:
        raise torch.cuda.OutOfMemoryError(f"{len(some)} chunks")

    with pytest.raises(torch.cuda.OutOfMemoryError, match="1 chunks"):
        in_batches(never, range(5), 4)


def fitted(targets: Float32Array, recipe: Recipe) -> Float32Array:
    from tinc_codec.engines.gpu.engine import Problem

    with runtime(device="torch"):
        return train.fit(Problem, TREE, targets, None, recipe, 0)[0]


RECIPE = Recipe(
    optimiser="adam",
    rate=1e-2,
    milestones=None,
    steps=20,
    samples=2000,
    frequencies=((4.0,) * 3, (30.0,) * 3),
    paper=False,
)


def test_only_what_collapsed_is_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, frequencies=((10.0,) * 3,))
    expected = fitted(units(3), recipe)
    plain = train._descend
    calls: list[tuple[int, float]] = []

    def descend(*args: Any) -> tuple[Float32Array, Any]:
        calls.append((len(args[3]), args[5]))
        parameters, losses = plain(*args)
        if len(calls) == 1:
            losses[1] = np.nan
        return parameters, losses

    monkeypatch.setattr(train, "_descend", descend)
    found = fitted(units(3), recipe)
    assert calls == [(3, 1.0), (1, 0.3)]
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    assert np.abs(found[1] - expected[1]).max() > 0.01


def test_every_chunk_gets_the_frequencies_of_its_own_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).random(SHAPE, np.float32)
    chosen: list[Any] = []
    plain = train._descend

    def descend(*args: Any) -> tuple[Float32Array, Any]:
        chosen.append(args[3])
        parameters, losses = plain(*args)
        if len(chosen) == 1:
            losses[2] = np.inf
        return parameters, losses

    monkeypatch.setattr(train, "_descend", descend)
    fitted(np.stack([units(1)[0], noise, units(1)[0]]), RECIPE)
    low, high = RECIPE.frequencies
    assert chosen[:2] == [[low] * 3, [high] * 3]
    assert chosen[2][0] == low
    assert chosen[2][2] == high
