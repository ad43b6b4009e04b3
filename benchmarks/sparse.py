"""PSNR of volumes of which most was set to one value, beside other codecs at the same bytes.

``python -m benchmarks.sparse`` takes blocks of up to 128³ voxels, sets all up to a quantile of the
values to 0 ("cut"), or subtracts that quantile and clips at 0 ("less"), and prints PSNR against the
range of what is left, at some ratios; "exact" where nothing is lost.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.rows import markdown
from tinc_codec.metrics import psnr

CODECS = ("TINC", "TINC wavelet", "HEVC", "AV1", "SZ3", "SPERR", "JPEG XL")


def sparse(block: NDArray[Any], how: str, quantile: float) -> NDArray[Any]:
    """Return a block of which so many voxels are 0."""
    level = np.quantile(block, quantile).astype(block.dtype)
    kept = np.where(block > level, block, block.dtype.type(0))
    return kept if how == "cut" else np.where(kept > 0, kept - level, kept)


def _decibels(codec: str, block: NDArray[Any], target: Target) -> str:
    coded = registry.get(codec).encode(block, target)
    if coded is None:
        return "-"
    found = psnr(block, coded.decoded)
    return "exact" if math.isinf(found) else f"{found:.2f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sparse", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--ratios", default="16,64,256")
    parser.add_argument("--quantile", type=float, default=0.95)
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args(arguments)
    codecs, rows = options.codecs.split(","), []
    for name in datasets.selected(options.volumes):
        for how in ("cut", "less"):
            block = sparse(datasets.block(name, options.side), how, options.quantile)
            for ratio in map(float, options.ratios.split(",")):
                target = Target(ratio=ratio, effort=options.effort)
                found = (_decibels(codec, block, target) for codec in codecs)
                rows.append((name, how, f"{ratio:g}", *found))
    print(markdown(("volume", "", "ratio", *codecs), rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
