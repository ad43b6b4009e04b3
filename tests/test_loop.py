"""The torch engine's loop: steps that need no host, by windows, by graphs, again and again."""

from __future__ import annotations

from contextlib import nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_fit import SHAPE, TABLE, TREE, UNIT

from tinc_codec.fit import optimiser
from tinc_codec.runtime import runtime

pytestmark = pytest.mark.usefixtures("torch")

Float32Array = npt.NDArray[np.float32]

STEPS = 20
TARGETS = np.stack([UNIT, 1 - UNIT])
START = np.random.default_rng(0).uniform(-1, 1, (2, TABLE.size)).astype(np.float32)
FACTORS = np.random.default_rng(1).integers(0, 3, (2, TABLE.size)).astype(np.float32)


def problem_of(device: str = "torch", weights: Float32Array | None = None) -> Any:
    from tinc_codec.engines.gpu.engine import Problem

    with runtime(device=device):
        return Problem(TREE, TARGETS, weights, 600, seed=3)


def run(problem: Any, name: str = "adam", steps: int = STEPS, first: int = 5) -> tuple[Any, Any]:
    sizes = optimiser.step_sizes(name, [1e-2 * (1 + step % 3) for step in range(steps)])
    parameters, losses = problem.run(START, FACTORS, optimiser.ON_TENSORS[name], sizes, first)
    return parameters, losses


def step_by_step(torch: ModuleType, problem: Any, name: str) -> tuple[Any, Any]:
    """Return what run() should, by plain calls."""
    p, factors = problem.start(START), problem.start(FACTORS)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    losses = []
    for step in range(STEPS):
        loss, rows = problem.gradient(p, 5 + step)
        losses.append(loss.cpu().numpy())
        sizes = optimiser.step_sizes(name, [1e-2 * (1 + step % 3)] * (step + 1))
        given = torch.tensor(sizes[step], device=p.device)
        optimiser.ON_TENSORS[name](p, rows, factors, m, v, *given)
    return problem.finish(p), np.stack(losses)


@pytest.mark.parametrize("device", ["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_a_run_is_its_steps(torch: ModuleType, name: str, device: str) -> None:
    problem = problem_of(device)
    expected, expected_losses = step_by_step(torch, problem, name)
    parameters, losses = run(problem, name)
    np.testing.assert_array_equal(parameters, expected, strict=True)
    np.testing.assert_array_equal(losses, expected_losses, strict=True)
    assert (losses[-1] < losses[0]).all()
    np.testing.assert_array_equal(parameters[FACTORS == 0], START[FACTORS == 0])


@pytest.mark.parametrize("device", ["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_windows_do_not_show(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    from tinc_codec.engines.gpu import loop

    expected = run(problem_of(device))
    monkeypatch.setattr(loop, "WINDOW", 7)
    found = run(problem_of(device))
    for values, right in zip(found, expected, strict=True):
        np.testing.assert_array_equal(values, right, strict=True)


@pytest.mark.parametrize("device", ["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_run_does_not_depend_on_those_before(device: str) -> None:
    problem = problem_of(device)
    expected = run(problem)
    run(problem, "adamax", steps=3)
    run(problem, steps=2, first=90)
    run(problem, steps=9, first=90)
    for values, right in zip(run(problem), expected, strict=True):
        np.testing.assert_array_equal(values, right, strict=True)


@pytest.mark.parametrize("name", ["adam", "adamax"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_step_could_be_captured(torch: ModuleType, name: str, weighted: bool) -> None:
    """A graph's step must not read values on the host, make tensors there, nor have sizes vary."""
    from torch.utils._python_dispatch import TorchDispatchMode

    used: set[str] = set()

    class Names(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            used.add(str(func.overloadpacket))
            return func(*args, **(kwargs or {}))

    problem = problem_of(weights=np.ones_like(TARGETS) if weighted else None)
    run(problem, name, steps=2)
    before = problem._loop._state.data_ptr()
    with Names(), torch.no_grad():
        problem._loop.step()
    assert "aten.bmm" in used
    assert not used & {
        "aten._local_scalar_dense",
        "aten.lift_fresh",
        "aten.nonzero",
        "aten.masked_select",
        "aten.equal",
    }
    run(problem, name, steps=2)
    assert problem._loop._state.data_ptr() == before


@pytest.mark.parametrize("steps", [2, 3, 4, STEPS])
def test_replays_of_a_graph_take_the_place_of_steps(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    from tinc_codec.engines.gpu import loop

    expected = [run(problem_of(), steps=n)[0] for n in (steps, 10)]
    captured: list[int] = []

    def capture(step: Any) -> Any:
        for _ in range(loop._WARM_UP):
            step()
        captured.append(0)

        def replay() -> None:
            captured[-1] += 1
            step()

        return SimpleNamespace(replay=replay)

    monkeypatch.setattr(loop, "_captured", capture)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    problem = problem_of()
    run(problem, steps=1)
    problem._loop._device = torch.device("cuda")
    for n, right in zip((steps, 10), expected, strict=True):
        np.testing.assert_array_equal(run(problem, steps=n)[0], right)
    graph_from_first = steps > loop._WARM_UP
    assert captured == [steps - loop._WARM_UP + 10 if graph_from_first else 10 - loop._WARM_UP]


def test_keys_are_splitmix64s() -> None:
    from tinc_codec.engines.gpu.problem import step_keys

    def key(seed: int, step: int) -> int:
        z = (seed * 0x9E3779B97F4A7C15 + step + 1) % 2**64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return (z ^ z >> 31) >> 32

    for seed in (0, 1, 2**32 - 1):
        assert step_keys(seed, 40, 3).tolist() == [key(seed, step) for step in (40, 41, 42)]


def test_draws_are_the_hash_of_the_voxels_number() -> None:
    """In plain integers, the draws that every engine makes, no two leaves' alike."""
    from tinc_codec.engines.gpu.problem import step_keys
    from tinc_codec.tree.geometry import boxes

    problem = problem_of()
    start, stop = boxes(TREE.geometry)[-1]
    _, where = problem.sample(8)
    key = int(step_keys(3, 8, 1)[0])
    n = where.shape[1]
    for leaf, voxel in [(0, 0), (1, 3), (len(start) - 1, n - 1)]:
        index = []
        for axis in range(2):
            x = (((leaf * n + voxel) * 2 + axis) * 0x9E3779B9 + key) % 2**32
            x = (x ^ x >> 16) * 0x7FEB352D % 2**32
            x = (x ^ x >> 15) * 0x846CA68B % 2**32
            x = x ^ x >> 16
            side = int(stop[leaf, axis] - start[leaf, axis])
            index.append(int(start[leaf, axis]) + (x * side >> 32))
        assert int(where[leaf, voxel]) == index[0] * SHAPE[1] + index[1]


def test_a_capture_that_runs_out_of_memory_is_told_from_others(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a spoiled capture raises an error of its own, over the allocator's."""
    from tinc_codec.engines.gpu import loop

    class Capture:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *args: Any) -> None:
            raise RuntimeError("operation failed due to a previous error during capture")

    stream = SimpleNamespace(wait_stream=lambda other: None)
    put_back: list[Any] = []
    for name, fake in (
        ("set_stream", put_back.append),
        ("CUDAGraph", SimpleNamespace),
        ("Stream", lambda: stream),
        ("current_stream", lambda: stream),
        ("stream", nullcontext),
        ("graph", Capture),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)

    def steps_that_raise(error: Exception) -> Any:
        calls = iter([None] * loop._WARM_UP)

        def step() -> None:
            if next(calls, error) is error:
                raise error

        return step

    full = (torch.cuda.OutOfMemoryError("full"), RuntimeError("CUDA error: out of memory"))
    for error in full:
        with pytest.raises(torch.cuda.OutOfMemoryError, match="while a step was captured"):
            loop._captured(steps_that_raise(error))
    with pytest.raises(RuntimeError, match="previous error") as caught:
        loop._captured(steps_that_raise(RuntimeError("no")))
    assert not isinstance(caught.value, torch.cuda.OutOfMemoryError)
    assert put_back == [stream] * 3  # that which was in use before
