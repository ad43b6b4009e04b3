"""The bytes of a shard: payloads one after the other, and the index that says where each lies.

The layout is that of the codec ``sharding_indexed`` with its defaults (zarr v3 specification,
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): the index at the end,
offset and length of each chunk in C order as little-endian uint64, then its CRC32C. Written here
because zarr offers no way to put together a shard of payloads that are there already, such as the
ones of which a few were encoded otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import google_crc32c
import numpy as np

_ABSENT = 2**64 - 1
_CHECKSUM_BYTES = 4


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


def chunks_in_a_shard(shards: Sequence[int], chunks: Sequence[int]) -> int:
    """Return how many chunks a whole shard has."""
    return math.prod(s // c for s, c in zip(shards, chunks, strict=True))
