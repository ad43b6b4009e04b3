"""Plots of the experiments, as PNG files in a folder that the user names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.rows import Row

if TYPE_CHECKING:
    from benchmarks.baselines.protocol import Array
    from benchmarks.experiments.allocation import Change
    from benchmarks.experiments.levels import Gains

_OWN = ("TINC", "TINC paper")


def _saved(figure: Figure, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


def rd_figure(rows: Sequence[Row], volume: str) -> Figure:
    """Return PSNR and SSIM of a volume against the ratio reached, a curve for each codec."""
    figure = Figure(figsize=(11, 4.2))
    of_volume = [row for row in rows if row["volume"] == volume and row["psnr_db"]]
    codecs = list(dict.fromkeys(row["codec"] for row in of_volume))
    for axes, column, label in zip(
        figure.subplots(1, 2), ("psnr_db", "ssim_2d"), ("PSNR, dB", "SSIM of slices"), strict=True
    ):
        for number, codec in enumerate(codecs):
            points = sorted(
                (float(row["reached"]), float(row[column]))
                for row in of_volume
                if row["codec"] == codec
            )
            style = {"linewidth": 2.5, "zorder": 3} if codec in _OWN else {"linewidth": 1}
            marker = "osD^vP*X"[number % 8]
            axes.plot(*zip(*points, strict=True), label=codec, marker=marker, ms=4, **style)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("ratio")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.axes[1].legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.suptitle(volume)
    return figure


def curves(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Plot PSNR and SSIM against the ratio, a file for each volume (Fig. 2)."""
    volumes = dict.fromkeys(row["volume"] for row in rows if row["psnr_db"])
    return [_saved(rd_figure(rows, volume), folder, f"rd_{volume}") for volume in volumes]


def slices(rows: Sequence[Row], blocks: Callable[[str], Array], folder: Path) -> list[Path]:
    """Plot middle slices and error maps, a file for each volume and ratio (Fig. 3)."""
    from benchmarks.experiments.rd import Case
    from benchmarks.experiments.visual import middle, slice_file

    paths = []
    for volume, ratio in dict.fromkeys((row["volume"], row["ratio"]) for row in rows):
        of_case = [row for row in rows if (row["volume"], row["ratio"]) == (volume, ratio)]
        there = [row for row in of_case if row["psnr_db"]]
        original = middle(blocks(volume)).astype(np.float64)
        low, high = np.percentile(original, (0.5, 99.8))
        figure = Figure(figsize=(2.6 * (len(there) + 1), 5.6))
        grid: Any = figure.subplots(2, len(there) + 1, squeeze=False)
        grid[0, 0].imshow(original, cmap="gray", vmin=low, vmax=high)
        grid[0, 0].set_title("original")
        for column, row in enumerate(there, start=1):
            case = Case(
                volume=volume,
                side=int(row["side"]),
                codec=row["codec"],
                ratio=float(ratio),
                effort=row["effort"],
            )
            decoded = np.load(slice_file(folder, case)).astype(np.float64)
            error, limit = decoded - original, (high - low) / 8
            grid[0, column].imshow(decoded, cmap="gray", vmin=low, vmax=high)
            title = f"{row['codec']}\n{float(row['psnr_db']):.2f} dB, {float(row['reached']):.0f}×"
            grid[0, column].set_title(title, fontsize=9)
            grid[1, column].imshow(error, cmap="RdBu", vmin=-limit, vmax=limit)
        for axes in grid.flat:
            axes.set_axis_off()
        paths.append(_saved(figure, folder, f"visual_{volume}_{float(ratio):g}"))
    return paths


def levels(found: Sequence[Gains], folder: Path) -> list[Path]:
    """Plot the gain by levels, and from one to three against high frequencies (Fig. 4)."""
    figure = Figure(figsize=(11, 4.2))
    left, right = figure.subplots(1, 2)
    for gains in found:
        if gains.psnr[0] is None:
            continue
        points = [
            (n, psnr - gains.psnr[0])
            for n, psnr in enumerate(gains.psnr, start=1)
            if psnr is not None
        ]
        left.plot(*zip(*points, strict=True), marker="o", label=f"{gains.volume} {gains.ratio:g}×")
        grown = gains.growth(gains.psnr)
        if grown is not None:
            right.scatter(gains.high_frequencies, grown)
            right.annotate(f" {gains.ratio:g}×", (gains.high_frequencies, grown), fontsize=7)
    left.set(xlabel="levels", ylabel="gain over one level, dB", xticks=range(1, 5))
    right.set(xlabel="share of high frequencies", ylabel="gain of three levels over one, dB")
    for axes in (left, right):
        axes.axhline(0, color="grey", linewidth=0.8)
    if left.lines:
        left.legend(fontsize=6)
    return [_saved(figure, folder, "levels")]


def allocation(found: Sequence[Change], folder: Path) -> list[Path]:
    """Plot each sub-region's gain against its similarity and foreground (Figs. 5 and 6)."""
    paths = []
    for volume, ratio in dict.fromkeys((change.volume, change.ratio) for change in found):
        of_case = [c for c in found if (c.volume, c.ratio) == (volume, ratio)]
        figure = Figure(figsize=(11, 4.2))
        left, right = figure.subplots(1, 2)
        for change in of_case:
            level_ratio, shares = change.way
            if shares == "even":
                left.scatter(change.similarity, change.ssim, s=12, label=f"r_l = {level_ratio}")
            else:
                right.scatter(change.foreground, change.psnr, s=12, label=shares)
        left.set(xlabel="similarity to other sub-regions", ylabel="SSIM, gain over r_l = 1")
        right.set(xlabel="share of foreground", ylabel="PSNR, gain over even shares, dB")
        for axes in (left, right):
            axes.axhline(0, color="grey", linewidth=0.8)
            if axes.collections:
                axes.legend(fontsize=8)
        figure.suptitle(f"{volume}, {ratio:g}×")
        paths.append(_saved(figure, folder, f"allocation_{volume}_{ratio:g}"))
    return paths


def times(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Plot seconds of encoding against seconds of decoding, a file for each volume and ratio."""
    paths = []
    for volume, ratio in dict.fromkeys((row["volume"], row["ratio"]) for row in rows):
        figure = Figure(figsize=(6, 4.5))
        axes = figure.subplots()
        for row in rows:
            if (row["volume"], row["ratio"]) == (volume, ratio) and row["psnr_db"]:
                point = float(row["decode_s"]), float(row["encode_s"])
                axes.scatter(*point)
                axes.annotate(f" {row['codec']}", point, fontsize=8)
        axes.set(xscale="log", yscale="log", xlabel="decoding, s", ylabel="encoding, s")
        axes.set_title(f"{volume}, {float(ratio):g}×")
        paths.append(_saved(figure, folder, f"time_{volume}_{float(ratio):g}"))
    return paths
