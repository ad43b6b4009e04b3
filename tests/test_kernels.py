"""The layer kernels of the CPU engine against numpy, at all block sizes and on plain processors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from llvmlite.binding import get_host_cpu_features
from numba.core.dispatcher import Dispatcher
from numpy.typing import NDArray

from tinc_codec.compiled import _warn_of_no_cache, compiled
from tinc_codec.engines.cpu import kernels
from tinc_codec.engines.cpu.vector import LANES, ROWS, STRIDE
from tinc_codec.llvm import WIDTH

ROOM = Path(kernels.__file__).parent
RESIDUAL = ROOM.parents[1] / "stream" / "residual"
Array = NDArray[np.float32]


def rows(count: int, rng: np.random.Generator, spread: float = 1) -> Array:
    return rng.uniform(-spread, spread, count * STRIDE).astype(np.float32)


def lanes(array: Array) -> NDArray[np.float64]:
    return array.reshape(-1, STRIDE)[:, :LANES].astype(np.float64)


def case(n_in: int, n_out: int) -> tuple[np.random.Generator, Array, NDArray[np.float64], Array]:
    """Parameters with the weights from place 3 on, the biases behind them."""
    rng = np.random.default_rng(100 * n_in + n_out)
    p = rng.normal(0, 2, 3 + n_in * n_out + n_out).astype(np.float32)
    weight = p[3 : 3 + n_in * n_out].reshape(n_out, n_in).astype(np.float64)
    return rng, p, weight, p[3 + n_in * n_out :]


SIZES = [(n_in, n_out) for n_in in (1, 3, 4, 9, 30) for n_out in (*range(1, 2 * ROWS + 2), 33)]


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_forward_kernels(n_in: int, n_out: int) -> None:
    rng, p, weight, bias = case(n_in, n_out)
    x = rows(n_in + 1, rng)
    sums = weight @ lanes(x)[1:] + bias[:, None]
    at, bias_at = STRIDE, 3 + n_in * n_out
    plain, sine, again, cosine = (rows(n_out + 2, rng) for _ in range(4))
    before = plain.copy()
    kernels.affine(p, 3, bias_at, n_in, n_out, x, at, plain, STRIDE)
    kernels.affine_sine(p, 3, bias_at, n_in, n_out, x, at, sine, STRIDE)
    kernels.affine_sine_cosine(p, 3, bias_at, n_in, n_out, x, at, again, STRIDE, cosine)
    np.testing.assert_allclose(lanes(plain)[1:-1], sums, atol=2e-5)
    np.testing.assert_allclose(lanes(sine)[1:-1], np.sin(sums), atol=2e-5)
    np.testing.assert_allclose(lanes(cosine)[1:-1], np.cos(sums), atol=2e-5)
    np.testing.assert_array_equal(lanes(again)[1:-1], lanes(sine)[1:-1])
    # Rows before and after are not touched.
    np.testing.assert_array_equal(plain[:STRIDE], before[:STRIDE])
    np.testing.assert_array_equal(plain[-STRIDE:], before[-STRIDE:])


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_backward_kernels(n_in: int, n_out: int) -> None:
    rng, p, weight, _ = case(n_in, n_out)
    d, c = rows(n_in + n_out, rng), rows(n_in, rng)
    dz = lanes(d)[n_in:]
    expected = weight.T @ dz
    times, added = d.copy(), d.copy()
    kernels.backward_times(p, 3, n_in, n_out, times, n_in * STRIDE, c, 0)
    kernels.backward_add(p, 3, n_in, n_out, added, n_in * STRIDE, 0)
    np.testing.assert_allclose(lanes(times)[:n_in], expected * lanes(c), atol=2e-5)
    np.testing.assert_allclose(lanes(added)[:n_in], expected + lanes(d)[:n_in], atol=2e-5)
    np.testing.assert_array_equal(times[n_in * STRIDE :], d[n_in * STRIDE :])


@pytest.mark.parametrize(("n_in", "n_out"), SIZES)
def test_outer_product(n_in: int, n_out: int) -> None:
    rng, _, _, _ = case(n_in, n_out)
    x, dz = rows(n_in, rng), rows(n_out, rng)
    before = rng.normal(size=n_in * n_out + n_out + 2).astype(np.float32)
    g = before.copy()
    scratch = np.empty(WIDTH, np.float32)
    kernels.add_outer(n_in, n_out, dz, 0, x, 0, g, 1, 1 + n_in * n_out, scratch)
    change = g.astype(np.float64) - before
    weights = change[1 : 1 + n_in * n_out].reshape(n_out, n_in)
    np.testing.assert_allclose(weights, lanes(dz) @ lanes(x).T, atol=1e-4)
    np.testing.assert_allclose(change[1 + n_in * n_out : -1], lanes(dz).sum(axis=1), atol=1e-4)
    assert change[0] == change[-1] == 0


@pytest.mark.parametrize("scale", [1, 10, 100, 3000])
def test_sine_stays_accurate_at_large_arguments(scale: int) -> None:
    z = np.linspace(-scale, scale, 40 * LANES, dtype=np.float32).reshape(40, LANES)
    z[0, :3] = 0, -0.0, np.pi
    x = np.zeros((40, STRIDE), np.float32)
    x[:, :LANES] = z
    p = np.array([1, 0], np.float32)
    sine, cosine = (np.empty(STRIDE, np.float32) for _ in range(2))
    for row in x:
        kernels.affine_sine_cosine(p, 0, 1, 1, 1, row, 0, sine, 0, cosine)
        exact = row[:LANES].astype(np.float64)
        # Beyond a few hundred, one unit in the last place of z itself is more than this.
        np.testing.assert_allclose(sine[:LANES], np.sin(exact), atol=4e-7)
        np.testing.assert_allclose(cosine[:LANES], np.cos(exact), atol=6e-7)


def test_lanes_do_not_depend_on_their_place() -> None:
    rng, p, _, _ = case(9, 13)
    x = rows(9, rng)
    turned = np.roll(lanes(x), 37, axis=1)
    y = x.copy()
    y.reshape(9, STRIDE)[:, :LANES] = turned
    one, other = (np.empty(13 * STRIDE, np.float32) for _ in range(2))
    kernels.affine_sine(p, 3, 3 + 9 * 13, 9, 13, x, 0, one, 0)
    kernels.affine_sine(p, 3, 3 + 9 * 13, 9, 13, y, 0, other, 0)
    np.testing.assert_array_equal(np.roll(lanes(one), 37, axis=1), lanes(other))


GENERIC = {"NUMBA_CPU_NAME": "generic"}
WITH_AVX2 = GENERIC | {"NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}


@pytest.mark.parametrize(
    ("variables", "width"),
    [(GENERIC | {"NUMBA_CPU_FEATURES": ""}, 4), (WITH_AVX2, 8), ({"NUMBA_ENABLE_AVX": "0"}, 4)],
)
def test_plain_processors_decode_alike(
    variables: dict[str, str], width: int, tmp_path: Path
) -> None:
    """Without AVX-512, AVX2 or fused multiply-add trees decode within a level, wavelets exactly."""
    here = get_host_cpu_features()
    if width == 8 and here.get("avx2") and not here.get("avx512f"):
        pytest.skip("this processor is such a one: all other tests are run on it")
    golden = Path(__file__).parent / "golden" / "v1"
    script = (
        "import sys, numpy as np, tinc_codec\n"
        "from tinc_codec import llvm\n"
        "from pathlib import Path\n"
        "print(llvm.WIDTH)\n"
        "for name, most in ('uint16_full_range', 1), ('block_coordinates', 1), ('filter', 0):\n"
        "    path = Path(sys.argv[1]) / name\n"
        "    found = tinc_codec.decode(path.with_suffix('.tinc').read_bytes())\n"
        "    known = np.load(path.with_suffix('.npy'))\n"
        "    assert np.abs(found.astype(float) - known).max() <= most, name\n"
    )
    environment = os.environ | variables | {"NUMBA_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(golden)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) == width


def test_without_compilation_the_remedy_is_named() -> None:
    script = "import tinc_codec; tinc_codec.encode(__import__('numpy').arange(81.0), ratio=2)"
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "TincError: NUMBA_DISABLE_JIT is set" in run.stderr
    assert "unset it" in run.stderr


def test_where_no_folder_can_be_written_to_code_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(self: Dispatcher) -> None:
        raise RuntimeError("cannot cache function 'twice': no locator available for file 'x.py'")

    def twice(n: int) -> int:
        return 2 * n

    monkeypatch.setattr(Dispatcher, "enable_caching", refused)
    _warn_of_no_cache.cache_clear()
    with pytest.warns(RuntimeWarning, match="Set NUMBA_CACHE_DIR"):
        doubled = compiled()(twice)
    assert doubled(21) == 42
    assert compiled("int64(int64)")(twice)(21) == 42  # said once


def test_other_errors_of_numba_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Dispatcher) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(Dispatcher, "enable_caching", fails)
    with pytest.raises(RuntimeError, match="something else"):
        compiled()(lambda n: n)


@pytest.mark.parametrize(
    ("room", "name", "below"),
    [
        (ROOM, "kernels", ["../../llvm", "vector"]),
        (ROOM, "passes", ["../../llvm", "vector", "kernels"]),
        (RESIDUAL / "coder", "binary", ["../../../llvm", "mixing"]),
        (RESIDUAL / "wavelets", "contexts", ["../coder/binary"]),
        (RESIDUAL / "wavelets", "choosing", ["../coder/binary", "contexts"]),
        (RESIDUAL / "wavelets", "coefficients", ["../coder/binary", "contexts", "choosing"]),
        (RESIDUAL / "corrections", "differences", ["../coder/binary"]),
        (RESIDUAL / "filters", "postfilter", ["../../../llvm", "filtering"]),
        (RESIDUAL / "wavelets", "lifting", ["../../../llvm", "cdf97", "sweeping"]),
    ],
)
def test_compiled_code_is_dropped_when_what_it_builds_on_changes(
    room: Path, name: str, below: list[str]
) -> None:
    checksum = f"{crc32(b''.join((room / f'{b}.py').read_bytes() for b in below)):08x}"
    text = (room / f"{name}.py").read_text()
    found = re.search(r'BUILT_ON = "([0-9a-f]*)"', text)
    assert found is not None
    assert found[1] == checksum, f'write BUILT_ON = "{checksum}" in {name}.py'
