"""The command ``tinc``: convert, info, verify, demo."""

from __future__ import annotations

import math
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
Archive = Annotated[str, typer.Argument(metavar="DST", help="A zarr folder, or its URL.")]
Ratio = Annotated[float, typer.Option(help="Raw bytes over compressed bytes, of each chunk.")]
Effort = Annotated[int, typer.Option(help="1 (fast) to 9: how long the fit may take.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, torch, cuda or cuda:N.")]
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
    chunks: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X",
            help="Chunk edges of the last axes; axes before them get 1. By default equal parts "
            "of at most 64.",
        ),
    ] = None,
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
        f"{_bytes(scores.stored_bytes)}, ratio {scores.ratio:.2f}, PSNR {_db(scores.psnr_db)}, "
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
            rows["PSNR"] = f"{_db(found.provenance['psnr_db'])} over the whole array"
    _print_rows(rows)


@app.command("verify")
def _verify(
    src: Source,
    dst: Archive,
    worst: Annotated[int, typer.Option(min=0, help="Chunks to list, the worst first.")] = 5,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Score the archive DST against its source SRC, from decoded bytes."""
    with runtime(device=device, threads=threads), _progress("verifying") as progress:
        scores = archive.verify(src, dst, progress=progress)
    peak = scores.errors.data_range
    table = Table("region", "PSNR", "SSIM", "max error", "bytes", box=None, pad_edge=False)
    for chunk in scores.worst(worst):
        region = ",".join(f"{s.start}:{s.stop}" for s in chunk.region)
        fidelity = f"{_db(chunk.errors.psnr(peak))}", f"{chunk.ssim:.4f}"
        table.add_row(region, *fidelity, f"{chunk.errors.max_error:g}", f"{chunk.stored_bytes}")
    if table.row_count:
        print(f"worst of {len(scores.chunks)} chunks:")
        _console().print(table)
    _print_rows(
        {
            "PSNR": f"{_db(scores.psnr_db)} (range of the data {peak:g})",
            "SSIM": f"{scores.ssim:.4f} (mean of the chunks)",
            "maximum error": f"{scores.errors.max_error:g}",
            "ratio": f"{scores.ratio:.2f} ({_bytes(scores.raw_bytes)} raw, "
            f"{_bytes(scores.stored_bytes)} stored)",
        }
    )


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
            "PSNR": _db(scores.psnr_db),
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
    return f"ratio {state.ratio:.1f}, PSNR {_db(state.errors.psnr())}"


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


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _db(value: float) -> str:
    return "lossless" if value == math.inf else f"{value:.2f} dB"


def _spread(values: tuple[float, ...], form: str, nothing: str = "none stored") -> str:
    if not values:
        return nothing
    low, middle, high = (form.format(value) for value in values)
    return f"{low} to {high}, median {middle}"
