"""Triton's kernels against the other engines: in the interpreter on the CPU, compiled on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from trees import output_size, parameters_of, tree_of, trees
from volumes import volume

from tinc_codec import InvalidSetting, decode, encode, inspect, runtime
from tinc_codec.decoding.together import decode_chunks
from tinc_codec.engines import current_engine, reference
from tinc_codec.fit import optimiser
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Tree, layout

torch = pytest.importorskip("torch", reason="torch is not installed")
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
pytest.importorskip("triton", reason="triton is not installed")

# All of it is for GPUs where there is one: `make test-gpu` runs it, whatever triton is installed.
pytestmark = [pytest.mark.gpu] if ON_GPU else []

Float32Array = npt.NDArray[np.float32]
DEVICE = "cuda" if ON_GPU else "torch"
# Of the largest gradient; compiled kernels have 11 bits of derivatives.
FAR = 5e-3 if ON_GPU else 1e-5


@pytest.fixture(autouse=True)
def _few_programs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter takes milliseconds for an operation, whatever its size: large tiles."""
    from tinc_codec.engines.gpu import fused

    if not ON_GPU:
        monkeypatch.setattr(fused, "FIT_BLOCK", 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


TREES = {
    "line": tree_of((300,), depths=(1,)),
    "plane of two levels": tree_of((23, 9), ((1,),), (2, 1), 19),
    "uneven": tree_of((9, 7, 5), ((0,), (2,)), (1, 2, 1), 12),
    "blocks": tree_of((9, 8, 5), ((0,),), (1, 2), 17, "block"),
    "4-D": tree_of((5, 4, 6, 3), ((3,),), (1, 1), 6),
    "wide": tree_of((12, 10), ((1,),), (2, 2), 80),
}


@pytest.fixture(params=TREES)
def tree(request: pytest.FixtureRequest) -> Tree:
    return TREES[request.param]


def grid(tree: Tree, parameters: Float32Array, axes: Any, *, triton: bool = True) -> Float32Array:
    with runtime(device=DEVICE, triton=triton):
        return current_engine().evaluate_grid(tree, parameters, axes)


def points(tree: Tree, parameters: Float32Array, where: Any) -> Float32Array:
    with runtime(device=DEVICE, triton=True):
        return current_engine().evaluate_points(tree, parameters, where)


def whole(tree: Tree) -> Any:
    return [np.arange(n) for n in tree.geometry.shape]


def assert_decodes(tree: Tree, parameters: Float32Array) -> None:
    """Assert FORMAT.md's tolerance, in units of the output; and the same bits in every part.

    The interpreter's products are numpy's, whose BLAS may round a row differently in another place:
    there parts are held to the tolerance.
    """
    expected = reference.evaluate_grid(tree, parameters, whole(tree))
    values = grid(tree, parameters, whole(tree))
    tolerance = 1e-5 * (1 + output_size(tree, parameters))
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance, strict=True)
    apart = 0 if DEVICE == "cuda" else tolerance
    part = [np.arange(n)[n // 2 :: -2] for n in tree.geometry.shape]
    found = grid(tree, parameters, part)
    np.testing.assert_allclose(found, values[np.ix_(*part)], rtol=0, atol=apart, strict=True)
    rng = np.random.default_rng(0)
    where = [rng.integers(0, n, 150) for n in tree.geometry.shape]
    found = points(tree, parameters, where)
    np.testing.assert_allclose(found, values[tuple(where)], rtol=0, atol=apart, strict=True)
    assert points(tree, parameters, [w[:0] for w in where]).shape == (0,)


def test_decodes_as_the_reference(tree: Tree) -> None:
    assert_decodes(tree, parameters_of(tree))


@settings(max_examples=4)
@given(tree=trees().filter(lambda tree: tree.geometry.node_counts[-1] <= 4))
def test_decodes_any_tree_as_the_reference(tree: Tree) -> None:
    assert_decodes(tree, parameters_of(tree))


def test_sines_of_large_arguments() -> None:
    """One sine, of arguments up to 2,000: its error is that of the argument in float32."""
    tree = Tree(
        geometry=Geometry(shape=(256,), splits=(), coordinates="global"),
        widths=(np.array([[1]]),),
    )
    for size in (1.0, 50.0, 2000.0):
        values = grid(tree, np.array([size, 0.3, 1, 0], np.float32), whole(tree))
        x = np.linspace(-1, 1, 256).astype(np.float32)
        z = (np.float32(size) * x + np.float32(0.3)).astype(np.float64)
        np.testing.assert_allclose(values, np.sin(z), rtol=0, atol=1e-6 + size * 1e-7)


def problem_of(tree: Tree, weighted: bool, *, triton: bool) -> Any:
    from tinc_codec.engines.gpu.engine import Problem

    rng = np.random.default_rng(1)
    targets = rng.standard_normal((2, *tree.geometry.shape), np.float32)
    weights = np.maximum(rng.uniform(-1, 2, targets.shape), 0).astype(np.float32)
    with runtime(device=DEVICE, triton=triton):
        return Problem(tree, targets, weights if weighted else None, 500, seed=3)


@pytest.mark.parametrize("name", TREES)
def test_gradients_are_those_of_the_products(name: str) -> None:
    """Of two chunks; tests/test_gradients.py holds the products to autograd."""
    tree, weighted = TREES[name], name in ("uneven", "line")
    parameters = np.stack([parameters_of(tree, seed) for seed in (0, 1)])
    found = []
    for triton in (True, False):
        problem = problem_of(tree, weighted, triton=triton)
        assert (problem._gradient._paths is not None) == triton
        losses, rows = problem.gradient(problem.start(parameters), 4)
        found.append((losses.cpu().numpy(), problem.finish(rows[0])))
    (losses, gradient), (expected_losses, expected) = found
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=FAR * np.abs(expected).max())
    assert np.abs(gradient).max() > 0.01


@pytest.mark.parametrize("block", [64, 512])
def test_tiles_share_the_sample(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Also where tiles do not divide it: what is over the edge is masked."""
    from tinc_codec.engines.gpu import fused

    tree = TREES["plane of two levels"]
    parameters = np.stack([parameters_of(tree, seed) for seed in (0, 1)])
    plain = problem_of(tree, True, triton=False)
    expected_losses, expected = plain.gradient(plain.start(parameters), 4)
    monkeypatch.setattr(fused, "FIT_BLOCK", block)
    problem = problem_of(tree, True, triton=True)
    losses, rows = problem.gradient(problem.start(parameters), 4)
    again = problem.gradient(problem.start(parameters), 4)[1]
    assert torch.equal(rows, again)
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=0)
    found, right = problem.finish(rows[0]), plain.finish(expected[0])
    np.testing.assert_allclose(found, right, rtol=0, atol=FAR * np.abs(right).max())


def test_what_is_too_wide_or_too_long_goes_through_the_products() -> None:
    wide = tree_of((300,), depths=(1,))
    wide.widths[0][:] = 321
    long = tree_of((300,), depths=(9,))
    for tree in (wide, long):
        assert problem_of(tree, False, triton=True)._gradient._paths is None
        parameters = parameters_of(tree)
        plain = grid(tree, parameters, whole(tree), triton=False)
        np.testing.assert_array_equal(grid(tree, parameters, whole(tree)), plain)


def test_kernels_that_fail_or_disagree_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinc_codec.engines.gpu import trust
    from tinc_codec.engines.gpu.kernels import decode as kernels

    tree = TREES["line"]
    parameters = parameters_of(tree)
    expected = grid(tree, parameters, whole(tree), triton=False)

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such instruction")

    def idle(*args: Any, **kwargs: Any) -> None:
        args[9].zero_()

    for kernel, message in ((broken, "RuntimeError: no such instruction"), (idle, "off by")):
        monkeypatch.setattr(trust, "_agreed", {})
        monkeypatch.setattr(kernels, "decode_tiles", {(3,): kernel})
        with pytest.warns(UserWarning, match=f"kernels are not used on .*: {message}"):
            values = grid(tree, parameters, whole(tree))
        np.testing.assert_array_equal(values, expected)
        np.testing.assert_array_equal(grid(tree, parameters, whole(tree)), expected)  # no warning


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinc_codec.engines.gpu import fused, trust

    def wanted(device: str, widths: Any = (16,), **chosen: Any) -> bool:
        with runtime(**chosen):
            return fused._wanted(widths, torch.device(device))

    monkeypatch.delenv("TINC_TRITON", raising=False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(trust, "_capable", lambda device: True)
    monkeypatch.setattr(trust, "_has_tried_triton", lambda: True)
    assert not wanted("cpu")
    assert wanted("cpu", triton=True)
    assert wanted("cuda")
    assert not wanted("cuda", triton=False)
    for most, more in (((64,) * 5, (80,) * 5), ((96, 96), (96, 112)), ((16,) * 8, (16,) * 9)):
        assert wanted("cuda", most)
        assert not wanted("cuda", more)
    monkeypatch.setattr(trust, "_capable", lambda device: False)
    assert not wanted("cuda")
    monkeypatch.setattr(trust, "_capable", lambda device: True)
    monkeypatch.setenv("TINC_TRITON", "0")
    assert not wanted("cuda")
    assert wanted("cuda", triton=True)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(InvalidSetting, match=r"CUDA device, not cpu: .*TRITON_INTERPRET=1"):
        wanted("cpu", triton=True)
    monkeypatch.setattr(trust, "_has_triton", lambda: False)
    with pytest.raises(InvalidSetting, match="triton, which is not installed: pip install triton"):
        wanted("cuda", triton=True)
    monkeypatch.delenv("TINC_TRITON")
    monkeypatch.setattr(trust, "_has_tried_triton", lambda: False)
    assert not wanted("cuda")


def test_only_versions_that_have_run_on_a_gpu_are_used_unasked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tinc_codec.engines.gpu import trust

    def tried(version: str) -> bool:
        monkeypatch.setattr(trust.importlib.metadata, "version", lambda name: version)
        return trust._has_tried_triton.__wrapped__()

    assert tried("3.6.0")
    assert tried("3.6.1")
    assert not tried("3.9.0")
    assert not tried("3.60.0")


@pytest.mark.parametrize("name", ["adam", "adamax"])
def test_an_optimisers_step_in_one_launch(name: str) -> None:
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(700).astype(np.float32) for _ in range(5)]
    device = torch.device("cuda" if ON_GPU else "cpu")
    sizes = torch.tensor([[0.01, 0.7], [0.02, 0.9]], device=device)
    found = []
    for updates in (optimiser.IN_ONE_LAUNCH, optimiser.ON_TENSORS):
        p, g, scale, m, v = (torch.tensor(a, device=device) for a in values)
        v.abs_()
        for size in sizes:
            updates[name](p, g[None], scale, m, v, *size.unbind())
        found.append((p, m, v))
    assert (found[0][0] - torch.tensor(values[0], device=device)).abs().max() > 0.01
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4"])
def test_integers_are_those_of_the_host(dtype: str) -> None:
    from tinc_codec.engines.gpu import trust, values
    from tinc_codec.stream import normalize

    info = np.iinfo(dtype)
    special = [np.nan, np.inf, -np.inf, -0.0, 0, 1, -0.1, 1.1, 0.5, 1e-30, 1 - 2**-24]
    unit = np.concatenate([special, np.random.default_rng(0).random(3000)]).astype(np.float32)
    there = torch.tensor(unit, device="cuda" if ON_GPU else "cpu")
    for low, high in ((int(info.min), int(info.max)), (3, 17), (0, 5)):
        with runtime(device=DEVICE, triton=True):
            assert trust.are_asked_for(there.device)
            found = values.denormalize(there, low, high, np.dtype(dtype))
        expected = normalize.denormalize(unit, low, high, np.dtype(dtype))
        np.testing.assert_array_equal(values.to_numpy(found, np.dtype(dtype)), expected)


@pytest.mark.parametrize("reach", [1, 3])
def test_faces_are_corrected_as_on_the_host_bit_for_bit(reach: int) -> None:
    from tinc_codec.engines.cpu import faces as on_host
    from tinc_codec.engines.gpu import faces as there
    from tinc_codec.engines.gpu import trust
    from tinc_codec.tree.faces import Smoothing, plans

    geometry = Geometry(shape=(9, 14, 12), splits=((0, 1, 2), (1,)), coordinates="global")
    smoothing = Smoothing(reach=reach, strength=11)
    device = torch.device("cuda" if ON_GPU else "cpu")
    rng = np.random.default_rng(0)
    all_of = [np.arange(n) for n in geometry.shape]
    for asked in (all_of, [np.array([4, 5]), *all_of[1:]]):
        wanted = plans(geometry, smoothing, asked)
        values = rng.random((2, *(len(plan.index) for plan in wanted)), np.float32)
        with runtime(device=DEVICE, triton=True):
            axes = there.axes_of(geometry, smoothing, tuple(a.tobytes() for a in asked), device)
            on_device = torch.tensor(values, device=device)
            found = there.smooth(on_device, axes).cpu().numpy()
        assert trust._agreed[("faces", on_device.device)]
        for chunk, own in zip(values, found, strict=True):
            expected = on_host.smooth(chunk.copy(), wanted)
            np.testing.assert_array_equal(own, expected, strict=True)
            assert not np.array_equal(own, chunk)


def test_large_parameters_are_not_multiplied_as_float16() -> None:
    """A chunk that has some goes through the products, whichever chunks it comes with."""
    from tinc_codec.engines.gpu import fused
    from tinc_codec.engines.gpu.engine import evaluate

    tree = TREES["line"]
    small, large = parameters_of(tree), parameters_of(tree)
    large[-1] = 40_000
    for value in (40_000, -40_000, np.inf, np.nan):
        assert fused.are_small(np.array([[1, -32767], [0, value]], np.float32)).tolist() == [1, 0]
    with runtime(device=DEVICE, triton=False):
        expected = evaluate(tree, np.stack([small, large]), whole(tree), pointwise=False)
    with runtime(device=DEVICE, triton=True):
        found = evaluate(tree, np.stack([small, large]), whole(tree), pointwise=False)
        (alone,) = evaluate(tree, small[None], whole(tree), pointwise=False)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=0)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-4)
    assert torch.equal(found[0], alone)


def quantised(tree: Tree, counts: float) -> tuple[Float32Array, Float32Array]:
    """Return parameters of a tree as a payload gives them, and the step of each group."""
    table, parameters = layout(tree), parameters_of(tree)
    steps = []
    for group in table.groups:
        values = parameters[group.start : group.stop]
        steps.append(np.float32(np.abs(values).max() / counts))
        values[:] = np.rint(values / steps[-1]) * steps[-1]
    return parameters, np.array(steps, np.float32)


@pytest.mark.parametrize("counts", [20, 2047])
def test_weights_that_count_steps(tree: Tree, counts: float) -> None:
    """As without steps, within FORMAT.md's tolerance; the same bits in every part and batch."""
    from tinc_codec.engines.gpu import fused
    from tinc_codec.engines.gpu.engine import evaluate

    parameters, steps = quantised(tree, counts)
    assert fused.are_whole(layout(tree), parameters[None], steps[None]).all()
    expected = reference.evaluate_grid(tree, parameters, whole(tree), steps)
    part = [np.arange(n)[n // 2 :: -2] for n in tree.geometry.shape]
    with runtime(device=DEVICE, triton=True):
        engine = current_engine()
        values = engine.evaluate_grid(tree, parameters, whole(tree), steps)
        some = engine.evaluate_grid(tree, parameters, part, steps)
        few = engine.evaluate_points(tree, parameters, [p[:1] for p in part], steps)
        coarse = parameters * np.float32(3)
        together = evaluate(
            tree, np.stack([coarse, parameters, coarse]), whole(tree),
            np.stack([steps * np.float32(3), steps, steps / np.float32(1000)]), pointwise=False,
        )  # fmt: skip
    tolerance = 1e-5 * (1 + output_size(tree, parameters))
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance, strict=True)
    apart = 0 if DEVICE == "cuda" else tolerance
    np.testing.assert_allclose(some, values[np.ix_(*part)], rtol=0, atol=apart, strict=True)
    np.testing.assert_allclose(few, some.reshape(-1)[:1], rtol=0, atol=apart, strict=True)
    np.testing.assert_allclose(together[1].cpu().numpy(), values, rtol=0, atol=apart, strict=True)
    expected = reference.evaluate_grid(tree, coarse, whole(tree))
    tolerance = 1e-5 * (1 + output_size(tree, coarse))
    for found in (together[0], together[2]):
        np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=0, atol=4 * tolerance)


def test_which_weights_count_steps() -> None:
    from tinc_codec.engines.gpu import fused

    tree = TREES["plane of two levels"]
    table = layout(tree)
    parameters, steps = quantised(tree, 2000)
    inner = table.groups[2]
    assert inner.start == table.groups[1].stop

    def are(parameters: Float32Array, steps: Float32Array | None) -> bool:
        given = None if steps is None else steps[None]
        return bool(fused.are_whole(table, parameters[None], given)[0])

    assert are(parameters, steps)
    assert not are(parameters, None)
    for number, wanted in ((0, True), (2, False), (3, True), (len(steps) - 2, True)):
        finer = steps.copy()
        finer[number] /= 2
        assert are(parameters, finer) == wanted
    for size in (0, 1e-38, np.inf):
        odd, none = steps.copy(), parameters.copy()
        odd[2], none[inner.start : inner.stop] = size, 0
        assert not are(none, odd)


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tinc_codec.engines.gpu.kernels.decode import decode_tiles
from tinc_codec.engines.gpu.kernels.fit import fit_tiles

INTEGERS = dict.fromkeys(("leaves", "n", "total", "voxels", "parts", "rounds", "size"), "i32")
KINDS = INTEGERS | dict.fromkeys(("table", "where", "firsts", "places", "strides"), "*i64")
KINDS |= dict.fromkeys(("counts", "sides"), "*i32")
CONSTANTS = {"AXES": 3, "BLOCKS": (16, 32, 16), "AT": (0, 0, 32), "FIRST": (0, 1, 3), "BLOCK": 64,
             "WEIGHTED": True, "POINTS": False, "WHOLE": True, "DOT": "float16", "FAST": True}
for kernel, capability in ((decode_tiles, 80), (fit_tiles, 90)):
    names = kernel.arg_names
    kinds = {name: "*fp32" for name in names} | KINDS | dict.fromkeys(CONSTANTS, "constexpr")
    source = ASTSource(
        kernel,
        signature={name: kinds[name] for name in names},
        constexprs={(names.index(k),): v for k, v in CONSTANTS.items() if k in names},
    )
    options = {"num_warps": 4, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    print(kernel.__name__, capability, len(made.asm["cubin"]) > 1000)
"""


def test_the_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """To machine code of two GPU generations, with no GPU: triton brings the assembler."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", _COMPILE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["decode_tiles 80 True", "fit_tiles 90 True"]


@pytest.mark.gpu
@pytest.mark.parametrize("name", TREES)
def test_the_kernels_agree_on_the_gpu(name: str) -> None:
    """With the tiles and programs that fits use."""
    from tinc_codec.engines.gpu import trust

    assert_decodes(TREES[name], parameters_of(TREES[name]))
    test_gradients_are_those_of_the_products(name)
    assert trust._agreed
    assert all(trust._agreed.values())


@pytest.mark.gpu
def test_a_chunk_is_fitted_and_decoded_by_kernels() -> None:
    """The whole way, in a graph: draws, gradients, the optimiser's step, values as integers."""
    array, options = volume((40, 36, 32)), {"ratio": 8, "form": "tree", "effort": 2}
    psnr = {}
    for triton in (True, False):
        with runtime(device="cuda", triton=triton):
            payload = encode(array, **options)
            found = decode_chunks([payload, payload])[1]
        np.testing.assert_allclose(found.astype(int), decode(payload).astype(int), atol=1)
        psnr[triton] = inspect(payload).psnr_db
    assert psnr[True] == pytest.approx(psnr[False], abs=1)
