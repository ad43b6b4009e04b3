"""Peak memory on the CPU, measured in processes of their own.

What is promised, beyond what a process holds after a first small use (libraries, kernels):

- decoding a whole chunk takes its result and at most 32 MiB, whatever its size;
- decoding a plane or a preview takes at most 16 MiB, of which the payload taken apart is a part;
- encoding a chunk of integers of 8 or 16 bits takes at most 16 MiB and 20 bytes per voxel, wider
  values, a mask or importance 40, the array itself not counted; however many steps the fit has.

Measured when this was written (two threads): 16 MiB beside the result; 2 to 10 MiB; 14 to 20 and
25 to 40 bytes per voxel in all, for chunks of 256³ down to 128³. Sides
here are as small as will do.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import pytest

import tinc_codec

if sys.platform != "linux":
    pytest.skip("peak memory is asked of Linux", allow_module_level=True)

MIB = 1 << 20
_SCRIPT = """
import json, sys
import numpy as np
import tinc_codec

def peak():
    # Not ru_maxrss, which starts from that of the process before exec: the tests' own.
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def volume(side):
    index = np.arange(side, dtype=np.float32)
    wave = np.sin(index[:, None, None] / 7) + np.cos(index[:, None] / 5) * np.sin(index / 9)
    return (1000 * wave + 3000).astype(np.uint16)

def edges(side):
    return np.where(volume(side) > 3400, np.uint16(4000), np.uint16(1000))

def masked(side):
    values = volume(side).astype(np.float32)
    values[values > 4000] = np.nan
    return values

def encode(array, levels, **more):
    return tinc_codec.encode(array, ratio=200, levels=levels, iterations=3, form="tree", **more)

def encode_wavelet(array, **more):
    return tinc_codec.encode(array, ratio=100, effort=2, form="wavelet", **more)

def encode_bounded(array):
    return tinc_codec.encode(array, max_error=3)

small = {small}
tinc_codec.decode(small), tinc_codec.decode(small, np.s_[::4, 3])
given = {prepare}
before = peak()
kept = {call}
sys.stdout.write({told})
"""


# Small uses, after which a process holds the libraries and kernels of a form.
TREE, MASKED = "encode(volume(24), 2)", "encode(masked(24), 2)"
WAVELET, BOUNDED = "encode_wavelet(edges(24))", "encode_bounded(volume(24))"


def run(small: str, prepare: str, call: str, told: str, given: bytes = b"") -> str:
    """Return what a fresh process says after a small use and a call."""
    script = _SCRIPT.format(small=small, prepare=prepare, call=call, told=told)
    done = subprocess.run([sys.executable, "-c", script], input=given, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def growth(small: str, prepare: str, call: str, given: bytes = b"") -> int:
    """Return by how many bytes the peak of a fresh process grows in a call.

    Compiling takes more memory than anything here: what is not yet on disk is compiled by a process
    that is not measured.
    """
    _kernels_on_disk(small)
    return int(run(small, prepare, call, "json.dumps(peak() - before)", given))


@cache
def _kernels_on_disk(small: str) -> None:
    run(small, "None", "None", "''")


@pytest.fixture(scope="module")
def payload() -> bytes:
    """Of 160³ voxels, 7.8 MiB, in 4,096 leaves."""
    return bytes.fromhex(run(TREE, "volume(160)", "encode(given, 5)", "kept.hex()"))


def test_decoding_takes_its_result_and_a_constant(payload: bytes) -> None:
    taken = growth(TREE, "sys.stdin.buffer.read()", "tinc_codec.decode(given)", payload)
    assert taken > 7.8 * MIB, "the result itself was not seen"
    assert taken < (7.8 + 32) * MIB


@pytest.mark.parametrize("part", ["np.s_[3]", "np.s_[:, :, 3]", "np.s_[::4, ::4, ::4]"])
def test_decoding_a_part_takes_a_constant(payload: bytes, part: str) -> None:
    call = f"tinc_codec.decode(given, {part})"
    assert growth(TREE, "sys.stdin.buffer.read()", call, payload) < 16 * MIB


@pytest.mark.parametrize(
    ("array", "per_voxel"),
    [("volume(128)", 20), ("masked(128)", 40), ("volume(128).astype(np.float64)", 40)],
)
def test_encoding_takes_so_much_per_voxel(array: str, per_voxel: int) -> None:
    taken = growth(MASKED if "masked" in array else TREE, array, "encode(given, 2)")
    assert taken > 8 * 128**3, "less than two volumes of float32: was anything fitted?"
    assert taken < per_voxel * 128**3 + 16 * MIB


def test_wavelets_take_so_much_per_voxel() -> None:
    voxels = 128**3
    payload = bytes.fromhex(run(WAVELET, "edges(128)", "encode_wavelet(given)", "kept.hex()"))
    assert "filter" in tinc_codec.inspect(payload).section_sizes
    assert growth(WAVELET, "edges(128)", "encode_wavelet(given)") < 64 * voxels + 32 * MIB
    for call in ("tinc_codec.decode(given)", "tinc_codec.decode(given, np.s_[3])"):
        assert growth(WAVELET, "sys.stdin.buffer.read()", call, payload) < 20 * voxels + 32 * MIB


@pytest.mark.parametrize(
    ("small", "array", "call", "per_voxel", "more"),
    [
        (
            "encode(volume(24), 2, importance=3400)",
            "volume(128)",
            "encode(given, 2, importance=3400)",
            40,
            16,
        ),
        (
            "encode_wavelet(edges(24), importance=3400)",
            "edges(128)",
            "encode_wavelet(given, importance=3400)",
            64,
            32,
        ),
    ],
    ids=["tree", "wavelet"],
)
def test_importance_takes_so_much_per_voxel(
    small: str, array: str, call: str, per_voxel: int, more: int
) -> None:
    taken = growth(small, array, call)
    assert taken < per_voxel * 128**3 + more * MIB


def test_corrections_take_so_much_per_voxel() -> None:
    voxels = 96**3
    call = "encode_bounded(given)"
    payload = bytes.fromhex(run(BOUNDED, "volume(96)", call, "kept.hex()"))
    assert growth(BOUNDED, "volume(96)", call) < 112 * voxels + 32 * MIB
    assert growth(BOUNDED, "sys.stdin.buffer.read()", "tinc_codec.decode(given)", payload) < (
        24 * voxels + 32 * MIB
    )


@pytest.mark.parametrize("target", ["ratio=30", "psnr=70", "ssim=0.9999"])
def test_bounded_forms_for_another_target_take_so_much_per_voxel(target: str) -> None:
    call = f"tinc_codec.encode({{}}, {target}, effort=2)"
    given = "np.where(volume({}) > 4300, volume({}), np.uint16(9)).astype(np.float32)"
    prepare = given.format(112, 112)
    taken = run(BOUNDED, prepare, call.format("given"), "tinc_codec.inspect(kept).form")
    assert "correction" in taken
    small = call.format(given.format(20, 20))
    assert growth(small, prepare, call.format("given")) < 112 * 112**3 + 32 * MIB


def test_steps_take_no_memory() -> None:
    few, many = (
        growth(
            TREE,
            "volume(96)",
            f"tinc_codec.encode(given, ratio=200, levels=2, iterations={n}, form='tree')",
        )
        for n in (3, 60)
    )
    assert many < few + 8 * MIB


def test_an_ssim_of_a_chunk_with_a_margin_takes_so_much_per_voxel() -> None:
    call = "tinc_codec.encode({}, ssim=0.95, effort=2, form='wavelet')"
    small = call.format("np.pad(edges(20), ((0, 4),) * 3, constant_values=7)")
    given = "np.pad(edges(124), ((0, 4),) * 3, constant_values=7)"
    assert growth(small, given, call.format("given")) < 80 * 128**3 + 32 * MIB
