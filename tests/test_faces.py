"""Faces of leaves made smooth: FORMAT.md's arithmetic, the same in parts and on every engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import second_reader
from hypothesis import given
from hypothesis import strategies as st
from trees import geometries, parameters_of, smoothings, tree_of
from volumes import volume

from tinc_codec import decode, encode, inspect, runtime
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.decoding.smoothed import begin_grid, made_smooth, point_values
from tinc_codec.decoding.together import decode_chunks, decode_resident
from tinc_codec.engines.cpu.faces import smooth
from tinc_codec.fit import faces as fit_faces
from tinc_codec.metrics import block_jump
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.tree import faces, section, weights
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.geometry import Geometry, boxes
from tinc_codec.tree.network import Tree

Values = npt.NDArray[np.float32]
HALVED = Geometry(shape=(16, 12, 10), splits=((0, 1, 2), (0,)), coordinates="global")


def noise(shape: Sequence[int]) -> Values:
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def by_the_format(values: Values, geometry: Geometry, smoothing: Smoothing) -> Values:
    """Line by line, as the second reader has it from FORMAT.md."""
    for axis, n in enumerate(geometry.shape):
        cuts = [*np.unique(boxes(geometry)[-1][0][:, axis]).tolist(), n]
        values = np.apply_along_axis(
            second_reader.smoothed, axis, values, cuts, smoothing.reach, smoothing.strength
        )
    return values


def whole(geometry: Geometry) -> list[npt.NDArray[np.int64]]:
    return [np.arange(n) for n in geometry.shape]


class Lookup:
    """In the place of an engine: values from a table, and how many were asked for."""

    def __init__(self, values: Values) -> None:
        self.values, self.asked = values, 0

    def grid(self, axes: Sequence[npt.NDArray[np.int64]]) -> Values:
        return self._counted(self.values[np.ix_(*axes)])

    def points(self, axes: Sequence[npt.NDArray[np.int64]]) -> Values:
        return self._counted(self.values[tuple(axes)])

    def _counted(self, found: Values) -> Values:
        self.asked += found.size
        return found


def smooth_tree(geometry: Geometry, smoothing: Smoothing) -> Tree:
    tree = tree_of(geometry.shape, geometry.splits, (2,) * geometry.levels)
    return replace(tree, smoothing=smoothing)


@given(geometries(), smoothings())
def test_kernel_is_what_the_format_says_bit_for_bit(
    geometry: Geometry, smoothing: Smoothing
) -> None:
    values = noise(geometry.shape)
    found = smooth(values.copy(), faces.plans(geometry, smoothing, whole(geometry)))
    expected = by_the_format(values, geometry, smoothing)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_a_step_is_spread_and_a_slope_left_alone() -> None:
    geometry = Geometry(shape=(12,), splits=((0,),), coordinates="global")
    slope = np.arange(12, dtype=np.float32)
    step = np.where(slope < 6, 0, 8).astype(np.float32)
    for reach, strength, near in (
        (2, 16, [0, 2, 4, 4, 6, 8]),
        (1, 8, [0, 0, 2, 6, 8, 8]),
        (99, 16, [4 / 3, 8 / 3, 4, 4, 16 / 3, 20 / 3]),
    ):
        plans = faces.plans(geometry, Smoothing(reach=reach, strength=strength), whole(geometry))
        np.testing.assert_allclose(smooth(step.copy(), plans)[3:9], near, rtol=1e-6)
        np.testing.assert_array_equal(smooth(slope.copy(), plans), slope)


def grid_values(tree: Tree, axes: Sequence[npt.NDArray[np.int64]], table: Lookup) -> Values:
    def begin(index: Sequence[npt.NDArray[np.int64]]) -> Any:
        return nullcontext(lambda: table.grid(index))

    with begin_grid(tree, axes, begin) as finish:
        return finish()


def some_axis(draw: st.DrawFn, n: int) -> npt.NDArray[np.int64]:
    """A window, a stride, or any indices with repeats."""
    if draw(st.booleans()):
        start = draw(st.integers(0, n - 1))
        return np.arange(start, draw(st.integers(start + 1, n)), draw(st.integers(1, 5)))
    return np.array(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)))


@given(geometries(), smoothings(), st.data())
def test_a_part_is_the_part_of_the_whole_bit_for_bit(
    geometry: Geometry, smoothing: Smoothing, data: st.DataObject
) -> None:
    values, tree = noise(geometry.shape), smooth_tree(geometry, smoothing)
    expected = by_the_format(values, geometry, smoothing)
    table = Lookup(values)
    axes = [data.draw(st.composite(some_axis)(n)) for n in geometry.shape]
    grid = grid_values(tree, axes, table)
    np.testing.assert_array_equal(grid, expected[np.ix_(*axes)], strict=True)
    count = data.draw(st.integers(1, 20))
    rng = np.random.default_rng(count)
    points = [rng.integers(0, n, count) for n in geometry.shape]
    found = point_values(tree, points, table.points)
    np.testing.assert_array_equal(found, expected[tuple(points)], strict=True)


def test_a_whole_tree_is_made_smooth_in_place() -> None:
    smoothing = Smoothing(reach=2, strength=13)
    values = noise(HALVED.shape)
    expected = by_the_format(values, HALVED, smoothing)
    np.testing.assert_array_equal(made_smooth(smooth_tree(HALVED, smoothing), values), expected)
    np.testing.assert_array_equal(values, expected)


def test_single_voxels_are_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinc_codec.decoding.smoothed._PIECE", 300)
    smoothing = Smoothing(reach=2, strength=16)
    values = noise(HALVED.shape)
    sizes: list[int] = []

    def evaluate(axes: Sequence[npt.NDArray[np.int64]]) -> Values:
        sizes.append(len(axes[0]))
        return values[tuple(axes)]

    points = [i.ravel() for i in np.indices(HALVED.shape)]
    found = point_values(smooth_tree(HALVED, smoothing), points, evaluate)
    expected = by_the_format(values, HALVED, smoothing)
    np.testing.assert_array_equal(found.reshape(HALVED.shape), expected)
    assert max(sizes) <= 300


def test_reads_away_from_faces_evaluate_nothing_else() -> None:
    tree = smooth_tree(HALVED, Smoothing(reach=1, strength=16))
    table = Lookup(noise(HALVED.shape))
    # Along the first axis faces are at 4, 8 and 12, else at 6 and 5.
    window = [np.array([1, 2, 5, 6]), np.arange(5), np.array([6, 9, 7])]
    grid_values(tree, window, table)
    assert table.asked == 4 * 5 * 3
    point_values(tree, [np.array([2, 9]), np.array([0, 7]), np.array([1, 8])], table.points)
    assert table.asked == 4 * 5 * 3 + 2
    near = [np.array([3]), np.array([0]), np.array([9])]
    grid_values(tree, near, table)
    assert table.asked == 4 * 5 * 3 + 2 + 4
    point_values(tree, near, table.points)
    assert table.asked == 4 * 5 * 3 + 2 + 4 + 5


@given(geometries(), smoothings(), st.data())
def test_torch_gives_the_hosts_values_bit_for_bit(
    geometry: Geometry, smoothing: Smoothing, data: st.DataObject
) -> None:
    torch = pytest.importorskip("torch")
    from tinc_codec.engines.gpu.faces import axes_of
    from tinc_codec.engines.gpu.faces import smooth as smooth_there

    axes = [data.draw(st.composite(some_axis)(n)) for n in geometry.shape]
    plans = faces.plans(geometry, smoothing, axes)
    values = noise(geometry.shape)[np.ix_(*(plan.index for plan in plans))]
    indices = tuple(axis.tobytes() for axis in axes)
    there = axes_of(geometry, smoothing, indices, torch.device("cpu"))
    found = smooth_there(torch.tensor(np.stack([values, 1 - values])), there).numpy()
    for chunk, host in zip(found, (values, 1 - values), strict=True):
        np.testing.assert_array_equal(chunk, smooth(host, plans), strict=True)


# In payloads.


def payload_of(tree: Tree, dtype: str = "u2", seed: int = 0) -> bytes:
    shape = tree.geometry.shape
    info = ArrayInfo(shape=shape, dtype=np.dtype(dtype), order="C", low=7, high=60_000)
    return container.pack(
        {
            SectionKind.ARRAY: info.to_bytes(),
            SectionKind.TREE: section.to_bytes(tree),
            SectionKind.WEIGHTS: weights.pack_raw(parameters_of(tree, seed, gain=0.4)),
        }
    )


SELECTIONS: list[Any] = [
    np.s_[4], np.s_[..., ::3], np.s_[2:7, 5, 3:], np.s_[0, 0, 0], np.s_[:, 2:2],
    ([3, 15, 4, 7], [5, 6, 0, 6], [5, 4, 9, 1]),
]  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "reference", "torch"])
def test_selections_are_parts_of_the_whole(device: str) -> None:
    if device == "torch":
        pytest.importorskip("torch")
    smoothing = Smoothing(reach=3, strength=13)
    plain = tree_of(HALVED.shape, HALVED.splits, (2, 1, 2))
    payload = payload_of(replace(plain, smoothing=smoothing), "f4")
    with runtime(device=device):
        expected = decode(payload)
        rough = decode(payload_of(plain, "f4"))
        for selection in SELECTIONS:
            np.testing.assert_array_equal(decode(payload, selection), expected[selection])
    assert block_jump(rough, expected, ([4, 8], [6], [5])) < 0.7


def test_batches_on_the_device_give_the_same() -> None:
    pytest.importorskip("torch")
    plain = tree_of(HALVED.shape, HALVED.splits, (2, 1, 2))
    some = [None, Smoothing(reach=3, strength=13), Smoothing(reach=1, strength=16)]
    payloads = [
        payload_of(replace(plain, smoothing=smoothing), seed=seed)
        for smoothing in some
        for seed in (0, 1)
    ]
    with runtime(device="torch"):
        for selection in [None, *SELECTIONS]:
            chosen = [selection] * len(payloads)
            found = decode_chunks(payloads, chosen)
            for payload, array in zip(payloads, found, strict=True):
                np.testing.assert_array_equal(array, decode(payload, selection), strict=True)
        stays = [bits is not None for bits in decode_resident(payloads, [None] * 6)]
        alone = [bits is not None for bits in decode_resident(payloads, [SELECTIONS[-1]] * 6)]
    assert stays == [True] * 6
    assert alone == [True, True, *[False] * 4]


def test_a_memory_bound_counts_the_stencils(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from tinc_codec.decoding import together as decode_together

    asked: list[int] = []
    original: Callable[[int, int], int] = decode_together.most_decoded

    def most_decoded(voxels: int, itemsize: int) -> int:
        asked.append(voxels)
        return original(voxels, itemsize)

    monkeypatch.setattr(decode_together, "most_decoded", most_decoded)
    tree = smooth_tree(HALVED, Smoothing(reach=1, strength=16))
    with runtime(device="torch"):
        for index in (4, 5):
            decode_chunks([payload_of(tree)] * 2, [np.s_[index, :, 0]] * 2)
    assert asked == [4 * 12, 12]


# Chosen by the encoder.


def stepped(jump: float, texture: float) -> tuple[Values, Values]:
    """A smooth volume, and a tree's values that are off by a constant in each leaf."""
    unit = 0.5 + 0.2 * volume((24, 24, 24), "f4") / 60
    unit += noise(unit.shape) * np.float32(texture)
    leaf = (np.indices(unit.shape) >= 12).sum(axis=0) % 2
    return unit, (unit + jump * (leaf - 0.5)).astype(np.float32)


OCTANTS = Geometry(shape=(24, 24, 24), splits=((0, 1, 2),), coordinates="global")


def chosen(unit: Values, said: Values, weight: Values | None = None) -> Smoothing | None:
    before = said.copy()
    smoothing = fit_faces.choose(OCTANTS, said, unit, weight)
    np.testing.assert_array_equal(said, before)
    return smoothing


def test_seams_are_made_smooth() -> None:
    unit, said = stepped(0.02, 0.001)
    smoothing = chosen(unit, said)
    assert smoothing is not None
    found = smooth(said.copy(), faces.plans(OCTANTS, smoothing, whole(OCTANTS)))
    assert block_jump(unit, said, [[12]] * 3) > 1.5
    assert block_jump(unit, found, [[12]] * 3) <= 1.05
    assert np.square(found - unit).mean() < np.square(said - unit).mean()


def test_what_is_there_is_not_made_smooth() -> None:
    unit, _ = stepped(0, 0.001)
    unit[12:] += np.float32(0.2)  # an edge of the volume's own, where the leaves meet
    assert chosen(unit, unit + noise(unit.shape) * np.float32(1e-4)) is None
    assert fit_faces.choose(replace(OCTANTS, splits=()), unit, unit, None) is None


def test_what_does_not_count_has_no_say() -> None:
    unit, said = stepped(0.02, 0.001)
    weight = np.ones_like(unit)
    weight[4:20], weight[:, 4:20], weight[:, :, 4:20] = 0, 0, 0
    assert chosen(unit, said) is not None
    assert chosen(unit, said, weight) is None


@pytest.mark.parametrize("device", ["torch", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("weighted", [False, True])
def test_smoothings_are_tried_on_a_device_as_on_the_host(device: str, weighted: bool) -> None:
    torch = pytest.importorskip("torch")
    from tinc_codec.engines.gpu.faces import measure

    geometry = replace(OCTANTS, splits=((0, 1, 2), (1,)))
    levels = fit_faces._faces_of_levels(geometry)
    assert levels == [[[12]] * 3, [[], [6, 18], []]]
    unit, said = stepped(0.02, 0.001)
    weight = np.where(noise(unit.shape) > 0, noise(unit.shape), 0) if weighted else None
    given = geometry, said, unit, weight, levels
    on_host = fit_faces._measure(*given)
    tried = [None, *(Smoothing(reach=reach, strength=9) for reach in (1, 4, 8))]
    with runtime(device=device):
        there = torch.tensor(said, device="cuda" if device == "cuda" else "cpu")
        for on_device in (measure(*given), measure(geometry, there, *given[2:])):
            for smoothing in tried:
                assert on_device(smoothing) == pytest.approx(on_host(smoothing), rel=1e-5)
        assert fit_faces.choose(OCTANTS, said, unit, weight) == chosen_on_host(said, unit, weight)
    np.testing.assert_array_equal(there.cpu().numpy(), said)


def test_the_host_goes_on_where_a_device_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")

    def full(*given: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(fit_faces, "on_torch", full)
    unit, said = stepped(0.02, 0.001)
    expected = chosen_on_host(said, unit, None)
    assert expected is not None
    with runtime(device="torch"):
        for values in (said, torch.tensor(said)):
            assert fit_faces.choose(OCTANTS, values, unit, None) == expected


def chosen_on_host(said: Values, unit: Values, weight: Values | None) -> Smoothing | None:
    with runtime(device="cpu"):
        return fit_faces.choose(OCTANTS, said, unit, weight)


def test_trees_are_written_with_smooth_faces_within_their_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = volume((24, 20, 22))
    quick: dict[str, Any] = {"ratio": 9, "form": "tree", "iterations": 40, "levels": 2}
    told = Smoothing(reach=2, strength=16)
    monkeypatch.setattr(fit_faces, "choose", lambda *given: told)
    payload = encode(array, **quick)
    assert len(payload) <= array.nbytes / 9
    tree = open_chunk(payload).tree
    assert tree is not None
    assert tree.smoothing == told
    reached = inspect(payload).psnr_db
    error = decode(payload).astype(np.float64) - array
    peak = float(array.max()) - float(array.min())
    assert reached == pytest.approx(-20 * math.log10(np.sqrt(np.mean(error**2)) / peak), abs=0.02)
    paper = open_chunk(encode(array, **quick, preset="paper")).tree
    assert paper is not None
    assert paper.smoothing is None
