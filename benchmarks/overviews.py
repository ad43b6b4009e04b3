"""How near overviews are to the original at a lower resolution, beside voxels that are left out.

``python -m benchmarks.overviews`` encodes blocks of up to 128³ voxels, decodes overviews of them,
and prints PSNR, against the block's range, of three things: the overview; what is decoded whole,
smoothed; and every n-th voxel of what is decoded. All are compared with the original smoothed, by
the filter of CDF 9/7 written as a sum of nine, without the last samples along each axis, where the
package's filter is another one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.rows import markdown
from tinc_codec import decode, decode_overview, encode
from tinc_codec.metrics import psnr

# CDF 9/7, analysis, low-pass: from its middle on, of sum 1.
_TAPS = (0.6029490182, 0.2668641184, -0.0782232665, -0.0168641184, 0.0267487574)
# Samples at the end of a closed axis are other sums.
END = 4
_COLUMNS = ("volume", "ratio", "factor", "overview, dB", "whole, smoothed, dB", "every n-th, dB")


def smoothed(values: NDArray[np.generic], factors: Sequence[int]) -> NDArray[np.float64]:
    """Return samples at every n-th place along each axis, n a power of two, of filtered values.

    Ends are mirrored. Axes of one sample stay.
    """
    found = values.astype(np.float64)
    for axis, factor in enumerate(factors):
        for _ in range(factor.bit_length() - 1):
            found = _halved(found, axis)
    return found


def _halved(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    n = values.shape[axis]
    if n == 1:
        return values
    at, total = np.arange(0, n, 2), np.zeros(1)
    for k, tap in zip(range(-4, 5), _TAPS[:0:-1] + _TAPS, strict=True):
        mirrored = n - 1 - np.abs(n - 1 - np.abs(at + k) % (2 * n - 2))
        total = total + tap * values.take(mirrored, axis)
    return total


def decibels(block: NDArray[np.generic], ratio: float, factor: int, effort: int) -> list[float]:
    """Return the three figures of a block."""
    payload, factors = encode(block, ratio=ratio, effort=effort), (factor,) * block.ndim
    original, decoded = smoothed(block, factors), decode(payload)
    inside = tuple(slice(0, max(1, n - END)) for n in original.shape)
    peak = float(np.ptp(block.astype(np.float64)))
    found = (
        decode_overview(payload, factor),
        smoothed(decoded, factors),
        decoded[(slice(None, None, factor),) * block.ndim],
    )
    return [psnr(original[inside], f[inside].astype(np.float64), peak) for f in found]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overviews", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--ratios", default="64,512")
    parser.add_argument("--factors", default="4,8")
    parser.add_argument("--effort", type=int, default=5)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args(arguments)
    rows = []
    for volume in datasets.selected(options.volumes):
        block = datasets.block(volume, options.side)
        for ratio in map(float, options.ratios.split(",")):
            for factor in map(int, options.factors.split(",")):
                found = decibels(block, ratio, factor, options.effort)
                rows.append((volume, f"{ratio:g}", str(factor), *(f"{x:.1f}" for x in found)))
    print(markdown(_COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
