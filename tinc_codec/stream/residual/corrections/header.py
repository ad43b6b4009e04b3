"""The bytes of a CORRECTION section: a header, and the data of slabs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.stream.residual.corrections.lattices import INTERPOLATED, set_sizes
from tinc_codec.stream.wire import Reader, Writer

NAME = "CORRECTION section"
# Fields and bounds are below this in magnitude.
LIMIT = 1 << 33
WEIGHT_LIMIT = 1 << 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """All that is before the data of the slabs."""

    mode: int
    bound: int
    lowest: int
    highest: int
    weights: tuple[Int64Array, ...]


def _zigzag(n: int) -> int:
    return 2 * n if n >= 0 else -2 * n - 1


def _unzigzag(n: int) -> int:
    return -(n + 1 >> 1) if n & 1 else n >> 1


def to_bytes(header: Header, slabs: Sequence[bytes]) -> bytes:
    """Return the section of a header and the data of each slab."""
    out = Writer().u8(header.mode).varint(header.bound)
    out.varint(_zigzag(header.lowest)).varint(header.highest - header.lowest).varint(len(slabs))
    for weights in header.weights:
        for weight in weights:
            out.varint(_zigzag(int(weight)))
    for slab in slabs[:-1]:
        out.varint(len(slab))
    for slab in slabs:
        out.raw(slab)
    return out.getvalue()


def from_bytes(data: bytes, depth: int) -> tuple[Header, list[bytes]]:
    """Return the header of a section, and the data of each slab.

    Raises
    ------
    CorruptPayload
        If a field is out of its range for a box of so many planes.
    TruncatedPayload
        If the data end before the header and its lengths say.
    """
    reader = Reader(data, NAME)
    mode, bound = reader.u8(), reader.varint()
    if mode > INTERPOLATED or bound >= LIMIT:
        raise CorruptPayload(
            f"{NAME}: mode {mode} (at most {INTERPOLATED}), bound {bound} (below 2**33)"
        )
    lowest = _unzigzag(reader.varint())
    highest = lowest + reader.varint()
    count = reader.varint()
    if max(-lowest, highest) >= LIMIT or not 1 <= count <= depth:
        raise CorruptPayload(
            f"{NAME}: values {lowest} to {highest} (below 2**33 in magnitude), {count} slabs of "
            f"{depth} planes"
        )
    weights = tuple(
        np.array([_unzigzag(reader.varint()) for _ in range(n)], np.int64) for n in set_sizes(mode)
    )
    if any((np.abs(w) >= WEIGHT_LIMIT).any() for w in weights):
        raise CorruptPayload(f"{NAME}: a weight is {WEIGHT_LIMIT} or more")
    lengths = tuple(reader.varint() for _ in range(count - 1))
    slabs = [reader.take(n) for n in lengths]
    slabs.append(reader.take(reader.remaining))
    header = Header(mode=mode, bound=bound, lowest=lowest, highest=highest, weights=weights)
    return header, slabs
