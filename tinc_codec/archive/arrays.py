"""The zarr arrays of an archive: their layout, their codecs, and how they are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from zarr.storage import MemoryStore

from tinc_codec.archive.layout import grid_shape
from tinc_codec.archive.shards import chunks_in_a_shard
from tinc_codec.archive.sources import SourceSpec
from tinc_codec.encode import encode_chunk
from tinc_codec.settings import Settings

Documents = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One array of the archive: a level of the pyramid, or of a label image.

    Attributes
    ----------
    source : SourceSpec
        What it is made from.
    path : str
        Of the array within the archive's group.
    dtype : str
        In the machine's byte order, as numpy writes it.
    factors : tuple of int
        Voxels of the source that one voxel is the mean of, along each axis.
    shape, chunks, shards : tuple of int
        In voxels. Without shards, the shards are the chunks.
    lossless : bool
        Whether the voxels are stored as they are, by zarr's own codecs.
    labels : bool
        Whether voxels are names of things: coarser ones are picked, where others are means.
    image : str
        Group of the label image within the archive; empty for the image itself.
    missing : float or None
        Value that stands for no value.
    staged : bool
        Whether planes or chunks of the source are so large that they are kept on a local disk.
    held : int
        Bytes of memory that reading takes besides the voxels asked for.
    """

    source: SourceSpec
    path: str
    dtype: str
    factors: tuple[int, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...]
    lossless: bool
    labels: bool = False
    image: str = ""
    missing: float | None = None
    staged: bool = False
    held: int = 0

    @property
    def grid(self) -> tuple[int, ...]:
        """Shards along each axis."""
        return grid_shape(self.shape, self.shards)

    @property
    def tasks(self) -> int:
        """Shards in all."""
        return math.prod(self.grid)

    @property
    def chunk_count(self) -> int:
        """Chunks that hold a voxel of the array."""
        return math.prod(grid_shape(self.shape, self.chunks))

    @property
    def raw_bytes(self) -> int:
        """Bytes of the voxels."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def clipped(self) -> tuple[int, ...]:
        """The shard shape, at most the shape of the array."""
        return tuple(min(s, n) for s, n in zip(self.shards, self.shape, strict=True))

    @property
    def sharded(self) -> bool:
        """Whether a shard holds more than one chunk; a single one needs no shard around it."""
        return chunks_in_a_shard(self.shards, self.chunks) > 1


def new_array(
    documents: Documents,
    level: Level,
    settings: Settings,
    zarr_format: Literal[2, 3],
    described: Mapping[str, Any] | None = None,
) -> zarr.Array[Any]:
    """Make the array of a level in a store in memory.

    Parameters
    ----------
    documents : dict
        The store: metadata and chunks by their keys, as zarr's buffers.
    level : Level
        Its layout.
    settings : Settings
        Of the encoder.
    zarr_format : int
        2 or 3.
    described : mapping, optional
        Names of the axes and attributes, as :func:`tinc_codec.archive.ome.array_options` has them.
    """
    options: dict[str, Any] = {} if level.lossless else codec(settings, zarr_format)
    if zarr_format == 2:
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
        options["fill_value"] = None  # any other value would be a missing one to xarray
    elif level.sharded:
        options["shards"] = level.shards
    return zarr.create_array(
        MemoryStore(documents),
        name=level.path,
        shape=level.shape,
        dtype=level.dtype,
        chunks=level.chunks,
        zarr_format=zarr_format,
        **{**options, **(described or {})},
    )


def new_stack(
    documents: Documents,
    count: int,
    level: Level,
    settings: Settings,
    zarr_format: Literal[2, 3],
) -> zarr.Array[Any]:
    """Make an array in memory that has whole chunks of a level one after the other, each a key.

    What zarr writes under key k/0/0... are the bytes of the k-th chunk, in a shard as elsewhere.
    """
    options: dict[str, Any] = {} if level.lossless else codec(settings, zarr_format)
    if zarr_format == 2:
        options["fill_value"] = None
    return zarr.create_array(
        MemoryStore(documents),
        shape=(count * level.chunks[0], *level.chunks[1:]),
        dtype=level.dtype,
        chunks=level.chunks,
        zarr_format=zarr_format,
        **options,
    )


def codec(settings: Settings, zarr_format: Literal[2, 3]) -> dict[str, Any]:
    """Return the options of ``create_array`` that name the codec."""
    if zarr_format == 2:
        from tinc_codec.zarr_v2 import TINC

        return {"compressors": TINC.from_json(settings.to_json())}
    from tinc_codec.zarr_v3 import TINCSerializer

    return {"serializer": TINCSerializer.from_json(settings.to_json()), "compressors": None}


def check_encoder(chunks: tuple[int, ...], dtype: np.dtype[Any], settings: Settings) -> None:
    """Let the encoder say whether it takes such chunks at all; no voxel is fitted.

    Raises
    ------
    InvalidSetting
        If the settings leave too few bytes.
    UnsupportedData
        If it does not take the dtype.
    """
    encode_chunk(np.zeros(chunks, dtype), settings)
