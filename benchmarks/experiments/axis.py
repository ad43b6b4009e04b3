"""Video codecs with frames along each of the axes: what the choice of axis 0 costs them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.rows import markdown

_CODECS = ("HEVC", "AV1", "H.264", "HEVC 10 bit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A codec on a block with one of its axes first."""

    volume: str
    side: int
    codec: str
    ratio: float
    axis: int


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    blocks = Blocks(options.side)
    codecs = [codec for codec in options.codecs if codec in _CODECS] or list(_CODECS[:2])
    cases = [
        Case(volume=volume, side=options.side, codec=codec, ratio=ratio, axis=axis)
        for volume, codec, ratio, axis in product(options.volumes, codecs, options.ratios, range(3))
    ]

    def measure(case: Case) -> list[dict[str, Any]]:
        turned = np.ascontiguousarray(np.moveaxis(blocks(case.volume), case.axis, 0))
        return [measured(turned, registry.get(case.codec).encode(turned, Target(ratio=case.ratio)))]

    rows = run_cases(options, "axis", cases, measure)
    by_case: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        shown = f"{float(row['psnr_db']):.2f}" if row["psnr_db"] else "-"
        by_case.setdefault((row["volume"], row["codec"], row["ratio"]), []).append(shown)
    head = ("volume", "codec", "ratio", "axis 0", "axis 1", "axis 2")
    return markdown(head, ([*case, *shown] for case, shown in by_case.items()))
