"""Whether the middle planes, where faces of leaves would be, jump more than other planes.

``python -m benchmarks.jumps`` prints for each volume and ratio the boundary jump of the middle
planes, ``face_jump`` of ``rd``, and below what 5, 50 and 95 % of all planes of these axes are, each
taken alone. Where faces show, the middle is above nearly all.

With ``--apart`` the middle planes are borders of chunks: the block is cut there, and its parts are
coded alone, by us and by other codecs. No codec of single chunks knows what is beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import Target
from benchmarks.baselines.registry import get
from benchmarks.experiments.common import middle_planes
from benchmarks.rows import markdown
from tinc_codec import decode, encode, inspect
from tinc_codec.metrics import block_jump, psnr

Array = NDArray[Any]

_QUANTILES = (0.05, 0.5, 0.95)
_CODECS = ("TINC", "HEVC", "AV1", "SPERR")
_COLUMNS_APART = ("volume", "ratio", "codec", "jump between chunks", "PSNR, dB")
_COLUMNS = ("volume", "ratio", "form", "middle planes", "5 %", "50 %", "95 %")


def every_plane(block: Array, decoded: Array) -> list[float]:
    """Return the boundary jump of each plane, of the axes that have a middle one."""
    found = []
    for axis, middle in enumerate(middle_planes(block.shape)):
        for plane in range(2, block.shape[axis] - 1) if middle else ():
            faces = [[plane] if k == axis else [] for k in range(block.ndim)]
            found.append(block_jump(block, decoded, faces))
    return found


def apart(block: Array, codec: str, target: Target) -> Array | None:
    """Return a block whose halves along each axis were coded alone; None where one cannot be."""
    decoded = np.empty_like(block)
    sides = [
        [slice(0, middle[0]), slice(middle[0], n)] if middle else [slice(None)]
        for n, middle in zip(block.shape, middle_planes(block.shape), strict=True)
    ]
    for part in product(*sides):
        coded = get(codec).encode(np.ascontiguousarray(block[part]), target)
        if coded is None:
            return None
        decoded[part] = coded.decoded
    return decoded


def _borders(volumes: Sequence[str], options: argparse.Namespace) -> str:
    """Return the table of the jumps between chunks."""
    rows = []
    for volume, ratio in product(volumes, map(float, options.ratios.split(","))):
        block = datasets.block(volume, options.side)
        target = Target(ratio=ratio, effort=options.effort)
        for codec in _CODECS:
            decoded = apart(block, codec, target)
            if decoded is not None:
                figures = (
                    block_jump(block, decoded, middle_planes(block.shape)),
                    psnr(block, decoded),
                )
                rows.append((volume, f"{ratio:g}", codec, *(f"{figure:.2f}" for figure in figures)))
    return markdown(_COLUMNS_APART, rows)


def _within(volumes: Sequence[str], options: argparse.Namespace) -> str:
    """Return the table of the jumps within chunks."""
    rows = []
    for volume, ratio in product(volumes, map(float, options.ratios.split(","))):
        block = datasets.block(volume, options.side)
        payload = encode(block, ratio=ratio, effort=options.effort)
        decoded = decode(payload)
        middle = block_jump(block, decoded, middle_planes(block.shape))
        figures = [middle, *np.nanquantile(every_plane(block, decoded), _QUANTILES)]
        form = inspect(payload).form
        rows.append((volume, f"{ratio:g}", form, *(f"{figure:.2f}" for figure in figures)))
    return markdown(_COLUMNS, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jumps", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--ratios", default="64,256,1024")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--effort", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="borders of chunks, also of others")
    options = parser.parse_args(arguments)
    volumes = datasets.selected(options.volumes)
    print((_borders if options.apart else _within)(volumes, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
