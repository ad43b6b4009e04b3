"""What a conversion will do, decided and checked before any work; regions come one by one."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from tinc_codec import __version__
from tinc_codec.archive.arrays import Level, new_array
from tinc_codec.archive.info import codec_settings
from tinc_codec.archive.layout import Position, Region, region_of
from tinc_codec.archive.levels import image_levels, label_levels
from tinc_codec.archive.memory import peak_bytes
from tinc_codec.archive.sources import (
    Source,
    SourceSpec,
    closed_on_error,
    declared,
    open_source,
    part_of,
    whole_roi,
)
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings
from tinc_codec.stream.special_values import in_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One shard to write (one chunk, where there are no shards).

    Attributes
    ----------
    index : int
        Of the task in its plan.
    level : int
        Of the pyramid.
    position : tuple of int
        Of the shard in the level's grid.
    region : tuple of slice
        Voxels of the level, clipped to its shape.
    """

    index: int
    level: int
    position: Position
    region: Region


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A conversion: ``plan[k]`` is its k-th task, ``len(plan)`` says how many there are.

    Attributes
    ----------
    src : str
        Where the source is.
    dst : str
        Where the archive will be.
    kind, source_dtype : str
        Of the source.
    settings : Settings
        Of the encoder, with the values that the source declares as missing.
    zarr_format : int
        2 or 3.
    levels : tuple of Level
        Of the pyramid, the full resolution first; then those of label images.
    min_psnr : float or None
        Chunks of less are stored losslessly, in dB against the chunk's own range.
    source_id : str
        Digest that tells, when a conversion is gone on with, whether the source is the same.
    mask_id : str or None
        The same of the mask, if there is one.
    torch : bool
        Whether torch is to fit.
    left_out : tuple of str
        What the source has and the archive will not have, and why.
    """

    src: str
    dst: str
    kind: str
    source_dtype: str
    settings: Settings
    zarr_format: Literal[2, 3]
    levels: tuple[Level, ...]
    min_psnr: float | None
    source_id: str
    mask_id: str | None
    torch: bool
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(level.tasks for level in self.levels)

    def __getitem__(self, index: int) -> Task:
        rest = index
        for number, level in enumerate(self.levels):
            if 0 <= rest < level.tasks:
                where = tuple(int(k) for k in np.unravel_index(rest, level.grid))
                region = region_of(where, level.shape, level.shards)
                return Task(index=index, level=number, position=where, region=region)
            rest -= level.tasks
        raise IndexError(f"task {index} of a plan of {len(self)}")

    @property
    def chunks(self) -> int:
        """Chunks of all levels, those beyond the edges left out."""
        return sum(level.chunk_count for level in self.levels)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the voxels of all levels."""
        return sum(level.raw_bytes for level in self.levels)

    @property
    def bytes_per_worker(self) -> int:
        """Peak memory of a process that works on one task, in bytes."""
        bounded = self.settings.max_error is not None or self.min_psnr is not None
        return max(
            peak_bytes(level, self.settings, bounded=bounded, torch=self.torch)
            for level in self.levels
        )

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides which bytes are written."""
        return _digest([self.summary(), self.source_id])

    def summary(self) -> dict[str, Any]:
        """Return what decides the bytes, in words: two plans that differ differ here."""
        arrays = {
            f"{level.path} {name}": list(value) if isinstance(value, tuple) else value
            for level in self.levels
            for name, value in ((f.name, getattr(level, f.name)) for f in fields(level))
            if name in ("shape", "dtype", "chunks", "shards", "factors", "lossless", "labels")
        }
        return {
            "source": self.source_id,
            "tinc_codec": __version__,
            **self.settings.to_json(),
            "zarr_format": self.zarr_format,
            "min_psnr": self.min_psnr,
            "roi": self.roi_text,
            "mask": self.mask_id and self.mask_id[:16],
            **arrays,
        }

    @property
    def roi_text(self) -> str | None:
        """The box of the source that is converted, in words; None for all of it."""
        roi = self.levels[0].source.roi
        return None if roi is None else ",".join(f"{start}:{stop}" for start, stop in roi)

    def check_memory(self, limit: int) -> None:
        """Refuse a plan whose workers would need more than so many bytes each.

        Raises
        ------
        InvalidSetting
            If they would.
        """
        if self.bytes_per_worker > limit:
            first = self.levels[0]
            raise InvalidSetting(
                f"a worker needs {_mib(self.bytes_per_worker)} for shards of "
                f"{_edges(first.shards)}, and has {_mib(limit)}: take smaller shards "
                f"(--shards, at least the chunks' {_edges(first.chunks)}), fewer workers, or "
                "smaller chunks"
            )


def plan(
    src: Any,
    dst: str | Path,
    settings: Settings | None = None,
    *,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    zarr_format: Literal[2, 3] = 3,
    levels: int = 1,
    labels: bool = False,
    min_psnr: float | None = None,
    roi: Sequence[slice] | None = None,
    mask: Any = None,
) -> Plan:
    """Plan a conversion; nothing is written.

    Label images that an OME-Zarr source has are copied without loss, as many levels as the archive
    has, except from a box of the source.

    Parameters
    ----------
    src : str, Path, SourceSpec or array
        See :func:`tinc_codec.archive.open_source`.
    dst : str or Path
        Folder of the new archive.
    settings : Settings, optional
        Of the encoder.
    chunks : sequence of int, optional
        Chunk edges of the last axes; axes before them get 1. By default the last three axes are
        cut in equal parts of at most 128 voxels; where one is shorter the others in longer ones,
        up to 512 and 128**3 voxels in all. Chunks of 64 decode small parts sooner, and lose 0.1 to
        2 dB at 64 to 512 times (README.md).
    shards : sequence of int, optional
        Shard edges of the last axes, multiples of the chunks'. By default at most 256**3 voxels,
        and 4 chunks along each of the last three axes. Format 2 has no shards.
    zarr_format : int
        2 or 3.
    levels : int
        Of the pyramid, the full resolution counted. Each is made from the source, by means of
        blocks. From the fourth on, and where a chunk leaves the encoder too few bytes, they are
        stored losslessly.
    labels : bool
        The source is a segmentation: all of it is stored losslessly.
    min_psnr : float, optional
        Chunks that would decode with less, in dB against the chunk's own range, are stored
        losslessly: for integers.
    roi : sequence of slice, optional
        Convert only this box, named by ranges of the last axes, such as ``np.s_[10:20, :, 5:90]``.
        The archive has its shape; the offset goes into the translation of OME-Zarr, in voxels where
        their size is not known, and into the provenance.
    mask : str, Path or array, optional
        Any source of the whole volume's axes of space, or by whole factors smaller. Voxels where it
        is 0 become 0, and chunks that hold no others are not stored.

    Returns
    -------
    Plan

    Raises
    ------
    InvalidSetting
        If a setting, the chunks, the shards, the format or the box are out of range, the mask has
        another shape, or the source is damaged.
    UnsupportedData
        If the codec does not take the source's dtype.
    OSError
        If the source cannot be read.
    """
    _check_arguments(zarr_format, shards, min_psnr)
    with open_part(src, roi, mask) as source:
        given = settings or Settings()
        _check_preserved(given, source.dtype)
        chosen = with_sentinels(given, source.attributes)
        if source.dtype.kind == "f":
            _check_lossy(source.dtype, chosen, min_psnr, labels=labels)
        arrays = image_levels(source, chosen, levels, chunks, shards, zarr_format, labels=labels)
        copied, left_out = label_levels(source, len(arrays), chunks, shards, zarr_format)
        sources = [source.spec, *(level.source for level in copied)]
        made = Plan(
            src=source.spec.location,
            # Workers may have another working directory.
            dst=_destination(dst),
            kind=source.kind,
            source_dtype=source.dtype.str,
            settings=chosen,
            zarr_format=zarr_format,
            levels=(*arrays, *copied),
            left_out=(*source.left_out, *left_out, *_lost_before(source)),
            min_psnr=min_psnr,
            source_id=_digest([_identity(spec) for spec in sources]),
            mask_id=None if source.spec.mask is None else _identity(source.spec.mask),
            torch=current_runtime().uses_torch,
        )
    for level in made.levels:  # zarr's own checks, in memory
        new_array({}, level, chosen, zarr_format)
    return made


def _check_arguments(
    zarr_format: int, shards: Sequence[int] | None, min_psnr: float | None
) -> None:
    if zarr_format not in (2, 3):
        raise InvalidSetting(f"zarr_format={zarr_format} must be 2 or 3")
    if zarr_format == 2 and shards is not None:
        raise InvalidSetting("zarr format 2 has no shards; leave shards out, or take format 3")
    if min_psnr is not None and not math.isfinite(min_psnr):
        raise InvalidSetting(f"min_psnr={min_psnr} must be a finite number of dB")


def _check_lossy(
    dtype: np.dtype[Any], settings: Settings, min_psnr: float | None, *, labels: bool
) -> None:
    """Refuse to store floats without loss."""
    if min_psnr is not None:
        raise InvalidSetting(
            f"min_psnr={min_psnr} stores chunks losslessly, which is for integers; of {dtype} "
            "give psnr or rmse"
        )
    if settings.max_error == 0 and not labels:
        raise InvalidSetting(
            f"max_error=0 is without loss, which is for integers; of {dtype} give a larger one, "
            "or rmse or psnr"
        )


def _lost_before(source: Source) -> tuple[str, ...]:
    """Say that a source has gone through this codec already, if it has and not without loss."""
    stored = codec_settings(source.array) if isinstance(source.array, zarr.Array) else None
    if stored is None or stored.get("max_error") == 0:
        return ()
    return (
        "values as they were at first: the source is compressed by this codec already, and what "
        "is told of errors is against its decoded values",
    )


def _destination(dst: str | Path) -> str:
    """Return where an archive goes, whatever the working directory of workers.

    Behind a link: its name is there already, and another disk may be meant.
    """
    if "://" in str(dst):
        return str(dst)
    path = os.path.realpath(dst) if os.path.islink(dst) else os.path.abspath(dst)
    if not os.path.basename(path):
        raise InvalidSetting(f"{dst} has no name; give the path of an archive, such as DST.zarr")
    return path


def open_part(src: Any, roi: Sequence[slice] | None = None, mask: Any = None) -> Source:
    """Open a source, or a box of it, or what lies in a mask; see :func:`plan`."""
    with closed_on_error() as opened:
        source = opened(open_source(src))
        if roi is None and mask is None:
            return source
        inner = None if mask is None else opened(open_source(mask))
        return part_of(source, whole_roi(source, roi), inner)


def _check_preserved(settings: Settings, dtype: np.dtype[Any]) -> None:
    """Refuse values to be preserved that a source of integers cannot have: they are slips."""
    if dtype.kind not in "iu":
        return
    limits = np.iinfo(dtype)
    for value in settings.preserve:
        if in_dtype(value, dtype) is None:
            raise InvalidSetting(
                f"preserve={value}: the source is of {dtype}, {limits.min} to {limits.max}, and "
                "cannot hold it; give a value that it has, or leave it out"
            )


def with_sentinels(settings: Settings, attributes: Mapping[str, Any]) -> Settings:
    """Return settings that preserve the values which attributes declare as missing, too."""
    new = (value for value in declared.numbers(attributes) if value not in settings.preserve)
    return replace(settings, preserve=(*settings.preserve, *dict.fromkeys(new)))


def _identity(spec: SourceSpec) -> str:
    """Return a digest of what the source, or a mask, is known by again; of the whole of it.

    Its location does not count, so that a conversion may go on from a copy of its source.
    """
    with open_source(replace(spec, roi=None, mask=None, checked=True)) as source:
        found = {name: v for name, v in source.fingerprint().items() if name != "location"}
        attributes = [source.attributes, source.group_attributes, source.ome, asdict(source.grid)]
        return _digest([found, attributes])


def _digest(values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()


def _edges(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
