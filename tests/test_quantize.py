"""quantize: steps that every reader computes alike, and errors of half a step at most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinc_codec.stream.quantize import dequantize, quantize, step_codes, step_size

SANE_BASES = st.floats(2**-30, 2**20, width=32)


@pytest.mark.parametrize(
    ("base", "code", "bits"),
    [
        (1.0, 128, 0x3F800000),
        (1.0, 129, 0x3F8B95C2),
        (1.0, 135, 0x3FEAC0C7),
        (1.0, 136, 0x40000000),
        (1.0, 127, 0x3F6AC0C7),
        (1.0, 0, 0x37800000),
        (1.0, 255, 0x476AC0C7),
        (0.1, 131, 0x3E04CBDF),
        (3.4e38, 0, 0x777FC99E),
        (1e-45, 128, 0x00000001),
    ],
)
def test_steps_are_pinned(base: float, code: int, bits: int) -> None:
    step = step_size(base, code)
    assert step.dtype == np.float32
    assert int(step.view(np.uint32)) == bits


def test_eighths_of_an_octave_are_the_nearest_floats() -> None:
    for code in range(128, 136):
        assert step_size(1.0, code) == np.float32(2 ** ((code - 128) / 8))


@given(SANE_BASES, st.integers(0, 255))
def test_steps_go_by_eighths_of_an_octave(base: float, code: int) -> None:
    assert float(step_size(base, code)) == pytest.approx(base * 2 ** ((code - 128) / 8), rel=2**-22)


@given(SANE_BASES, st.integers(8, 255))
def test_octaves_are_exact(base: float, code: int) -> None:
    assert float(step_size(base, code)) == 2 * float(step_size(base, code - 8))


@given(
    st.lists(st.floats(-(2.0**14), 2.0**14, width=32), min_size=1), st.integers(-15, 10).map(float)
)
def test_errors_are_half_a_step(values: list[float], octave: float) -> None:
    real = np.array(values, np.float32)
    step = np.float32(2**octave)
    integers = quantize(real, step)
    assert integers.dtype == np.int32
    back = dequantize(integers, step)
    assert back.dtype == np.float32
    assert np.abs(back.astype(float) - real).max() <= step / 2


@given(st.lists(st.integers(-32767, 32767), min_size=1), SANE_BASES, st.integers(0, 255))
def test_integers_survive_their_values(integers: list[int], base: float, code: int) -> None:
    step = step_size(base, code)
    expected = np.array(integers, np.int32)
    np.testing.assert_array_equal(quantize(dequantize(expected, step), step), expected)


def test_products_are_rounded_once() -> None:
    step = np.float32(0.1)
    integers = np.arange(-32767, 32768, dtype=np.int32)
    exact = integers.astype(np.float64) * float(step)  # 16 + 24 bits: exact
    np.testing.assert_array_equal(dequantize(integers, step), exact.astype(np.float32))


@given(st.lists(st.floats(-8, 7), min_size=1, max_size=9))
def test_codes_keep_the_ratios_asked_for(octaves: list[float]) -> None:
    codes = step_codes([2.0**x for x in octaves])
    steps = [math.log2(float(step_size(1.0, code))) for code in codes]
    shift = np.median(octaves)
    for octave, step in zip(octaves, steps, strict=True):
        assert step == pytest.approx(octave - shift, abs=1 / 16 + 1e-6)


def test_codes_where_any_step_will_do() -> None:
    assert step_codes([0.0, math.inf, math.nan]) == (128, 128, 128)
    assert step_codes([1.0, math.inf, 1.0]) == (128, 128, 128)
    assert step_codes([1e-30, 1.0, 1.0, 1e30, 0.0]) == (0, 128, 128, 255, 128)
