"""What smooth borders between chunks cost and gain.

``python -m benchmarks.borders`` converts the first 192³ voxels of each volume in chunks of 64,
opens the archive as it is and with ``smooth_borders=True``, and prints of both the PSNR against the
range of the data, of all voxels and of those at most four from a border; and the steps: how large J
of tinc_codec/archive/borders.py is in the mean across borders, beside J 12 voxels away. The last
column has the original's. Cases whose chunks would get less than 100 bytes are left out.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import tinc_codec
from benchmarks import datasets
from benchmarks.rows import markdown
from tinc_codec import Settings
from tinc_codec.archive import convert
from tinc_codec.metrics import psnr

_EDGE, _NEAR, _BESIDE = 64, 4, 12
_COLUMNS = (
    *("volume", "ratio", "dB", "smooth: dB", "near borders, dB", "smooth", "steps", "smooth"),
    "original",
)


def step_ratio(values: NDArray[np.generic], chunks: Sequence[int]) -> float:
    """Return the mean step across borders over that within chunks."""
    at, beside = [], []
    for axis, edge in enumerate(chunks):
        lines = np.moveaxis(values.astype(np.float64), axis, 0)
        for p in range(edge, len(lines) - _BESIDE - 2, edge):
            at.append(_step(lines, p))
            beside += [_step(lines, p - _BESIDE), _step(lines, p + _BESIDE)]
    return float(np.mean(at) / np.mean(beside))


def _step(lines: NDArray[np.float64], p: int) -> float:
    a, b, c, d = lines[p - 2 : p + 2]
    return float(np.abs((c - b) - ((b - a) + (d - c)) / 2).mean())


def _near(shape: Sequence[int], chunks: Sequence[int]) -> NDArray[np.bool_]:
    found = np.zeros(shape, bool)
    for axis, edge in enumerate(chunks):
        for p in range(edge, shape[axis], edge):
            np.moveaxis(found, axis, 0)[p - _NEAR : p + _NEAR] = True
    return found


def row(block: NDArray[np.generic], ratio: float, effort: int) -> list[str]:
    """Return the figures of a block at a ratio."""
    edges = tuple(-(-n // -(-n // _EDGE)) for n in block.shape)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        convert(block, path, Settings(ratio=ratio, effort=effort), chunks=edges)
        plain = tinc_codec.open(path).to_numpy()
        smooth = tinc_codec.open(path, smooth_borders=True).to_numpy()
    peak, near = float(np.ptp(block.astype(np.float64))), _near(block.shape, edges)

    decibels = [psnr(block[at], f[at], peak) for at in (..., near) for f in (plain, smooth)]
    steps = [step_ratio(values, edges) for values in (plain, smooth, block)]
    return [f"{figure:.2f}" for figure in (*decibels, *steps)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.borders", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--ratios", default="32,64,256,1024")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--side", type=int, default=192)
    options = parser.parse_args(arguments)
    rows = []
    for volume in datasets.selected(options.volumes):
        block = datasets.first_block(datasets.load(volume), options.side)
        if max(block.shape) < 2 * _EDGE - 16:
            continue
        for ratio in map(float, options.ratios.split(",")):
            if block.nbytes / ratio < 100 * np.prod([-(-n // _EDGE) for n in block.shape]):
                continue
            rows.append((volume, f"{ratio:g}", *row(np.asarray(block), ratio, options.effort)))
    print(markdown(_COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
