"""Converting a volume to a TINC zarr archive: chunk by chunk, one writer each, scored as read."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from tinc_codec import __version__
from tinc_codec.archive import ome
from tinc_codec.archive.layout import (
    Region,
    chunk_file,
    chunk_groups,
    chunk_shape,
    file_size,
)
from tinc_codec.archive.scores import ChunkScore, ProgressCallback, Scores, gather
from tinc_codec.archive.sources import Source, is_zarr, open_source
from tinc_codec.errors import InvalidSetting
from tinc_codec.metrics import Errors, errors
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings
from tinc_codec.stream.normalize import check_array

_TOGETHER = 64
_SENTINEL_ATTRIBUTES = ("_FillValue", "missing_value")


def convert(
    src: str | Path,
    dst: str | Path,
    settings: Settings | None = None,
    *,
    chunks: Sequence[int] | None = None,
    zarr_format: Literal[2, 3] = 3,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
) -> Scores:
    """Write a volume as a zarr group with one TINC array, and score it from its decoded bytes.

    The group opens in xarray. Attributes, dimension names and OME metadata (of level 0) come
    along; the array's attribute ``tinc_codec`` tells where it came from. Values that the source
    declares as missing (``_FillValue``) are preserved exactly. Memory holds one chunk at a time;
    64 where torch is to run (``tinc_codec.runtime(device="cuda")``), which fits them together.

    Parameters
    ----------
    src : str or Path
        See :func:`tinc_codec.archive.open_source`.
    dst : str or Path
        Folder of the new archive. Until all is written it is called ``dst`` + ".partial"; a
        failure or an interrupt removes that and leaves nothing under the final name.
    settings : Settings, optional
        Of the encoder.
    chunks : sequence of int, optional
        Chunk edges of the last axes; axes before them get 1. By default the last three axes are
        cut in equal parts of at most 64 voxels.
    zarr_format : int
        2 or 3.
    overwrite : bool
        Replace an archive that is there. Nothing but a zarr folder is ever replaced.
    progress : callable, optional
        Called with a :class:`Progress` after each chunk.

    Returns
    -------
    Scores

    Raises
    ------
    FileExistsError
        If the destination exists and is not to be, or cannot be, overwritten.
    InvalidSetting
        If a setting, the chunk shape or the format is out of range, or the source is damaged.
    UnsupportedData
        If the codec does not take the source's dtype.
    OSError
        If reading or writing fails.
    """
    if zarr_format not in (2, 3):
        raise InvalidSetting(f"zarr_format={zarr_format} must be 2 or 3")
    dst = Path(dst)
    with (
        open_source(src) as source,
        _new_folder(dst, source.path, overwrite) as partial,
        _worker() as run,
    ):
        check_array(np.empty((1,) * len(source.shape), source.dtype))
        chosen = _with_sentinels(settings or Settings(), source)
        edges = chunk_shape(source.shape, chunks)
        with zarr.config.set({"codec_pipeline.batch_size": _most_together()}):
            array = run(_create, partial, source, chosen, edges, zarr_format)
        scores = gather(_written(source, array, run), array.nchunks, progress)
        run(_finish, partial, array, _provenance(source, chosen, scores))
    return scores


@contextlib.contextmanager
def _worker() -> Iterator[Callable[..., Any]]:
    """Give a function that runs others in a thread, which an interrupt lets finish.

    Leaving the block waits for the thread. Otherwise zarr would go on writing into the folder
    while that is being removed.
    """
    with ThreadPoolExecutor(1) as pool:

        def run(function: Callable[..., Any], *arguments: Any) -> Any:
            context = contextvars.copy_context()
            return pool.submit(context.run, function, *arguments).result()

        run(int)  # starts the thread: one interrupted then is not waited for
        yield run


def _with_sentinels(settings: Settings, source: Source) -> Settings:
    declared = [source.attributes.get(name) for name in _SENTINEL_ATTRIBUTES]
    sentinels = [
        value
        for value in declared
        if isinstance(value, int | float)
        and math.isfinite(value)
        and value not in settings.preserve
    ]
    return replace(settings, preserve=(*settings.preserve, *dict.fromkeys(sentinels)))


def _create(
    folder: Path,
    source: Source,
    settings: Settings,
    chunks: tuple[int, ...],
    zarr_format: Literal[2, 3],
) -> zarr.Array[Any]:
    described = ome.for_level_zero(source.ome, source.name, zarr_format)
    group = zarr.create_group(
        folder, zarr_format=zarr_format, attributes={**source.group_attributes, **described}
    )
    attributes = dict(source.attributes)
    options: dict[str, Any] = _codec(settings, zarr_format)
    if zarr_format == 2:
        attributes["_ARRAY_DIMENSIONS"] = list(source.dimension_names)
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        options["fill_value"] = None  # any other value would be a missing one to xarray
    else:
        options["dimension_names"] = source.dimension_names
    return group.create_array(
        source.name,
        shape=source.shape,
        dtype=source.dtype.newbyteorder("="),
        chunks=chunks,
        attributes=attributes,
        **options,
    )


def _codec(settings: Settings, zarr_format: Literal[2, 3]) -> dict[str, Any]:
    if zarr_format == 2:
        from tinc_codec.zarr_v2 import TINC

        return {"compressors": TINC.from_json(settings.to_json())}
    from tinc_codec.zarr_v3 import TINCSerializer

    return {"serializer": TINCSerializer.from_json(settings.to_json()), "compressors": None}


def _written(
    source: Source, array: zarr.Array[Any], run: Callable[..., Any]
) -> Iterator[ChunkScore]:
    for group in chunk_groups(array.shape, array.chunks, _most_together()):
        regions = [region for _, region in group]
        written = run(_write_chunks, source, array, regions)
        for (position, region), (found, size) in zip(group, written, strict=True):
            stored = file_size(chunk_file(array, position))
            yield ChunkScore(region=region, errors=found, raw_bytes=size, stored_bytes=stored)


def _most_together() -> int:
    """Return how many chunks to hand to zarr, and zarr to the codec, at once."""
    return _TOGETHER if current_runtime().uses_torch else 1


def _write_chunks(
    source: Source, array: zarr.Array[Any], regions: Sequence[Region]
) -> list[tuple[Errors, int]]:
    """Write chunks that fill a box, and read them back."""
    ends = zip(regions[0], regions[-1], strict=True)
    box = tuple(slice(first.start, last.stop) for first, last in ends)
    voxels = source.read(box)
    array[box] = voxels
    read = np.asarray(array[box])
    found = []
    for region in regions:
        sides = zip(region, box, strict=True)
        at = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in sides)
        found.append((errors(voxels[at], read[at]), voxels[at].nbytes))
    return found


def _finish(folder: Path, array: zarr.Array[Any], provenance: dict[str, Any]) -> None:
    array.attrs["tinc_codec"] = provenance
    with warnings.catch_warnings():
        # Not in the v3 specification yet, but without it xarray warns at each opening.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(folder)


def _provenance(source: Source, settings: Settings, scores: Scores) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no infinities

    return {
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": {
            "name": source.path.name,
            "kind": source.kind,
            "shape": list(source.shape),
            "dtype": source.dtype.str,
        },
        "settings": settings.to_json(),
        "raw_bytes": scores.raw_bytes,
        "stored_bytes": scores.stored_bytes,
        "psnr_db": finite(scores.psnr_db),
        "max_error": finite(scores.errors.max_error),
    }


@contextlib.contextmanager
def _new_folder(dst: Path, src: Path, overwrite: bool) -> Iterator[Path]:
    """Give a folder to write in that becomes dst on success, and vanishes on anything else."""
    partial = dst.with_name(f"{dst.name}.partial")
    old = dst.with_name(f"{dst.name}.replaced-{os.getpid()}")  # no other's, nor a leftover
    _check_destination(dst, src, overwrite)
    try:
        partial.mkdir(parents=True)
    except FileExistsError:
        if not overwrite:
            raise FileExistsError(
                f"{partial} is there, left by another conversion or in use by it; "
                "remove it, or --overwrite (overwrite=True)"
            ) from None
        shutil.rmtree(partial)
        partial.mkdir()
    try:
        yield partial
        if dst.exists():
            dst.rename(old)
        partial.rename(dst)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not dst.exists():
            old.rename(dst)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_destination(dst: Path, src: Path, overwrite: bool) -> None:
    here, there = dst.resolve(), src.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise InvalidSetting(f"{dst} and the source {src} overlap; give another destination")
    if not dst.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{dst} exists; give another name, or --overwrite (overwrite=True)")
    if not is_zarr(dst):
        raise FileExistsError(f"{dst} is not a zarr folder and is not overwritten; remove it")
