"""wire: exact inverses, and nothing read past the end."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinc_codec.errors import CorruptPayload, TruncatedPayload
from tinc_codec.stream.wire import (
    VARINT_LIMIT,
    BitReader,
    BitWriter,
    Reader,
    Writer,
    pack_varint,
    varint_size,
)


@given(st.integers(0, VARINT_LIMIT - 1))
def test_varint_round_trip_and_size(value: int) -> None:
    data = pack_varint(value)
    reader = Reader(data, "test")
    assert reader.varint() == value
    reader.done()
    assert len(data) == varint_size(value) <= 5


@pytest.mark.parametrize(
    ("value", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (16384, "808001")]
)
def test_varint_bytes(value: int, data: str) -> None:
    assert pack_varint(value).hex() == data


@pytest.mark.parametrize("value", [-1, VARINT_LIMIT])
def test_varint_refuses_what_it_cannot_hold(value: int) -> None:
    with pytest.raises(ValueError, match="varint"):
        pack_varint(value)


@pytest.mark.parametrize("data", ["8000", "ff8000", "808080808000", "ffffffffff01", "8080808080"])
def test_varint_refuses_other_forms(data: str) -> None:
    with pytest.raises(CorruptPayload, match=r"shortest|more than"):
        Reader(bytes.fromhex(data), "test").varint()


def test_fields_round_trip() -> None:
    written = Writer().u8(255).u16(0xABCD).u32(0xDEADBEEF).f32(-1.5).varint(1 << 30).raw(b"xyz")
    data = written.getvalue()
    assert data[:7] == bytes.fromhex("ffcdabefbeadde")
    reader = Reader(memoryview(data), "test")
    assert (reader.u8(), reader.u16(), reader.u32()) == (255, 0xABCD, 0xDEADBEEF)
    assert reader.f32() == -1.5
    assert (reader.varint(), reader.remaining, reader.take(3)) == (1 << 30, 3, b"xyz")
    assert reader.offset == len(data)
    reader.done()


@pytest.mark.parametrize("field", ["u8", "u16", "u32", "f32", "varint"])
def test_every_truncation_is_named(field: str) -> None:
    value = 1.5 if field == "f32" else 200
    data = getattr(Writer(), field)(value).getvalue()
    for size in range(len(data)):
        with pytest.raises(TruncatedPayload, match="WEIGHTS section ends"):
            getattr(Reader(data[:size], "WEIGHTS section"), field)()


def test_take_of_a_huge_count_allocates_nothing() -> None:
    with pytest.raises(TruncatedPayload, match=str(1 << 62)):
        Reader(b"1234", "test").take(1 << 62)


def test_done_refuses_left_over_bytes() -> None:
    reader = Reader(b"123", "CROP section")
    reader.u8()
    with pytest.raises(CorruptPayload, match="CROP section has 2 bytes"):
        reader.done()


def test_f32_keeps_non_finite_numbers() -> None:
    assert Reader(struct.pack("<f", float("inf")), "test").f32() == float("inf")


@given(st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(-(2**20), 2**20 - 1)))))
def test_packed_fields_round_trip(runs: list[tuple[int, list[int]]]) -> None:
    out = BitWriter()
    for bits, numbers in runs:
        for number in numbers:
            out.put(number, bits)
    data = out.getvalue()
    assert len(data) == -(-sum(bits * len(numbers) for bits, numbers in runs) // 8)
    reader = BitReader(data, "it")
    for bits, numbers in runs:
        assert reader.several(len(numbers), bits) == [number % 2**bits for number in numbers]
    reader.done()


def test_packed_fields_begin_at_bit_0() -> None:
    assert BitWriter().put(1, 1).put(-2, 3).put(0x1F, 5).getvalue() == bytes([0xFD, 0x01])


def test_packed_fields_end_where_they_say() -> None:
    reader = BitReader(b"\x07", "it")
    reader.take(3)
    reader.done()
    with pytest.raises(TruncatedPayload, match="it has 5 bits where 6 are announced"):
        reader.take(6)
    for data in (b"\x0f", b"\x07\x00"):
        reader = BitReader(data, "it")
        reader.take(3)
        with pytest.raises(CorruptPayload, match="after its end"):
            reader.done()


def test_packed_fields_of_long_data_take_no_longer() -> None:
    """As one integer of all the data each field would copy them: 2 s here, and hours of more."""
    data = bytes(range(256)) * 40_000
    reader = BitReader(data, "it")
    assert [reader.take(8) for _ in range(20_000)] == list(data[:20_000])
    with pytest.raises(CorruptPayload, match="81760000 bits after its end"):
        reader.done()
