"""``tinc estimate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tinc_codec import archive
from tinc_codec.cli.display import bytes_text, chunk_progress, duration, sizes
from tinc_codec.cli.options import (
    Chunks,
    Device,
    Effort,
    Mask,
    Preserve,
    Roi,
    Source,
    Threads,
    Workers,
    edges_of,
    int_or_float,
    numbers,
    roi_of,
)
from tinc_codec.cli.printing import console, print_rows
from tinc_codec.runtime import runtime
from tinc_codec.settings import TREES_FROM, Settings


def estimate(
    src: Source,
    ratio: Annotated[
        str | None,
        typer.Option(metavar="R,R...", help="Ratios to try; 64,128,256 where none is given."),
    ] = None,
    psnr: Annotated[str | None, typer.Option(metavar="DB,DB...", help="PSNRs to try.")] = None,
    rmse: Annotated[
        str | None,
        typer.Option(metavar="E,E...", help="Root mean square errors to try, in the data's unit."),
    ] = None,
    ssim: Annotated[str | None, typer.Option(metavar="S,S...", help="SSIMs to try.")] = None,
    max_error: Annotated[
        str | None, typer.Option(metavar="E,E...", help="Largest errors to try; 0: no loss.")
    ] = None,
    effort: Effort = 5,
    preserve: Preserve = "",
    chunks: Chunks = None,
    sample: Annotated[
        int,
        typer.Option(
            min=1, help="Chunks to fit, about: at least two (of 1: one) of each kind, empty or not."
        ),
    ] = 20,
    roi: Roi = None,
    mask: Mask = None,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf.")] = None,
    workers: Workers = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Tell what converting SRC would cost and keep, from fits of a few of its chunks."""
    if plot:
        archive.check_plot_can_be_written(plot)
    asked = {"psnr": psnr, "rmse": rmse, "ssim": ssim, "max_error": max_error}
    fidelities = {
        name: numbers(f"--{name.replace('_', '-')}", text, float)
        for name, text in asked.items()
        if text
    }
    with runtime(device=device, threads=threads), chunk_progress("fitting") as progress:
        found = archive.estimate(
            src,
            numbers("--ratio", ratio or ("" if fidelities else "64,128,256"), float),
            Settings(
                effort=effort, seed=seed, preserve=numbers("--preserve", preserve, int_or_float)
            ),
            fidelities=fidelities,
            chunks=edges_of("--chunks", chunks),
            sample=sample,
            roi=roi_of(roi),
            mask=mask,
            workers=workers,
            progress=progress,
        )
    _print_estimate(found)
    if plot:
        archive.plot_estimate(found, plot)


def _with_margin(text: Callable[[float], str], value: float, margin: float) -> str:
    """Return a figure with its margin; without where every chunk was fitted."""
    return f"{text(value)} ± {text(margin)}" if margin else text(value)


def _print_estimate(found: archive.Estimate) -> None:
    workers = found.workers
    many = f"{workers} worker{'s' * (workers > 1)}"
    heads = ("ratio", "size", "time, sum", f"with {many}", "PSNR, dB", "SSIM")
    table = Table(*heads, box=None, pad_edge=False)
    for at in found.ratios:
        low, middle, high = (f"{value:.2f}" for value in at.psnr_db)
        table.add_row(
            f"{at.ratio:.1f} ({at.fidelity})" if at.fidelity else f"{at.ratio:g}",
            _with_margin(bytes_text, at.stored_bytes, at.stored_margin),
            _with_margin(duration, at.seconds, at.seconds_margin),
            _with_margin(duration, at.seconds / workers, at.seconds_margin / workers),
            f"{middle} ({low} to {high})",
            f"{at.ssim:.4f}",
        )
    print_rows(
        {
            "volume": f"{sizes(found.shape)} {found.dtype}, {bytes_text(found.raw_bytes)}, "
            f"{found.chunk_count} chunks of {sizes(found.chunks)}",
            "sample": f"{found.fitted} chunks fitted, in {found.strata} strata; planes of "
            f"{found.looked_at} read, {100 * found.empty_share:.0f} % of them empty",
            "machine": f"this one, {many} of {found.threads} "
            f"thread{'s' * (found.threads > 1)}, effort {found.effort}",
        }
    )
    console().print(table)
    print(
        "±: 95 % confidence. PSNR: of chunks, against the range of the values seen; median "
        "(5 to 95 %). SSIM: median."
    )
    shares = [at.with_trees for at in found.ratios]
    print("Chunks that keep a tree:", ", ".join(f"{100 * share:.0f} %" for share in shares))
    if found.effort >= TREES_FROM and not any(shares):
        print(
            f"Where none does --effort {TREES_FROM - 1}, which fits none, loses little or "
            "nothing, in a fraction of the time."
        )
