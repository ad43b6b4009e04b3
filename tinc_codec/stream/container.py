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

# Format 2 starts with two bytes, format 1 with four and a byte of the version.
MAGIC = b"T2"
_MAGIC_1 = b"TINC"
FORMAT_VERSION = 2

_CRC_BYTES = 4
# Of a payload, beside its sections.
HEADER_BYTES = len(MAGIC) + _CRC_BYTES
_OPTIONAL_BIT = 0x80
_LAST_BIT = 0x40
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
    return 1 + varint_size(size)


def _checksum(data: bytes | memoryview) -> int:
    return int(google_crc32c.value(bytes(data)))


def pack(sections: Mapping[SectionKind, bytes]) -> bytes:
    """Return the payload that holds the sections, in increasing order of kind.

    Parameters
    ----------
    sections : mapping of SectionKind to bytes
        The data of each section, of one at least.
    """
    out = Writer().raw(MAGIC)
    last = max(sections)
    for kind in sorted(sections):
        data = sections[kind]
        out.u8(SectionKind(kind) | _LAST_BIT * (kind == last)).varint(len(data)).raw(data)
    return out.u32(_checksum(out.getvalue())).getvalue()


def unpack(payload: Buffer) -> dict[SectionKind, bytes]:
    """Return the sections of a payload of any version, checked, in increasing order of kind.

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
    view = _byte_view(payload)
    reader = Reader(view, "payload")
    found = _read_sections_1(reader) if _version(reader) == 1 else _read_sections(reader, view)
    reader.done()
    sections: dict[SectionKind, bytes] = {}
    previous = 0
    for tag, data in found:
        kind = _check_tag(tag, previous)
        if kind is not None:
            sections[kind] = data
        previous = tag & _KIND_BITS
    return sections


def _byte_view(payload: Buffer) -> memoryview:
    view = memoryview(payload)
    if view.ndim == 1 and view.contiguous and view.format == "B":
        return view
    # Other layouts (numpy arrays of any dtype) do not slice by the byte.
    return memoryview(view.tobytes())


def _version(reader: Reader) -> int:
    """Read the magic and return the version that it is of."""
    found = reader.take(min(len(MAGIC), reader.remaining))
    if found == MAGIC:
        return FORMAT_VERSION
    found += reader.take(min(len(_MAGIC_1) - len(found), reader.remaining))
    if not _MAGIC_1.startswith(found):
        raise CorruptPayload(
            f"payload starts with {found!r}, not {MAGIC!r} or {_MAGIC_1!r}: it was not written by "
            "tinc_codec (is that the codec of this array?)"
        )
    if len(found) < len(_MAGIC_1):
        raise TruncatedPayload(
            f"payload has {len(found)} bytes, the shortest has {HEADER_BYTES}: it was cut short"
        )
    version = reader.u8()
    if version != 1:
        raise UnsupportedVersion(
            f"payload format version {version} is unknown, this tinc_codec reads versions 1 to "
            f"{FORMAT_VERSION}; upgrade tinc_codec"
        )
    return version


def _read_sections(reader: Reader, payload: memoryview) -> list[tuple[int, bytes]]:
    """Return tags, without the bit of the last, and data; the checksum is of all together."""
    found = []
    is_last = False
    while not is_last:
        tag = reader.u8()
        is_last = bool(tag & _LAST_BIT)
        found.append((tag & ~_LAST_BIT, reader.take(reader.varint())))
    end = reader.offset
    _compare(reader.u32(), _checksum(payload[:end]), f"the payload, whose sections end at {end},")
    return found


def _read_sections_1(reader: Reader) -> list[tuple[int, bytes]]:
    """Return tags and data of format 1, each section with a checksum of its own."""
    found = []
    for _ in range(reader.u8()):
        tag, size = reader.u8(), reader.varint()
        data = reader.take(size)
        head = bytes([tag]) + pack_varint(size)
        expected, which = reader.u32(), f"the section that ends at byte {reader.offset}"
        _compare(expected, _checksum(head + data), which)
        if tag & _LAST_BIT:
            raise CorruptPayload(f"section tag {tag:#04x} has bit 6 set, which is reserved as zero")
        found.append((tag, data))
    return found


def _compare(expected: int, found: int, which: str) -> None:
    if found != expected:
        raise CorruptPayload(
            f"{which} has CRC32C {found:#010x}, not {expected:#010x} as stored: its bytes were "
            "damaged"
        )


def _check_tag(tag: int, previous: int) -> SectionKind | None:
    """Return the kind of a section, None for one to be skipped."""
    kind = tag & _KIND_BITS
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
