"""Coding of bands: round trips of integers, rounding by price, sizes that do not fit."""

from __future__ import annotations

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wavelets import bands_of, cuts_of, cuts_of_plan, in_turn, plans, quantized, section_of, whole

from tinc_codec.array_types import Float32Array
from tinc_codec.stream.residual.wavelets import contexts, prior, segments, wavelet
from tinc_codec.stream.residual.wavelets.section import Coefficients, Header
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan


@st.composite
def bands(
    draw: st.DrawFn,
) -> tuple[TransformPlan, Float32Array, list[dict[int, Float32Array]], Cuts]:
    """Draw a plan, and sparse or dense integers of any size as its coefficients."""
    plan = draw(plans(19))
    cuts = draw(cuts_of_plan(plan))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((0.0, 0.02, 0.3, 1.0)))
    largest = draw(st.sampled_from((1, 3, 40, 2**23)))

    def integers(shape: tuple[int, ...]) -> Float32Array:
        q = rng.integers(-largest, largest + 1, shape) * (rng.random(shape) < density)
        return q.astype(np.float32)

    low = integers(plan.shapes[-1])
    levels = [
        {d: integers(plan.band_shape(k, d)) for d in plan.directions(k)}
        for k in range(len(plan.splits))
    ]
    return plan, low, levels, cuts


@settings(max_examples=80)
@given(bands())
def test_integers_come_back(
    drawn: tuple[TransformPlan, Float32Array, list[dict[int, Float32Array]], Cuts],
) -> None:
    plan, low, levels, cuts = drawn
    coded = segments.encode(
        bands_of(plan, low, levels, np.float32), segments.ones(plan), prior.learnt(), step=1.0,
        price=0.0, cuts=cuts, most=1 << 17, run=in_turn,
    )  # fmt: skip
    assert coded is not None
    np.testing.assert_array_equal(coded.bands.low, low)
    header = Header(plan=plan, step=1.0, offset=0.0, bias=0.0, cuts=cuts)
    read = Coefficients(header, coded.segments)
    found = read._decoded([*wavelet.windows(plan, whole(plan))], in_turn)
    np.testing.assert_array_equal(found.low, low)
    for ours, theirs in zip(found.levels, levels, strict=True):
        assert list(ours) == list(theirs)
        for direction, band in theirs.items():
            np.testing.assert_array_equal(ours[direction], band)


@pytest.mark.parametrize("cuts", [0, 7])
def test_no_price_is_plain_rounding(cuts: int) -> None:
    values = np.random.default_rng(1).normal(size=(17, 20, 16)).astype(np.float32)
    plan, coded = quantized(values, (7, 7), step=0.25, price=0.0, cuts=cuts)
    real = wavelet.forward(values, plan).room
    expected = np.sign(real) * np.floor(np.abs(real) / 0.25 + 0.5)
    np.testing.assert_array_equal(coded.bands.room, expected)


def test_a_price_makes_fewer_bytes_and_magnitudes_no_larger() -> None:
    values = np.random.default_rng(1).normal(size=(16, 16, 16)).astype(np.float32)
    sizes = []
    for price in (0.0, 0.08, 0.3):
        _, coded = quantized(values, (7, 7), step=1.0, price=price)
        _, plain = quantized(values, (7, 7), step=1.0, price=0.0)
        assert (np.abs(coded.bands.room) <= np.abs(plain.bands.room)).all()
        sizes.append(sum(map(len, coded.segments)))
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3


def test_too_few_bytes_give_none() -> None:
    values = np.random.default_rng(1).normal(size=(16, 16, 16)).astype(np.float32)
    plan, coded = quantized(values, (7, 7), step=0.5, cuts=7)
    needed = max(map(len, coded.segments))
    real, worth = wavelet.forward(values, plan), segments.ones(plan)
    for most in (0, 1, 100, needed - 1, needed):
        found = segments.encode(
            real, worth, prior.learnt(), step=0.5, price=0.08, cuts=cuts_of(7, plan), most=most,
            run=in_turn,
        )  # fmt: skip
        assert (found is None) == (most < needed)
    assert found is not None
    assert found.segments == coded.segments


def test_zeros_take_few_bytes() -> None:
    assert len(section_of(np.full((24, 24, 24), 0.5, np.float32), (7, 7), step=0.1)) < 24


def test_sizes_at_either_side_of_the_unary_part_and_of_clipping() -> None:
    sizes = np.array([1, 14, 15, 16, 17, 18, 126, 127, 128, 2**16, 2**22, 2**24], np.float32)
    plan = wavelet.transform_plan((1, 1, 2 * len(sizes)), [])
    low = np.concatenate([sizes, -sizes]).reshape(1, 1, -1)
    real, worth = Bands(plan=plan, room=low.ravel()), segments.ones(plan)
    coded = segments.encode(
        real, worth, prior.learnt(), step=1.0, price=0.0, cuts=NO_CUTS, most=999, run=in_turn
    )
    assert coded is not None
    header = Header(plan=plan, step=1.0, offset=0.0, bias=0.0, cuts=NO_CUTS)
    found = Coefficients(header, coded.segments).values(whole(plan), in_turn)
    np.testing.assert_array_equal(found, low)


def test_levels_of_activity_are_those_of_the_format() -> None:
    assert google_crc32c.value(contexts.LEVEL.tobytes()) == 0x02F7C805
    assert contexts.LEVEL.max() == contexts.LEVELS - 1
