"""The quality report: one HTML page that carries its figures within."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec import __version__
from tinc_codec.archive.info import ArchiveInfo, info
from tinc_codec.archive.layout import middle_plane
from tinc_codec.archive.outputs import check_can_be_written
from tinc_codec.archive.scores import ChunkScore, Scores
from tinc_codec.archive.sources import Source, open_source
from tinc_codec.archive.texts import db, region_text, summary_rows
from tinc_codec.archive.verify import open_original

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SLICES = 3  # chunks of which slices are shown
_ROWS = 20  # chunks in the table
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td { font-variant-numeric: tabular-nums; border-top: 1px solid #ddd; }
img { max-width: 100%; }
.bad { color: #b00020; font-weight: 600; }
.good { color: #1b6e2d; font-weight: 600; }
"""


def check_figure_can_be_written(path: Path) -> None:
    """Refuse before any work what would fail after it.

    Raises
    ------
    InvalidSetting
        If matplotlib is missing, or the file's folder.
    """
    check_can_be_written(path, "matplotlib", "report")


def write_report(
    path: str | Path, src: str | Path, dst: str | Path, scores: Scores, *, mask: Any = None
) -> None:
    """Write the page: summary, map and slices of the worst chunks, histograms, table, provenance.

    Parameters
    ----------
    path : str or Path
        Of the HTML file, which is replaced if it is there.
    src, dst : str or Path
        Source and archive, of which the slices shown are read again.
    scores : Scores
        As :func:`tinc_codec.archive.verify` gave them.
    mask : str, Path or array, optional
        As for :func:`tinc_codec.archive.verify`.

    Raises
    ------
    InvalidSetting
        If matplotlib is missing, or the file's folder.
    OSError
        If a file cannot be read or written.
    """
    check_figure_can_be_written(Path(path))
    described = info(dst)
    with open_source(dst) as archive, open_original(src, archive, mask) as source:
        figures = [_slices(source, archive, chunk, scores) for chunk in scores.worst(_SLICES)]
    body = [
        f"<h1>Quality of {_text(Path(dst).name)}</h1>",
        _verdict(scores),
        "<h2>Summary</h2>",
        _table(("", ""), summary_rows(scores)),
        "<h2>Where the worst chunks are</h2>",
        "<p>Lowest PSNR along the line of sight; axes are in voxels. Circles: the chunks in the "
        "table below. Blank: lossless, or not compared.</p>",
        _image(_map(scores, described), "Map of the PSNR of chunks"),
        "<h2>Slices of the worst chunks</h2>",
        *(_image(figure, "Original, decoded and error of a chunk") for figure in figures),
        "<h2>Histograms</h2>",
        _image(_histograms(scores), "Histograms of PSNR and errors"),
        f"<h2>The worst {min(_ROWS, len(scores.chunks))} chunks</h2>",
        _worst_table(scores),
        "<h2>Settings and provenance</h2>",
        _table(("", ""), _provenance_rows(described, src)),
    ]
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>Quality of {_text(Path(dst).name)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        "<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )
    Path(path).write_text(text, encoding="utf-8")


def _verdict(scores: Scores) -> str:
    if not str(scores.bounds):
        return "<p>No bounds were demanded.</p>"
    count, bounds = len(scores.broken), _text(str(scores.bounds))
    if count:
        return f'<p class="bad">{count} of {len(scores.chunks)} chunks break: {bounds}.</p>'
    return f'<p class="good">All {len(scores.chunks)} chunks compared keep: {bounds}.</p>'


def _worst_table(scores: Scores) -> str:
    peak = scores.errors.data_range
    head = ("region", "PSNR", "own range", "SSIM", "max error", "ratio", "bytes", "form", "")
    rows = [
        (
            region_text(chunk),
            db(chunk.errors.psnr(peak)),
            db(chunk.errors.psnr()),
            f"{chunk.ssim:.4f}",
            f"{chunk.errors.max_error:g}",
            f"{chunk.raw_bytes / chunk.stored_bytes:.1f}" if chunk.stored_bytes else "",
            f"{chunk.stored_bytes}",
            chunk.form,
            "" if scores.bounds.hold(chunk, peak) else "breaks a bound",
        )
        for chunk in scores.worst(_ROWS)
    ]
    return _table(head, rows)


def _provenance_rows(described: ArchiveInfo, src: str | Path) -> list[tuple[str, str]]:
    sizes = "×".join(map(str, described.shape))
    chunks = "×".join(map(str, described.chunks))
    shards = f" in shards {'×'.join(map(str, described.shards))}" if described.shards else ""
    settings = described.settings or {}
    rows = [
        ("source", Path(src).name),
        ("array", f"{described.name} ({described.kind}), {sizes} {described.dtype}"),
        ("axes", ", ".join(described.dimension_names)),
        ("chunks", chunks + shards),
        ("settings", ", ".join(f"{name}={value}" for name, value in settings.items()) or "no TINC"),
    ]
    if described.summary:
        forms = described.summary.forms
        rows.append(("forms", ", ".join(f"{n} {form}" for form, n in forms.items())))
    rows += [
        (f"provenance: {name}", f"{value}")
        for name, value in (described.provenance or {}).items()
        if name != "settings"
    ]
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return [*rows, ("this report", f"{made}, tinc_codec {__version__}")]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = ("".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows)
    below = "\n".join(f"<tr>{line}</tr>" for line in lines)
    first = f"<tr>{top}</tr>\n" if any(head) else ""
    return f"<table>\n{first}{below}\n</table>"


def _text(value: str) -> str:
    return html.escape(value)


def _figure(columns: int, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure  # without pyplot: no window system, no global state

    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _image(figure: Figure, title: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    coded = base64.b64encode(stream.getvalue()).decode()
    return f'<p><img alt="{_text(title)}" src="data:image/png;base64,{coded}"></p>'


def _finite(values: Iterable[float]) -> NDArray[np.float64]:
    array = np.array(list(values), np.float64)
    return array[np.isfinite(array)]


def _map(scores: Scores, described: ArchiveInfo) -> Figure:
    """Draw the lowest PSNR along the other axes, seen along each of the last three."""
    ndim, peak = len(described.shape), scores.errors.data_range
    planes = [(ndim - 2, ndim - 1), (ndim - 3, ndim - 1), (ndim - 3, ndim - 2)]
    planes = [plane for plane in planes if min(plane) >= 0] or [(-1, ndim - 1)]
    worst = scores.worst(_ROWS)
    figure, axes = _figure(len(planes))
    for ax, (down, right) in zip(axes, planes, strict=True):
        extents = [described.shape[k] if k >= 0 else 1 for k in (down, right)]
        edges = [described.chunks[k] if k >= 0 else 1 for k in (down, right)]
        grid = np.full([math.ceil(n / c) for n, c in zip(extents, edges, strict=True)], np.nan)
        for chunk in scores.chunks:
            at = tuple(
                chunk.region[k].start // c if k >= 0 else 0
                for k, c in zip((down, right), edges, strict=True)
            )
            grid[at] = np.fmin(grid[at], chunk.errors.psnr(peak))
        grid[~np.isfinite(grid)] = np.nan
        box = (0, grid.shape[1] * edges[1], grid.shape[0] * edges[0], 0)
        shown = ax.imshow(grid, extent=box, cmap="viridis", aspect="auto")
        ax.plot(
            [_middle(chunk, right) for chunk in worst],
            [_middle(chunk, down) for chunk in worst],
            "o", mfc="none", mec="#b00020",
        )  # fmt: skip
        ax.set_xlim(0, extents[1])
        ax.set_ylim(extents[0], 0)
        ax.set_xlabel(described.dimension_names[right])
        ax.set_ylabel(described.dimension_names[down] if down >= 0 else "")
        figure.colorbar(shown, ax=ax, label="PSNR, dB")
    return figure


def _middle(chunk: ChunkScore, axis: int) -> float:
    if axis < 0:
        return 0.5
    return float(chunk.region[axis].start + chunk.region[axis].stop) / 2


def _slices(source: Source, archive: Source, chunk: ChunkScore, scores: Scores) -> Figure:
    """Draw the middle plane of a chunk: original, decoded, and their difference."""
    plane = middle_plane(chunk.region)
    shape = [1, *(side.stop - side.start for side in plane)][-2:]
    sides = (source.read(plane), archive.read(plane))
    original, decoded = (np.asarray(side, np.float64).reshape(shape) for side in sides)
    with np.errstate(invalid="ignore"):  # infinities that both have
        error = decoded - original
    shown_values, differences = _finite(original.ravel()), _finite(np.abs(error).ravel())
    low, high = np.percentile(shown_values, [0.5, 99.7]) if shown_values.size else (0.0, 1.0)
    most = float(differences.max(initial=0.0)) or 1.0
    figure, axes = _figure(3, 3.8)
    grey = {"vmin": low, "vmax": max(high, low + 1e-12), "cmap": "gray"}
    difference = {"vmin": -most, "vmax": most, "cmap": "RdBu_r"}
    panels: list[tuple[str, NDArray[Any], dict[str, Any]]] = [
        ("original", original, grey),
        ("decoded", decoded, grey),
        ("decoded − original", error, difference),
    ]
    for ax, (title, image, options) in zip(axes, panels, strict=True):
        shown = ax.imshow(image, interpolation="nearest", **options)
        ax.set_title(title)
        figure.colorbar(shown, ax=ax, shrink=0.8)
    reached = db(chunk.errors.psnr(scores.errors.data_range))
    at = ",".join(f"{s.start}" if s.stop - s.start == 1 else f"{s.start}:{s.stop}" for s in plane)
    figure.suptitle(f"[{at}]  {reached}, maximum error {chunk.errors.max_error:g}")
    return figure


def _histograms(scores: Scores) -> Figure:
    peak = scores.errors.data_range
    chunks = scores.chunks
    panels = [
        ("PSNR of chunks, dB", _finite(c.errors.psnr(peak) for c in chunks)),
        ("maximum error of chunks", _finite(c.errors.max_error for c in chunks)),
        (
            "root mean square error of chunks",
            _finite((c.errors.squared_error / max(c.errors.voxels, 1)) ** 0.5 for c in chunks),
        ),
    ]
    figure, axes = _figure(3)
    for ax, (label, values) in zip(axes, panels, strict=True):
        ax.locator_params(axis="x", nbins=5)
        if values.size:
            ax.hist(values, bins=min(50, max(5, int(values.size**0.5))), color="#39688f")
        ax.set_xlabel(label)
    axes[0].set_ylabel("chunks")
    return figure
