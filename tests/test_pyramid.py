"""Pyramids: each voxel of a level is the mean of its block, rounded once and rightly."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinc_codec import InvalidSetting, UnsupportedData
from tinc_codec.archive import ome
from tinc_codec.archive.pyramid import downsample, level_factors, level_region, level_shape

DTYPES = ["int8", "int16", "int32", "uint8", "uint16", "uint32"]


def exact(array, factors):
    """The means, voxel by voxel, in rational numbers; Python rounds halves to even."""
    means = np.empty(level_shape(array.shape, factors), array.dtype)
    for index in product(*map(range, means.shape)):
        block = array[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))]
        means[index] = round(Fraction(sum(int(v) for v in block.flat), block.size))
    return means


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=7))
    factors = draw(st.tuples(*[st.integers(1, 4)] * len(shape)))
    return draw(hnp.arrays(dtype, shape)), factors


@given(arrays())
def test_integers_are_the_exact_mean_rounded_to_even(drawn):
    array, factors = drawn
    found = downsample(array, factors)
    assert found.dtype == array.dtype
    assert np.array_equal(found, exact(array, factors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("end", ["min", "max"])
def test_sums_of_the_extremes_do_not_overflow(dtype, end):
    value = getattr(np.iinfo(dtype), end)
    array = np.full((64, 64, 33), value, dtype)
    assert (downsample(array, (64, 64, 32)) == value).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_floats_keep_their_fractions(dtype):
    array = np.arange(20).reshape(1, 4, 5).astype(dtype)
    found = downsample(array, (1, 2, 2))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    assert found.tolist() == [[[3, 5, 6.5], [13, 15, 16.5]]]


def test_foreign_byte_order_becomes_the_machines():
    found = downsample(np.array([256, 258], ">u2"), (2,))
    assert found.dtype == np.dtype("uint16")
    assert found == 257


def test_a_mean_of_large_half_floats_does_not_overflow():
    assert (downsample(np.full((4, 4), 60000, np.float16), (4, 4)) == 60000).all()


def test_nan_and_missing_values_are_left_out():
    array = np.array([[1, np.nan, np.nan, np.nan], [3, -9, -9, np.nan]], np.float32)
    assert np.array_equal(downsample(array, (2, 2), missing=-9), np.array([[2, -9]], np.float32))
    found = downsample(array, (2, 2))
    assert found[0, 0] == np.float32(-5 / 3)
    assert found[0, 1] == -9
    integers = np.array([[-999, 4, -999, -999]], np.int16)
    assert downsample(integers, (1, 2), missing=-999).tolist() == [[4, -999]]
    assert np.isnan(downsample(np.full((2, 2), np.nan, np.float32), (2, 2))).all()


def test_infinities_raise_no_warning():
    assert np.isnan(downsample(np.array([np.inf, -np.inf]), (2,)))
    assert downsample(np.array([np.inf, 1.0]), (2,)) == np.inf


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint64", "complex64"])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(UnsupportedData, match=dtype):
        downsample(np.zeros((2, 2), dtype), (2, 2))


@given(arrays(), st.data())
def test_a_region_of_a_level_is_made_of_its_region_of_level_zero(drawn, data):
    array, factors = drawn
    whole = downsample(array, factors)
    region = []
    for n in whole.shape:
        start = data.draw(st.integers(0, n - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, n))))
    below = level_region(tuple(region), factors, array.shape)
    assert np.array_equal(downsample(array[below], factors), whole[tuple(region)])


class TestFactors:
    def test_halve_space_until_nothing_is_left(self):
        grid = ome.grid("tczyx")
        found = level_factors(grid, (9, 2, 5, 4, 1), 10)
        assert found == [
            (1, 1, 1, 1, 1),
            (1, 1, 2, 2, 1),
            (1, 1, 4, 4, 1),
            (1, 1, 8, 4, 1),
        ]
        assert level_shape((9, 2, 5, 4, 1), found[-1]) == (9, 2, 1, 1, 1)

    def test_coarse_axes_wait_for_the_others(self):
        grid = ome.grid("zyx", scale=(4.0, 1.0, 1.0), units=["micrometer"] * 3)
        assert level_factors(grid, (64, 64, 64), 4) == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]

    def test_an_unknown_or_incomparable_scale_is_no_reason_to_wait(self):
        for grid in (
            ome.grid("zyx", scale=(4.0, None, 1.0)),
            ome.grid("zyx", scale=(4.0, 1.0, 1.0), units=["millimeter", "inch", "inch"]),
        ):
            assert level_factors(grid, (8, 8, 8), 2)[1] == (2, 2, 2)

    def test_refuses_no_level(self):
        with pytest.raises(InvalidSetting, match="levels=0"):
            level_factors(ome.grid("zyx"), (8, 8, 8), 0)
