"""The transform: exact windows, small errors, energy nearly kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wavelets import in_turn, whole

from tinc_codec import runtime
from tinc_codec.stream.residual import lifting, wavelet
from tinc_codec.stream.residual.wavelet import Float32Array, Layout, Window
from tinc_codec.threads import each


def noise(*shape: int) -> Float32Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def bands_of(
    low: Float32Array, levels: list[dict[int, Float32Array]]
) -> Callable[[int, int, Window], Float32Array]:
    def band(level: int, direction: int, window: Window) -> Float32Array:
        source = low if direction == wavelet.LOW_PASS else levels[level][direction]
        return source[tuple(slice(a, b) for a, b in window)]

    return band


def transformed(plan: Layout, values: Float32Array) -> Callable[[int, int, Window], Float32Array]:
    return bands_of(*wavelet.forward(values, plan))


@pytest.mark.parametrize("n", range(1, 41))
@pytest.mark.parametrize("inner", [1, 3, 300])
def test_lifting_is_undone(n: int, inner: int) -> None:
    original = noise(2, n, inner)
    x = original.copy()
    lifting.analyse(x)
    assert n == 1 or np.abs(x - original).max() > 0.01
    lifting.synthesise(x)
    np.testing.assert_allclose(x, original, rtol=0, atol=4e-6)


@pytest.mark.parametrize("n", range(2, 41))
def test_both_ways_of_synthesis_give_the_same_bits(n: int) -> None:
    """Lines by themselves, and columns of a block."""
    columns = noise(1, n, 300)
    lines = np.ascontiguousarray(columns[0].T)[:, :, None]
    lifting.synthesise(columns)
    lifting.synthesise(lines)
    assert lines[:, :, 0].T.tobytes() == columns[0].tobytes()


def test_synthesis_in_binary32_is_that_of_the_constants() -> None:
    """Against the same transform in binary64, by its definition: a low-pass of nine taps."""
    impulse = np.zeros((1, 33, 1), np.float32)
    impulse[0, 16] = 1
    lifting.analyse(impulse)
    half = np.array([0.6029490182, 0.2668641184, -0.0782232665, -0.0168641184, 0.0267487574])
    taps = np.concatenate([half[:0:-1], half]) * np.sqrt(2)
    # What an even sample gives to the low samples around it: every other tap of the filter.
    found = impulse[0, 12:21:2, 0] / impulse[0, 16, 0]
    np.testing.assert_allclose(found, taps[::2] / taps[4], atol=2e-6)


@pytest.mark.parametrize("shape", [(32, 32, 32), (1, 64, 64), (40, 33, 61)])
def test_energy_is_nearly_kept(shape: tuple[int, int, int]) -> None:
    """So that the error of the volume is about that of the coefficients."""
    split = sum(1 << k for k, n in enumerate(shape) if n > 1)
    values = noise(*shape)
    low, levels = wavelet.forward(values, wavelet.layout(shape, [split, split]))
    energy = sum(float((b**2).sum()) for b in [low, *(b for lv in levels for b in lv.values())])
    assert energy == pytest.approx(float((values**2).sum()), rel=0.1)


@st.composite
def plans(draw: st.DrawFn) -> Layout:
    a, b, c = (draw(st.one_of(st.just(1), st.integers(1, 23))) for _ in range(3))
    plan = wavelet.layout((a, b, c), [])
    for _ in range(draw(st.integers(0, 5))):
        longer = [k for k, n in enumerate(plan.shapes[-1]) if n > 1]
        if longer:
            split = sum(1 << k for k in draw(st.sets(st.sampled_from(longer), min_size=1)))
            plan = wavelet.layout((a, b, c), [*plan.splits, split])
    return plan


@settings(max_examples=80, deadline=None)
@given(plans(), st.data())
def test_a_window_is_that_part_of_the_whole(plan: Layout, data: st.DataObject) -> None:
    values = noise(*plan.shapes[0])
    band = transformed(plan, values)
    everything = wavelet.inverse(plan, whole(plan), band)
    np.testing.assert_allclose(everything, values, rtol=0, atol=4e-5)
    window: Any = []
    for n in plan.shapes[0]:
        first = data.draw(st.integers(0, n - 1))
        window.append((first, data.draw(st.integers(first + 1, n))))
    part = wavelet.inverse(plan, tuple(window), band)
    assert part.tobytes() == everything[tuple(slice(a, b) for a, b in window)].tobytes()


@settings(max_examples=40, deadline=None)
@given(plans(), st.data())
def test_a_window_asks_for_no_more_than_the_bands_have(plan: Layout, data: st.DataObject) -> None:
    band = transformed(plan, noise(*plan.shapes[0]))

    def checked(level: int, direction: int, window: Window) -> Float32Array:
        shape = plan.shapes[-1] if direction == 0 else plan.band_shape(level, direction)
        assert all(0 <= a <= b <= n for (a, b), n in zip(window, shape, strict=True))
        return band(level, direction, window)

    at = [data.draw(st.integers(0, n - 1)) for n in plan.shapes[0]]
    a, b, c = ((i, i + 1) for i in at)
    assert wavelet.inverse(plan, (a, b, c), checked).shape == (1, 1, 1)


@pytest.mark.parametrize("shape", [(70, 64, 65), (2, 400, 300), (200, 1, 500)])
def test_threads_change_no_bit(shape: tuple[int, int, int]) -> None:
    split = sum(1 << k for k, n in enumerate(shape) if n > 1)
    plan, values = wavelet.layout(shape, [split]), noise(*shape)
    alone = wavelet.forward(values, plan)
    with runtime(threads=3):
        together = wavelet.forward(values, plan, each)
        restored = wavelet.inverse(plan, whole(plan), bands_of(*alone), each)
    assert alone[0].tobytes() == together[0].tobytes()
    for d, band in alone[1][0].items():
        assert band.tobytes() == together[1][0][d].tobytes()
    expected = wavelet.inverse(plan, whole(plan), bands_of(*alone), in_turn)
    assert restored.tobytes() == expected.tobytes()


def test_the_volume_itself_is_not_changed() -> None:
    values = noise(9, 8, 7)
    kept = values.copy()
    wavelet.forward(values, wavelet.layout((9, 8, 7), [7]))
    np.testing.assert_array_equal(values, kept)


def test_axes_made_three() -> None:
    assert wavelet.three_axes((5,)) == (1, 1, 5)
    assert wavelet.three_axes((4, 5)) == (1, 4, 5)
    assert wavelet.three_axes((2, 3, 4, 5)) == (6, 4, 5)


@pytest.mark.parametrize("split", [0, 1, 8, 255])
def test_splits_that_do_not_fit_are_refused(split: int) -> None:
    with pytest.raises(ValueError, match=f"split {split} does not fit"):
        wavelet.layout((1, 4, 4), [split])
