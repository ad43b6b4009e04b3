"""Rate and distortion of the neural baselines: ``python -m benchmarks.rd_neural``, resumable.

A row of ``benchmarks/results/rd_neural.csv`` for each codec, volume and ratio, over the volume's
first block of at most 128³ voxels; a ratio out of reach has a row with empty figures.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.environment import describe
from benchmarks.rows import Store
from tinc_codec.metrics import psnr, ssim

_OUT = Path(__file__).parent / "results" / "rd_neural.csv"
_SIDE = 128
_FIGURES = ("payload_bytes", "actual_ratio", "psnr_db", "psnr_65535_db", "ssim_2d")
_OTHERS = ("max_error", "encode_s", "decode_s", "knob", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    volume: str
    side: int
    ratio: float
    codec: str
    effort: int


def measure(case: _Case) -> dict[str, Any]:
    """Return a row's figures, all from the decoded bytes."""
    block = datasets.first_block(datasets.load(case.volume), case.side)
    row: dict[str, Any] = {"shape": "x".join(map(str, block.shape)), "dtype": block.dtype}
    target = Target(ratio=case.ratio, effort=case.effort)
    coded = registry.get(case.codec).encode(block, target)
    if coded is None:
        return row | dict.fromkeys(_FIGURES + _OTHERS, "") | {"note": "out of reach"}
    assert coded.payload_bytes <= target.budget(block)
    apart = block.astype(np.float64) - coded.decoded
    error = float(np.square(apart).mean())
    figures = (
        coded.payload_bytes,
        round(block.nbytes / coded.payload_bytes, 2),
        round(psnr(block, coded.decoded), 3),
        round(10 * np.log10(65535**2 / error), 3),
        round(ssim(block, coded.decoded, ndim=2), 4),
    )
    others = (
        float(np.abs(apart).max()),
        round(coded.encode_s, 3),
        round(coded.decode_s, 4),
        coded.knob,
        coded.note,
    )
    return row | dict(zip(_FIGURES + _OTHERS, figures + others, strict=True))


def main() -> None:
    """Measure what the file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codecs", default="SCI,NeRF,NeRV,SIREN,SSF,SGA+BB,DVC")
    parser.add_argument("--volumes")
    parser.add_argument("--ratios", default="256,64,1024")
    parser.add_argument("--effort", type=int, default=4)
    parser.add_argument("--out", type=Path, default=_OUT)
    options = parser.parse_args()
    store = Store(options.out, asdict(describe()))
    volumes = datasets.select(options.volumes and options.volumes.split(","))
    ratios = [float(ratio) for ratio in options.ratios.split(",")]
    for ratio, codec, volume in product(ratios, options.codecs.split(","), volumes):
        case = _Case(volume=volume, side=_SIDE, ratio=ratio, codec=codec, effort=options.effort)
        store.row(case, lambda case=case: measure(case))


if __name__ == "__main__":
    main()
