"""How parameters are shared, between levels and within one, by the 64 sub-regions.

Three levels, so that the leaves are the sub-regions. r_l of 0.8, 1 and 1.2 with an even share
within levels, against the sub-regions' non-local similarity; then r_l = 1 with shares by signal and
by variance. A row for each sub-region. Then what the package chooses against the best way for the
other volumes.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.baselines.protocol import Array
from benchmarks.experiments.choices import RULE, leave_one_out, scores
from benchmarks.experiments.common import Blocks, Options, psnr_by_region, run_cases
from benchmarks.experiments.levels import own
from benchmarks.experiments.regions import regions, similarity
from benchmarks.rows import Row, markdown
from tinc_codec import Settings, metrics

_LEVELS = 3
EVEN = ("1.0", "even")
WAYS = (("0.8", "even"), EVEN, ("1.2", "even"), ("1.0", "signal"), ("1.0", "variance"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio with parameters shared in one way: a row for each sub-region."""

    volume: str
    side: int
    ratio: float
    effort: int
    level_ratio: str
    allocation: str


_REGION_COLUMNS = (
    *("region", "similarity", "foreground", "form", "psnr_db", "ssim_3d", "acc_otsu"),
    *("whole_psnr_db", "whole_ssim_3d", "whole_psnr_foreground_db", "whole_acc_otsu"),
)


def measure_regions(block: Array, case: Case) -> list[dict[str, Any]]:
    """Return the rows of a case; one empty row if out of reach."""
    wanted = Settings(
        ratio=case.ratio,
        form="tree",
        levels=_LEVELS,
        level_ratio="auto" if case.level_ratio == RULE else float(case.level_ratio),
        allocation=case.allocation,
        effort=case.effort,
    )
    coded = own(block, wanted)
    if coded is None:
        return [dict.fromkeys(_REGION_COLUMNS, "") | {"form": "out of reach"}]
    decoded, otsu, peak = coded.decoded, metrics.otsu_threshold(block), float(np.ptp(block))
    whole = {
        "whole_psnr_db": round(metrics.psnr(block, decoded), 3),
        "whole_ssim_3d": round(metrics.ssim(block, decoded), 5),
        "whole_psnr_foreground_db": round(psnr_by_region(block, decoded, otsu)[0], 3),
        "whole_acc_otsu": round(metrics.accuracy(block, decoded, otsu), 6),
    }
    rows = []
    for number, (box, alike) in enumerate(zip(regions(block), similarity(block), strict=True)):
        a, b = block[box], decoded[box]
        rows.append(
            {
                "region": number,
                "similarity": round(float(alike), 5),
                "foreground": round(float((a > otsu).mean()), 5),
                "form": coded.note,
                "psnr_db": round(metrics.psnr(a, b, peak), 3),
                "ssim_3d": round(metrics.ssim(a, b, peak), 5),
                "acc_otsu": round(metrics.accuracy(a, b, otsu), 6),
            }
            | whole
        )
    return rows


def run(options: Options) -> str:
    """Measure what is missing; return the table, and plot."""
    blocks = Blocks(options.side)
    cases = [
        Case(
            volume=volume,
            side=options.side,
            ratio=ratio,
            effort=options.effort,
            level_ratio=level_ratio,
            allocation=allocation,
        )
        for volume, ratio, (level_ratio, allocation) in product(
            options.volumes, options.ratios, (*WAYS, (RULE, RULE))
        )
    ]
    rows = run_cases(
        options, "allocation", cases, lambda case: measure_regions(blocks(case.volume), case)
    )
    found = changes(rows)
    if options.plots:
        from benchmarks import plots

        plots.allocation(found, options.plots)
    chosen = leave_one_out(
        scores(rows, lambda row: _named(row["level_ratio"], row["allocation"]), "whole_psnr_db")
    )
    return f"{markdown(_COLUMNS, map(_line, found))}\n\n### By rule\n\n{chosen}"


def _named(level_ratio: str, allocation: str) -> str:
    if level_ratio == RULE:
        return RULE
    return f"r_l = {level_ratio}" if allocation == "even" else allocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a way changed against the even one, sub-region by sub-region."""

    volume: str
    ratio: float
    way: tuple[str, str]
    similarity: tuple[float, ...]
    foreground: tuple[float, ...]
    ssim: tuple[float, ...]
    psnr: tuple[float, ...]
    whole_psnr: float
    whole_ssim: float
    whole_foreground: float


def changes(rows: list[Row]) -> list[Change]:
    """Return the changes of each volume, ratio and way, where both were within reach."""
    by_case: dict[tuple[str, str], dict[tuple[str, str], list[Row]]] = {}
    for row in rows:
        if row["psnr_db"]:
            ways = by_case.setdefault((row["volume"], row["ratio"]), {})
            ways.setdefault((row["level_ratio"], row["allocation"]), []).append(row)
    found = []
    for (volume, ratio), ways in by_case.items():
        for way in WAYS:
            if way == EVEN or way not in ways or EVEN not in ways:
                continue
            a, b = ways[EVEN], ways[way]
            found.append(
                Change(
                    volume=volume,
                    ratio=float(ratio),
                    way=way,
                    similarity=_column(a, "similarity"),
                    foreground=_column(a, "foreground"),
                    ssim=_difference(a, b, "ssim_3d"),
                    psnr=_difference(a, b, "psnr_db"),
                    whole_psnr=_difference(a, b, "whole_psnr_db")[0],
                    whole_ssim=_difference(a, b, "whole_ssim_3d")[0],
                    whole_foreground=_difference(a, b, "whole_psnr_foreground_db")[0],
                )
            )
    return found


def _column(rows: list[Row], name: str) -> tuple[float, ...]:
    return tuple(float(row[name]) for row in rows)


def _difference(a: list[Row], b: list[Row], name: str) -> tuple[float, ...]:
    return tuple(y - x for x, y in zip(_column(a, name), _column(b, name), strict=True))


_COLUMNS = (
    *("volume", "ratio", "way", "consistency", "PSNR, dB", "SSIM", "foreground, dB"),
    *("rank correlation: SSIM with similarity", "PSNR with foreground"),
)


def _line(change: Change) -> list[str]:
    level_ratio, allocation = change.way
    return [
        *(change.volume, f"{change.ratio:g}"),
        _named(level_ratio, allocation),
        f"{statistics.fmean(change.similarity):.3f}",
        f"{change.whole_psnr:+.2f}",
        f"{change.whole_ssim:+.4f}",
        f"{change.whole_foreground:+.2f}",
        _rank_correlation(change.similarity, change.ssim),
        _rank_correlation(change.foreground, change.psnr),
    ]


def _rank_correlation(x: tuple[float, ...], y: tuple[float, ...]) -> str:
    if len(set(x)) < 2 or len(set(y)) < 2:
        return "-"
    return f"{float(spearmanr(x, y).statistic):+.2f}"
