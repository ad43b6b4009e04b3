"""``tinc verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tinc_codec import archive
from tinc_codec.cli.display import chunk_progress
from tinc_codec.cli.options import Archive, Device, Source, Threads, Workers
from tinc_codec.cli.printing import console, fail, print_rows
from tinc_codec.runtime import runtime


def verify(
    src: Source,
    dst: Archive,
    worst: Annotated[int, typer.Option(min=0, help="Chunks to list, the worst first.")] = 5,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page with figures.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write a table of all chunks.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Compare so many chunks drawn at random, not all.")
    ] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="The mask of the conversion, if it is no more where it was."),
    ] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Fail if a voxel is off by more, in the data's unit.")
    ] = None,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Fail if a chunk has less, against its own range, as of tinc convert --min-psnr.",
        ),
    ] = None,
    workers: Workers = None,
    device: Device = None,
    threads: Threads = None,
) -> int:
    """Score the archive DST against its source SRC, from decoded bytes.

    Fails if they are not of one shape and dtype, or a chunk breaks a bound: one given here, or one
    that the archive's settings promise. Of an archive of a box or with a mask, the same part of SRC
    is compared.
    """
    if report:
        archive.check_figure_can_be_written(report)
    if parquet:
        archive.check_table_can_be_written(parquet)
    bounds = archive.Bounds(max_error=max_error, own_psnr_db=min_psnr)
    with runtime(device=device, threads=threads), chunk_progress("verifying") as progress:
        scores = archive.verify(
            src, dst, bounds=bounds, mask=mask, sample=sample, workers=workers, progress=progress
        )
    if parquet:
        archive.write_table(parquet, scores, archive.info(dst).dimension_names)
    if report:
        archive.write_report(report, src, dst, scores, mask=mask)
    _print_worst(scores, worst)
    print_rows(dict(archive.summary_rows(scores)))
    broken = scores.broken
    if not broken:
        return 0
    least = min(broken, key=lambda chunk: chunk.errors.psnr(scores.errors.data_range))
    return fail(
        f"{len(broken)} of {len(scores.chunks)} chunks break a bound ({scores.bounds}), the worst "
        f"at {archive.region_text(least)}",
        1,
    )


def _print_worst(scores: archive.Scores, count: int) -> None:
    peak = scores.errors.data_range
    heads = ("region", "PSNR", "own range", "SSIM", "max error", "bytes", "form")
    table = Table(*heads, box=None, pad_edge=False)
    for chunk in scores.worst(count):
        table.add_row(
            archive.region_text(chunk),
            archive.db(chunk.errors.psnr(peak)),
            archive.db(chunk.errors.psnr()),
            f"{chunk.ssim:.4f}",
            f"{chunk.errors.max_error:g}",
            f"{chunk.stored_bytes}",
            chunk.form,
        )
    if table.row_count:
        print(f"worst of {len(scores.chunks)} chunks:")
        console().print(table)
