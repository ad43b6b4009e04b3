"""max_error: every voxel within the bound, whatever the dtype, the engine and the part read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volumes import volume

from tinc_codec import InvalidSetting, decode, encode, inspect, runtime
from tinc_codec.phantom import phantom

SHAPE = (20, 24, 18)


def largest_error(array: np.ndarray, payload: bytes) -> float:
    found = decode(payload)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)
    return float(np.nanmax(np.abs(found.astype(np.float64) - array.astype(np.float64))))


@pytest.mark.parametrize("bound", [0, 1, 2.9, 30, 1000])
@pytest.mark.parametrize("dtype", ["u1", "i1", ">u2", "i2", "u4", "i4"])
def test_integers(dtype: str, bound: float) -> None:
    array = volume(SHAPE, dtype)
    payload = encode(array, max_error=bound, effort=1)
    assert largest_error(array, payload) <= bound
    if bound == 0:
        assert decode(payload).tobytes() == array.tobytes()
        assert inspect(payload).psnr_db == np.inf


def test_extremes_of_wide_integers() -> None:
    array = np.random.default_rng(0).choice([-(2**31), 0, 2**31 - 1], SHAPE).astype("i4")
    for bound in (0, 5, 2.0**31):
        assert largest_error(array, encode(array, max_error=bound, effort=1)) <= bound


@pytest.mark.parametrize("bound", [0.3, 5, 60])
@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8"])
def test_floats(dtype: str, bound: float) -> None:
    array = volume(SHAPE, dtype)
    array[3, 4:9] = np.nan
    array[5, 5, 5] = -np.inf
    payload = encode(array, max_error=bound, effort=1)
    finite = np.isfinite(array)
    found = decode(payload)
    assert found[~finite].tobytes() == array[~finite].tobytes()
    error = np.abs(found[finite].astype(np.float64) - array[finite].astype(np.float64))
    assert error.max() <= bound


@pytest.mark.parametrize("bound", [0, 1e-9])
def test_floats_finer_than_their_spacing_are_refused(bound: float) -> None:
    with pytest.raises(InvalidSetting, match=r"max_error=.*float32.*lossless codec"):
        encode(volume(SHAPE, "f4"), max_error=bound)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(0, 400), st.integers(1, 4))
def test_any_volume(seed: int, bound: int, axes: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 13, axes))
    array = rng.integers(0, rng.integers(1, 65536), shape, endpoint=True).astype("u2")
    payload = encode(array, max_error=bound, effort=1)
    assert largest_error(array, payload) <= bound


@pytest.mark.parametrize("bound", [30, 200, 1500])
def test_floats_take_no_more_than_integers(bound: float) -> None:
    array = phantom((40, 40, 40))
    integers, floats = (
        len(encode(values, max_error=bound, effort=1)) for values in (array, array.astype("f4"))
    )
    assert floats <= 1.04 * integers + 10


@pytest.mark.parametrize("ratio_of_range", [0.002, 0.2])
def test_every_engine_and_part_agrees(ratio_of_range: float) -> None:
    array = phantom((32, 32, 32), seed=1)
    bound = int(np.ptp(array) * ratio_of_range)
    payload = encode(array, max_error=bound, effort=1)
    whole = decode(payload)
    assert largest_error(array, payload) <= bound
    for device in ("reference", "cpu"):
        with runtime(device=device, threads=1):
            np.testing.assert_array_equal(decode(payload), whole)
            for part in (
                np.s_[3:9, 5, ::4],
                np.s_[31],
                np.s_[..., [5, 0, 5]],
                ([1, 30], [2, 3], [4, 5]),
            ):
                np.testing.assert_array_equal(decode(payload, part), whole[part])


def test_loose_bounds_take_a_transform_and_tight_ones_none() -> None:
    grid = np.meshgrid(*[np.linspace(-1, 1, 64)] * 3, indexing="ij")
    ball = 500 - 500 * np.tanh(20 * (sum(g**2 for g in grid) - 0.5))
    array = (50 + ball + np.random.default_rng(0).normal(0, 15, ball.shape)).clip(0).astype("u2")
    loose = inspect(encode(array, max_error=120, effort=1))
    tight = inspect(encode(array, max_error=1, effort=1))
    assert loose.form == "wavelet+correction"
    assert tight.form == "correction"
    assert loose.payload_bytes < tight.payload_bytes


@pytest.mark.parametrize("preserve", [(), (0,)])
def test_padding_and_preserved_values_come_back(preserve: tuple[Any, ...]) -> None:
    array = volume(SHAPE, "u2")
    array[15:] = 7
    array[2, 3] = 0
    payload = encode(array, max_error=4, effort=1, preserve=preserve)
    found = decode(payload)
    assert np.abs(found.astype(int) - array).max() <= 4
    assert (found[15:] == 7).all()
    if preserve:
        np.testing.assert_array_equal(found == 0, array == 0)


def test_constants_need_nothing() -> None:
    array = np.full(SHAPE, 12, "u2")
    payload = encode(array, max_error=0)
    assert len(payload) < 40
    np.testing.assert_array_equal(decode(payload), array)


@pytest.mark.parametrize("asked", [np.s_[[0, 0]], np.s_[[0, 0, 0], [7, 7, 1]], np.s_[0, [3, 3]]])
def test_an_axis_of_one_voxel_may_be_asked_for_often(asked: Any) -> None:
    data = np.random.default_rng(0).integers(0, 99, (1, 9, 8)).astype(np.uint8)
    payload = encode(data, max_error=2, effort=1)
    whole = decode(payload)
    assert np.array_equal(decode(payload, asked), whole[asked])
    rows = np.ix_([0, 0], range(9), range(3, 8))
    assert np.array_equal(decode(payload, rows), whole[rows])


def test_floats_near_the_largest_of_their_dtype() -> None:
    array = np.random.default_rng(0).random((10, 10, 10)).astype("f4")
    array[0, 0, 0] = np.finfo("f4").max
    assert largest_error(array, encode(array, max_error=1e33, effort=1)) <= 1e33
    array = np.linspace(0.9e36, 1e36, 1000, dtype="f4").reshape(10, 10, 10)
    array[0, 0, 0] = np.nan
    assert largest_error(array, encode(array, max_error=1e33, effort=1)) <= 1e33


def test_floats_further_apart_than_their_dtype_tells() -> None:
    array = np.random.default_rng(0).uniform(-1.7, 1.7, (9, 9, 9)) * 1e308
    found = decode(encode(array, max_error=1e308, effort=1))
    assert np.abs(found / 2 - array / 2).max() <= 1e308 / 2
    with pytest.raises(InvalidSetting, match="out of reach"):
        encode(array, max_error=1e300, effort=1)


@pytest.mark.parametrize(("dtype", "top", "bound"), [("f2", 288, 0.13), ("f4", 2.0**25, 2.1)])
def test_a_bound_needs_half_the_spacing_of_floats(dtype: str, top: float, bound: float) -> None:
    array = (np.random.default_rng(0).random((10, 10, 10)) * top).astype(dtype)
    assert largest_error(array, encode(array, max_error=bound, effort=1)) <= bound
    with pytest.raises(InvalidSetting, match="spaced"):
        encode(array, max_error=0.4 * bound, effort=1)


def test_a_matrix_is_an_array() -> None:
    array = volume((20, 24), "u2")
    with pytest.warns(PendingDeprecationWarning):
        payload = encode(np.matrix(array), max_error=3, effort=1)
    assert largest_error(array, payload) <= 3


@pytest.mark.parametrize("ratio", [2, 6, 10])
@pytest.mark.parametrize("largest", [1e4, 1e6, 1e8])
def test_few_planes_do_not_tell_how_far_floats_are_spaced(ratio: float, largest: float) -> None:
    """The largest, which rounding goes by, may lie in none of those that are looked at."""
    array = np.zeros((40, 8, 8), np.float32)
    array[20:] = np.random.default_rng(0).normal(0, 1, (20, 8, 8))
    array[9, 3, 3] = largest
    payload = encode(array, effort=1, ratio=ratio)
    assert len(payload) <= array.nbytes / ratio
    plain = encode(array, effort=1, ratio=ratio, form="wavelet")
    assert inspect(payload).psnr_db >= inspect(plain).psnr_db
