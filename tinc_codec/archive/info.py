"""What is in an archive: the array, how it was encoded, and what the payloads say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tinc_codec.archive.payloads import (
    CODEC_IDS,
    is_plain,
    payloads,
    positions_by_file,
    stored_bytes,
)
from tinc_codec.archive.scores import quantiles, ratio
from tinc_codec.archive.sources import open_source, zarr_array
from tinc_codec.inspection import inspect


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkSummary:
    """What the payloads of an array say of themselves.

    Attributes
    ----------
    forms : dict of str to int
        Chunks of each form, such as "tree" and "constant"; "absent" are the ones that zarr left
        out because they hold only the fill value.
    ratio : tuple of float
        Lowest, median and highest ratio; empty if there are no payloads.
    psnr_db : tuple of float
        Lowest, median and highest PSNR that the encoder reached, each against its chunk's own
        range; empty if none is recorded.
    """

    forms: dict[str, int]
    ratio: tuple[float, ...]
    psnr_db: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveInfo:
    """A zarr array, as :func:`info` found it.

    Attributes
    ----------
    path : Path
        As given.
    name, kind : str
        Of the array: its name in the group, "zarr v2" or "zarr v3".
    shape, chunks : tuple of int
        In voxels.
    shards : tuple of int or None
        In voxels; None without shards.
    dtype : numpy.dtype
        Of a voxel.
    dimension_names : tuple of str
        One for each axis.
    raw_bytes, stored_bytes : int
        Of the voxels, and of the chunks on disk without metadata.
    settings : dict or None
        The codec's settings; None if the array was not written by TINC.
    provenance : dict or None
        The attribute ``tinc_codec``, as :func:`tinc_codec.archive.convert` wrote it.
    summary : ChunkSummary or None
        None if the array was not written by TINC, or another codec goes over its payloads.
    """

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    dtype: np.dtype[Any]
    dimension_names: tuple[str, ...]
    raw_bytes: int
    stored_bytes: int
    settings: dict[str, Any] | None
    provenance: dict[str, Any] | None
    summary: ChunkSummary | None

    @property
    def ratio(self) -> float:
        """Raw bytes over stored bytes."""
        return ratio(self.raw_bytes, self.stored_bytes)


def info(path: str | Path) -> ArchiveInfo:
    """Describe a zarr array without decoding it.

    Parameters
    ----------
    path : str or Path
        A zarr array or group; see :func:`tinc_codec.archive.open_source`.

    Returns
    -------
    ArchiveInfo

    Raises
    ------
    InvalidSetting
        If it is no zarr array.
    CorruptPayload
        If the header of a chunk is damaged.
    OSError
        If a file cannot be read.
    """
    with open_source(path) as source:
        array = zarr_array(source)
    settings = codec_settings(array)
    return ArchiveInfo(
        path=source.path,
        name=source.name,
        kind=source.kind,
        shape=source.shape,
        chunks=array.chunks,
        shards=array.shards,
        dtype=source.dtype,
        dimension_names=source.dimension_names,
        raw_bytes=array.nbytes,
        stored_bytes=stored_bytes(array),
        settings=settings,
        provenance=provenance_of(source.attributes),
        summary=_summary(array) if is_plain(array) else None,
    )


def provenance_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what an archive's attributes tell of its making; None if nothing, or nonsense."""
    found = attributes.get("tinc_codec")
    return found if isinstance(found, dict) else None


def codec_settings(array: zarr.Array[Any]) -> dict[str, Any] | None:
    """Return the settings of TINC as the array's metadata hold them, None for other codecs."""
    return next(_tinc_configurations(array.metadata.to_dict()), None)


def _tinc_configurations(metadata: Any) -> Iterator[dict[str, Any]]:
    """Find the codec wherever zarr keeps it: v2 compressor, v3 codecs, codecs inside sharding."""
    if isinstance(metadata, dict):
        if metadata.get("id") in CODEC_IDS:
            yield {name: value for name, value in metadata.items() if name != "id"}
        elif metadata.get("name") in CODEC_IDS:
            yield dict(metadata.get("configuration") or {})
        metadata = [value for key, value in metadata.items() if key != "attributes"]
    if isinstance(metadata, list | tuple):
        for value in metadata:
            yield from _tinc_configurations(value)


def _summary(array: zarr.Array[Any]) -> ChunkSummary:
    forms: Counter[str] = Counter()
    ratios: list[float] = []
    psnrs: list[float] = []
    for group in positions_by_file(array):
        for payload in payloads(array, group):
            if payload is None:
                forms["absent"] += 1
                continue
            found = inspect(payload)
            forms[found.form] += 1
            ratios.append(found.ratio)
            psnrs.append(found.psnr_db)
    known = [value for value in psnrs if not np.isnan(value)]
    return ChunkSummary(forms=dict(forms), ratio=_spread(ratios), psnr_db=_spread(known))


def _spread(values: list[float]) -> tuple[float, ...]:
    return tuple(quantiles(values, 0, 0.5, 1)) if values else ()
