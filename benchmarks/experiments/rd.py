"""Rate and distortion: every codec, volume and ratio. Tables as the paper's Table 1."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.bjontegaard import Curve, bd_psnr, bd_rate
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.lead import lead_table
from benchmarks.rows import Row, markdown


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A codec on a block at a ratio: one row. ``effort`` is empty for codecs without a fit."""

    volume: str
    side: int
    codec: str
    ratio: float
    effort: str


def cases(options: Options) -> list[Case]:
    """Return the cases, those of a volume together."""
    return [
        Case(
            volume=volume,
            side=options.side,
            codec=codec,
            ratio=ratio,
            effort=str(options.effort) if registry.get(codec).fits else "",
        )
        for volume, codec, ratio in product(options.volumes, options.codecs, options.ratios)
    ]


def measure_all(options: Options, experiment: str = "rd") -> list[Row]:
    """Measure what is missing; return the rows."""
    blocks = Blocks(options.side)

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        target = Target(ratio=case.ratio, effort=int(case.effort or 1))
        return [measured(block, registry.get(case.codec).encode(block, target))]

    return run_cases(options, experiment, cases(options), measure)


def run(options: Options) -> str:
    """Measure what is missing; return the tables, and plot curves."""
    rows = measure_all(options)
    if options.plots:
        from benchmarks import plots

        plots.curves(rows, options.plots)
    told = (volume_tables(rows), lead_table(rows), paper_table(rows), bd_table(rows))
    return "\n\n".join(part for part in told if part)


# Tables.

_NONE = "-"


def _unique(rows: Iterable[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def volume_tables(rows: Sequence[Row]) -> str:
    """Return PSNR by codec and ratio, a table for each volume."""
    ratios = _unique(rows, "ratio")
    told = []
    for volume in _unique(rows, "volume"):
        of_volume = [row for row in rows if row["volume"] == volume]
        by_case = {(row["codec"], row["ratio"]): row for row in of_volume}
        lines = [
            [codec, *(_decibels(by_case.get((codec, ratio))) for ratio in ratios)]
            for codec in _unique(of_volume, "codec")
        ]
        shape = f"{of_volume[0]['shape']} {of_volume[0]['dtype']}"
        head = ("PSNR, dB", *(f"{float(ratio):g}×" for ratio in ratios))
        told.append(f"### {volume}, {shape}\n\n{markdown(head, lines)}")
    return "\n\n".join(told)


def _decibels(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{float(row['psnr_db']):.2f}" if row["psnr_db"] else _NONE


_PAPER_COLUMNS = (
    ("PSNR", "psnr_db", 2),
    ("SSIM", "ssim_2d", 4),
    ("PSNR at 65535", "psnr_65535_db", 2),
    ("Acc.200", "acc_200", 4),
    ("Acc.500", "acc_500", 4),
)
_HIGH = 1024.0


def paper_table(rows: Sequence[Row]) -> str:
    """Return means over volumes, of all ratios from 64 on and of 1024 alone, as Table 1.

    A codec's mean is over what it reached: the share says of how many cases.
    """
    parts = (
        ("all", [row for row in rows if float(row["ratio"]) >= 64]),
        ("high", [row for row in rows if float(row["ratio"]) == _HIGH]),
    )
    head = ["mean over volumes"]
    for name, _ in parts:
        head += [f"{title} {name}" for title, _, _ in _PAPER_COLUMNS] + [f"reached {name}"]
    lines = []
    for codec in _unique(rows, "codec"):
        line = [codec]
        for _, part in parts:
            asked = [row for row in part if row["codec"] == codec]
            there = [row for row in asked if row["psnr_db"]]
            for _, column, digits in _PAPER_COLUMNS:
                values = [float(row[column]) for row in there]
                line.append(f"{statistics.fmean(values):.{digits}f}" if values else _NONE)
            line.append(f"{len(there)}/{len(asked)}")
        lines.append(line)
    return "### As the paper's Table 1\n\n" + markdown(head, lines)


def curve(rows: Iterable[Row], volume: str, codec: str) -> Curve:
    """Return the true bytes and PSNR of a codec on a volume."""
    points = {
        float(row["payload_bytes"]): float(row["psnr_db"])
        for row in rows
        if row["volume"] == volume and row["codec"] == codec and row["psnr_db"]
    }
    return Curve(rate=tuple(sorted(points)), psnr=tuple(points[rate] for rate in sorted(points)))


def bd_table(rows: Sequence[Row], anchor: str = "TINC") -> str:
    """Return BD-rate and BD-PSNR of the package against each other codec, by volume.

    Where the package has no rows, HEVC takes its place.
    """
    codecs, volumes = _unique(rows, "codec"), _unique(rows, "volume")
    if anchor not in codecs:
        anchor = "HEVC" if "HEVC" in codecs else codecs[0]
    lines = []
    for codec in codecs:
        if codec == anchor:
            continue
        line = [codec]
        for volume in volumes:
            other, own = curve(rows, volume, codec), curve(rows, volume, anchor)
            rate, gain = bd_rate(other, own), bd_psnr(other, own)
            shown = _NONE if rate is None else f"{rate:+.0f} %"
            line.append(f"{shown} / " + (_NONE if gain is None else f"{gain:+.2f} dB"))
        lines.append(line)
    title = f"### {anchor} against each: BD-rate (less is better) / BD-PSNR (more is better)"
    return f"{title}\n\n" + markdown(("against", *volumes), lines)
