"""Many chunks at once: the same payloads as one by one, in batches that memory holds."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trees import parameters_of

from tinc_codec import UnsupportedData, decode, forms
from tinc_codec.encode import encode_chunk, encode_chunks
from tinc_codec.engines import reference
from tinc_codec.engines.gpu.memory import in_batches
from tinc_codec.fit import chunk, optimiser, train
from tinc_codec.fit.recipe import Recipe
from tinc_codec.phantom import phantom
from tinc_codec.runtime import runtime
from tinc_codec.settings import Settings
from tinc_codec.tree import section
from tinc_codec.tree import weights as weights_section
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, layout

pytestmark = pytest.mark.usefixtures("torch")

Float32Array = npt.NDArray[np.float32]

SHAPE = (12, 9, 10)
TREE = Tree(
    geometry=Geometry(shape=SHAPE, splits=((0, 2), (1,)), coordinates="global"),
    widths=tuple(
        np.random.default_rng(level).integers(2, 9, (nodes, 2))
        for level, nodes in enumerate((1, 4, 8))
    ),
)


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


def arrays() -> list[npt.NDArray[Any]]:
    """Return chunks of several kinds: alike, masked, constant, of another shape and dtype."""
    wide = (1000 * units(3, (16, 16, 16))).astype(np.uint16)
    masked = wide[1].astype(np.float32)
    masked[3:5, :, 7] = np.nan
    return [wide[0], masked, np.full((16, 16, 16), 7, "i4"), wide[2], wide[1][:8].astype(">f4")]


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("threads", [1, 3])
def test_payloads_come_in_order_and_as_alone(device: str, threads: int) -> None:
    settings = Settings(ratio=12, iterations=30)
    with runtime(device=device, threads=threads):
        together = encode_chunks(arrays(), settings)
        for array, payload in zip(arrays(), together, strict=True):
            assert len(payload) <= array.nbytes / 12
            found, expected = decode(payload), decode(encode_chunk(array, settings))
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(np.isnan(found.astype(float)), np.isnan(array))
            if device == "cpu":
                np.testing.assert_array_equal(found, expected)
            else:
                spread = float(np.nanmax(array)) - float(np.nanmin(array))
                np.testing.assert_allclose(found.astype(float), expected, atol=0.01 * spread + 1)
        assert encode_chunks([], settings) == []


def test_lists_are_taken_for_arrays_but_one_array_not_for_several() -> None:
    chunk, settings = np.arange(64, dtype="u1").reshape(4, 4, 4), Settings(max_error=0)
    as_lists = encode_chunks([chunk.astype("f8").tolist()], replace(settings, max_error=1))
    np.testing.assert_allclose(decode(as_lists[0]), chunk, atol=1)
    with pytest.raises(UnsupportedData, match=r"not one of shape \(4, 4, 4\): give \[array\]"):
        encode_chunks(chunk, settings)


def test_a_chunk_that_cannot_be_encoded_is_named() -> None:
    with runtime(threads=2), pytest.raises(UnsupportedData, match="int64"):
        encode_chunks([*arrays(), np.ones((16, 16, 16), "i8")], Settings(ratio=12, iterations=1))


def test_chunks_are_fitted_together_and_again_in_halves(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU whose memory holds five chunks by the formula, and two in truth."""
    from tinc_codec.engines.gpu import engine, memory

    sizes: list[int] = []

    class Problem(engine.Problem):
        def __init__(self, tree: Tree, targets: Float32Array, *args: Any) -> None:
            sizes.append(len(targets))
            if len(targets) > 2:
                raise torch.cuda.OutOfMemoryError("no room")
            super().__init__(tree, targets, *args)

    monkeypatch.setattr(engine, "Problem", Problem)
    monkeypatch.setattr(memory, "available", lambda device: 599)
    monkeypatch.setattr(memory, "bytes_per_chunk", lambda *args, **kwargs: 100)
    monkeypatch.setattr(
        forms.bounded, "better_within_budget", lambda *args: None
    )  # trees for all of them
    given = [*(1000 * units(6)).astype(np.uint16)]
    with runtime(device="torch"):
        payloads = encode_chunks(given, Settings(ratio=8, iterations=5, levels=2, level_ratio=0.3))
    # 5 and 3 were too many; then each batch has two problems, one of them for the rounding.
    assert sizes == [5, 3, 2, 2, 2, 2, 2, 2]
    for array, payload in zip(given, payloads, strict=True):
        found = decode(payload).astype(float)
        assert np.abs(found - array).mean() < 0.1 * np.ptp(array)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_batch_size_comes_from_free_memory(
    monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    from tinc_codec.engines.gpu import memory

    widths = tuple(np.full((nodes, 1), 10) for nodes in (1, 2))
    geometry = Geometry(shape=(40, 30), splits=((0,),), coordinates="global")
    tree = Tree(geometry=geometry, widths=widths)
    # 2 leaves of 2 tiles; features 10 + 10 + 1; parameters 30 + 2 * 110 + 2 * 11.
    volume = 40 * 30 * 4 * (2 if weighted else 1)
    step = 4 * 256 * (8 * 21 + 20 * 10 + 32)
    size = volume + step + 56 * (30 + 220 + 22)
    assert memory.bytes_per_chunk(tree, 1000, weighted=weighted) == size
    # Features 16 + 16 + 1; parameters 48 + 2 * 272 + 2 * 17.
    padded = volume + 4 * 256 * (8 * 33 + 20 * 16 + 32) + 56 * (48 + 544 + 34)
    assert memory.bytes_per_chunk(tree, 1000, weighted=weighted, multiple=16) == padded
    for free, chunks in ((0, 1), (size - 1, 1), (7 * size, 7), (8 * size - 1, 7)):
        monkeypatch.setattr(memory, "available", lambda device, free=free: free)
        with runtime(device="torch"):
            assert memory.most_chunks(tree, 1000, weighted=weighted) == chunks


def test_free_memory_is_what_the_gpu_has_and_torch_does_not_use(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tinc_codec.engines.gpu import memory

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 9000))
    held = {"reserved_bytes.all.current": 700, "allocated_bytes.all.current": 500}
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: held)
    assert memory.available(torch.device("cuda")) == 960
    held.clear()  # before torch has used the GPU
    assert memory.available(torch.device("cuda")) == 800


@pytest.mark.gpu
def test_a_gpu_that_is_full_gets_smaller_batches(
    torch: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real errors of its allocator; the same payloads and values."""
    from tinc_codec.decoding.together import decode_resident
    from tinc_codec.engines.gpu import memory

    # As many that get the same tree: one volume in all its reflections, and these transposed.
    turns = [np.s_[::a, ::b, ::c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]
    plain = phantom((96, 96, 96))
    arrays = [np.ascontiguousarray(v[turn]) for v in (plain, plain.T) for turn in turns]
    settings = Settings(ratio=256, form="tree", iterations=30, levels=2, level_ratio=0.3)
    whole = [None] * len(arrays)
    sizes: list[int] = []
    plainly = chunk._fit_alike

    def noted(tree: Tree, units: Any, *rest: Any) -> Any:
        sizes.append(len(units))
        return plainly(tree, units, *rest)

    with runtime(device="cuda"):
        payloads = encode_chunks(arrays, settings)
        values = [bits.cpu() for bits in decode_resident(payloads, whole) if bits is not None]
        assert len(values) == len(arrays)
        monkeypatch.setattr(chunk, "_fit_alike", noted)
        monkeypatch.setattr(memory, "available", lambda device: 1 << 50)
        gc.collect()
        torch.cuda.empty_cache()
        most = torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 6e7) / most)
        try:
            assert encode_chunks(arrays, settings) == payloads
            again = decode_resident(payloads, whole)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    for bits, expected in zip(again, values, strict=True):
        assert bits is not None
        assert torch.equal(bits.cpu(), expected)
    assert sizes[0] > len(arrays) / 2
    assert sum(sizes) > len(arrays)  # some were tried again


class LiveBytes:
    """Counts the bytes of the tensors that are alive, as torch makes them; its peak."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._users: dict[int, int] = {}

    def add(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._users:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._users[key] = self._users.get(key, 0) + 1
        weakref.finalize(tensor, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.now -= size


def live_bytes(torch: ModuleType, chunks: int, *, weighted: bool, samples: int) -> int:
    """Return the peak of a fit of so many chunks, volumes included."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    live = LiveBytes()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    live.add(tensor)
            return out

    from tinc_codec.engines.gpu.engine import Problem

    targets = np.zeros((chunks, *WIDE.geometry.shape), np.float32)
    parameters = np.stack([parameters_of(WIDE, seed) for seed in range(chunks)])
    sizes = optimiser.step_sizes("adam", [1e-3] * 2)
    with runtime(device="torch"), Watch():
        problem = Problem(WIDE, targets, targets + 1 if weighted else None, samples, seed=0)
        problem.run(parameters, np.ones_like(parameters), optimiser.ON_TENSORS["adam"], sizes, 0)
        start = problem.start(parameters)
        problem.gradient(start, 0, squared=True)
    return live.peak


WIDE = Tree(
    geometry=Geometry(shape=(40, 40, 40), splits=((0, 1, 2),), coordinates="global"),
    widths=(np.full((1, 2), 12), np.full((8, 2), 9)),
)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("samples", [2048, 16384])
def test_a_fit_takes_the_memory_that_is_stated(
    torch: ModuleType, weighted: bool, samples: int
) -> None:
    from tinc_codec.engines.gpu import memory

    peaks = [live_bytes(torch, n, weighted=weighted, samples=samples) for n in (2, 6)]
    each = (peaks[1] - peaks[0]) / 4
    stated = memory.bytes_per_chunk(WIDE, samples, weighted=weighted)
    assert 0.8 * stated < each <= stated
