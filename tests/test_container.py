"""container: exact framing, and every damage is noticed."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload, UnsupportedVersion
from tinc_codec.stream.container import (
    HEADER_BYTES,
    SectionKind,
    pack,
    section_overhead,
    unpack,
)
from tinc_codec.stream.wire import pack_varint

SAMPLE = {
    SectionKind.ARRAY: b"\x02\x00\x03shape",
    SectionKind.TREE: b"",
    SectionKind.WEIGHTS: bytes(range(200)),
    SectionKind.MASK: b"m",
}


def crc32c(data: bytes) -> int:
    """The checksum as FORMAT.md defines it, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def section(tag: int, data: bytes) -> bytes:
    return bytes([tag]) + pack_varint(len(data)) + data


def payload_of(*sections: bytes) -> bytes:
    """Return a payload with its checksum; the tag of the last section gets its bit."""
    *others, last = sections
    body = b"T2" + b"".join(others) + bytes([last[0] | 64]) + last[1:]
    return body + crc32c(body).to_bytes(4, "little")


def section_1(tag: int, data: bytes) -> bytes:
    """A section of version 1."""
    body = section(tag, data)
    return body + crc32c(body).to_bytes(4, "little")


def payload_1(*sections: bytes, version: int = 1) -> bytes:
    return b"TINC" + bytes([version, len(sections)]) + b"".join(sections)


SAMPLE_1 = payload_1(*(section_1(kind, SAMPLE[kind]) for kind in sorted(SAMPLE)))


@given(st.dictionaries(st.sampled_from(SectionKind), st.binary(max_size=300), min_size=1))
def test_round_trip_and_exact_size(sections: dict[SectionKind, bytes]) -> None:
    payload = pack(sections)
    found = unpack(payload)
    assert found == sections
    assert list(found) == sorted(sections)
    sizes = [len(data) for data in sections.values()]
    assert len(payload) == HEADER_BYTES + sum(n + section_overhead(n) for n in sizes)


def test_bytes_are_as_specified() -> None:
    payload = pack({SectionKind.TREE: b"bb", SectionKind.ARRAY: b"a"})
    assert payload == payload_of(section(1, b"a"), section(2, b"bb"))
    assert payload.hex() == "54320101614202626233b9bc35"


def test_version_1_is_read() -> None:
    payload = payload_1(section_1(1, b"a"), section_1(2, b"bb"))
    assert payload.hex() == "54494e43010201016112b92a450202626236cc4b9f"
    assert unpack(payload) == {SectionKind.ARRAY: b"a", SectionKind.TREE: b"bb"}
    assert unpack(SAMPLE_1) == SAMPLE
    assert unpack(payload_1()) == {}


@pytest.mark.parametrize(
    "wrap",
    [
        bytes,
        bytearray,
        memoryview,
        lambda b: np.frombuffer(b, np.uint8),
        lambda b: np.frombuffer(b, np.int8),
        lambda b: np.frombuffer(b + bytes(-len(b) % 3), np.uint8)[: len(b)].reshape(1, -1),
        lambda b: np.repeat(np.frombuffer(b, np.uint8), 2)[::2],
        lambda b: memoryview(bytearray(b)),
    ],
)
def test_any_buffer(wrap) -> None:
    assert unpack(wrap(pack(SAMPLE))) == SAMPLE


def test_big_endian_buffer() -> None:
    payload = pack({SectionKind.ARRAY: b"123"})
    assert len(payload) % 2 == 1
    payload = pack({SectionKind.ARRAY: b"1234"})
    assert unpack(np.frombuffer(payload, ">u2")) == {SectionKind.ARRAY: b"1234"}


BOTH = pytest.mark.parametrize("payload", [pack(SAMPLE), SAMPLE_1], ids=["version 2", "version 1"])


@BOTH
def test_every_truncation(payload: bytes) -> None:
    for size in range(len(payload)):
        with pytest.raises(TruncatedPayload):
            unpack(payload[:size])


@BOTH
def test_every_bit_flip(payload: bytes) -> None:
    for bit in range(8 * len(payload)):
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(TincError):
            unpack(damaged)


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_noise_never_escapes(noise: bytes) -> None:
    for payload in (noise, b"TINC\x01" + noise, b"T2" + noise):
        try:
            unpack(payload)
        except TincError:
            pass
        else:
            assert payload == b"TINC\x01\x00"


def test_bad_magic_names_what_was_found() -> None:
    with pytest.raises(CorruptPayload, match=r"PK.*not written by tinc_codec"):
        unpack(b"PK\x03\x04 and so on")
    with pytest.raises(TruncatedPayload, match="2 bytes"):
        unpack(b"TI")


@pytest.mark.parametrize("version", [0, 2, 255])
def test_other_versions_ask_for_an_upgrade(version: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"version {version} .*upgrade"):
        unpack(payload_1(section_1(1, b"a"), version=version))


def test_unknown_optional_sections_are_skipped() -> None:
    payload = payload_of(section(1, b"a"), section(0x80 | 10, b"new"), section(0x80 | 63, b""))
    assert unpack(payload) == {SectionKind.ARRAY: b"a"}


@pytest.mark.parametrize("kind", [10, 31, 32, 63])
def test_unknown_required_sections_are_refused(kind: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"kind {kind}.*upgrade"):
        unpack(payload_of(section(1, b"a"), section(kind, b"new")))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (payload_1(section_1(0x41, b"a")), "bit 6"),
        (payload_1(section_1(0xC7, b"a")), "bit 6"),
        (payload_1(section_1(0x81, b"a")), "never optional"),
        (payload_1(section_1(2, b"a"), section_1(1, b"a")), "increase"),
        (SAMPLE_1 + b"\0", "1 bytes after its end"),
        (payload_of(section(0x81, b"a")), "never optional"),
        (payload_of(section(0, b"a")), "start at 1"),
        (payload_of(section(0x80, b"a")), "start at 1"),
        (payload_of(section(1, b"a"), section(1, b"a")), "kind 1 follows kind 1"),
        (payload_of(section(2, b"a"), section(1, b"a")), "increase"),
        (payload_of(section(1, b""), section(0x8A, b""), section(0x8A, b"")), "increase"),
        (pack(SAMPLE) + b"\0", "1 bytes after its end"),
        (b"T2\x01\x81\x00a", "shortest form"),
        (b"T2\x01\xff\xff\xff\xff\xff\x01", "more than 5 bytes"),
        (b"TINC\x01\x01\x01\x81\x00a", "shortest form"),
    ],
)
def test_structure_is_strict(payload: bytes, message: str) -> None:
    with pytest.raises(CorruptPayload, match=message):
        unpack(payload)


@pytest.mark.parametrize("head", [b"T2\x01", b"TINC\x01\x01\x01"])
def test_a_lying_length_allocates_nothing(head: bytes) -> None:
    payload = head + b"\xff\xff\xff\xff\x7f" + b"x" * 100
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedPayload, match=str(2**35 - 1)):
            unpack(payload)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_pack_refuses_kinds_without_a_name() -> None:
    with pytest.raises(ValueError, match="10"):
        pack({10: b""})  # type: ignore[dict-item]
