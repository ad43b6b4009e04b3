"""The command ``tinc``: convert, info, verify, demo."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import tinc_codec
from tinc_codec.errors import InvalidSetting, TincError
from tinc_codec.runtime import runtime
from tinc_codec.settings import Settings

_REMEDY = "pip install 'tinc_codec[archive]'"
try:
    import typer
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table

    from tinc_codec import archive
    from tinc_codec.archive.scores import Progress as State
except ModuleNotFoundError as _error:
    raise SystemExit(f"tinc: the command needs the archive extra ({_error}): {_REMEDY}") from None

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

_KINDS = (
    ".npy, TIFF or a folder of TIFF planes, HDF5, Imaris, NIfTI, N5, zarr v2 or v3; "
    "zarr and .npy also as URLs; what is inside as SRC::NAME."
)
# Text: a path would lose one of the slashes of a URL.
Source = Annotated[str, typer.Argument(metavar="SRC", help=_KINDS)]
Archive = Annotated[Path, typer.Argument(metavar="DST", help="The archive, a zarr folder.")]
Ratio = Annotated[float, typer.Option(help="Raw bytes over compressed bytes, of each chunk.")]
Effort = Annotated[int, typer.Option(help="1 (fast) to 9: how long the fit may take.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, torch, cuda or cuda:N.")]
Chunks = Annotated[
    str | None,
    typer.Option(
        metavar="Z,Y,X",
        help="Chunk edges of the last axes; axes before them get 1. By default equal parts of at "
        "most 64.",
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
        return f"{error.filename}: {error.strerror}"
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
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """Compress volumetric images to zarr archives with TINC, a tree of sine networks per chunk."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


@app.command("convert")
def _convert(
    src: Source,
    dst: Archive,
    ratio: Ratio,
    chunks: Chunks = None,
    zarr_format: Annotated[
        int, typer.Option(min=2, max=3, help="2, or 3, of which a region decodes on its own.")
    ] = 3,
    levels: Annotated[str, typer.Option(metavar="N|auto", help="Of the tree.")] = "auto",
    level_ratio: Annotated[
        str, typer.Option(metavar="X|auto", help="Parameters of a node over its parent's.")
    ] = "auto",
    allocation: Annotated[str, typer.Option(help="auto, even, signal or variance.")] = "auto",
    effort: Effort = 5,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    preset: Annotated[str, typer.Option(help="default or paper.")] = "default",
    preserve: Annotated[
        str, typer.Option(metavar="V,V...", help="Values to restore exactly, such as -32768.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the archive.")] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Write SRC as a zarr archive DST. Each chunk is decoded again and scored."""
    settings = Settings(
        ratio=ratio,
        levels=_auto_or_number("--levels", levels, int),
        level_ratio=_auto_or_number("--level-ratio", level_ratio, float),
        allocation=allocation,
        effort=effort,
        seed=seed,
        preset=preset,
        preserve=_numbers("--preserve", preserve, _int_or_float),
    )
    edges = None if chunks is None else _numbers("--chunks", chunks, int)
    form: Literal[2, 3] = 2 if zarr_format == 2 else 3
    with runtime(device=device, threads=threads), _progress("encoding") as progress:
        scores = archive.convert(
            src,
            dst,
            settings,
            chunks=edges,
            zarr_format=form,
            overwrite=overwrite,
            progress=progress,
        )
    count = len(scores.chunks)
    print(
        f"{dst}: {count} chunk{'s' * (count > 1)}, {_bytes(scores.raw_bytes)} to "
        f"{_bytes(scores.stored_bytes)}, ratio {scores.ratio:.2f}, "
        f"PSNR {archive.db(scores.psnr_db)}, "
        f"maximum error {scores.errors.max_error:g}, {scores.seconds:.1f} s"
    )


@app.command("info")
def _info(path: Annotated[Path, typer.Argument(metavar="PATH", help="A zarr folder.")]) -> None:
    """Describe an archive: the array, the codec's settings, and what the payloads say."""
    found = archive.info(path)
    rows = {
        "array": f"{found.name} ({found.kind})",
        "shape": f"{_sizes(found.shape)} {found.dtype} ({', '.join(found.dimension_names)})",
        "chunks": _sizes(found.chunks)
        + (f" in shards {_sizes(found.shards)}" if found.shards else ""),
        "size": f"{_bytes(found.raw_bytes)} raw, {_bytes(found.stored_bytes)} stored",
        "ratio": f"{found.ratio:.2f}",
    }
    if found.settings is None:
        rows["codec"] = "not TINC"
    else:
        rows["settings"] = ", ".join(f"{name}={value}" for name, value in found.settings.items())
    if found.summary:
        rows["forms"] = ", ".join(f"{n} {form}" for form, n in found.summary.forms.items())
        rows["ratio of chunks"] = _spread(found.summary.ratio, "{:.2f}")
        rows["PSNR of chunks"] = _spread(found.summary.psnr_db, "{:.2f} dB", "not recorded")
    if found.provenance:
        origin = found.provenance.get("source", {})
        rows["made from"] = f"{origin.get('name')} ({origin.get('kind')})"
        rows["made"] = (
            f"{found.provenance.get('created')}, tinc_codec {found.provenance.get('version')}"
        )
        if found.provenance.get("psnr_db") is not None:
            rows["PSNR"] = f"{archive.db(found.provenance['psnr_db'])} over the whole array"
    _print_rows(rows)


@app.command("estimate")
def _estimate(
    src: Source,
    ratio: Annotated[
        str, typer.Option(metavar="R,R...", help="Ratios to try, such as 64,128,256.")
    ] = "64,128,256",
    effort: Effort = 5,
    chunks: Chunks = None,
    sample: Annotated[int, typer.Option(min=1, help="Chunks to fit.")] = 20,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf.")] = None,
    workers: Workers = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Tell what converting SRC would cost and keep, from fits of a few of its chunks."""
    if plot:
        archive.check_figure_can_be_written(plot)
    with runtime(device=device, threads=threads), _progress("fitting") as progress:
        found = archive.estimate(
            src,
            _numbers("--ratio", ratio, float),
            Settings(effort=effort, seed=seed),
            chunks=None if chunks is None else _numbers("--chunks", chunks, int),
            sample=sample,
            workers=workers,
            progress=progress,
        )
    if plot:
        archive.plot_estimate(found, plot)
    _print_estimate(found)


def _print_estimate(found: archive.Estimate) -> None:
    many = f"{found.workers} worker{'s' * (found.workers > 1)}"
    heads = ("ratio", "size", "time, sum", f"with {many}", "PSNR, dB", "SSIM")
    table = Table(*heads, box=None, pad_edge=False)
    for at in found.ratios:
        low, middle, high = (f"{value:.2f}" for value in at.psnr_db)
        each = found.workers
        table.add_row(
            f"{at.ratio:g}",
            f"{_bytes(at.stored_bytes)} ± {_bytes(at.stored_margin)}",
            f"{_duration(at.seconds)} ± {_duration(at.seconds_margin)}",
            f"{_duration(at.seconds / each)} ± {_duration(at.seconds_margin / each)}",
            f"{middle} ({low} to {high})",
            f"{at.ssim:.4f}",
        )
    _print_rows(
        {
            "volume": f"{_sizes(found.shape)} {found.dtype}, {_bytes(found.raw_bytes)}, "
            f"{found.chunk_count} chunks of {_sizes(found.chunks)}",
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
    that the archive's settings promise.
    """
    if report:
        archive.check_figure_can_be_written(report)
    if parquet:
        archive.check_table_can_be_written(parquet)
    bounds = archive.Bounds(max_error=max_error, psnr_db=min_psnr)
    with runtime(device=device, threads=threads), _progress("verifying") as progress:
        scores = archive.verify(
            src, dst, bounds=bounds, sample=sample, workers=workers, progress=progress
        )
    if parquet:
        archive.write_table(parquet, scores, archive.info(dst).dimension_names)
    if report:
        archive.write_report(report, src, dst, scores)
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
    with _progress("encoding") as progress:
        found = archive.demonstrate(out, size, settings, progress=progress)
    scores = found.scores
    _print_rows(
        {
            "volume": f"{found.volume}, {_sizes((size,) * 3)}, {_bytes(scores.raw_bytes)}, "
            f"generated in {found.generating:.1f} s",
            "archive": f"{found.archive}, {_bytes(scores.stored_bytes)} in "
            f"{len(scores.chunks)} chunks",
            "ratio": f"{scores.ratio:.2f}",
            "PSNR": archive.db(scores.psnr_db),
            "SSIM": f"{found.ssim:.4f}",
            "maximum error": f"{scores.errors.max_error:g}",
            "encoding": f"{scores.seconds:.1f} s",
            "decoding": f"{found.decoding:.2f} s through xarray; one slice in "
            f"{found.slicing:.2f} s",
            "comparison": f"{found.comparison}, the original on the left",
        }
    )


@contextmanager
def _progress(verb: str) -> Iterator[Callable[[State], None]]:
    """Show a bar on a terminal, and plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(verb)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(verb, total=None, quality="")

        def show(state: State) -> None:
            bar.update(task, completed=state.done, total=state.total, quality=_quality(state))

        yield show


def _log_lines(verb: str) -> Callable[[State], None]:
    started = time.perf_counter()

    def show(state: State) -> None:
        # About twenty lines, whatever the number of chunks.
        if state.done * 20 // state.total == (state.done - 1) * 20 // state.total:
            return
        left = (time.perf_counter() - started) / state.done * (state.total - state.done)
        print(
            f"{verb} {state.done}/{state.total} chunks, {_quality(state)}, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show


def _quality(state: State) -> str:
    return f"ratio {state.ratio:.1f}, PSNR {archive.db(state.errors.psnr())}"


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
    return tuple(_number(option, part, kind) for part in text.split(",") if part)


def _int_or_float(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _sizes(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _duration(seconds: float) -> str:
    for unit, size in (("days", 172800), ("h", 7200), ("min", 120)):
        if seconds >= size:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.1f} {unit}"
    return f"{seconds:.1f} s"


def _bytes(count: float) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _spread(values: tuple[float, ...], form: str, nothing: str = "none stored") -> str:
    if not values:
        return nothing
    low, middle, high = (form.format(value) for value in values)
    return f"{low} to {high}, median {middle}"
