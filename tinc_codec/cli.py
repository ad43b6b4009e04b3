"""The command ``tinc``: convert, info, estimate, verify, demo."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import tinc_codec
from tinc_codec.errors import InvalidSetting, TincError
from tinc_codec.runtime import runtime
from tinc_codec.settings import MAX_LEVELS, TREES_FROM, Settings

_REMEDY = "pip install 'tinc_codec[archive]'"
try:
    import typer
    from rich.console import Console
    from rich.table import Table

    from tinc_codec import archive
    from tinc_codec.display import bytes_text, chunk_progress, display, duration, plan_rows, sizes
except ModuleNotFoundError as _error:
    raise SystemExit(f"tinc: the command needs the archive extra ({_error}): {_REMEDY}") from None

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_KINDS = (
    ".npy, TIFF or a folder of TIFF planes, HDF5, Imaris, NIfTI, N5, zarr v2 or v3; "
    "zarr and .npy also as URLs; what is inside as SRC::NAME."
)
# Text: a path would lose one of the slashes of a URL.
Source = Annotated[str, typer.Argument(metavar="SRC", help=_KINDS)]
Archive = Annotated[str, typer.Argument(metavar="DST", help="A zarr folder, or its URL.")]
Ratio = Annotated[float, typer.Option(help="Raw bytes over compressed bytes, of each chunk.")]
Effort = Annotated[int, typer.Option(help="1 (fast) to 9: how long the fit may take.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, torch, cuda or cuda:N.")]
Chunks = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X",
        help="Chunk edges of the last axes; axes before them get 1. By default equal parts of at "
        "most 128, longer where an axis is short; those of 64 decode small parts sooner, and lose "
        "0.1 to 2 dB.",
    ),
]
Roi = Annotated[
    str | None,
    typer.Option(
        metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="Only this box, in voxels of the last axes; an edge left out is the volume's.",
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        metavar="MASK",
        help="A volume of the whole's axes of space, or by whole factors smaller. Voxels where it "
        "is 0 become 0; chunks of no others are not stored.",
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Chunks at once; by default as many as threads.")
]
Threads = Annotated[int | None, typer.Option(help="Threads for each chunk; 0 is all.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors become one line on stderr.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0, 1 for errors, 2 for wrong usage, 130 for an interrupt.
    """
    try:
        status = app(args=arguments, prog_name="tinc", standalone_mode=False)
    except (TincError, OSError, KeyError, MemoryError) as error:
        return _fail(_message(error), 1)
    except ImportError as error:
        known = "pip install" in str(error)  # sources name the extra that they need
        return _fail(str(error) if known else f"{error}; is an extra missing? {_REMEDY}", 1)
    except (KeyboardInterrupt, typer.Abort):
        status = 130
    except Exception as error:
        # What typer raises for wrong usage has moved between its releases; this is common to all.
        if not hasattr(error, "format_message"):
            raise
        return _fail(f"{error.format_message()} (tinc --help tells more)", 2)
    if status == 130:
        return _fail("interrupted; run the same command to go on", 130)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print("tinc:", " ".join(message.split()), file=sys.stderr)
    return status


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        said = f"{error.filename}: {error.strerror}"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        return f"{said}; make room and run the same command to go on" if full else said
    if isinstance(error, KeyError) and error.args:
        return f"not found: {error.args[0]}"
    return str(error) or type(error).__name__


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"tinc_codec {tinc_codec.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Print it, and exit."
        ),
    ] = False,
) -> None:
    """Compress volumetric images to zarr archives, by trees of networks (TINC) and wavelets."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command("convert")
def _convert(
    src: Source,
    dst: Archive,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Raw bytes over compressed bytes, of each chunk. Give one of --ratio, --psnr, "
            "--rmse, --ssim and --max-error."
        ),
    ] = None,
    psnr: Annotated[
        float | None,
        typer.Option(metavar="DB", help="At least this in each chunk, against its own range."),
    ] = None,
    rmse: Annotated[
        float | None,
        typer.Option(
            help="No chunk has a larger root mean square error, in the data's unit: bytes go where "
            "there is something to see. tinc estimate --rmse tells the ratio."
        ),
    ] = None,
    ssim: Annotated[
        float | None,
        typer.Option(help="At least this structural similarity in each chunk, 0.01 to 0.9999."),
    ] = None,
    max_error: Annotated[
        float | None,
        typer.Option(help="No voxel is off by more, in the data's unit; 0 is without loss."),
    ] = None,
    form: Annotated[
        str, typer.Option(help="auto (the best on each chunk), tree or wavelet.")
    ] = "auto",
    chunks: Chunks = None,
    shards: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="Shard edges of the last axes, multiples of the chunks'. By default at most 256³ "
            "voxels, and four chunks along an axis. A shard is one task of one worker.",
        ),
    ] = None,
    zarr_format: Annotated[
        int,
        typer.Option(min=2, max=3, help="2, or 3, of which parts of chunks decode on their own."),
    ] = 3,
    levels: Annotated[
        int,
        typer.Option(
            min=1,
            help="Levels of the image pyramid, the full resolution counted; coarser ones are means "
            "of blocks of SRC.",
        ),
    ] = 1,
    labels: Annotated[
        bool, typer.Option("--labels", help="SRC is a segmentation: store it losslessly.")
    ] = False,
    min_psnr: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Store chunks that decode with less, against their own range, without loss: of "
            "integers.",
        ),
    ] = None,
    roi: Roi = None,
    mask: Mask = None,
    importance: Annotated[
        float | None,
        typer.Option(
            metavar="VALUE",
            help="Spend the bytes of --ratio on voxels that reach this, and those beside them.",
        ),
    ] = None,
    tree_levels: Annotated[str, typer.Option(metavar="N|auto", help="Levels of trees.")] = "auto",
    level_ratio: Annotated[
        str, typer.Option(metavar="X|auto", help="Parameters of a node over its parent's.")
    ] = "auto",
    allocation: Annotated[str, typer.Option(help="auto, even, signal or variance.")] = "auto",
    effort: Effort = 5,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 0,
    preset: Annotated[str, typer.Option(help="default or paper.")] = "default",
    preserve: Annotated[
        str, typer.Option(metavar="V,V...", help="Values to restore exactly, such as -32768.")
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the archive, and what other settings left."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and end.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes, or jobs; by default one for each processor."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Use dask's scheduler there.")
    ] = None,
    cluster: Annotated[
        str, typer.Option(metavar="KIND", help="local, cuda (a worker for each GPU) or slurm.")
    ] = "local",
    partition: Annotated[
        str, typer.Option(metavar="I/N", help="Do the I-th of N parts, as in an array of jobs.")
    ] = "1/1",
    log_json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add a JSON line for each shard.")
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Write SRC as a zarr archive DST. Each chunk is decoded again and scored.

    An interrupted conversion goes on when the same command is run again; one that is complete is
    left as it is.
    """
    if all(target is None for target in (ratio, psnr, rmse, ssim, max_error)):
        raise typer.BadParameter("give one of --ratio, --psnr, --rmse, --ssim and --max-error")
    settings = Settings(
        ratio=ratio,
        psnr=psnr,
        rmse=rmse,
        ssim=ssim,
        max_error=max_error,
        importance=importance,
        form=form,
        levels=_tree_levels(tree_levels),
        level_ratio=_auto_or_number("--level-ratio", level_ratio, float),
        allocation=allocation,
        effort=effort,
        seed=seed,
        preset=preset,
        preserve=_numbers("--preserve", preserve, _int_or_float),
    )
    with runtime(device=device or ("cuda" if cluster == "cuda" else None), threads=threads):
        plan = archive.plan(
            src,
            dst,
            settings,
            chunks=None if chunks is None else _numbers("--chunks", chunks, int),
            shards=None if shards is None else _numbers("--shards", shards, int),
            zarr_format=2 if zarr_format == 2 else 3,
            levels=levels,
            labels=labels,
            min_psnr=min_psnr,
            roi=_roi(roi),
            mask=mask,
        )
        if workers is None:
            workers = archive.default_workers(len(plan), torch=plan.torch)
        if dry_run:
            _print_rows(plan_rows(plan, workers))
        else:
            client = archive.cluster_client(workers, scheduler=scheduler, cluster=cluster)
            _carry_out(plan, client, overwrite, _partition(partition), log_json)


def _carry_out(
    plan: archive.Plan,
    cluster_client: AbstractContextManager[Any],
    overwrite: bool,
    partition: tuple[int, int],
    log_json: Path | None,
) -> None:
    """Convert, or go on converting, or say that nothing is left to do."""
    if archive.is_complete(plan, overwrite):
        archive.run(plan, overwrite=overwrite)  # clears up what a killed run has left
        print(f"{plan.dst}: complete already, of this source with these settings")
        return
    archive.check_target(plan, overwrite)
    for said in plan.left_out:
        print(f"tinc: {said}", file=sys.stderr)
    with (
        cluster_client as client,
        display(plan, log_json, client.dashboard_link if client else None) as shown,
    ):
        outcome = archive.run(
            plan, client, overwrite=overwrite, partition=partition, on_shard=shown.add
        )
    _print_outcome(plan, outcome)


def _tree_levels(text: str) -> Any:
    levels = _auto_or_number("--tree-levels", text, int)
    if levels != "auto" and not 1 <= levels <= MAX_LEVELS:
        raise InvalidSetting(f"--tree-levels {text} must be auto or 1 to {MAX_LEVELS}")
    return levels


def _partition(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash:
        raise InvalidSetting(f"--partition {text}: give I/N, such as 2/8")
    return _number("--partition", part, int) - 1, _number("--partition", parts, int)


def _print_outcome(plan: archive.Plan, outcome: archive.Outcome) -> None:
    what = f"{outcome.chunks} chunk{'s' * (outcome.chunks > 1)}"
    if outcome.lossless:
        what += f" ({outcome.lossless} losslessly, --log-json lists them)"
    if not outcome.finished:
        what += f" of {plan.chunks} so far; the other parts finish the archive"
    print(
        f"{plan.dst}: {what}, {bytes_text(outcome.raw_bytes)} to "
        f"{bytes_text(outcome.stored_bytes)}, ratio {outcome.ratio:.2f}, "
        f"PSNR {archive.db(outcome.errors.psnr())}, "
        f"maximum error {outcome.errors.max_error:g}, {outcome.seconds:.1f} s"
    )


@app.command("info")
def _info(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A zarr folder, or its URL.")],
) -> None:
    """Describe an archive: the array, the codec's settings, and what the payloads say."""
    found = archive.info(path)
    rows = {
        "array": f"{found.name} ({found.kind})",
        "shape": f"{sizes(found.shape)} {found.dtype} ({', '.join(found.dimension_names)})",
        "chunks": sizes(found.chunks)
        + (f" in shards {sizes(found.shards)}" if found.shards else ""),
        "size": f"{bytes_text(found.raw_bytes)} raw, {bytes_text(found.stored_bytes)} stored",
        "ratio": f"{found.ratio:.2f}",
    }
    if found.settings is None:
        rows["codec"] = "not TINC"
    else:
        rows["settings"] = ", ".join(f"{name}={value}" for name, value in found.settings.items())
    if found.summary:
        rows["forms"] = ", ".join(f"{n} {form}" for form, n in found.summary.forms.items())
        if "absent" in found.summary.forms:
            rows["absent"] = "only fill value, or lost: tinc verify tells"
        rows["ratio of chunks"] = _spread(found.summary.ratio, "{:.2f}")
        psnr = _spread(found.summary.psnr_db, "{:.2f} dB", "not recorded")
        rows["PSNR of chunks"] = f"{psnr} (each against its own range)"
    if found.provenance:
        origin = found.provenance.get("source", {})
        rows["made from"] = f"{origin.get('name')} ({origin.get('kind')})"
        rows["made"] = (
            f"{found.provenance.get('created')}, tinc_codec {found.provenance.get('version')}"
        )
        if found.provenance.get("psnr_db") is not None:
            psnr = archive.db(found.provenance["psnr_db"])
            rows["PSNR"] = f"{psnr} over the whole array, as it was made"
    _print_rows(rows)


@app.command("estimate")
def _estimate(
    src: Source,
    ratio: Annotated[
        str | None,
        typer.Option(metavar="R,R...", help="Ratios to try; 64,128,256 where none is given."),
    ] = None,
    rmse: Annotated[
        str | None,
        typer.Option(metavar="E,E...", help="Root mean square errors to try, in the data's unit."),
    ] = None,
    effort: Effort = 5,
    chunks: Chunks = None,
    sample: Annotated[int, typer.Option(min=1, help="Chunks to fit.")] = 20,
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
        archive.check_figure_can_be_written(plot)
    with runtime(device=device, threads=threads), chunk_progress("fitting") as progress:
        found = archive.estimate(
            src,
            _numbers("--ratio", ratio or ("" if rmse else "64,128,256"), float),
            Settings(effort=effort, seed=seed),
            rmses=_numbers("--rmse", rmse or "", float),
            chunks=None if chunks is None else _numbers("--chunks", chunks, int),
            sample=sample,
            roi=_roi(roi),
            mask=mask,
            workers=workers,
            progress=progress,
        )
    if plot:
        archive.plot_estimate(found, plot)
    _print_estimate(found)


def _print_estimate(found: archive.Estimate) -> None:
    workers = found.workers
    many = f"{workers} worker{'s' * (workers > 1)}"
    heads = ("ratio", "size", "time, sum", f"with {many}", "PSNR, dB", "SSIM")
    table = Table(*heads, box=None, pad_edge=False)
    for at in found.ratios:
        low, middle, high = (f"{value:.2f}" for value in at.psnr_db)
        table.add_row(
            f"{at.ratio:g}" if at.rmse is None else f"{at.ratio:.1f} (RMSE {at.rmse:g})",
            f"{bytes_text(at.stored_bytes)} ± {bytes_text(at.stored_margin)}",
            f"{duration(at.seconds)} ± {duration(at.seconds_margin)}",
            f"{duration(at.seconds / workers)} ± {duration(at.seconds_margin / workers)}",
            f"{middle} ({low} to {high})",
            f"{at.ssim:.4f}",
        )
    _print_rows(
        {
            "volume": f"{sizes(found.shape)} {found.dtype}, {bytes_text(found.raw_bytes)}, "
            f"{found.chunk_count} chunks of {sizes(found.chunks)}",
            "sample": f"{found.fitted} chunks fitted, in {found.strata} strata; planes of "
            f"{found.looked_at} read, {100 * found.empty_share:.0f} % of them empty",
            "machine": f"this one, {many} of {found.threads} "
            f"thread{'s' * (found.threads > 1)}, effort {found.effort}",
        }
    )
    _console().print(table)
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


@app.command("verify")
def _verify(
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
        float | None, typer.Option(help="Fail if a chunk has less, in dB of the data's range.")
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
    bounds = archive.Bounds(max_error=max_error, psnr_db=min_psnr)
    with runtime(device=device, threads=threads), chunk_progress("verifying") as progress:
        scores = archive.verify(
            src, dst, bounds=bounds, mask=mask, sample=sample, workers=workers, progress=progress
        )
    if parquet:
        archive.write_table(parquet, scores, archive.info(dst).dimension_names)
    if report:
        archive.write_report(report, src, dst, scores, mask=mask)
    _print_worst(scores, worst)
    _print_rows(dict(archive.summary_rows(scores)))
    broken = scores.broken
    if not broken:
        return 0
    least = min(broken, key=lambda chunk: chunk.errors.psnr(scores.errors.data_range))
    return _fail(
        f"{len(broken)} of {len(scores.chunks)} chunks break a bound ({scores.bounds}), the worst "
        f"at {archive.region_text(least)}",
        1,
    )


def _print_worst(scores: archive.Scores, count: int) -> None:
    peak = scores.errors.data_range
    table = Table("region", "PSNR", "SSIM", "max error", "bytes", "form", box=None, pad_edge=False)
    for chunk in scores.worst(count):
        fidelity = f"{archive.db(chunk.errors.psnr(peak))}", f"{chunk.ssim:.4f}"
        error, size = f"{chunk.errors.max_error:g}", f"{chunk.stored_bytes}"
        table.add_row(archive.region_text(chunk), *fidelity, error, size, chunk.form)
    if table.row_count:
        print(f"worst of {len(scores.chunks)} chunks:")
        _console().print(table)


@app.command("demo")
def _demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("tinc-demo"),
    size: Annotated[int, typer.Option(min=16, help="Edge of the volume in voxels.")] = 128,
    ratio: Ratio = 128,
    effort: Effort = 3,  # keeps the demo well under three minutes on two cores
) -> None:
    """Generate a volume like light-sheet tissue, compress it, read it back and compare.

    Results that are there from an earlier run are replaced.
    """
    settings = Settings(ratio=ratio, effort=effort)
    with chunk_progress("encoding") as progress:
        found = archive.demonstrate(out, size, settings, progress=progress)
    scores = found.scores
    _print_rows(
        {
            "volume": f"{found.volume}, {sizes((size,) * 3)}, {bytes_text(scores.raw_bytes)}, "
            f"generated in {found.generating:.1f} s",
            "archive": f"{found.archive}, {bytes_text(scores.stored_bytes)} in "
            f"{len(scores.chunks)} chunks",
            "ratio": f"{scores.ratio:.2f}",
            "PSNR": archive.db(scores.psnr_db),
            "SSIM": f"{found.ssim:.4f}",
            "maximum error": f"{scores.errors.max_error:g}",
            "encoding": f"{scores.seconds:.1f} s; a chunk once more, its kernels compiled, "
            f"{found.encoding_again:.1f} s",
            "decoding": f"{found.decoding:.2f} s through xarray; one slice in "
            f"{found.slicing:.2f} s",
            "comparison": f"{found.comparison}, the original on the left",
        }
    )


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _print_rows(rows: dict[str, str]) -> None:
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(name, value)
    _console().print(table)


def _number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise InvalidSetting(f"{option} {text}: not a number") from None


def _auto_or_number(option: str, text: str, kind: Callable[[str], Any]) -> Any:
    return text if text == "auto" else _number(option, text, kind)


def _numbers(option: str, text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    if not text:
        return ()
    if not all(part.strip() for part in text.split(",")):
        raise InvalidSetting(f"{option} {text}: a number is missing beside a comma; give it")
    return tuple(_number(option, part, kind) for part in text.split(","))


def _roi(text: str | None) -> tuple[slice, ...] | None:
    if text is None:
        return None
    sides = []
    for part in text.split(","):
        start, colon, stop = part.partition(":")
        if not colon:
            raise InvalidSetting(f"--roi {part}: not a range; give START:STOP, such as 10:20 or :")
        edges = (_number("--roi", edge, int) if edge.strip() else None for edge in (start, stop))
        sides.append(slice(*edges))
    return tuple(sides)


def _int_or_float(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _spread(values: tuple[float, ...], form: str, nothing: str = "none stored") -> str:
    if not values:
        return nothing
    low, middle, high = (form.format(value) for value in values)
    return f"{low} to {high}, median {middle}"
