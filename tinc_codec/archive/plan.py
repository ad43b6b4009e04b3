"""What a conversion will do, decided and checked before any work; regions come one by one."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tinc_codec import __version__
from tinc_codec.archive.arrays import Level, check_encoder, new_array
from tinc_codec.archive.layout import Position, Region, chunk_shape, region_of, shard_shape
from tinc_codec.archive.sources import Source, open_source
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings

# Measured bounds of tests/test_memory.py: what encoding takes per voxel of a chunk, beside it.
_SMALL_INTEGERS, _OTHERS = 20, 40
_ENCODER = 16 << 20
_PROCESS = 400 << 20  # interpreter, compiled kernels, zarr and dask
_TORCH = 8  # bytes a voxel that a batch holds in float32, with a mask
_SAMPLE = 16  # voxels along the edge of the regions by which a source is known again
_SENTINEL_ATTRIBUTES = ("_FillValue", "missing_value")


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
    src, dst : str
        Source and destination.
    kind, source_dtype : str
        Of the source.
    dtype : str
        The same dtype in the machine's byte order, which the archive has.
    settings : Settings
        Of the encoder, with the values that the source declares as missing.
    zarr_format : int
        2 or 3.
    levels : tuple of Level
        Of the pyramid, the full resolution first.
    names : tuple of str
        Of the axes.
    min_psnr : float or None
        Chunks of less are stored losslessly, in dB against the chunk's own range.
    source_id : str
        Digest by which the source is known again.
    torch : bool
        Whether torch is to fit.
    """

    src: str
    dst: str
    kind: str
    source_dtype: str
    dtype: str
    settings: Settings
    zarr_format: Literal[2, 3]
    levels: tuple[Level, ...]
    names: tuple[str, ...]
    min_psnr: float | None
    source_id: str
    torch: bool

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
        return sum(math.prod(level.shape) for level in self.levels) * np.dtype(self.dtype).itemsize

    @property
    def bytes_per_worker(self) -> int:
        """Peak memory of a process that works on one task, in bytes."""
        return max(self._peak(level) for level in self.levels)

    def _peak(self, level: Level) -> int:
        dtype = np.dtype(self.dtype)
        voxels, chunk = math.prod(level.clipped), math.prod(level.chunks)
        # Held twice, as a box and as chunks, then decoded again.
        held = 3 * voxels * dtype.itemsize
        small = dtype.kind in "iu" and dtype.itemsize <= 2
        work = chunk * (_SMALL_INTEGERS if small else _OTHERS) + _ENCODER
        if self.torch:
            work = max(work, voxels * _TORCH)
        return _PROCESS + held + (0 if level.lossless else work)

    @property
    def fingerprint(self) -> str:
        """Digest of all that decides which bytes are written."""
        said = {
            "tinc_codec": __version__,
            "source": self.source_id,
            "settings": self.settings.to_json(),
            "zarr_format": self.zarr_format,
            "levels": [asdict(level) for level in self.levels],
            "min_psnr": self.min_psnr,
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def summary(self) -> dict[str, Any]:
        """Return what decides the bytes, in words: two plans that differ differ here."""
        first = self.levels[0]
        return {
            "tinc_codec": __version__,
            "source": self.source_id,
            **{f"settings.{name}": value for name, value in self.settings.to_json().items()},
            "zarr_format": self.zarr_format,
            "shape": list(first.shape),
            "chunks": list(first.chunks),
            "shards": list(first.shards),
            "levels": len(self.levels),
            "lossless levels": [level.path for level in self.levels if level.lossless],
            "min_psnr": self.min_psnr,
        }

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
    src: str | Path,
    dst: str | Path,
    settings: Settings | None = None,
    *,
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    zarr_format: Literal[2, 3] = 3,
    min_psnr: float | None = None,
) -> Plan:
    """Plan a conversion; nothing is written.

    Parameters
    ----------
    src : str or Path
        See :func:`tinc_codec.archive.open_source`.
    dst : str or Path
        Folder of the new archive.
    settings : Settings, optional
        Of the encoder.
    chunks : sequence of int, optional
        Chunk edges of the last axes; axes before them get 1. By default the last three axes are
        cut in equal parts of at most 64 voxels.
    shards : sequence of int, optional
        Shard edges of the last axes, multiples of the chunks'. By default at most 4 chunks along
        each of the last three axes. Format 2 has no shards.
    zarr_format : int
        2 or 3.
    min_psnr : float, optional
        Chunks that would decode with less, in dB against the chunk's own range, are stored
        losslessly.

    Returns
    -------
    Plan

    Raises
    ------
    InvalidSetting
        If a setting, the chunks, the shards or the format are out of range, or the source is
        damaged.
    UnsupportedData
        If the codec does not take the source's dtype.
    OSError
        If the source cannot be read.
    """
    if zarr_format not in (2, 3):
        raise InvalidSetting(f"zarr_format={zarr_format} must be 2 or 3")
    if zarr_format == 2 and shards is not None:
        raise InvalidSetting("zarr format 2 has no shards; leave shards out, or take format 3")
    if min_psnr is not None and not math.isfinite(min_psnr):
        raise InvalidSetting(f"min_psnr={min_psnr} must be a finite number of dB")
    with open_source(src) as source:
        dtype = source.dtype.newbyteorder("=")
        chosen = with_sentinels(settings or Settings(), source.attributes)
        edges = chunk_shape(source.shape, chunks)
        check_encoder(edges, dtype, chosen)
        level = Level(
            path=source.name,
            factors=(1,) * len(source.shape),
            shape=source.shape,
            chunks=edges,
            shards=edges if zarr_format == 2 else shard_shape(source.shape, edges, shards),
            lossless=False,
        )
        made = Plan(
            src=str(src),
            dst=str(dst),
            kind=source.kind,
            source_dtype=source.dtype.str,
            dtype=dtype.str,
            settings=chosen,
            zarr_format=zarr_format,
            levels=(level,),
            names=source.dimension_names,
            min_psnr=min_psnr,
            source_id=_identity(source),
            torch=current_runtime().uses_torch,
        )
        for level in made.levels:  # zarr's own checks, in memory
            new_array({}, level, dtype, chosen, zarr_format, names=made.names)
    return made


def with_sentinels(settings: Settings, attributes: Mapping[str, Any]) -> Settings:
    """Return settings that preserve the values which attributes declare as missing, too."""
    declared = [attributes.get(name) for name in _SENTINEL_ATTRIBUTES]
    sentinels = [
        value
        for value in declared
        if isinstance(value, int | float)
        and math.isfinite(value)
        and value not in settings.preserve
    ]
    return replace(settings, preserve=(*settings.preserve, *dict.fromkeys(sentinels)))


def _identity(source: Source) -> str:
    """Return a digest of what the source says of itself and of voxels at both ends and between.

    The path does not count, so that a conversion may go on from a copy of its source. The time of
    the last change of a file does.
    """
    digest = hashlib.sha256()
    file = source.path
    seen = file.stat() if file.is_file() else None
    said = {
        "shape": source.shape,
        "dtype": source.dtype.str,
        "names": source.dimension_names,
        "attributes": [dict(source.attributes), dict(source.group_attributes), dict(source.ome)],
        "file": [seen.st_size, seen.st_mtime_ns] if seen else None,
    }
    digest.update(json.dumps(said, sort_keys=True, default=repr).encode())
    for part in (0.0, 0.5, 1.0):
        edges = (
            min(_SAMPLE, n) if k >= len(source.shape) - 3 else 1 for k, n in enumerate(source.shape)
        )
        starts = ((int(part * (n - e)), e) for n, e in zip(source.shape, edges, strict=True))
        digest.update(source.read(tuple(slice(s, s + e) for s, e in starts)).tobytes())
    return digest.hexdigest()


def _edges(shape: Sequence[int]) -> str:
    return ",".join(map(str, shape))


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
