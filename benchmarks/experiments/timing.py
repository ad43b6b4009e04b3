"""Seconds of encoding and decoding, as the paper's supplementary tables 1 and 2.

Encoding is one call at the setting found before, or one fit; where that takes less than a second
the median of five. Decoding is the median of nine calls, of bytes never seen: what the package
keeps of chunks read lately is forgotten before each.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Coded, Target, timed
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.rd import Case, cases
from benchmarks.rows import markdown
from tinc_codec.decoding.opened import forget_chunks

_DECODES, _ENCODES = 9, 5
# Seconds above which an encoding is not repeated.
_LONG = 1.0


def _decode_seconds(coded: Coded) -> float:
    forget_chunks()
    return timed(coded.decode)[1]


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    blocks = Blocks(options.side)

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        codec = registry.get(case.codec)
        target = Target(ratio=case.ratio, effort=int(case.effort or 1))
        coded = codec.encode(block, target)
        row = measured(block, coded)
        if coded is not None:
            decoding = statistics.median(_decode_seconds(coded) for _ in range(_DECODES))
            row |= {"decode_s": round(decoding, 5)}
            if coded.encode_s < _LONG:
                again = (codec.encode(block, target) for _ in range(_ENCODES - 1))
                found = [coded.encode_s, *(more.encode_s for more in again if more is not None)]
                row |= {"encode_s": round(statistics.median(found), 4)}
        return [row]

    rows = run_cases(options, "time", cases(options), measure)
    if options.plots:
        from benchmarks import plots

        plots.times(rows, options.plots)
    lines = []
    for row in rows:
        if row["psnr_db"]:
            voxels = 1.0
            for side in row["shape"].split("x"):
                voxels *= float(side)
            speed = voxels / float(row["decode_s"]) / 1e6
            took = [f"{float(row[name]):.3g}" for name in ("encode_s", "decode_s")]
        else:
            speed, took = 0.0, ["-", "-"]
        shown = f"{speed:.1f}" if speed else "-"
        lines.append([row["volume"], row["ratio"], row["codec"], *took, shown])
    head = ("volume", "ratio", "codec", "encode, s", "decode, s", "decode, Mvoxel/s")
    return markdown(head, lines)
