"""What each effort takes and gives: blocks of 64³ voxels at 128 times."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options, warm_up
from tinc_codec import Settings, decode
from tinc_codec.encode import encode_chunk
from tinc_codec.metrics import psnr


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One encode with the default recipe."""

    volume: str
    block: int
    ratio: float
    effort: int


def measure(array: NDArray[Any], case: Case) -> dict[str, Any]:
    """Encode and decode a block."""
    settings = Settings(ratio=case.ratio, effort=case.effort)
    payload, seconds = timed(lambda: encode_chunk(array, settings))
    return {
        "shape": "x".join(map(str, array.shape)),
        "payload_bytes": len(payload),
        "seconds": round(seconds, 4),
        "psnr_db": round(psnr(array, decode(payload)), 3),
    }


def table(rows: list[Row]) -> str:
    """Return a line for each effort, and whether more effort never lost any quality."""
    efforts = sorted({int(row["effort"]) for row in rows})
    volumes = list(dict.fromkeys(row["volume"] for row in rows))
    at = {(row["volume"], int(row["effort"])): row for row in rows}

    def figure(volume: str, effort: int, name: str) -> float:
        return float(at[volume, effort][name])

    lines = []
    for effort in efforts:
        seconds = statistics.median(figure(volume, effort, "seconds") for volume in volumes)
        gains = [
            figure(volume, effort, "psnr_db") - figure(volume, efforts[0], "psnr_db")
            for volume in volumes
        ]
        decibels = [f"{figure(volume, effort, 'psnr_db'):.2f}" for volume in volumes]
        lines.append([str(effort), f"{seconds:.2f}", f"{statistics.median(gains):+.2f}", *decibels])
    losses = [
        f"{volume} from {a} to {b}: {figure(volume, b, 'psnr_db') - loss:+.2f} dB"
        for volume in volumes
        for a, b in pairwise(efforts)
        if (loss := figure(volume, a, "psnr_db")) > figure(volume, b, "psnr_db")
    ]
    columns = ("effort", "median s", f"median gain over {efforts[0]}, dB")
    columns += tuple(f"{volume}, dB" for volume in volumes)
    said = f"Lost by more effort: {'; '.join(losses)}." if losses else "More effort never lost."
    return f"{markdown(columns, lines)}\n\n{said}"


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("effort")
    block, ratio, efforts = (16, 10, (1, 2)) if options.quick else (64, 128, range(1, 10))
    warm_up()
    rows = []
    for volume in options.volumes:
        array = np.asarray(datasets.first_block(datasets.load(volume), block))
        for effort in efforts:
            case = Case(volume=volume, block=block, ratio=ratio, effort=effort)
            rows.append(store.row(case, lambda a=array, c=case: measure(a, c)))
    return table(rows)
