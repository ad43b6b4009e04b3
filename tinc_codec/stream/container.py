"""The container: magic, version and checksummed sections of opaque bytes (FORMAT.md)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

import google_crc32c

from tinc_codec.errors import CorruptPayload, TruncatedPayload, UnsupportedVersion
from tinc_codec.stream.wire import Reader, Writer, pack_varint, varint_size

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"TINC"
FORMAT_VERSION = 1
HEADER_BYTES = len(MAGIC) + 2

_CRC_BYTES = 4
_OPTIONAL_BIT = 0x80
_RESERVED_BIT = 0x40
_KIND_BITS = 0x3F


class SectionKind(IntEnum):
    """What a section holds; those not named are for later versions, 0 is never used."""

    ARRAY = 1
    TREE = 2
    WEIGHTS = 3
    COSINE = 4
    CROP = 5
    MASK = 6
    WAVELET = 7
    CORRECTION = 8
    FILTER = 9


_KNOWN_KINDS = frozenset(int(kind) for kind in SectionKind)


def section_overhead(size: int) -> int:
    """Return the bytes that a section takes beside its ``size`` bytes of data.

    A payload takes ``HEADER_BYTES + sum(size + section_overhead(size))`` bytes.
    """
    return 1 + varint_size(size) + _CRC_BYTES


def _checksum(head: bytes, data: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.value(head), data))


def pack(sections: Mapping[SectionKind, bytes]) -> bytes:
    """Return the payload that holds the sections, in increasing order of kind.

    Parameters
    ----------
    sections : mapping of SectionKind to bytes
        The data of each section.
    """
    out = Writer().raw(MAGIC).u8(FORMAT_VERSION).u8(len(sections))
    for kind in sorted(sections):
        data = sections[kind]
        head = bytes([SectionKind(kind)]) + pack_varint(len(data))
        out.raw(head).raw(data).u32(_checksum(head, data))
    return out.getvalue()


def unpack(payload: Buffer) -> dict[SectionKind, bytes]:
    """Return the sections of a payload, checked, in increasing order of kind.

    Unknown optional sections are skipped. No more than the size of the payload is allocated.

    Parameters
    ----------
    payload : bytes-like
        Any object with the buffer protocol, read-only or not.

    Raises
    ------
    TruncatedPayload
        If the payload ends early.
    UnsupportedVersion
        If the version, or a section that decoding needs, is of a later tinc_codec.
    CorruptPayload
        If anything else is not as FORMAT.md has it.
    """
    reader = Reader(_byte_view(payload), "payload")
    _check_magic(reader)
    version = reader.u8()
    if version != FORMAT_VERSION:
        raise UnsupportedVersion(
            f"payload format version {version} is unknown, this tinc_codec reads version "
            f"{FORMAT_VERSION}; upgrade tinc_codec"
        )
    sections: dict[SectionKind, bytes] = {}
    previous = 0
    for _ in range(reader.u8()):
        tag, data = _read_section(reader)
        kind = _check_tag(tag, previous)
        if kind is not None:
            sections[kind] = data
        previous = tag & _KIND_BITS
    reader.done()
    return sections


def _byte_view(payload: Buffer) -> memoryview:
    view = memoryview(payload)
    if view.ndim == 1 and view.contiguous and view.format == "B":
        return view
    # Other layouts (numpy arrays of any dtype) do not slice by the byte.
    return memoryview(view.tobytes())


def _check_magic(reader: Reader) -> None:
    found = reader.take(min(len(MAGIC), reader.remaining))
    if not MAGIC.startswith(found):
        raise CorruptPayload(
            f"payload starts with {found!r}, not {MAGIC!r}: it was not written by tinc_codec, "
            "check the codec of this array"
        )
    if len(found) < len(MAGIC):
        raise TruncatedPayload(
            f"payload has {len(found)} bytes, the shortest has {HEADER_BYTES}; "
            "it was cut short, restore it from its source"
        )


def _read_section(reader: Reader) -> tuple[int, bytes]:
    tag = reader.u8()
    size = reader.varint()
    data = reader.take(size)
    expected = reader.u32()
    found = _checksum(bytes([tag]) + pack_varint(size), data)
    if found != expected:
        raise CorruptPayload(
            f"the section that ends at byte {reader.offset} has CRC32C {found:#010x}, not "
            f"{expected:#010x} as stored: its bytes were damaged, restore them from their source"
        )
    return tag, data


def _check_tag(tag: int, previous: int) -> SectionKind | None:
    """Return the kind of a section, None for one to be skipped."""
    kind = tag & _KIND_BITS
    if tag & _RESERVED_BIT:
        raise CorruptPayload(f"section tag {tag:#04x} has bit 6 set, which is reserved as zero")
    if kind <= previous:
        raise CorruptPayload(
            f"section kind {kind} follows kind {previous}; kinds start at 1 and increase"
        )
    known = kind in _KNOWN_KINDS
    if known and tag & _OPTIONAL_BIT:
        raise CorruptPayload(f"section kind {kind} is marked optional, but is never optional")
    if known:
        return SectionKind(kind)
    if tag & _OPTIONAL_BIT:
        return None
    raise UnsupportedVersion(
        f"payload needs a section of kind {kind}, this tinc_codec knows kinds 1 to "
        f"{max(_KNOWN_KINDS)}; upgrade tinc_codec"
    )
