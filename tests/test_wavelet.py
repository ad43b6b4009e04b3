"""The transform: exact windows, small errors, energy nearly kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wavelets import in_turn, plans, whole, zeros

from tinc_codec import runtime
from tinc_codec.array_types import Float32Array
from tinc_codec.stream.residual.axes import Shape, Window, three_axes
from tinc_codec.stream.residual.wavelets import cdf97, lifting, wavelet
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan
from tinc_codec.threads import each

# Every row of an array.
ALL = (0, 1, 0, 1)


def noise(*shape: int) -> Float32Array:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


# What the integers stand for here: fine enough for noise.
SCALE = (np.float32(2.0**-20), np.float32(0))
ONE = (np.float32(1), np.float32(0))
ORIGIN = (0, 0, 0)


def integers(bands: Bands) -> Bands:
    return replace(bands, room=np.rint(bands.room / SCALE[0]).astype(np.int32))


def transformed(plan: TransformPlan, values: Float32Array) -> Bands:
    return integers(wavelet.forward(values, plan))


def restored(window: Window, bands: Bands, run: Any = map) -> Float32Array:
    return wavelet.inverse(bands, window, SCALE, run)


def analysed_lines(x: Float32Array, closed: bool) -> tuple[Float32Array, Float32Array]:
    n = x.shape[2]
    low = np.empty((*x.shape[:2], n - n // 2), np.float32)
    high = np.empty((*x.shape[:2], n // 2), np.float32)
    lifting.analyse_lines(low, high, x, ALL, closed, 0, len(x))
    return low, high


@pytest.mark.parametrize("n", range(1, 41))
@pytest.mark.parametrize("inner", [1, 3, 300])
def test_lifting_of_columns_is_undone(n: int, inner: int) -> None:
    for closed in {False, cdf97.may_close(n)}:
        original = noise(n, inner)
        x = original.copy()
        lifting.analyse_columns(x, closed, 0, inner)
        assert n == 1 or np.abs(x - original).max() > 0.01
        lifting.synthesise_columns(x, closed, 0, inner)
        np.testing.assert_allclose(x, original, rtol=0, atol=4e-6)


@pytest.mark.parametrize(
    ("n", "closed"), [(n, closed) for n in range(2, 41) for closed in {False, cdf97.may_close(n)}]
)
def test_lines_and_columns_give_the_same_bits(n: int, closed: bool) -> None:
    count = 3 * 27  # several vectors at once, one, and a rest
    original = noise(3, 27, n)
    columns = np.ascontiguousarray(original.reshape(count, n).T)
    lifting.analyse_columns(columns, closed, 0, count)
    low, high = analysed_lines(original, closed)
    assert low.reshape(count, -1).T.tobytes() == columns[::2].tobytes()
    assert high.reshape(count, -1).T.tobytes() == columns[1::2].tobytes()
    lifting.synthesise_columns(columns, closed, 0, count)
    back = np.empty_like(original)
    work = np.empty((2, 2 + (n + 1) // 2), np.float32)
    lifting.synthesise_lines(low, ORIGIN, ONE, high, ORIGIN, ONE, back, ALL, closed, 0, 3, work)
    assert back.reshape(count, n).T.tobytes() == columns.tobytes()


def test_synthesis_in_binary32_is_that_of_the_constants() -> None:
    """Against the same transform in binary64, by its definition: a low-pass of nine taps."""
    impulse = np.zeros((33, 1), np.float32)
    impulse[16] = 1
    lifting.analyse_columns(impulse, False, 0, 1)
    half = np.array([0.6029490182, 0.2668641184, -0.0782232665, -0.0168641184, 0.0267487574])
    taps = np.concatenate([half[:0:-1], half]) * np.sqrt(2)
    # What an even sample gives to the low samples around it: every other tap of the filter.
    found = impulse[12:21:2, 0] / impulse[16, 0]
    np.testing.assert_allclose(found, taps[::2] / taps[4], atol=2e-6)


@pytest.mark.parametrize("shape", [(32, 32, 32), (1, 64, 64), (40, 33, 61)])
@pytest.mark.parametrize("closed", [False, True])
def test_energy_is_nearly_kept(shape: tuple[int, int, int], closed: bool) -> None:
    """So that the error of the volume is about that of the coefficients."""
    split = sum(1 << k for k, n in enumerate(shape) if n > 1)
    values = noise(*shape)
    bands = wavelet.forward(values, wavelet.transform_plan(shape, [split, split], closed=closed))
    energy = float((bands.room**2).sum())
    assert energy == pytest.approx(float((values**2).sum()), rel=0.1)


def low_pass_error(n: int, closed: bool) -> Float32Array:
    """Return the mean squared error at each of n samples of noise that keeps its low ones alone."""
    values = noise(2000, 1, n)
    plan = wavelet.transform_plan((2000, 1, n), [4], closed=closed)
    kept = transformed(plan, values)
    kept.levels[0][4][...] = 0
    found = restored(whole(plan), kept)
    return ((found - values) ** 2).mean((0, 1))


def test_errors_at_the_end_of_a_closed_axis_are_half_as_large() -> None:
    """The last sample of an open one, an odd one, is foretold from one side only."""
    opened, closed = low_pass_error(32, False), low_pass_error(32, True)
    assert opened[-1] > 0.85
    assert closed[-1] < 0.6
    assert closed[:20].tobytes() == opened[:20].tobytes()
    assert closed.sum() < opened.sum()


@pytest.mark.parametrize("n", [6, 8, 26, 64])
def test_constants_stay_constant_on_a_closed_axis(n: int) -> None:
    plan = wavelet.transform_plan((1, 1, n), [4], closed=True)
    bands = wavelet.forward(np.ones((1, 1, n), np.float32), plan)
    np.testing.assert_allclose(bands.low, np.sqrt(2), rtol=0, atol=1e-5)
    np.testing.assert_allclose(bands.levels[0][4], 0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "splits", "closed"),
    [((1, 1, 6), [4], True), ((1, 1, 7), [4], False), ((1, 1, 4), [4], False),
     ((8, 7, 9), [6], False), ((8, 7, 9), [6, 1], True), ((1, 1, 12), [4, 4], True)],
)  # fmt: skip
def test_what_may_be_closed(shape: Shape, splits: list[int], closed: bool) -> None:
    if closed:
        assert wavelet.transform_plan(shape, splits, closed=True).closes_any()
        return
    with pytest.raises(ValueError, match="can be closed"):
        wavelet.transform_plan(shape, splits, closed=True)


@settings(max_examples=80)
@given(plans(23), st.data())
def test_a_window_is_that_part_of_the_whole(plan: TransformPlan, data: st.DataObject) -> None:
    values = noise(*plan.shapes[0])
    bands = transformed(plan, values)
    everything = restored(whole(plan), bands)
    np.testing.assert_allclose(everything, values, rtol=0, atol=4e-5)
    window: Any = []
    for n in plan.shapes[0]:
        first = data.draw(st.integers(0, n - 1))
        window.append((first, data.draw(st.integers(first + 1, n))))
    part = restored(tuple(window), bands)
    assert part.tobytes() == everything[tuple(slice(a, b) for a, b in window)].tobytes()


@settings(max_examples=40)
@given(plans(23), st.data())
def test_a_voxel_takes_no_more_of_the_bands_than_the_windows_say(
    plan: TransformPlan, data: st.DataObject
) -> None:
    """All else may be unknown yet: it is what other tiles hold."""
    bands = transformed(plan, noise(*plan.shapes[0]))
    at = [data.draw(st.integers(0, n - 1)) for n in plan.shapes[0]]
    a, b, c = ((i, i + 1) for i in at)
    expected = restored((a, b, c), bands)
    needed = wavelet.windows(plan, (a, b, c))
    if plan.splits:
        for band in bands.levels[0].values():
            kept = np.full_like(band, 12345678)
            # Tiles are cut by places of the low-pass band: the last of a high-pass one may lack.
            inside = tuple(slice(p, q) for p, q in needed[1])
            kept[inside] = band[inside]
            band[...] = kept
    assert restored((a, b, c), bands).tobytes() == expected.tobytes()


def test_lines_of_zeros_are_zeros() -> None:
    plan = wavelet.transform_plan((4, 6, 8), [7])
    bands = zeros(plan)
    assert not restored(whole(plan), bands).any()
    bands.low[1, 2, 3] = 1
    assert restored(whole(plan), bands).any()


def test_integers_are_restored_in_binary32() -> None:
    q = np.array([0, 1, -1, 7, -(2**24) - 1], np.int32).reshape(1, 1, 5)
    step, bias = np.float32(0.1), np.float32(51 / 256)
    plan = wavelet.transform_plan((1, 1, 5), [])
    found = wavelet.inverse(Bands(plan=plan, room=q.ravel()), whole(plan), (step, bias))
    expected = np.sign(q).astype(np.float32) * ((np.abs(q).astype(np.float32) - bias) * step)
    expected[q == 0] = 0
    assert found.tobytes() == expected.astype(np.float32).tobytes()


@pytest.mark.parametrize("shape", [(70, 64, 65), (2, 400, 300), (200, 1, 500)])
def test_threads_change_no_bit(shape: tuple[int, int, int]) -> None:
    split = sum(1 << k for k, n in enumerate(shape) if n > 1)
    plan, values = wavelet.transform_plan(shape, [split]).closed_where_possible(), noise(*shape)
    alone = wavelet.forward(values, plan)
    with runtime(threads=3):
        together = wavelet.forward(values, plan, each)
        found = restored(whole(plan), integers(alone), each)
    assert alone.room.tobytes() == together.room.tobytes()
    expected = restored(whole(plan), integers(alone), in_turn)
    assert found.tobytes() == expected.tobytes()


def test_the_volume_itself_is_not_changed() -> None:
    values = noise(9, 8, 7)
    kept = values.copy()
    wavelet.forward(values, wavelet.transform_plan((9, 8, 7), [7]))
    np.testing.assert_array_equal(values, kept)


def test_axes_made_three() -> None:
    assert three_axes((5,)) == (1, 1, 5)
    assert three_axes((4, 5)) == (1, 4, 5)
    assert three_axes((2, 3, 4, 5)) == (6, 4, 5)


@pytest.mark.parametrize("split", [0, 1, 8, 255])
def test_splits_that_do_not_fit_are_refused(split: int) -> None:
    with pytest.raises(ValueError, match=f"split {split} does not fit"):
        wavelet.transform_plan((1, 4, 4), [split])
