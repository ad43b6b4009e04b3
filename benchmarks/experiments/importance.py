"""What ``importance`` changes at equal bytes: foreground, background and Acc.τ (paper Fig. 6).

The threshold is Otsu's. The foreground is what reaches it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.levels import own
from benchmarks.rows import Row, markdown
from tinc_codec import Settings, metrics

FORMS = ("wavelet", "tree")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio in one form, with importance or without."""

    volume: str
    side: int
    ratio: float
    effort: int
    form: str
    importance: bool


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    blocks = Blocks(options.side)
    cases = [
        Case(
            volume=volume,
            side=options.side,
            ratio=ratio,
            effort=options.effort,
            form=form,
            importance=importance,
        )
        for volume, ratio, form, importance in product(
            options.volumes, options.ratios, FORMS, (False, True)
        )
    ]

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        otsu = metrics.otsu_threshold(block)
        wanted = Settings(
            ratio=case.ratio,
            form=case.form,
            effort=case.effort,
            importance=otsu if case.importance else None,
        )
        coded = own(block, wanted)
        accuracy = "" if coded is None else round(metrics.accuracy(block, coded.decoded, otsu), 6)
        share = round(float((block >= otsu).mean()), 5)
        return [{"foreground": share, "acc_otsu": accuracy} | measured(block, coded)]

    return markdown(_COLUMNS, lines(run_cases(options, "importance", cases, measure)))


_COLUMNS = (
    *("volume", "foreground", "ratio", "form", "Acc. at Otsu's, without / with"),
    *("foreground, dB", "background, dB", "whole, dB"),
)


def lines(rows: list[Row]) -> list[list[str]]:
    """Return a line for each volume, ratio and form: what importance changed."""
    by_case: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        found = by_case.setdefault((row["volume"], row["ratio"], row["form"]), {})
        found[row["importance"]] = row
    table = []
    for (volume, ratio, form), found in by_case.items():
        without, given = found.get("False"), found.get("True")
        if without is None or given is None or not (without["psnr_db"] and given["psnr_db"]):
            continue
        changes = (
            f"{float(given[name]) - float(without[name]):+.2f}"
            for name in ("psnr_foreground_db", "psnr_background_db", "psnr_db")
        )
        table.append(
            [
                *(volume, f"{float(without['foreground']):.3f}", f"{float(ratio):g}", form),
                f"{float(without['acc_otsu']):.5f} / {float(given['acc_otsu']):.5f}",
                *changes,
            ]
        )
    return table
