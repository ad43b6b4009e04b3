"""The payloads of an array's chunks as they are stored, those inside shards too; their sizes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple

import zarr
from zarr.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore

from tinc_codec.archive import shards
from tinc_codec.archive.layout import Position, grid_shape
from tinc_codec.errors import CorruptPayload, InvalidSetting
from tinc_codec.inspection import inspect

CODEC_IDS = ("tinc", "tinc_codec.tinc")
_AT_ONCE = 64  # requests
_METADATA_FILES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def payloads(array: zarr.Array[Any], positions: Sequence[Position]) -> list[bytes | None]:
    """Read the stored bytes of chunks; each file is read once.

    Parameters
    ----------
    array : zarr.Array
        In any store.
    positions : sequence of tuple of int
        In the grid of chunks (of inner ones, if there are shards).

    Returns
    -------
    list of bytes or None
        None for chunks that zarr left out because they hold only the fill value.

    Raises
    ------
    CorruptPayload
        If the index of a shard is damaged.
    InvalidSetting
        If shards have an index that this version does not read.
    OSError
        If a file cannot be read.
    """
    per_shard = chunks_per_shard(array)
    files: dict[Position, dict[Position, bytes] | None] = {}
    found: list[bytes | None] = []
    for position in positions:
        at = tuple(k // n for k, n in zip(position, per_shard, strict=True))
        if at not in files:
            stored = read_file(array, at)
            files[at] = None if stored is None else _parts(array, at, stored, per_shard)
        inner = tuple(k % n for k, n in zip(position, per_shard, strict=True))
        found.append((files[at] or {}).get(inner))
    return found


def positions_by_file(array: zarr.Array[Any]) -> Iterator[list[Position]]:
    """Yield for each file, which is a shard or a chunk, the grid positions of the chunks in it."""
    per_shard = chunks_per_shard(array)
    grid = grid_shape(array.shape, array.chunks)
    for corner in product(*(range(0, n, step) for n, step in zip(grid, per_shard, strict=True))):
        sides = zip(corner, per_shard, grid, strict=True)
        yield list(product(*(range(k, min(k + step, n)) for k, step, n in sides)))


def chunks_per_shard(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return how many chunks a file holds along each axis: 1 without shards."""
    if array.shards is None:
        return (1,) * array.ndim
    return tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))


def index_bytes(array: zarr.Array[Any]) -> int:
    """Return the bytes of a shard's index; 0 without shards.

    Raises
    ------
    InvalidSetting
        If this version does not read such an index.
    """
    if array.shards is None:
        return 0
    return shards.index_bytes(math.prod(chunks_per_shard(array)), checked=_index_of(array).checked)


class _Index(NamedTuple):
    """Where the index of a shard is, and whether a checksum follows it."""

    at_end: bool
    checked: bool


def _index_of(array: zarr.Array[Any]) -> _Index:
    codecs: Any = array.metadata.to_dict()["codecs"]
    sharding = codecs[0]["configuration"]
    index = sharding["index_codecs"]
    names = [codec["name"] for codec in index]
    known = len(codecs) == 1 and names in (["bytes"], ["bytes", "crc32c"])
    if not known or index[0].get("configuration", {}).get("endian", "little") != "little":
        raise InvalidSetting(f"{array.name}: shards with index codecs {names} are not read here")
    at_end = sharding.get("index_location", "end") == "end"
    return _Index(at_end=at_end, checked=len(names) > 1)


def read_file(array: zarr.Array[Any], position: Position) -> bytes | None:
    """Return the bytes of a chunk's file, or of a shard's; None if it is absent."""
    key = array.metadata.encode_chunk_key(position)
    path = f"{array.path}/{key}" if array.path else key
    stored = sync(array.store.get(path, default_buffer_prototype()))
    return None if stored is None else stored.to_bytes()


def form(payload: bytes | None, plain: bool = True) -> str:
    """Return the form of a payload, such as "tree"; "absent" for None, "" for other codecs'.

    Parameters
    ----------
    payload : bytes or None
        As :func:`payloads` gave it.
    plain : bool
        Whether the array's payloads are TINC's own; see :func:`is_plain`.
    """
    if payload is None:
        return "absent"
    return inspect(payload).form if plain else ""


def is_plain(array: zarr.Array[Any]) -> bool:
    """Whether what is stored of a chunk is a payload of TINC, with no codec before or after it."""
    metadata = array.metadata.to_dict()
    if array.metadata.zarr_format == 2:
        compressor: Any = metadata.get("compressor") or {}
        return compressor.get("id") in CODEC_IDS and not metadata.get("filters")
    codecs: Any = metadata["codecs"]
    if array.shards is not None:
        codecs = codecs[0]["configuration"]["codecs"]
    return len(codecs) == 1 and codecs[0]["name"] in CODEC_IDS


def check_plain(array: zarr.Array[Any], option: str, remedy: str) -> None:
    """Refuse an option of reading where chunks are not payloads of TINC alone.

    Raises
    ------
    InvalidSetting
        If :func:`is_plain` says not.
    """
    if not is_plain(array):
        raise InvalidSetting(
            f"{array.store_path}: {option} is for chunks that TINC alone has encoded, and these "
            f"are of another codec; {remedy}"
        )


def _parts(
    array: zarr.Array[Any], at: Position, stored: bytes, per_shard: tuple[int, ...]
) -> dict[Position, bytes]:
    """Return the payloads of a shard's chunks by their places in it."""
    if array.shards is None:
        return {(0,) * array.ndim: stored}
    index = _index_of(array)
    found = shards.unpack(stored, math.prod(per_shard), at_end=index.at_end, checked=index.checked)
    if found is None:
        key = array.metadata.encode_chunk_key(at)
        raise CorruptPayload(f"the index of shard {array.path}/{key} is damaged")
    places = product(*map(range, per_shard))
    pairs = zip(places, found, strict=True)
    return {place: payload for place, payload in pairs if payload is not None}


def stored_bytes(array: zarr.Array[Any]) -> int:
    """Return the bytes of all chunks of an array, without metadata."""
    if not isinstance(array.store, LocalStore):
        return sum(sync(_remote_sizes(array)))
    folder = Path(array.store.root) / array.path
    files = (path for path in folder.rglob("*") if path.name not in _METADATA_FILES)
    return sum(path.stat().st_size for path in files if path.is_file())


async def _remote_sizes(array: zarr.Array[Any]) -> list[int]:
    """Ask for the size of each file by its name: not every store can list what it holds."""

    async def size(position: Position) -> int:
        key = array.metadata.encode_chunk_key(position)
        try:
            return await array.store.getsize(f"{array.path}/{key}" if array.path else key)
        except FileNotFoundError:  # zarr leaves out chunks of only fill value
            return 0

    found: list[int] = []
    positions = product(*map(range, grid_shape(array.shape, array.shards or array.chunks)))
    while batch := list(islice(positions, _AT_ONCE)):
        found += await asyncio.gather(*map(size, batch))
    return found
