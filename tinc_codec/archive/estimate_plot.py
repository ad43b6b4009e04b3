"""The figure of an estimate: quality and time over size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tinc_codec.archive.estimate import Estimate
from tinc_codec.archive.outputs import check_can_be_written


def check_plot_can_be_written(path: Path) -> None:
    """Refuse before any work what would fail after it.

    Raises
    ------
    InvalidSetting
        If matplotlib is missing, or the file's folder, or its name ends in something else than
        .png, .svg or .pdf.
    """
    check_can_be_written(path, "matplotlib", "report", (".png", ".svg", ".pdf"))


def plot_estimate(found: Estimate, path: str | Path) -> None:
    """Draw quality and time over size, and save the figure.

    Parameters
    ----------
    found : Estimate
        To draw.
    path : str or Path
        Of the file; its suffix tells the format, such as .png or .svg.

    Raises
    ------
    InvalidSetting
        As :func:`check_plot_can_be_written`.
    """
    check_plot_can_be_written(Path(path))
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    quality, effort = figure.subplots(1, 2)
    sizes = [at.stored_bytes / 1e9 for at in found.ratios]
    psnr = np.clip([at.psnr_db for at in found.ratios], 0, 150)
    quality.errorbar(sizes, psnr[:, 1], (psnr[:, 1] - psnr[:, 0], psnr[:, 2] - psnr[:, 1]), fmt="o")
    quality.set_ylabel("PSNR of chunks, dB (median, 5 to 95 %)")
    hours = [at.seconds / found.workers / 3600 for at in found.ratios]
    margins = [at.seconds_margin / found.workers / 3600 for at in found.ratios]
    effort.errorbar(sizes, hours, margins, fmt="o")
    effort.set_ylabel(f"hours with {found.workers} workers (95 % interval)")
    effort.set_ylim(bottom=0)
    for ax in (quality, effort):
        ax.set_xlabel("size, GB")
        ax.set_xscale("log")
    for at, x, y in zip(found.ratios, sizes, psnr[:, 1], strict=True):
        quality.annotate(f" {at.ratio:g}×", (x, y))
    figure.savefig(path, dpi=150)
