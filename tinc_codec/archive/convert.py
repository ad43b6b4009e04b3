"""The simple front door: plan a conversion, run it, and return a score for each chunk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tinc_codec.archive.cluster import local_client
from tinc_codec.archive.counts import check_counts
from tinc_codec.archive.plan import plan
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.run import check_target, run
from tinc_codec.archive.scores import ChunkScore, Progress, ProgressCallback, Scores
from tinc_codec.archive.verify import verify
from tinc_codec.settings import Settings


def convert(
    src: Any,
    dst: str | Path,
    settings: Settings | None = None,
    *,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    zarr_format: Literal[2, 3] = 3,
    min_psnr: float | None = None,
    roi: Sequence[slice] | None = None,
    mask: Any = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Write a volume as a zarr group with one TINC array, and score it from its decoded bytes.

    The group opens in xarray. Attributes, dimension names and OME metadata (of level 0) come
    along; the array's attribute ``tinc_codec`` tells where it came from. Values that the source
    declares as missing (``_FillValue``) are preserved exactly.

    Until all is written the archive is called ``dst`` + ".partial" and cannot be opened. If it is
    interrupted or fails, calling this again with the same source and settings goes on. For volumes
    of very many chunks use :func:`plan` and :func:`run`, which hold no list of them.

    Parameters
    ----------
    src, dst, settings, chunks, shards, zarr_format, min_psnr, roi, mask
        See :func:`tinc_codec.archive.plan`.
    overwrite : bool
        See :func:`tinc_codec.archive.run`.
    workers : int
        Processes on this machine; 1 works in this one. A script that asks for more has to be
        guarded by ``if __name__ == "__main__"``.
    progress : callable, optional
        Called with a :class:`Progress` after each chunk.

    Returns
    -------
    Scores

    Raises
    ------
    InvalidSetting
        If workers is below 1.
    InvalidSetting, UnsupportedData, FileExistsError, BlockingIOError, ShardsFailed, OSError
        See :func:`tinc_codec.archive.plan` and :func:`tinc_codec.archive.run`.
    """
    check_counts(workers=workers)
    made = plan(
        src,
        dst,
        settings,
        chunks=chunks,
        shards=shards,
        zarr_format=zarr_format,
        min_psnr=min_psnr,
        roi=roi,
        mask=mask,
    )
    check_target(made, overwrite)
    found = _Collected(made.levels[0].chunk_count, progress)
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(local_client(workers)) if workers > 1 else None
        outcome = run(made, client, overwrite=overwrite, on_shard=found.add)
    if outcome.earlier:  # by a run that was killed before it had cleared up: no record is left
        return verify(src, dst, mask=mask)
    ordered = sorted(found.chunks, key=lambda chunk: [axis.start for axis in chunk.region])
    return Scores(
        chunks=tuple(ordered),
        errors=outcome.errors,
        raw_bytes=made.levels[0].raw_bytes,
        stored_bytes=found.stored_bytes,
        seconds=outcome.seconds,
    )


class _Collected:
    """The scores of chunks as shards come in, and their sum told after each."""

    def __init__(self, total: int, progress: ProgressCallback | None) -> None:
        self.chunks: list[ChunkScore] = []
        self.stored_bytes = 0
        self._progress = progress
        self._sum = Progress(total=total)

    def add(self, record: ShardRecord, _earlier: bool) -> None:
        if record.level:  # of a label image
            return
        self.stored_bytes += record.size
        for chunk in record.chunks:
            self.chunks.append(chunk)
            self._sum += chunk
            if self._progress:
                self._progress(self._sum)
