"""normalize: the ARRAY section, the checks before any work, and the affine mapping."""

import math
import re
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, LAYOUTS, arrays, dtypes, lay_out, shapes

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload, UnsupportedData
from tinc_codec.stream import normalize as stage
from tinc_codec.stream.normalize import (
    PSNR_EXACT,
    ArrayInfo,
    check_array,
    denormalize,
    mean_square,
    memory_order,
    normalize,
    value_range,
)


def info(**changes: object) -> ArrayInfo:
    fields = {"shape": (3, 200, 5), "dtype": np.dtype("<u2"), "order": "C", "low": 7, "high": 900}
    return ArrayInfo(**{**fields, **changes})


@given(arrays(), st.sampled_from("CF"), st.integers(0, PSNR_EXACT))
def test_info_round_trip(array: np.ndarray, order: str, psnr: int) -> None:
    low, high = value_range(array)
    written = ArrayInfo(
        shape=array.shape, dtype=array.dtype, order=order, low=low, high=high, psnr_centidb=psnr
    )
    read = ArrayInfo.from_bytes(written.to_bytes())
    assert read == written
    assert read.dtype.str == array.dtype.str
    assert read.nbytes == array.nbytes
    assert type(read.low) is type(low)


def test_info_bytes_are_as_specified() -> None:
    written = info(dtype=np.dtype(">i2"), order="F", low=-2, high=258, psnr_centidb=4321)
    assert written.to_bytes().hex() == "13010303c80105feff0201e110"
    assert len(info(shape=(64, 64, 64)).to_bytes()) == 12


@pytest.mark.parametrize("low", [0.0, -0.0])
def test_info_keeps_the_sign_of_zero(low: float) -> None:
    written = info(dtype=np.dtype("<f4"), low=low, high=0.0)
    assert math.copysign(1, ArrayInfo.from_bytes(written.to_bytes()).low) == math.copysign(1, low)


def test_info_every_truncation_and_bit_flip() -> None:
    data = info(dtype=np.dtype(">f4"), low=-1.5, high=3.25).to_bytes()
    for size in range(len(data)):
        with pytest.raises(TruncatedPayload):
            ArrayInfo.from_bytes(data[:size])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            read = ArrayInfo.from_bytes(bytes(damaged))
        except TincError:
            continue
        assert read.to_bytes() == damaged  # one form for each meaning


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("30 00 01 01 00 00 0000", "dtype code"),  # kind 3
        ("06 00 01 01 00 00 0000", "dtype code"),  # uint64
        ("20 00 01 01 00 00 0000", "dtype code"),  # float8
        ("28 00 01 01 00 00 0000", "dtype code"),  # float128
        ("42 00 01 01 00 00 0000", "dtype code"),  # bit 6
        ("01 00 01 01 00 00 0000", "one byte an order"),
        ("00 02 01 01 00 00 0000", "flags 0x02"),
        ("00 00 00 00 00 0000", "0 axes"),
        ("00 00 21" + "01" * 33 + "00 00 0000", "33 axes"),
        ("00 00 01 00 00 00 0000", "shorter than 1"),
        ("00 00 02 ffffffff7f ffffffff7f 00 00 0000", "more than the limit"),
        ("00 00 01 01 05 04 0000", "must not exceed"),
        ("24 00 01 01 0000c07f 00000000 0000", "low=nan"),
        ("24 00 01 01 00000000 0000807f 0000", "high=inf"),
        ("00 00 01 01 00 00 0000 00", "after its end"),
    ],
)
def test_info_refuses_what_is_reserved_or_out_of_range(data: str, message: str) -> None:
    with pytest.raises(CorruptPayload, match=message):
        ArrayInfo.from_bytes(bytes.fromhex(data))


def test_info_that_claims_a_huge_array_allocates_nothing() -> None:
    data = bytes.fromhex("24 00 20" + "03" * 18 + "01" * 14 + "00000000 0000803f 0000")
    tracemalloc.start()
    try:
        assert ArrayInfo.from_bytes(data).nbytes == 4 * 3**18
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [("u1", 0, 256), ("i2", -32769, 0), ("f2", 0.0, 1e6), ("f4", 0.1, 1.0), ("u2", 0.5, 2)],
)
def test_info_refuses_bounds_outside_the_dtype(dtype: str, low: float, high: float) -> None:
    with pytest.raises(CorruptPayload, match=f"not a finite value of {np.dtype(dtype)}"):
        info(dtype=np.dtype(dtype), low=low, high=high)


@given(arrays(finite=False))
def test_supported_arrays_pass(array: np.ndarray) -> None:
    check_array(array)


@pytest.mark.parametrize(
    ("array", "named", "remedy"),
    [
        (np.zeros(4, bool), "bool", "uint8"),
        (np.zeros(4, np.complex64), "complex64", "array.real"),
        (np.zeros(4, "U3"), "<U3", "lossless"),
        (np.zeros(4, "S3"), "|S3", "lossless"),
        (np.zeros(4, object), "object", "lossless"),
        (np.zeros(4, "M8[s]"), "datetime64[s]", "times"),
        (np.zeros(4, "m8[s]"), "timedelta64[s]", "times"),
        (np.zeros(4, [("a", "u1"), ("b", "f4")]), "'a'", "fields a, b apart"),
        (np.zeros(4, np.int64), "int64", "32 bits"),
        (np.zeros(4, ">u8"), ">u8", "float64"),
        pytest.param(
            np.zeros(4, np.longdouble),
            "float",
            "float64",
            marks=pytest.mark.skipif(
                np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here"
            ),
        ),
        (np.zeros((4, 0), np.uint8), "(4, 0)", "no elements"),
        (np.zeros((), np.uint8), "shape ()", "reshape"),
        (np.zeros((1,) * 33, np.uint8), "33 axes", "reshape"),
        (np.broadcast_to(np.uint8(0), (2**21, 2**20)), str(2**41), "smaller chunks"),
        (np.broadcast_to(np.uint8(0), (2**35,)), str(2**35), "smaller chunks"),
        (np.ma.masked_array([1, 2], [True, False], np.uint8), "masked", "filled"),
    ],
)
def test_unsupported_arrays_name_the_remedy(array: np.ndarray, named: str, remedy: str) -> None:
    with pytest.raises(UnsupportedData, match=re.escape(named)) as caught:
        check_array(array)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_order(layout: str) -> None:
    array = lay_out(np.zeros((3, 4, 5), np.uint8), layout)
    assert memory_order(array) == ("F" if layout == "F" else "C")
    assert memory_order(lay_out(np.zeros((1, 4, 1), np.uint8), layout)) == "C"


@given(arrays(finite=False), st.booleans(), st.data())
def test_value_range(array: np.ndarray, masked: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    valid = rng.random(array.shape) < 0.5 if masked else None
    kept = array.ravel() if valid is None else array[valid]
    counted = [value for value in kept.tolist() if math.isfinite(value)]
    assert value_range(array, valid) == ((min(counted), max(counted)) if counted else (0, 0))


def exact_unit(value: float, low: float, high: float) -> float:
    if low == high:
        return 0.0
    return float((Fraction(value) - Fraction(low)) / (Fraction(high) - Fraction(low)))


@given(arrays())
def test_normalize_against_exact_arithmetic(array: np.ndarray) -> None:
    before = array.copy()
    low, high = value_range(array)
    unit = normalize(array, low, high)
    assert unit.dtype == np.float32
    assert unit.shape == array.shape
    assert unit.flags.c_contiguous
    expected = [exact_unit(v, low, high) for v in array.ravel().tolist()]
    np.testing.assert_allclose(unit.ravel(), np.array(expected), rtol=1e-6, atol=1e-30)
    assert unit.min() >= 0
    assert unit.max() <= 1
    np.testing.assert_array_equal(array, before)


@given(arrays())
def test_denormalize_inverts_within_the_rounding_of_float32(array: np.ndarray) -> None:
    low, high = value_range(array)
    back = denormalize(normalize(array, low, high), low, high, array.dtype)
    assert back.dtype.str == array.dtype.str
    assert back.shape == array.shape
    half = np.float64(high) / 2 - np.float64(low) / 2  # the span of float64 extremes overflows
    error = np.abs(back.astype(np.float64) / 2 - array.astype(np.float64) / 2)
    step = 0.25 if array.dtype.kind != "f" else np.spacing(np.maximum(abs(low), abs(high)))
    assert (error <= half * 2**-24 + step).all()
    ends = (array == low) | (array == high)
    np.testing.assert_array_equal(back[ends], array[ends])


@given(dtypes(), st.integers(0, 2**32 - 1))
def test_denormalize_stays_between_the_ends(dtype: np.dtype, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, 2 * dtype.itemsize, np.uint8)
    pair = np.nan_to_num(bits.view(dtype), nan=1, posinf=2, neginf=-3)
    low, high = pair.min().item(), pair.max().item()
    unit = np.concatenate([rng.random(50), [-1e30, -0.1, 0, 1, 1.1, np.inf, -np.inf, np.nan]])
    for precision in (np.float32, np.float64):
        out = denormalize(unit.astype(precision), low, high, dtype)
        assert low <= out.min().item() <= out.max().item() <= high
        expected = [low, low, low, high, high, high, low, low]
        assert out[50:].tolist() == expected


@given(dtypes(), st.integers(0, 2**32 - 1))
def test_both_ways_to_denormalize_agree(dtype: np.dtype, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.integers(-100, 100, 2).astype(dtype)).tolist()
    unit = np.concatenate([rng.uniform(-0.1, 1.1, 500), np.arange(9) / 8]).astype(np.float32)
    # Swapped bytes take the path of numpy, native ones that of numba.
    native, swapped = dtype.newbyteorder("="), dtype.newbyteorder("S")
    one, other = (denormalize(unit, low, high, d) for d in (native, swapped))
    assert one.dtype == native
    np.testing.assert_array_equal(one, other)


def some_values(dtype: np.dtype, count: int, seed: int) -> tuple[np.ndarray, float, float]:
    """Values within and beyond some ends, special ones among them, and these ends."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (count + 2) * dtype.itemsize, np.uint8).view(
        dtype.newbyteorder("=")
    )
    if seed % 2:  # neighbours, of the same magnitude
        bits = rng.integers(0, 100, count + 2).astype(dtype.newbyteorder("="))
    low, high = np.sort(np.nan_to_num(bits[:2], nan=1, posinf=2, neginf=-3)).tolist()
    return bits[2:], low, high


@given(dtypes(), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_both_ways_to_normalize_agree(dtype: np.dtype, count: int, seed: int) -> None:
    native, low, high = some_values(dtype, count, seed)
    # Swapped bytes take the path of numpy, native ones that of numba.
    swapped = native.astype(native.dtype.newbyteorder("S"))
    one, other = (normalize(values, low, high) for values in (native, swapped))
    np.testing.assert_array_equal(one, other)


@given(dtypes(), st.integers(1, 300), st.integers(0, 2**32 - 1), st.booleans())
def test_mean_square_is_that_of_normalised_values(
    dtype: np.dtype, count: int, seed: int, weighted: bool
) -> None:
    values, low, high = some_values(dtype, count, seed)
    if low == high:
        return
    rng = np.random.default_rng(seed)
    unit = rng.random(count, np.float32)
    weight = rng.random(count, np.float32) + np.float32(0.01) if weighted else None
    squares = (normalize(values, low, high) - unit).astype(np.float64) ** 2
    expected = np.average(squares, weights=weight)
    for given_values in (values, values.astype(values.dtype.newbyteorder("S"))):
        found = mean_square(given_values, low, high, unit, weight)
        assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extremes_of_the_dtype(dtype: np.dtype) -> None:
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    array = np.array([limits.min, limits.max, 0, 1], dtype)
    low, high = value_range(array)
    unit = normalize(array, low, high)
    assert unit[:2].tolist() == [0, 1]
    back = denormalize(unit, low, high, dtype)
    assert back[:2].tolist() == array[:2].tolist()


def test_tiny_spans_do_not_overflow() -> None:
    array = np.array([0, 5e-324, 1e-323])
    unit = normalize(array, 0.0, 1e-323)
    assert unit.tolist() == [0, 0.5, 1]
    assert denormalize(unit, 0.0, 1e-323, array.dtype).tolist() == array.tolist()


def test_integers_round_half_to_even() -> None:
    unit = np.array([0.5, 1.5, 2.5, 3.5]) / 4
    assert denormalize(unit, 0, 4, np.dtype("u1")).tolist() == [0, 2, 2, 4]


def test_normalize_maps_outsiders_to_the_ends() -> None:
    array = np.array([np.nan, -np.inf, np.inf, -1e308, 1e308, 2.0])
    array.view(np.uint64)[0] = 0x7FF0000000000001  # signalling
    assert normalize(array, 1.0, 3.0).tolist() == [0, 0, 1, 0, 1, 0.5]
    narrow = np.array([0x7F800001, 0x40000000], np.uint32).view(np.float32)
    assert normalize(narrow, 1.0, 3.0).tolist() == [0, 0.5]


@pytest.mark.parametrize("value", [5, -0.0, 1.5])
def test_constant_arrays_have_one_value(value: float) -> None:
    dtype = np.dtype(">f8")
    assert not normalize(np.full((2, 3), value, dtype), value, value).any()
    out = denormalize(np.full((2, 3), np.nan, np.float32), value, value, dtype)
    assert out.tobytes() == np.full((2, 3), value, dtype).tobytes()


@given(arrays(shape=shapes(max_dims=3, max_side=7)), st.sampled_from([1, 3, 8, 50]))
def test_a_voxel_does_not_depend_on_its_slab(array: np.ndarray, slab: int) -> None:
    low, high = value_range(array)
    unit = normalize(array, low, high)
    back = denormalize(unit, low, high, array.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_SLAB", slab)
        assert value_range(array, np.ones(array.shape, bool)) == (low, high)
        assert normalize(array, low, high).tobytes() == unit.tobytes()
        assert denormalize(unit, low, high, array.dtype).tobytes() == back.tobytes()
    picked = denormalize(unit[..., ::2], low, high, array.dtype)
    assert picked.tobytes() == back[..., ::2].tobytes()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_selections_without_axes_or_elements(shape: tuple[int, ...]) -> None:
    out = denormalize(np.full(shape, 0.5, np.float32), 0, 100, np.dtype(">u2"))
    assert isinstance(out, np.ndarray)
    assert out.shape == shape
    assert out.tolist() == np.full(shape, 50).tolist()


def test_temporaries_are_bounded() -> None:
    array = np.zeros((4, 1024, 1024), np.uint16)
    array[0, 0, 0] = 9
    tracemalloc.start()
    try:
        unit = normalize(array, 0, 9)
        denormalize(unit, 0, 9, array.dtype)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < unit.nbytes + array.nbytes + 8 * 8 * stage._SLAB
