"""Every engine against the reference, and each against itself on parts of a volume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import Event
from time import sleep
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import output_size, parameters_of, trees

from tinc_codec.engines import current_engine, reference
from tinc_codec.engines.cpu import engine
from tinc_codec.errors import CorruptPayload, InvalidSetting
from tinc_codec.runtime import runtime
from tinc_codec.tree.geometry import Geometry, boxes, choose_splits
from tinc_codec.tree.network import Tree

Float32Array = npt.NDArray[np.float32]
Axes = list[npt.NDArray[np.int64]]

# Of float32 engines at SIREN's weights: measured 3e-6 at most over some hundred random trees.
TOLERANCE = 2e-5

TREE = Tree(
    geometry=Geometry(shape=(37, 24, 19), splits=((0, 1, 2), (0,)), coordinates="global"),
    widths=tuple(
        np.random.default_rng(level).integers(2, 12, (nodes, 2))
        for level, nodes in enumerate((1, 8, 16))
    ),
)


@pytest.fixture(
    scope="module", params=["cpu", "torch", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def device(request: pytest.FixtureRequest) -> str:
    if request.param != "cpu":
        request.getfixturevalue("torch")
    return str(request.param)


def grid(device: str, tree: Tree, parameters: Float32Array, axes: Axes) -> Float32Array:
    with runtime(device=device):
        return current_engine().evaluate_grid(tree, parameters, axes)


def points(device: str, tree: Tree, parameters: Float32Array, where: Axes) -> Float32Array:
    with runtime(device=device):
        return current_engine().evaluate_points(tree, parameters, where)


def whole(shape: Sequence[int]) -> Axes:
    return [np.arange(n) for n in shape]


@st.composite
def trees_with_parts(draw: st.DrawFn) -> tuple[Tree, Float32Array, Axes, Axes]:
    """Draw a tree, parameters, the axes of a grid and points; either may be empty."""
    tree = draw(trees())
    axes: Axes = []
    for n in tree.geometry.shape:
        full = np.arange(n)
        kind = draw(st.sampled_from(("whole", "stride", "reversed", "any", "one")))
        if kind == "stride":
            full = full[draw(st.integers(0, n - 1)) :: draw(st.integers(1, n))]
        elif kind == "reversed":
            full = full[:: -draw(st.integers(1, 3))]
        elif kind == "any":
            full = np.array(draw(st.lists(st.integers(0, n - 1), max_size=8)), np.int64)
        elif kind == "one":
            full = full[[draw(st.integers(0, n - 1))]]
        axes.append(full)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    n_points = draw(st.sampled_from((0, 1, 255, 600)))
    where = [rng.integers(0, n, n_points) for n in tree.geometry.shape]
    return tree, parameters_of(tree, draw(st.integers(0, 99))), axes, where


def test_the_reference_computes_the_formula() -> None:
    geometry = Geometry(shape=(5,), splits=(), coordinates="global")
    tree = Tree(geometry=geometry, widths=(np.array([[2]]),))
    parameters = np.array([3, -2, 0.5, 0.25, 1.5, -4, 7], np.float32)
    x = np.array([-1, -0.5, 0, 0.5, 1])
    expected = 1.5 * np.sin(3 * x + 0.5) - 4 * np.sin(-2 * x + 0.25) + 7
    values = reference.evaluate_grid(tree, parameters, [np.arange(5)])
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_leaf_has_its_ancestors_and_its_own_coordinates() -> None:
    """Two leaves of a line, block coordinates: each runs over [-1, 1]."""
    geometry = Geometry(shape=(7,), splits=((0,),), coordinates="block")
    tree = Tree(geometry=geometry, widths=(np.array([[1]]), np.array([[1], [1]])))
    root, hidden, output = [1, 0], [2, 3, 0, 0], [1, 1, 10, 20]
    parameters = np.array([*root, *hidden, *output], np.float32)
    lower, upper = np.linspace(-1, 1, 4), np.linspace(-1, 1, 3)
    expected = [*(10 + np.sin(2 * np.sin(lower))), *(20 + np.sin(3 * np.sin(upper)))]
    values = reference.evaluate_grid(tree, parameters, [np.arange(7)])
    np.testing.assert_allclose(values, expected, rtol=1e-6)


@settings(max_examples=100)
@given(case=trees_with_parts())
def test_engines_agree_with_the_reference(
    device: str, case: tuple[Tree, Float32Array, Axes, Axes]
) -> None:
    tree, parameters, axes, where = case
    tolerance = TOLERANCE * (1 + output_size(tree, parameters))
    expected = reference.evaluate_grid(tree, parameters, axes)
    values = grid(device, tree, parameters, axes)
    assert values.dtype == np.float32
    assert values.shape == expected.shape
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    expected = reference.evaluate_points(tree, parameters, where)
    values = points(device, tree, parameters, where)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


@settings(max_examples=100)
@given(case=trees_with_parts())
def test_a_part_equals_that_part_of_the_whole_bit_for_bit(
    device: str, case: tuple[Tree, Float32Array, Axes, Axes]
) -> None:
    tree, parameters, axes, where = case
    everything = grid(device, tree, parameters, whole(tree.geometry.shape))
    np.testing.assert_array_equal(
        grid(device, tree, parameters, axes), everything[np.ix_(*axes)], strict=True
    )
    np.testing.assert_array_equal(
        points(device, tree, parameters, where), everything[tuple(where)], strict=True
    )


def test_every_leaf_alone_equals_its_block_of_the_whole(device: str) -> None:
    parameters = parameters_of(TREE)
    everything = grid(device, TREE, parameters, whole(TREE.geometry.shape))
    for start, stop in zip(*boxes(TREE.geometry)[-1], strict=True):
        axes = [np.arange(a, b) for a, b in zip(start, stop, strict=True)]
        np.testing.assert_array_equal(
            grid(device, TREE, parameters, axes), everything[np.ix_(*axes)]
        )


def test_a_voxel_is_the_same_at_every_place_in_a_tile(device: str) -> None:
    parameters = parameters_of(TREE)
    spots = [np.full(777, index) for index in (11, 5, 17)]
    values = points(device, TREE, parameters, spots)
    assert (values == values[0]).all()
    assert (
        grid(device, TREE, parameters, spots[:1] + [s[:3] for s in spots[1:]]) == values[0]
    ).all()


def test_threads_do_not_change_a_bit() -> None:
    shape = (70, 65, 60)
    geometry = Geometry(shape=shape, splits=choose_splits(shape, 2), coordinates="global")
    tree = Tree(geometry=geometry, widths=(np.full((1, 2), 5), np.full((8, 1), 3)))
    parameters = parameters_of(tree)
    with runtime(threads=1):
        alone = grid("cpu", tree, parameters, whole(shape))
    with runtime(threads=3):
        shared = grid("cpu", tree, parameters, whole(shape))
    np.testing.assert_array_equal(alone, shared)


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch) -> tuple[Tree, Axes]:
    """A tree and a grid that is evaluated in dozens of pieces."""
    monkeypatch.setattr(engine, "_TILES_A_TASK", 1)
    return TREE, whole(TREE.geometry.shape)


def test_a_grid_is_begun_while_the_caller_goes_on(
    many_tasks: tuple[Tree, Axes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, axes = many_tasks
    expected, began = grid("cpu", tree, parameters_of(tree), axes), Event()

    def evaluate(*args: Any) -> None:
        began.set()
        evaluate_tiles(*args)

    evaluate_tiles = engine.passes.evaluate_grid
    monkeypatch.setattr(engine.passes, "evaluate_grid", evaluate)
    with runtime(threads=2), engine.begin_grid(tree, parameters_of(tree), axes) as finish:
        assert began.wait(20)
        np.testing.assert_array_equal(finish(), expected)


def test_no_more_of_a_grid_is_begun_once_it_is_given_up(
    many_tasks: tuple[Tree, Axes], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, axes = many_tasks
    began, go_on, tasks = Event(), Event(), []

    def evaluate(*_: Any) -> None:
        tasks.append(0)
        began.set()
        go_on.wait(20)

    def give_up() -> None:
        with runtime(threads=2), engine.begin_grid(tree, parameters_of(tree), axes):
            assert began.wait(20)
            raise CorruptPayload("beside it")

    monkeypatch.setattr(engine.passes, "evaluate_grid", evaluate)
    with pytest.raises(CorruptPayload):
        give_up()
    go_on.set()
    sleep(0.1)  # time enough for another thread to go on, if it did
    assert len(tasks) == 1


def test_torchs_threads_do_not_change_a_bit(torch: ModuleType) -> None:
    """MKL sums a lone product on several threads in another order than a batch."""
    parameters = parameters_of(TREE)
    where = [np.arange(5, 17), np.arange(3, 15), np.arange(12)]
    alone = points("torch", TREE, parameters, where)
    torch.set_num_threads(2)
    try:
        shared = points("torch", TREE, parameters, where)
        single = [points("torch", TREE, parameters, [s[k : k + 1] for s in where]) for k in (0, 11)]
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(shared, alone)
    np.testing.assert_array_equal(np.concatenate(single), alone[[0, 11]])


def test_many_slabs_and_read_only_parameters(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(TREE)
    parameters.setflags(write=False)
    axes = whole(TREE.geometry.shape)
    expected = grid(device, TREE, parameters, axes)
    if device != "cpu":
        from tinc_codec.engines.gpu import engine

        monkeypatch.setattr(engine, "CPU_SLAB_TILES", 5)
        monkeypatch.setattr(engine, "CUDA_SLAB_TILES", 7)
    tolerance = TOLERANCE * (1 + output_size(TREE, parameters))
    values = grid(device, TREE, parameters, axes)
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)


def test_less_memory_than_wanted_makes_smaller_slabs(torch: ModuleType) -> None:
    from tinc_codec.engines.gpu import engine

    done: list[int] = []
    most = 9

    def run(tiles: Any) -> None:
        if len(tiles) > most:
            raise torch.cuda.OutOfMemoryError(f"{len(tiles)} tiles")
        done.extend(tiles.tolist())

    engine._run_slabs(run, 150, torch.device("cpu"))
    assert done == list(range(150))
    most = 1
    with pytest.raises(torch.cuda.OutOfMemoryError, match="2 tiles"):
        engine._run_slabs(run, 150, torch.device("cpu"))


def test_the_callers_torch_settings_change_nothing(torch: ModuleType) -> None:
    parameters = parameters_of(TREE)
    axes = whole(TREE.geometry.shape)
    expected = grid("torch", TREE, parameters, axes)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = grid("torch", TREE, parameters, axes)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before)
    np.testing.assert_array_equal(values, expected, strict=True)


def test_without_torch_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InvalidSetting, match=r"'torch' needs torch.*tinc_codec\[fit\]"):
        grid("torch", TREE, parameters_of(TREE), whole(TREE.geometry.shape))


def test_without_the_gpu_the_error_says_what_to_use(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InvalidSetting, match=r"'cuda' needs a CUDA device.*device='cpu'"):
        grid("cuda", TREE, parameters_of(TREE), whole(TREE.geometry.shape))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InvalidSetting, match=r"'cuda:2' is not there: use one of cuda:0 to cuda:1"):
        points("cuda:2", TREE, parameters_of(TREE), [np.arange(2)] * 3)
