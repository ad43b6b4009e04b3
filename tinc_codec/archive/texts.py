"""Scores in words, for reports and terminals."""

from __future__ import annotations

import math

from tinc_codec.archive.layout import slices_text
from tinc_codec.archive.scores import ChunkScore, Scores


def summary_rows(scores: Scores) -> list[tuple[str, str]]:
    """Return what a reader wants to know first, as pairs of a name and a value."""
    peak = scores.errors.data_range
    low, fifth, middle = scores.quantiles(0, 0.05, 0.5)
    rows = [
        ("PSNR", f"{db(scores.psnr_db)} (range of the data {peak:g})"),
        ("PSNR of chunks", f"median {db(middle)}, 5th percentile {db(fifth)}, worst {db(low)}"),
        ("SSIM", f"{scores.ssim:.4f} (mean of the chunks)"),
        ("maximum error", f"{scores.errors.max_error:g}"),
    ]
    for name in ("foreground", "background"):
        part = scores.part(name)
        share = part.voxels / max(scores.errors.voxels, 1)
        if part.voxels:
            rows.append((name, f"{db(part.psnr(peak))}, {100 * share:.1f} % of the voxels"))
    threshold = scores.chunks[0].threshold if scores.chunks else math.nan
    judged = [c for c in scores.chunks if not math.isnan(c.accuracy)]
    if not math.isnan(threshold) and judged:
        agreeing = sum(c.accuracy * c.raw_bytes for c in judged) / sum(c.raw_bytes for c in judged)
        rows.append((f"Acc. at {threshold:g}", f"{agreeing:.5f}"))
    rows.append(
        (
            "ratio",
            f"{scores.ratio:.2f} ({scores.raw_bytes:,} bytes raw, {scores.stored_bytes:,} stored)",
        )
    )
    if scores.sampled_from:
        rows.append(("sample", f"{len(scores.chunks)} of {scores.sampled_from} chunks"))
    return rows


def db(value: float) -> str:
    """Return a PSNR as text."""
    return "lossless" if value == math.inf else f"{value:.2f} dB"


def region_text(chunk: ChunkScore) -> str:
    """Return the region of a chunk as it stands between brackets."""
    return slices_text(chunk.region)
