"""What the size of chunks costs: a block coded as a whole, and cut in smaller chunks.

Each chunk gets its share of the bytes, as in an archive. Wavelets alone: trees take as long on
small chunks, and help less.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.baselines.protocol import Array, Coded, timed
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.rows import Row, markdown
from tinc_codec import InvalidSetting, Settings, decode
from tinc_codec.archive.layout import chunk_regions, equal_part
from tinc_codec.encode import encode_chunk

EDGES = (32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio in chunks of at most so many voxels along each axis."""

    volume: str
    side: int
    ratio: float
    effort: int
    edge: int


def coded_in_chunks(block: Array, case: Case) -> Coded | None:
    """Return the block coded chunk by chunk; None if the budget of one is too small."""
    edges = tuple(equal_part(n, case.edge) for n in block.shape)
    regions = [region for _, region in chunk_regions(block.shape, edges)]
    settings = Settings(ratio=case.ratio, effort=case.effort, form="wavelet")
    try:
        payloads, encode_s = timed(lambda: [encode_chunk(block[r], settings) for r in regions])
    except InvalidSetting:
        return None

    def whole() -> Array:
        out = np.empty_like(block)
        for region, payload in zip(regions, payloads, strict=True):
            out[region] = decode(payload)
        return out

    decoded, decode_s = timed(whole)
    return Coded(
        payload_bytes=sum(map(len, payloads)),
        decoded=decoded,
        encode_s=encode_s,
        decode_s=decode_s,
        knob=f"ratio {case.ratio:g}",
        decode=whole,
        note=f"{len(payloads)} chunks",
    )


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    blocks = Blocks(options.side)
    cases = [
        Case(volume=volume, side=options.side, ratio=ratio, effort=options.effort, edge=edge)
        for volume, ratio, edge in itertools.product(options.volumes, options.ratios, EDGES)
    ]

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        return [measured(block, coded_in_chunks(block, case))]

    return markdown(_COLUMNS, lines(run_cases(options, "chunks", cases, measure)))


_COLUMNS = ("volume", "ratio", *(f"chunks of {edge}: dB (SSIM)" for edge in EDGES), "64 to 128, dB")


def lines(rows: list[Row]) -> list[list[str]]:
    """Return a line for each volume and ratio."""
    by_case: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by_case.setdefault((row["volume"], row["ratio"]), {})[int(row["edge"])] = row
    table = []
    for (volume, ratio), found in by_case.items():
        there = {edge: row for edge, row in found.items() if row["psnr_db"]}
        cells = [
            f"{float(there[e]['psnr_db']):.2f} ({float(there[e]['ssim_3d']):.3f})"
            if e in there
            else "-"
            for e in EDGES
        ]
        gain = "-"
        if {64, 128} <= there.keys():
            gain = f"{float(there[128]['psnr_db']) - float(there[64]['psnr_db']):+.2f}"
        table.append([volume, f"{float(ratio):g}", *cells, gain])
    return table
