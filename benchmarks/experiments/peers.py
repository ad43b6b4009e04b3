"""The harness against figures that others measured on the same blocks, within 0.3 dB.

Figures of an independent run: x265 at 12 bits, preset slow; SPERR and SZ3 with an absolute
tolerance; JPEG XL slice by slice (its effort unknown, so that it is shown and not judged). HEVC is
measured a second time without its headers, which that run did not count: rows in ``peers.csv``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target
from benchmarks.experiments.common import Blocks, Options, measured, run_cases
from benchmarks.experiments.rd import Case, cases, measure_all
from benchmarks.rows import Row, markdown

WITHIN_DB = 0.3
RATIOS = (64.0, 128.0, 256.0, 512.0, 1024.0)
# Of an HEVC stream of x265: parameter sets with their start codes, and the range of the values.
HEADERS = 82 + 16
_HEVC, _SPERR, _SZ3, _JXL = "HEVC", "SPERR tolerance", "SZ3", "JPEG XL"
JUDGED = (_HEVC, _SPERR, _SZ3)
_NONE = float("nan")
FIGURES: dict[str, dict[str, tuple[float, ...]]] = {
    "lsfm_axons_dense_trailmap": {
        _HEVC: (52.63, 49.31, 45.96, 42.69, 39.17),
        _SPERR: (51.52, 48.22, 45.41, 43.03, 41.16),
        _SZ3: (48.62, 43.17, 39.36, 39.11, 36.36),
        _JXL: (42.69, 39.56, _NONE, _NONE, _NONE),
    },
    "nuclei_embryo_qcanet_16cell": {
        _HEVC: (35.83, 34.64, 33.52, 32.72, 32.06),
        _SPERR: (35.65, 34.56, 33.64, 32.99, 32.55),
        _SZ3: (31.84, 31.64, 28.69, 28.60, 25.97),
        _JXL: (33.88, 32.92, 28.51, _NONE, _NONE),
    },
    "ct_tooth": {
        _HEVC: (41.21, 40.11, 39.21, 36.92, _NONE),
        _SPERR: (41.05, 40.20, 39.09, 36.93, 33.81),
        _SZ3: (38.09, 35.71, 33.48, 29.90, 22.80),
        _JXL: (35.38, 26.69, _NONE, _NONE, _NONE),
    },
    "cells2ch_cellfinder_a": {
        _HEVC: (34.89, 32.19, 30.68, 29.80, 29.47),
        _SPERR: (34.27, 32.15, 31.00, 30.36, 29.98),
        _SZ3: (30.31, 29.29, 28.95, 27.79, 27.13),
        _JXL: (33.69, 30.94, 29.22, _NONE, _NONE),
    },
}


def run(options: Options) -> str:
    """Measure what ``rd.csv`` lacks; return the comparison."""
    volumes = tuple(volume for volume in options.volumes if volume in FIGURES)
    if not volumes:
        return f"None of {', '.join(FIGURES)} is at hand; TINC_DATA names their folder."
    wanted = replace(options, volumes=volumes, codecs=(*JUDGED, _JXL), ratios=RATIOS)
    ours = compared({_key(row): row["psnr_db"] for row in measure_all(wanted)})
    return f"{ours}\n\n{without_headers(_bare_rows(replace(wanted, codecs=(_HEVC,))))}"


def _bare_rows(options: Options) -> list[Row]:
    """Measure HEVC with as many more bytes as its headers take."""
    blocks = Blocks(options.side)

    def measure(case: Case) -> list[dict[str, Any]]:
        block = blocks(case.volume)
        target = Target(ratio=block.nbytes / (block.nbytes / case.ratio + HEADERS))
        row = measured(block, registry.get(case.codec).encode(block, target))
        return [row | {"note": f"{HEADERS} bytes of headers are not counted"}]

    return run_cases(options, "peers", cases(options), measure)


def without_headers(rows: list[Row]) -> str:
    """Return how many of HEVC's figures are within the limit when headers do not count."""
    differences = []
    for row in rows:
        volume, codec, ratio = _key(row)
        theirs = FIGURES[volume][codec][RATIOS.index(ratio)]
        if theirs == theirs:
            ours = float(row["psnr_db"]) if row["psnr_db"] else _NONE
            differences.append(ours - theirs)
    near = [d for d in differences if abs(d) <= WITHIN_DB]
    told = f"HEVC without {HEADERS} bytes of headers: {len(near)} of {len(differences)} within"
    return f"{told} {WITHIN_DB} dB ({min(differences):+.2f} to {max(differences):+.2f})"


def _key(row: dict[str, str]) -> tuple[str, str, float]:
    return row["volume"], row["codec"], float(row["ratio"])


def compared(found: dict[tuple[str, str, float], str]) -> str:
    """Return the table of ours / theirs, and how many of those judged are within the limit."""
    lines, differences = [], []
    for (volume, codec), figures in {
        (volume, codec): figures
        for volume, codecs in FIGURES.items()
        for codec, figures in codecs.items()
    }.items():
        cells = []
        for ratio, theirs in zip(RATIOS, figures, strict=True):
            text = found.get((volume, codec, ratio))
            if text is None:
                cells.append("")
                continue
            ours = float(text) if text else _NONE
            cells.append(" / ".join(f"{x:.2f}" if x == x else "-" for x in (ours, theirs)))
            if codec in JUDGED and not (ours != ours and theirs != theirs):
                differences.append((abs(ours - theirs), volume, codec, ratio, ours - theirs))
        if any(cells):
            lines.append([volume, codec, *cells])
    # A difference that is no number, where only one reached the ratio, is not within.
    far = [d for d in differences if not d[0] <= WITHIN_DB]
    told = f"{len(differences) - len(far)} of {len(differences)} within {WITHIN_DB} dB"
    told += "".join(f"\n\n{v}, {c}, {r:g}×: {d:+.2f} dB" for _, v, c, r, d in far)
    head = ("ours / theirs, dB", "codec", *(f"{ratio:g}×" for ratio in RATIOS))
    return f"{markdown(head, lines)}\n\n{told}"
