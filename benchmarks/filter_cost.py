"""What the filter of decoded values takes of the speed of decoding.

``python -m benchmarks.filter_cost`` decodes the same payloads with their FILTER section and without
it, in turns, and prints medians: of bytes never seen, and of a chunk read lately. Let nothing else
run.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

from benchmarks import datasets
from benchmarks.rows import markdown
from tinc_codec import decode, encode
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind

_ROUNDS = 15
_COLUMNS = ("volume", "ratio", "filter", "never seen, Mvoxel/s", "read lately, Mvoxel/s")


def rates(payloads: Sequence[bytes], voxels: int, rounds: int = _ROUNDS) -> list[list[float]]:
    """Return for each payload the Mvoxel/s of its first and of its second decoding, medians."""
    from tinc_codec.decoding.opened import forget_chunks

    seconds: list[list[list[float]]] = [[[], []] for _ in payloads]
    for _ in range(rounds):
        for payload, taken in zip(payloads, seconds, strict=True):
            forget_chunks()
            for times in taken:
                start = time.perf_counter()
                decode(payload)
                times.append(time.perf_counter() - start)
    return [[voxels / statistics.median(times) / 1e6 for times in taken] for taken in seconds]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.filter_cost", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--ratios", default="128,1024")
    parser.add_argument("--side", type=int, default=128)
    options = parser.parse_args(arguments)
    rows = []
    for volume in datasets.selected(options.volumes):
        block = datasets.block(volume, options.side)
        for ratio in map(float, options.ratios.split(",")):
            payload = encode(block, ratio=ratio, form="wavelet", effort=3)
            sections = container.unpack(payload)
            if sections.pop(SectionKind.FILTER, None) is None:
                rows.append((volume, f"{ratio:g}", "none taken", "", ""))
                continue
            both = rates([payload, container.pack(sections)], block.size)
            for name, (first, again) in zip(("with", "without"), both, strict=True):
                rows.append((volume, f"{ratio:g}", name, f"{first:.0f}", f"{again:.0f}"))
    print(markdown(_COLUMNS, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
