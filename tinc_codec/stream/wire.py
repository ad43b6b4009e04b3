"""Bounded little-endian reading and writing: the primitive under every section of a payload.

All multi-byte fields are little-endian. A varint is unsigned LEB128 in its shortest form, of at
most five bytes, hence below 2**35. Fields narrower than a byte follow one another from bit 0 on.
"""

from __future__ import annotations

import struct

from tinc_codec.errors import CorruptPayload, TruncatedPayload

MAX_VARINT_BYTES = 5
VARINT_LIMIT = 1 << (7 * MAX_VARINT_BYTES)


def varint_size(value: int) -> int:
    """Return the bytes that :func:`pack_varint` takes for ``value``."""
    return max(1, -(-value.bit_length() // 7))


def pack_varint(value: int) -> bytes:
    """Return ``value`` as unsigned LEB128, shortest form.

    Raises
    ------
    ValueError
        If the value is negative or not below 2**35.
    """
    if not 0 <= value < VARINT_LIMIT:
        raise ValueError(f"a varint holds 0 to {VARINT_LIMIT - 1}, got {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Writer:
    """Appends fields to a growing byte string; each method returns the writer."""

    __slots__ = ("_out",)

    def __init__(self) -> None:
        self._out = bytearray()

    def raw(self, data: bytes) -> Writer:
        """Append bytes as they are."""
        self._out += data
        return self

    def u8(self, value: int) -> Writer:
        """Append an unsigned byte."""
        return self.raw(value.to_bytes(1, "little"))

    def u16(self, value: int) -> Writer:
        """Append an unsigned 16-bit integer."""
        return self.raw(value.to_bytes(2, "little"))

    def u32(self, value: int) -> Writer:
        """Append an unsigned 32-bit integer."""
        return self.raw(value.to_bytes(4, "little"))

    def f32(self, value: float) -> Writer:
        """Append an IEEE 754 binary32 number, rounded to nearest."""
        return self.raw(struct.pack("<f", value))

    def varint(self, value: int) -> Writer:
        """Append an unsigned LEB128 integer below 2**35."""
        return self.raw(pack_varint(value))

    def getvalue(self) -> bytes:
        """Return everything written so far."""
        return bytes(self._out)


class Reader:
    """Reads fields from bytes and never past their end.

    Parameters
    ----------
    data : bytes or memoryview of unsigned bytes
        What to read.
    what : str
        The name of the data in error messages, such as "ARRAY section".
    """

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = data
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._offset

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes, a copy.

        Raises
        ------
        TruncatedPayload
            If fewer remain; nothing is allocated then.
        """
        if count > self.remaining:
            raise TruncatedPayload(
                f"{self._what} ends after {len(self._data)} bytes, but byte {self._offset} "
                f"announces {count} more: it was cut short"
            )
        start, self._offset = self._offset, self._offset + count
        return bytes(self._data[start : self._offset])

    def u8(self) -> int:
        """Read an unsigned byte."""
        return self.take(1)[0]

    def u16(self) -> int:
        """Read an unsigned 16-bit integer."""
        return int.from_bytes(self.take(2), "little")

    def u32(self) -> int:
        """Read an unsigned 32-bit integer."""
        return int.from_bytes(self.take(4), "little")

    def f32(self) -> float:
        """Read an IEEE 754 binary32 number; it may be NaN or infinite."""
        value: float = struct.unpack("<f", self.take(4))[0]
        return value

    def varint(self) -> int:
        """Read an unsigned LEB128 integer in shortest form.

        Raises
        ------
        CorruptPayload
            If it is longer than five bytes, or padded with a zero byte.
        """
        value = 0
        for index in range(MAX_VARINT_BYTES):
            byte = self.u8()
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                if byte == 0 and index > 0:
                    raise CorruptPayload(
                        f"{self._what}: the number that ends at byte {self._offset} is not in "
                        "its shortest form"
                    )
                return value
        raise CorruptPayload(
            f"{self._what}: the number that ends at byte {self._offset} takes more than "
            f"{MAX_VARINT_BYTES} bytes"
        )

    def done(self) -> None:
        """Check that everything was read.

        Raises
        ------
        CorruptPayload
            If bytes remain.
        """
        if self.remaining:
            raise CorruptPayload(
                f"{self._what} has {self.remaining} bytes after its end at byte {self._offset}"
            )


class BitWriter:
    """Appends fields of a few bits, each above the one before."""

    __slots__ = ("_count", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._count = 0

    def put(self, value: int, bits: int) -> BitWriter:
        """Append an integer, two's complement where it is negative."""
        self._value |= (value & ((1 << bits) - 1)) << self._count
        self._count += bits
        return self

    def getvalue(self) -> bytes:
        """Return everything written so far; unused bits of the last byte are 0."""
        return self._value.to_bytes(-(-self._count // 8), "little")


class BitReader:
    """Reads fields of a few bits and never past the end.

    Parameters
    ----------
    data : bytes
        What to read.
    what : str
        The name of the data in error messages.
    """

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._at = 0
        self._what = what

    @property
    def _left(self) -> int:
        return 8 * len(self._data) - self._at

    def take(self, bits: int) -> int:
        """Read an unsigned integer.

        Raises
        ------
        TruncatedPayload
            If fewer bits remain.
        """
        if bits > self._left:
            raise TruncatedPayload(
                f"{self._what} has {self._left} bits where {bits} are announced: it was cut short"
            )
        first, skipped = divmod(self._at, 8)
        self._at += bits
        around = int.from_bytes(self._data[first : -(-self._at // 8)], "little")
        return (around >> skipped) & ((1 << bits) - 1)

    def several(self, count: int, bits: int) -> list[int]:
        """Read so many unsigned integers of as many bits each; see :meth:`take`."""
        together, lowest = self.take(count * bits), (1 << bits) - 1
        return [together >> k * bits & lowest for k in range(count)]

    def done(self) -> None:
        """Check that less than a byte is left, and that it is 0.

        Raises
        ------
        CorruptPayload
            If there is more.
        """
        left = self._left
        if left >= 8 or (left and self._data[-1] >> (8 - left)):
            raise CorruptPayload(f"{self._what} has {left} bits after its end")
