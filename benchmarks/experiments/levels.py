"""One to four levels of the tree, and the gain by them against the share of high frequencies.

Then the number that the package chooses against the best one for the other volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from benchmarks.baselines.protocol import Coded, timed
from benchmarks.experiments.choices import RULE, leave_one_out, scores
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.regions import high_frequencies
from benchmarks.rows import Row, markdown
from tinc_codec import InvalidSetting, Settings, decode, inspect
from tinc_codec.encode import encode_chunk

LEVELS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio with so many levels asked for."""

    volume: str
    side: int
    ratio: float
    effort: int
    levels: int | str


def own(block: Any, settings: Settings) -> Coded | None:
    """Return a block coded by the package with settings; None if they cannot be met."""
    try:
        payload, encode_s = timed(lambda: encode_chunk(block, settings))
    except InvalidSetting:
        return None
    again = partial(decode, payload)
    decoded, decode_s = timed(again)
    facts = inspect(payload)
    return Coded(
        payload_bytes=len(payload),
        decoded=decoded,
        encode_s=encode_s,
        decode_s=decode_s,
        knob=f"ratio {settings.ratio:g}",
        decode=again,
        note=f"{facts.form}, {facts.levels} levels" if facts.levels else facts.form,
    )


def run(options: Options) -> str:
    """Measure what is missing; return the tables, and plot."""
    blocks = Blocks(options.side)
    cases = [
        Case(volume=volume, side=options.side, ratio=ratio, effort=options.effort, levels=levels)
        for volume, ratio, levels in product(options.volumes, options.ratios, (*LEVELS, RULE))
    ]

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        levels: Any = case.levels
        wanted = Settings(ratio=case.ratio, levels=levels, form="tree", effort=case.effort)
        share = {"high_frequencies": round(high_frequencies(block), 5)}
        return [share | measured(block, own(block, wanted))]

    rows = run_cases(options, "levels", cases, measure)
    if options.plots:
        from benchmarks import plots

        plots.levels(gains(rows), options.plots)
    chosen = leave_one_out(scores(rows, lambda row: row["levels"], "psnr_db"))
    return f"{markdown(_COLUMNS, map(_line, gains(rows)))}\n\n### By rule\n\n{chosen}"


_COLUMNS = (
    *("volume", "high frequencies", "ratio", *(f"L = {n}: dB (SSIM)" for n in LEVELS)),
    *("1 to 3: dB", "SSIM"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """PSNR and SSIM of a block at a ratio, by levels; None where out of reach."""

    volume: str
    ratio: float
    high_frequencies: float
    psnr: tuple[float | None, ...]
    ssim: tuple[float | None, ...]

    def growth(self, values: tuple[float | None, ...]) -> float | None:
        """Return by how much three levels are better than one."""
        one, three = values[0], values[2]
        return None if one is None or three is None else three - one


def gains(rows: list[Row]) -> list[Gains]:
    """Return a record for each volume and ratio."""
    by_case: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        if row["levels"] != RULE:
            by_case.setdefault((row["volume"], row["ratio"]), {})[int(row["levels"])] = row

    def values(found: dict[int, Row], column: str) -> tuple[float | None, ...]:
        there = (found[n][column] if n in found else "" for n in LEVELS)
        return tuple(float(value) if value else None for value in there)

    return [
        Gains(
            volume=volume,
            ratio=float(ratio),
            high_frequencies=float(next(iter(found.values()))["high_frequencies"]),
            psnr=values(found, "psnr_db"),
            ssim=values(found, "ssim_3d"),
        )
        for (volume, ratio), found in by_case.items()
    ]


def _line(found: Gains) -> list[str]:
    cells = [
        "-" if psnr is None or ssim is None else f"{psnr:.2f} ({ssim:.3f})"
        for psnr, ssim in zip(found.psnr, found.ssim, strict=True)
    ]
    grown = found.growth(found.psnr), found.growth(found.ssim)
    return [
        *(found.volume, f"{found.high_frequencies:.3f}", f"{found.ratio:g}", *cells),
        "-" if grown[0] is None else f"{grown[0]:+.2f}",
        "-" if grown[1] is None else f"{grown[1]:+.4f}",
    ]
