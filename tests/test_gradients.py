"""Gradients against automatic differentiation of the plain network; optimisers against torch's."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trees import parameters_of, tree_of

from tinc_codec.engines.cpu.engine import Problem
from tinc_codec.fit import descent, optimiser
from tinc_codec.runtime import runtime
from tinc_codec.tree.geometry import boxes, leaf_affine
from tinc_codec.tree.network import Layout, Tree, layout

Float32Array = npt.NDArray[np.float32]

SAMPLES = 1500  # about: two tiles for each of three leaves, say


TREES = {
    "one node": tree_of((30,), (), (2,), 7),
    "uneven": tree_of((9, 7, 5), ((0, 2), (1,)), (1, 2, 1), 9),
    "blocks": tree_of((9, 8, 5), ((0, 1), (1,)), (1, 2, 1), 9, "block"),
    "4-D": tree_of((5, 4, 6, 3), ((0, 1, 2, 3),), (2, 1), 5),
}


@pytest.fixture(scope="module", params=TREES)
def tree(request: pytest.FixtureRequest) -> Tree:
    return TREES[request.param]


def volumes(tree: Tree) -> tuple[Float32Array, Float32Array]:
    """Return a target and weights, a third of them zero."""
    rng = np.random.default_rng(0)
    target = rng.standard_normal(tree.geometry.shape, np.float32)
    return target, np.maximum(rng.uniform(-1, 2, target.shape), 0).astype(np.float32)


def problem_of(
    device: str, tree: Tree, *volumes: Float32Array | None, samples: int = SAMPLES
) -> Any:
    target, weight = (None if volume is None else volume[None] for volume in volumes)
    chosen: dict[str, Any] = {"device": device}
    if device == "kernels":
        chosen = {"device": "cuda", "triton": True}
    elif device == "cuda":
        chosen["triton"] = False
    with runtime(**chosen):
        if device == "cpu":
            return Problem(tree, target, weight, samples, seed=11)
        from tinc_codec.engines.gpu.engine import Problem as TorchProblem

        problem = TorchProblem(tree, target, weight, samples, seed=11)
        assert problem.has_kernels == (device == "kernels")
        return problem


def gradient_of(
    problem: Any, parameters: Float32Array, step: int, *, squared: bool = False
) -> tuple[float, Float32Array]:
    losses, rows = problem.gradient(problem.start(parameters[None]), step, squared=squared)
    return float(losses[0]), problem.finish(rows.sum(0))[0]


def plain_output(torch: ModuleType, table: Layout, path: Any, parameters: Any, x: Any) -> Any:
    """Return the outputs (n,) of one leaf for coordinates (n, axes), layer by layer."""
    for layer in path:
        n_in, n_out = int(table.n_in[layer]), int(table.n_out[layer])
        at, bias_at = int(table.weight_at[layer]), int(table.bias_at[layer])
        weight = parameters[at : at + n_in * n_out].view(n_out, n_in)
        x = x @ weight.T + parameters[bias_at : bias_at + n_out]
        if layer != path[-1]:
            x = torch.sin(x)
    return x[:, 0]


def by_autograd(
    torch: ModuleType,
    tree: Tree,
    parameters: Float32Array,
    volumes: tuple[Float32Array, Float32Array | None],
    voxels: tuple[Any, Any],
) -> tuple[float, Float32Array, Float32Array]:
    """Return loss, gradient and mean squares of the outputs' derivatives, in float64."""
    target, weight = (None if v is None else torch.tensor(v.ravel()).double() for v in volumes)
    x, where = (v.cpu() for v in voxels)
    table = layout(tree)
    start, stop = boxes(tree.geometry)[-1]
    share = (stop - start).prod(axis=1) / (stop - start).prod(axis=1).mean()
    p = torch.tensor(parameters, dtype=torch.float64, requires_grad=True)
    loss, squares = 0.0, 0.0
    for leaf, path in enumerate(table.paths):
        factor = torch.full(where[leaf].shape, share[leaf] / where.numel(), dtype=torch.float64)
        if weight is not None:
            factor = factor * weight[where[leaf]]
        at = x[leaf].double()
        jacobian = torch.autograd.functional.jacobian(
            lambda p, path=path, at=at: plain_output(torch, table, path, p, at), p, vectorize=True
        )
        squares = squares + factor @ jacobian**2
        error = plain_output(torch, table, path, p, at) - target[where[leaf]]
        loss = loss + (factor * error**2).sum()
    (gradient,) = torch.autograd.grad(loss, p)
    return float(loss.detach()), gradient.numpy(), squares.numpy()


def assert_close(values: Float32Array, expected: Float32Array, relative: float = 1e-5) -> None:
    """Assert that errors are small against the largest value."""
    atol = relative * np.abs(expected).max()
    np.testing.assert_allclose(values, expected, rtol=0, atol=atol)


# The GPU by torch's products, and by Triton's kernels, whose derivatives have 11 bits.
CUDA = [pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda", "kernels")]


@pytest.mark.parametrize("device", ["cpu", "torch", *CUDA])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_those_of_autograd(
    torch: ModuleType, tree: Tree, device: str, weighted: bool
) -> None:
    target, weight = volumes(tree)
    both = (target, weight if weighted else None)
    parameters = parameters_of(tree)
    # Both engines draw the same voxels; were it not so, the CPU's gradients would be off.
    voxels = problem_of("torch", tree, *both).sample(3)
    loss, gradient, squares = by_autograd(torch, tree, parameters, both, voxels)
    problem = problem_of(device, tree, *both)
    found_loss, found = gradient_of(problem, parameters, 3)
    assert found_loss == pytest.approx(loss, rel=1e-5)
    assert_close(found, gradient, 5e-3 if device == "kernels" else 1e-5)
    _, found = gradient_of(problem, parameters, 3, squared=True)
    assert_close(found, squares)
    assert (found >= 0).all()


def test_the_gradient_is_the_slope_of_the_loss(tree: Tree) -> None:
    """Without torch: central differences of the CPU engine's own loss along its gradient."""
    parameters = parameters_of(tree)
    problem = problem_of("cpu", tree, *volumes(tree))
    _, gradient = gradient_of(problem, parameters, 0)
    gradient = gradient.copy()
    direction = (gradient / np.linalg.norm(gradient)).astype(np.float32)
    h = np.float32(1e-3)
    ahead, _ = gradient_of(problem, parameters + h * direction, 0)
    behind, _ = gradient_of(problem, parameters - h * direction, 0)
    slope = (ahead - behind) / (2 * float(h))
    assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=2e-2)


@pytest.mark.parametrize("device", ["cpu", "torch", *CUDA])
def test_voxels_of_weight_zero_do_not_matter(
    request: pytest.FixtureRequest, tree: Tree, device: str
) -> None:
    if device != "cpu":
        request.getfixturevalue("torch")
    target, weight = volumes(tree)
    parameters = parameters_of(tree)
    loss, gradient = gradient_of(problem_of(device, tree, target, weight), parameters, 0)
    changed = np.where(weight == 0, target + 100, target)
    again, same = gradient_of(problem_of(device, tree, changed, weight), parameters, 0)
    assert again == loss
    np.testing.assert_array_equal(same, gradient)
    other = np.where(weight != 0, target + 100, target)
    assert gradient_of(problem_of(device, tree, other, weight), parameters, 0)[0] > 2 * loss


def test_samples_lie_in_their_leaves_and_reach_every_voxel(torch: ModuleType, tree: Tree) -> None:
    problem = problem_of("torch", tree, *volumes(tree), samples=10_000)
    x, where = (values.numpy() for values in problem.sample(0))
    leaves = len(boxes(tree.geometry)[-1][0])
    assert where.shape == x.shape[:2] == (leaves, 256 * round(10_000 / 256 / leaves))
    index = np.stack(np.unravel_index(where, tree.geometry.shape), axis=-1)
    start, stop = boxes(tree.geometry)[-1]
    assert (index >= start[:, None]).all()
    assert (index < stop[:, None]).all()
    scale, offset = leaf_affine(tree.geometry)
    np.testing.assert_array_equal(x, (index * scale[:, None] + offset[:, None]).astype(np.float32))
    for leaf in range(leaves):
        counts = np.bincount(where[leaf], minlength=np.prod(tree.geometry.shape))
        counts = counts[counts > 0]
        assert len(counts) == (stop - start)[leaf].prod()
        expected = where.shape[1] / len(counts)
        assert (np.abs(counts - expected) < 6 * np.sqrt(expected)).all()
    assert not np.array_equal(problem.sample(1)[1].numpy(), where)
    np.testing.assert_array_equal(problem.sample(0)[1].numpy(), where)


@pytest.mark.parametrize("device", ["cpu", "torch", *CUDA])
def test_start_copies_and_finish_gives_back(request: pytest.FixtureRequest, device: str) -> None:
    if device != "cpu":
        request.getfixturevalue("torch")
    tree = TREES["uneven"]
    problem = problem_of(device, tree, *volumes(tree))
    parameters = parameters_of(tree)[None]
    held = problem.start(parameters)
    held += 1
    np.testing.assert_array_equal(problem.finish(held), parameters + 1, strict=True)
    np.testing.assert_array_equal(parameters[0], parameters_of(tree))


@pytest.mark.parametrize("name", ["adam", "adamax"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_optimisers_step_as_torchs(torch: ModuleType, name: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal(200).astype(np.float32)
    parts = rng.standard_normal((25, 3, 200)).astype(np.float32) * 10
    parts[:, :, ::7] = 0  # no gradient: no step
    factor = np.repeat(np.array([1, 30], np.float32), 100)

    theirs = [torch.tensor(half, requires_grad=True) for half in np.split(start, 2)]
    groups = [{"params": [p], "lr": 1e-2 * k} for p, k in zip(theirs, (1, 30), strict=True)]
    their_optimiser = {"adam": torch.optim.Adam, "adamax": torch.optim.Adamax}[name](groups)

    p, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    tensors = [torch.tensor(a) for a in (p, m, v, factor)] if kind == "torch" else [p, m, v, factor]
    p, m, v, factor = tensors
    update = (optimiser.ON_TENSORS if kind == "torch" else optimiser.ON_ARRAYS)[name]
    sizes = optimiser.step_sizes(name, [1e-2] * len(parts))
    for (rate, root), rows in zip(sizes, parts, strict=True):
        for half, mine in zip(theirs, np.split(rows.sum(0), 2), strict=True):
            half.grad = torch.tensor(mine)
        their_optimiser.step()
        given = (rows, rate, root)
        rows, rate, root = map(torch.tensor, given) if kind == "torch" else given
        update(p, rows, factor, m, v, rate, root)
    expected = torch.cat(theirs).detach().numpy()
    # The numba steps hold 1 - beta in float32.
    np.testing.assert_allclose(np.asarray(p), expected, rtol=0, atol=1e-4)
    assert np.abs(expected - start).max() > 0.5
    np.testing.assert_array_equal(np.asarray(p)[::7], start[::7])


def descended(
    device: str, tree: Tree, steps: int, rate: float
) -> tuple[float, float, Float32Array]:
    """Return the loss of a fixed sample before and after some steps, and the parameters."""
    axes = [np.linspace(-1, 1, n) for n in tree.geometry.shape]
    target = np.cos(sum(np.meshgrid(*axes, indexing="ij"))).astype(np.float32)
    problem = problem_of(device, tree, target, None)
    start = parameters_of(tree)
    before, _ = gradient_of(problem, start, steps)
    factors = np.ones_like(start)
    (found,), _ = descent.descend(
        problem, start[None], factors[None], "adam", lambda step: rate, steps
    )
    after, _ = gradient_of(problem, found, steps)
    return before, after, found


@pytest.mark.parametrize("device", ["torch", *CUDA])
def test_a_fit_goes_the_same_way_on_every_engine(
    torch: ModuleType, tree: Tree, device: str
) -> None:
    """The same voxels and arithmetic: parameters part by rounding alone, for some steps.

    Where gradients have 11 bits, those of parameters that hardly matter may turn.
    """
    before, after, parameters = descended("cpu", tree, 40, 1e-2)
    assert after < 0.5 * before
    again, likewise, other = descended(device, tree, 40, 1e-2)
    assert again == pytest.approx(before, rel=1e-5)
    rough = device == "kernels"
    assert likewise == pytest.approx(after, rel=0.1 if rough else 1e-2)
    if rough:
        return
    np.testing.assert_allclose(other, parameters, rtol=0, atol=5e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "kernels"])
def test_a_long_fit_on_the_gpu_ends_as_on_the_cpu(torch: ModuleType, device: str) -> None:
    before, after, _ = descended("torch", TREES["uneven"], 400, 1e-2)
    _, on_gpu, _ = descended(device, TREES["uneven"], 400, 1e-2)
    assert on_gpu < 0.05 * before
    assert on_gpu == pytest.approx(after, rel=0.5)
