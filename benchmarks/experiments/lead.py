"""The package beside its rivals, ratio by ratio: README's table, and by how much it leads."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.rows import Row, markdown

OWN, PAPER = "TINC", "TINC paper"
_SHOWN = ("HEVC", "AV1", "SPERR", "SZ3", "JPEG XL", PAPER)
_NONE = "-"
_HIGH = 256


def lead_table(rows: Sequence[Row]) -> str:
    """Return a line for each volume and ratio of the package's rows, and what they come to.

    Best rivals are all other codecs but the package in other forms.
    """
    cases: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        cases.setdefault((row["volume"], row["ratio"]), {})[row["codec"]] = row
    lines, leads, similar = [], [], []
    reached = [row for row in rows if row["codec"] == OWN and row["psnr_db"]]
    for row in sorted(reached, key=lambda row: (row["volume"], float(row["ratio"]))):
        case = cases[row["volume"], row["ratio"]]
        here = {codec: other for codec, other in case.items() if other["psnr_db"]}
        rivals = [other for codec, other in here.items() if not codec.startswith(OWN)]
        if not rivals:
            continue
        own, best = float(row["psnr_db"]), max(float(other["psnr_db"]) for other in rivals)
        ssim, best_ssim = float(row["ssim_3d"]), max(float(other["ssim_3d"]) for other in rivals)
        leads.append((float(row["ratio"]), own - best))
        similar.append(ssim - best_ssim)
        decibels = f"{own:.2f}"
        lines.append(
            [
                row["volume"], f"{float(row['ratio']):g}",
                f"**{decibels}**" if own >= best else decibels, row["note"],
                *(f"{float(here[c]['psnr_db']):.2f}" if c in here else _NONE for c in _SHOWN),
                f"{ssim:.3f} / {best_ssim:.3f}",
                f"{float(row['face_jump']):.2f}" if row["face_jump"] else _NONE,
            ]
        )  # fmt: skip
    if not lines:
        return ""
    head = ("volume", "ratio", OWN, "form", *_SHOWN, "SSIM, TINC / best rival", "jump")
    return f"### {OWN} and the best rival\n\n{markdown(head, lines)}\n\n{_told(leads, similar)}"


def _told(leads: Sequence[tuple[float, float]], similar: Sequence[float]) -> str:
    told = [
        f"PSNR at or above the best rival's in {sum(lead >= 0 for _, lead in leads)} of "
        f"{len(leads)}, SSIM in {sum(lead >= 0 for lead in similar)}."
    ]
    for name, some in (
        (f"{_HIGH}× and more", [lead for ratio, lead in leads if ratio >= _HIGH]),
        (f"less than {_HIGH}×", [lead for ratio, lead in leads if ratio < _HIGH]),
    ):
        if some:
            told.append(f"Mean lead at {name}: {statistics.fmean(some):+.2f} dB.")
    return " ".join(told)
