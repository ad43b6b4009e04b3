"""Sizes at guaranteed bounds, and without loss, beside other codecs.

``python -m benchmarks.bounds`` encodes blocks of up to 128³ voxels, as they are and as float32,
with ``max_error`` 1, 0.3 and 0.1 % of their range (of integers rounded down) and 0. SZ3 and SPERR
get the largest tolerance whose decoded values keep the same bound, which is checked; without loss
JPEG XL and Blosc-Zstd take part, too. Times are of one thread.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.rows import markdown
from tinc_codec import decode, encode, runtime

SHARES = (0.01, 0.003, 0.001, 0.0)
# Tolerances tried, in bounds; of integers what rounding leaves room for is added.
_TOLERANCES, _ROOMS = (1.0, 0.999, 0.99, 0.9, 0.7, 0.5), (0.499, 0.49, 0.4, 0.25, 0.0)
_LOSSLESS = ("JPEG XL", "Blosc-Zstd")
_COLUMNS = (
    "volume", "dtype", "bound", "ours", "/ best rival", "SZ3", "SPERR", *_LOSSLESS,
    "encode Mvoxel/s", "decode",
)  # fmt: skip


def _sz3(data: NDArray[np.float32], tolerance: float) -> tuple[int, NDArray[Any]]:
    coded = imagecodecs.sz3_encode(data, mode="abs", abs=tolerance)
    return len(coded), imagecodecs.sz3_decode(coded, data.shape, np.float32)


def _sperr(data: NDArray[np.float32], tolerance: float) -> tuple[int, NDArray[Any]]:
    coded = imagecodecs.sperr_encode(data, tolerance, "pwe")
    return len(coded), imagecodecs.sperr_decode(coded)


def within_bound(
    codec: Callable[[NDArray[np.float32], float], tuple[int, NDArray[Any]]],
    voxels: NDArray[Any],
    bound: float,
) -> int | None:
    """Return the bytes of a codec at the largest tolerance that keeps a bound, if one does."""
    whole = voxels.dtype.kind in "iu"
    tolerances = [bound + room for room in _ROOMS] if whole else [bound * t for t in _TOLERANCES]
    for tolerance in tolerances:
        if tolerance <= 0:
            continue
        size, decoded = codec(voxels.astype(np.float32), tolerance)
        found = np.rint(decoded) if whole else decoded
        if np.abs(found.astype(np.float64) - voxels).max() <= bound:
            return size
    return None


def _lossless(name: str, voxels: NDArray[Any]) -> int | None:
    """Return the bytes that a codec takes without loss; None where it has no such form."""
    if name == "JPEG XL":
        planes = voxels.reshape(-1, *voxels.shape[-2:])
        return sum(len(imagecodecs.jpegxl_encode(plane, lossless=True)) for plane in planes)
    coded = registry.get(name).encode(voxels, Target(ratio=1))
    exact = coded is not None and np.array_equal(coded.decoded, voxels)
    return coded.payload_bytes if coded is not None and exact else None


def row(name: str, voxels: NDArray[Any], bound: float) -> list[str]:
    """Return the figures of a block."""
    with runtime(threads=1):
        start = time.thread_time()
        payload = encode(voxels, max_error=bound)
        encoded = time.thread_time()
        decoded = decode(payload)
        ended = time.thread_time()
    assert np.abs(decoded.astype(np.float64) - voxels).max() <= bound
    sizes = {"SZ3": within_bound(_sz3, voxels, bound), "SPERR": within_bound(_sperr, voxels, bound)}
    sizes |= {other: None if bound else _lossless(other, voxels) for other in _LOSSLESS}
    best = min((size for size in sizes.values() if size), default=math.nan)
    speeds = (voxels.size / 1e6 / (b - a) for a, b in ((start, encoded), (encoded, ended)))
    return [
        name, str(voxels.dtype), f"{bound:g}", str(len(payload)), f"{len(payload) / best:.3f}",
        *(str(size) if size else "-" for size in sizes.values()), *(f"{v:.1f}" for v in speeds),
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args(arguments)
    rows = []
    for name in datasets.selected(options.volumes):
        block = datasets.block(name, options.side)
        span = float(block.max()) - float(block.min())
        if block.dtype.kind in "iu":
            bounds = sorted({float(int(span * share)) for share in SHARES}, reverse=True)
            rows += [row(name, block, bound) for bound in bounds]
        floats = block.astype(np.float32)
        rows += [row(name, floats, span * share) for share in SHARES if share]
    print(markdown(_COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
