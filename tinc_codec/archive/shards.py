"""The bytes of a shard: payloads one after the other, and the index that says where each lies.

The layout is that of the codec ``sharding_indexed`` (zarr v3 specification,
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): the index at the end,
offset and length of each chunk in C order as little-endian uint64, then its CRC32C. Here because
zarr offers no way to put together a shard of payloads that are there already, such as the ones of
which a few were encoded otherwise, nor to take one apart without decoding it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import google_crc32c
import numpy as np

_ABSENT = 2**64 - 1  # offset and length of a chunk that is not there
_ROW_BYTES, _CHECKSUM_BYTES = 16, 4


def pack(payloads: Sequence[bytes | None]) -> bytes | None:
    """Return the bytes of a shard; None if it holds no payload.

    Parameters
    ----------
    payloads : sequence of bytes or None
        Of all chunks of the shard, in C order; None for those that hold only the fill value.
    """
    index = np.full((len(payloads), 2), _ABSENT, "<u8")
    start = 0
    for row, payload in zip(index, payloads, strict=True):
        if payload is not None:
            row[:] = start, len(payload)
            start += len(payload)
    if not any(payload is not None for payload in payloads):
        return None
    table = index.tobytes()
    checksum = int(google_crc32c.value(table)).to_bytes(_CHECKSUM_BYTES, "little")
    return b"".join([*filter(None, payloads), table, checksum])


def index_bytes(count: int, *, checked: bool) -> int:
    """Return the bytes of the index of a shard of so many chunks, with its checksum or without."""
    return _ROW_BYTES * count + _CHECKSUM_BYTES * checked


def unpack(stored: bytes, count: int, *, at_end: bool, checked: bool) -> list[bytes | None] | None:
    """Return the payloads of a shard's chunks, in C order; None if its index is damaged.

    Parameters
    ----------
    stored : bytes
        Of the shard.
    count : int
        Chunks of a whole shard.
    at_end, checked : bool
        Whether the index is at the end, not the beginning, and whether its checksum follows it.
    """
    length = index_bytes(count, checked=checked)
    coded = stored[-length:] if at_end else stored[:length]
    table, checksum = coded[: _ROW_BYTES * count], coded[_ROW_BYTES * count :]
    expected = int(google_crc32c.value(table)).to_bytes(_CHECKSUM_BYTES, "little")
    if len(coded) != length or (checked and checksum != expected):
        return None
    rows = np.frombuffer(table, "<u8").reshape(-1, 2).tolist()
    return [None if at == _ABSENT else stored[at : at + size] for at, size in rows]


def chunks_in_a_shard(shards: Sequence[int], chunks: Sequence[int]) -> int:
    """Return how many chunks a whole shard has."""
    return math.prod(s // c for s, c in zip(shards, chunks, strict=True))
