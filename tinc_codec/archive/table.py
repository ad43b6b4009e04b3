"""The scores of all chunks as a Parquet table, for pandas, Arrow, DuckDB and the like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinc_codec import __version__
from tinc_codec.archive.outputs import check_can_be_written
from tinc_codec.archive.scores import ChunkScore, Scores, ratio

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_TOGETHER = 65536


def check_table_can_be_written(path: Path) -> None:
    """Refuse before any work what would fail after it.

    Raises
    ------
    InvalidSetting
        If pyarrow is missing, or the file's folder.
    """
    check_can_be_written(path, "pyarrow.parquet", "archive")


def write_table(path: str | Path, scores: Scores, dimension_names: Sequence[str]) -> None:
    """Write a row for each chunk.

    Columns: ``<axis>_start`` and ``<axis>_stop`` for each axis, in voxels; ``voxels`` (the finite
    ones, which count); ``psnr_db`` against the range of the archive's values, ``own_psnr_db``
    against the chunk's own; ``ssim``; ``max_error``; ``rmse``; ``threshold`` and ``accuracy``
    (Acc.τ there); ``foreground_share``, ``foreground_psnr_db`` and ``background_psnr_db`` (at or
    above the threshold, and below, both against the archive's range); ``low`` and ``high`` of the
    original; ``raw_bytes``, ``stored_bytes``, ``ratio``, ``form``, ``seconds``; ``bounds_hold``.
    The schema's metadata hold, under ``tinc_codec``, JSON of what concerns all chunks.

    Parameters
    ----------
    path : str or Path
        Of the file, which is replaced if it is there.
    scores : Scores
        Of convert or verify.
    dimension_names : sequence of str
        One for each axis.

    Raises
    ------
    InvalidSetting
        If pyarrow is missing, or the file's folder.
    OSError
        If it cannot be written.
    """
    check_table_can_be_written(Path(path))
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = _schema(dimension_names, scores)
    partial = Path(f"{path}.partial")
    try:
        with pq.ParquetWriter(partial, schema) as writer:
            for start in range(0, len(scores.chunks), _ROWS_TOGETHER):
                some = scores.chunks[start : start + _ROWS_TOGETHER]
                rows = [_row(chunk, scores, dimension_names) for chunk in some]
                writer.write_table(pa.Table.from_pylist(rows, schema))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _row(chunk: ChunkScore, scores: Scores, names: Sequence[str]) -> dict[str, Any]:
    peak = scores.errors.data_range
    errors, bright, dark = chunk.errors, chunk.foreground, chunk.background
    voxels = max(errors.voxels, 1)
    region: dict[str, Any] = {}
    for name, axis in zip(names, chunk.region, strict=True):
        region |= {f"{name}_start": axis.start, f"{name}_stop": axis.stop}
    return region | {
        "voxels": errors.voxels,
        "psnr_db": errors.psnr(peak),
        "own_psnr_db": errors.psnr(),
        "ssim": chunk.ssim,
        "max_error": errors.max_error,
        "rmse": errors.rmse,
        "threshold": chunk.threshold,
        "accuracy": chunk.accuracy,
        "foreground_share": bright.voxels / voxels,
        "foreground_psnr_db": bright.psnr(peak) if bright.voxels else None,
        "background_psnr_db": dark.psnr(peak) if dark.voxels else None,
        "low": errors.low,
        "high": errors.high,
        "raw_bytes": chunk.raw_bytes,
        "stored_bytes": chunk.stored_bytes,
        "ratio": ratio(chunk.raw_bytes, chunk.stored_bytes),
        "form": chunk.form,
        "seconds": chunk.seconds,
        "bounds_hold": scores.bounds.hold(chunk, peak),
    }


def _schema(names: Sequence[str], scores: Scores) -> pa.Schema:
    import pyarrow as pa

    integers = {"voxels", "raw_bytes", "stored_bytes"}
    others = {"form": pa.string(), "bounds_hold": pa.bool_()}
    sides = [f"{name}_{side}" for name in names for side in ("start", "stop")]
    fields = [(name, pa.int64()) for name in sides]
    for name in COLUMNS:
        fields.append((name, others.get(name, pa.int64() if name in integers else pa.float64())))
    whole = {
        "version": __version__,
        "data_range": scores.errors.data_range,
        "psnr_db": str(scores.psnr_db),
        "sampled_from": scores.sampled_from,
        "bounds": str(scores.bounds),
    }
    return pa.schema(fields, metadata={"tinc_codec": json.dumps(whole)})


COLUMNS = (
    "voxels", "psnr_db", "own_psnr_db", "ssim", "max_error", "rmse", "threshold", "accuracy",
    "foreground_share", "foreground_psnr_db", "background_psnr_db", "low", "high", "raw_bytes",
    "stored_bytes", "ratio", "form", "seconds", "bounds_hold",
)  # fmt: skip
