"""special_values: padding and special values come back bit for bit, damage never."""

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, arrays, dtypes, from_bits, lay_out, shapes

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload, UnsupportedData
from tinc_codec.stream import special_values as stage
from tinc_codec.stream.special_values import (
    Crop,
    Mask,
    bit_view,
    constant_value,
    few_values,
    fill_with,
    find_crop,
    find_mask,
    restore,
)
from tinc_codec.stream.wire import pack_varint

F4 = np.dtype("<f4")


def deflated(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = coder.compress(data) + coder.flush()
    return pack_varint(len(coded)) + coded


def simple_box(array: np.ndarray) -> tuple[tuple[int, int], ...] | None:
    """The bounding box of what differs from the last element, the slow way."""
    bits = np.ascontiguousarray(bit_view(array))
    found = np.nonzero(bits != bits[(-1,) * bits.ndim])
    if found[0].size == 0:
        return tuple((0, 1) for _ in array.shape)
    return tuple((int(axis.min()), int(axis.max()) + 1) for axis in found)


def restored_from(crop: Crop, array: np.ndarray) -> np.ndarray:
    out = np.empty(array.shape, array.dtype)
    fill_with(out, crop.fill)
    bit_view(out)[crop.slices] = bit_view(array)[crop.slices]
    return out


# Crop


@given(arrays(finite=False), st.data())
def test_crop_is_the_bounding_box(inner: np.ndarray, data: st.DataObject) -> None:
    pads = [data.draw(st.tuples(st.integers(0, 3), st.integers(0, 5))) for _ in inner.shape]
    fill = from_bits(np.array([data.draw(st.integers(0, 2**64 - 1))], np.uint64), inner.dtype)
    shape = tuple(a + n + b for n, (a, b) in zip(inner.shape, pads, strict=True))
    array = np.empty(shape, inner.dtype)
    fill_with(array, int(bit_view(fill)[0]))
    where = tuple(slice(a, a + n) for n, (a, _) in zip(inner.shape, pads, strict=True))
    bit_view(array)[where] = bit_view(inner)
    array = lay_out(array, data.draw(st.sampled_from(LAYOUTS)))

    crop = find_crop(array)
    box = simple_box(array)
    if crop is None:
        assert box == tuple((0, n) for n in shape)
        return
    assert tuple(zip(crop.start, crop.stop, strict=True)) == box
    assert crop.shape == array[crop.slices].shape
    written = crop.to_bytes(array.dtype.itemsize)
    assert Crop.from_bytes(written, array.dtype, array.shape) == crop
    assert restored_from(crop, array).tobytes() == array.tobytes()


@given(arrays(shape=shapes(max_dims=3, max_side=12)))
def test_crop_does_not_depend_on_the_strip(array: np.ndarray) -> None:
    whole = find_crop(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_STRIP", 5)
        assert find_crop(array) == whole


def test_padded_edge_chunk() -> None:
    chunk = np.full((64, 64, 64), 7, ">u2")
    chunk[:40, :64, :3] = np.arange(40 * 64 * 3).reshape(40, 64, 3) + 8
    crop = find_crop(chunk)
    assert crop == Crop(start=(0, 0, 0), stop=(40, 64, 3), fill=7)
    assert crop.to_bytes(2).hex() == "0027003f00020700"


@pytest.mark.parametrize("bits", [0x7FC00001, 0x7F800001, 0xFFC00000, 0x80000000])
def test_padding_by_nan_or_negative_zero(bits: int) -> None:
    array = np.zeros((8, 8), F4)
    fill_with(array, bits)
    array[1:3, 2:6] = 0.0
    crop = find_crop(array)
    assert crop == Crop(start=(1, 2), stop=(3, 6), fill=bits)
    assert restored_from(crop, array).tobytes() == array.tobytes()


def test_no_crop_where_opposite_corners_differ() -> None:
    array = np.zeros((6, 5), np.uint8)
    array[0, 4] = array[5, 0] = 1
    assert find_crop(array) is None
    assert find_crop(np.ones((1, 1), np.uint8)) is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_constant_arrays(dtype: np.dtype, layout: str) -> None:
    array = lay_out(np.full((4, 3, 2), 5, dtype), layout)
    assert constant_value(array) == 5
    assert find_crop(array) == Crop(
        start=(0, 0, 0), stop=(1, 1, 1), fill=int(bit_view(array)[0, 0, 0])
    )
    changed = array.copy()
    changed[0, 0, 1] = 6
    assert constant_value(changed) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_constant_arrays_without_a_finite_value_become_one_voxel(value: float) -> None:
    array = np.full((9, 9), value, ">f8")
    assert constant_value(array) is None
    crop = find_crop(array)
    assert crop is not None
    assert crop.shape == (1, 1)
    assert restored_from(crop, array).tobytes() == array.tobytes()
    mask = find_mask(array[crop.slices])
    assert mask is not None
    assert len(crop.to_bytes(8)) + len(mask.to_bytes()) < 32


def test_constant_value_tells_the_zeros_apart() -> None:
    array = np.zeros(4)
    array[1] = -0.0
    assert constant_value(array) is None
    assert str(constant_value(-np.zeros(4))) == "-0.0"


@pytest.mark.parametrize(
    ("start", "last"), [((0, 0), (4, 2)), ((0, 5), (0, 4)), ((0, 0), (0, 5)), ((0, 0), (3, 4))]
)
def test_crop_outside_of_the_array(start: tuple[int, int], last: tuple[int, int]) -> None:
    data = b"".join(pack_varint(a) + pack_varint(b) for a, b in zip(start, last, strict=True))
    with pytest.raises(CorruptPayload, match="not a part of an array"):
        Crop.from_bytes(data + b"\0", np.dtype("u1"), (4, 5))


def test_crop_every_truncation_and_left_over() -> None:
    data = Crop(start=(0, 200), stop=(3, 400), fill=77).to_bytes(4)
    for size in range(len(data)):
        with pytest.raises(TruncatedPayload):
            Crop.from_bytes(data[:size], F4, (9, 900))
    with pytest.raises(CorruptPayload, match="after its end"):
        Crop.from_bytes(data + b"\0", F4, (9, 900))


def test_crop_search_takes_little_memory() -> None:
    array = np.zeros((256, 256, 256), np.uint8)
    array[:200, :100, :50] = 1
    tracemalloc.start()
    try:
        assert find_crop(array) is not None
        assert tracemalloc.get_traced_memory()[1] < 3 * stage._STRIP
    finally:
        tracemalloc.stop()


# Mask


@given(arrays(finite=False), st.lists(st.integers(-3, 300) | st.floats(-2, 2), max_size=3))
def test_mask_round_trip(array: np.ndarray, preserve: list[float]) -> None:
    before = array.tobytes()
    for value in array.ravel()[:1].tolist():
        if np.isfinite(value):
            preserve = [*preserve, value]
    mask = find_mask(array, preserve)
    assert array.tobytes() == before
    rounded = np.isin(array, np.array(preserve, np.float64).astype(array.dtype.newbyteorder("=")))
    if array.dtype.kind != "f":
        rounded = np.isin(array, preserve)
    special = ~np.isfinite(array) | rounded
    if mask is None:
        assert not special.any()
        return
    np.testing.assert_array_equal(mask.labels != 0, special)
    read = Mask.from_bytes(mask.to_bytes(), array.dtype, array.shape)
    np.testing.assert_array_equal(read.labels, mask.labels)
    np.testing.assert_array_equal(read.patterns, mask.patterns)
    out = np.where(special, np.ones((), array.dtype), array).astype(array.dtype)
    bit_view(out)[~special] = bit_view(array)[~special]
    restore(out, read.labels, read.patterns)
    assert out.tobytes() == array.tobytes()


@pytest.mark.parametrize("order", "<>")
def test_every_nan_pattern_and_both_zeros(order: str) -> None:
    bits = [0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0]
    array = from_bits(np.array([*bits, 0x3F800000]), np.dtype(f"{order}f4"))
    mask = find_mask(array, (0,))
    assert mask is not None
    assert mask.patterns.tolist() == sorted(bits)
    assert mask.labels[-1] == 0
    out = np.ones_like(array)
    restore(out, mask.labels, mask.patterns)
    assert out.tobytes() == array.tobytes()


def test_nothing_special_is_no_mask() -> None:
    assert find_mask(np.arange(9, dtype=np.uint8), (77,)) is None
    assert find_mask(np.ones(9, np.float16)) is None


@pytest.mark.parametrize("value", [300, -1, 1.5, 1e40])
def test_preserved_values_that_cannot_occur_are_ignored(value: float) -> None:
    assert find_mask(np.arange(256, dtype=np.uint8), (value,)) is None


def test_preserved_values_are_rounded_to_the_dtype() -> None:
    array = np.array([1e20, 0.1, 1.0], np.float32)
    mask = find_mask(array, (1e20, 0.1, 1e300))
    assert mask is not None
    assert (mask.labels != 0).tolist() == [True, True, False]


def test_too_many_patterns_name_the_remedy() -> None:
    array = from_bits(0x7FC00000 + np.arange(256), F4)
    assert find_mask(array[:255]) is not None
    with pytest.raises(UnsupportedData, match=r"256 distinct.*at most 255.*isnan"):
        find_mask(array)


@given(dtypes(), st.data())
def test_restore_of_a_selection(dtype: np.dtype, data: st.DataObject) -> None:
    array = from_bits(np.arange(60).reshape(3, 4, 5) % 7, dtype)
    mask = find_mask(array, (array.ravel()[3].item(), array.ravel()[5].item()))
    assert mask is not None
    picks = [st.integers(0, n - 1) | st.slices(n) for n in array.shape]
    chosen = tuple(data.draw(pick) for pick in picks)
    part = np.array(array[chosen])
    part[mask.labels[chosen] != 0] = 0
    restore(part, mask.labels[chosen], mask.patterns)
    assert part.tobytes() == array[chosen].tobytes()


def test_mask_bytes_are_as_specified() -> None:
    array = np.array([[np.nan, 1, 1, np.nan, 1], [1, 1, 1, 1, -7]], F4)
    mask = find_mask(array, (-7,))
    assert mask is not None
    plain = [bytes([0b00001001, 0]), bytes([0, 0b10])]
    changes = [bytes([0b00101001, 1]), bytes([0, 0b10])]
    expected = bytes.fromhex("020000c07f0000e0c0")
    for one, other in zip(plain, changes, strict=True):
        coded = min((b"\0" + deflated(one), b"\1" + deflated(other)), key=len)
        expected += coded
    assert mask.to_bytes() == expected
    both = bytes.fromhex("01 0000c07f") + b"\1" + deflated(changes[0])
    read = Mask.from_bytes(both, F4, (2, 5))
    assert read.labels.tolist() == [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]


def test_masks_alike_from_slice_to_slice_are_short() -> None:
    y, x = np.mgrid[:64, :64]
    array = np.ones((1, 64, 64, 64), np.float32)
    array[:, :, (y - 20) ** 2 + (x - 30) ** 2 > 40**2] = np.nan
    mask = find_mask(array)
    assert mask is not None
    written = mask.to_bytes()
    assert written[5] == 1
    assert len(written) < 140
    np.testing.assert_array_equal(Mask.from_bytes(written, F4, array.shape).labels, mask.labels)


NAN = bytes.fromhex("0000c07f")
INF = bytes.fromhex("0000807f")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0", "no patterns"),
        (b"\2" + NAN + INF, "do not increase"),
        (b"\2" + NAN + NAN, "do not increase"),
        (b"\1" + NAN + b"\2" + deflated(b"\1\0"), "method 2"),
        (b"\1" + NAN + b"\0" + deflated(b"\1"), "do not end"),
        (b"\1" + NAN + b"\0" + deflated(b"\1\0\0"), "do not end"),
        (b"\1" + NAN + b"\0" + deflated(b"\1\4"), "after the last voxel"),
        (b"\1" + NAN + b"\0\2\xff\xff", "damaged"),
        (b"\1" + NAN + b"\0\0", "do not end"),
        (b"\1" + NAN + b"\0" + deflated(b"\1\0") + b"\0", "after its end"),
        (b"\2" + INF + NAN + (b"\0" + deflated(b"\3\0")) * 2, "pattern 2 and another"),
    ],
)
def test_mask_refuses_what_is_reserved_or_damaged(data: bytes, message: str) -> None:
    with pytest.raises(CorruptPayload, match=message):
        Mask.from_bytes(data, F4, (2, 5))


def test_mask_data_after_the_deflate_stream() -> None:
    coded = deflated(b"\1\0")[1:] + b"\0"
    data = b"\1" + NAN + b"\0" + pack_varint(len(coded)) + coded
    with pytest.raises(CorruptPayload, match="do not end"):
        Mask.from_bytes(data, F4, (2, 5))


def test_mask_every_truncation_and_bit_flip() -> None:
    array = np.ones((4, 5, 6), F4)
    array[1, 2:4, 1:5] = np.nan
    array[3, 0, 0] = np.inf
    mask = find_mask(array)
    assert mask is not None
    data = mask.to_bytes()
    for size in range(len(data)):
        with pytest.raises(TruncatedPayload):
            Mask.from_bytes(data[:size], F4, array.shape)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read = Mask.from_bytes(bytes(damaged), F4, array.shape)
        except TincError:
            continue
        assert read.labels.shape == array.shape
        assert read.labels.max() <= len(read.patterns)


@pytest.mark.parametrize("zeros", [10_000_000, 100])
def test_a_bomb_allocates_no_more_than_the_box(zeros: int) -> None:
    shape = (100, 100) if zeros > 10_000 else (2**20, 2**20)
    data = b"\1" + NAN + b"\0" + deflated(bytes(zeros))
    tracemalloc.start()
    try:
        with pytest.raises(CorruptPayload, match="do not end"):
            Mask.from_bytes(data, F4, shape)
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


# Arrays of few values.


@given(dtypes(), st.integers(2, 16), st.data())
def test_few_values_are_a_value_and_a_mask(
    dtype: np.dtype, count: int, data: st.DataObject
) -> None:
    bits = st.integers(0, 2 ** (8 * dtype.itemsize) - 1)
    some = data.draw(st.lists(bits, min_size=count, max_size=count, unique=True))
    drawn = np.random.default_rng(count).integers(0, count, (5, 6, 7))
    drawn.flat[:count] = np.arange(count)
    array = from_bits(np.array(some, np.uint64)[drawn], dtype)
    found = few_values(array)
    known = np.isfinite(array.astype(array.dtype.newbyteorder("=")))
    if not known.any():
        assert found is None
        return
    assert found is not None
    value, mask = found
    back = np.full(array.shape, value, array.dtype)
    restore(back, mask.labels, mask.patterns)
    assert back.tobytes() == array.tobytes()
    assert len(mask.patterns) == len(np.unique(bit_view(array))) - 1


def test_many_values_are_not_few() -> None:
    scattered = np.random.default_rng(0).integers(0, 17, (16, 16, 16)).astype(np.uint16)
    assert few_values(scattered) is None
    assert few_values(np.minimum(scattered, 15)) is not None
    assert few_values(np.repeat(scattered, 20, axis=-1)) is not None  # long runs
    assert few_values(np.repeat(np.arange(65, dtype=np.uint8), 100)) is None
    assert few_values(np.zeros((4, 4), np.uint8)) is None
