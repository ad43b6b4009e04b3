"""Whether the middle planes, where faces of leaves would be, jump more than other planes.

``python -m benchmarks.jumps`` prints for each volume and ratio the boundary jump of the middle
planes, ``face_jump`` of ``rd``, and below what 5, 50 and 95 % of all planes of these axes are, each
taken alone. Where faces show, the middle is above nearly all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.experiments.common import middle_planes
from benchmarks.rows import markdown
from tinc_codec import decode, encode, inspect
from tinc_codec.metrics import block_jump

Array = NDArray[Any]

_QUANTILES = (0.05, 0.5, 0.95)
_COLUMNS = ("volume", "ratio", "form", "middle planes", "5 %", "50 %", "95 %")


def every_plane(block: Array, decoded: Array) -> list[float]:
    """Return the boundary jump of each plane, of the axes that have a middle one."""
    found = []
    for axis, middle in enumerate(middle_planes(block.shape)):
        for plane in range(2, block.shape[axis] - 1) if middle else ():
            faces = [[plane] if k == axis else [] for k in range(block.ndim)]
            found.append(block_jump(block, decoded, faces))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jumps", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--ratios", default="64,256,1024")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--effort", type=int, default=5)
    options = parser.parse_args(arguments)
    rows = []
    for volume in datasets.select([v for v in options.volumes.split(",") if v] or None):
        block = datasets.block(volume, options.side)
        for ratio in map(float, options.ratios.split(",")):
            payload = encode(block, ratio=ratio, effort=options.effort)
            decoded = decode(payload)
            middle = block_jump(block, decoded, middle_planes(block.shape))
            figures = [middle, *np.nanquantile(every_plane(block, decoded), _QUANTILES)]
            form = inspect(payload).form
            rows.append((volume, f"{ratio:g}", form, *(f"{figure:.2f}" for figure in figures)))
    print(markdown(_COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
