"""cosine: the canonical order of terms, exact sizes, and voxels that do not depend on company."""

from __future__ import annotations

import itertools
import struct
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload
from tinc_codec.stream import cosine

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=2, max_side=9)


def section(step: float, mean: int, *rest: int) -> bytes:
    return struct.pack("<fh", step, mean) + np.array(rest, np.int8).tobytes()


def whole(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    axes = [np.arange(n) for n in shape]
    return cosine.evaluate_grid(cosine.read(data, shape), shape, axes)


@given(SHAPES, st.integers(1, 200))
def test_order_is_that_of_the_format(shape: tuple[int, ...], terms: int) -> None:
    every = list(itertools.product(*(range(n) for n in shape)))

    def key(k: tuple[int, ...]) -> float:
        # plain additions in axis order: from Python 3.12 on, sum() compensates rounding
        return reduce(add, ((a / n) ** 2 for a, n in zip(k, shape, strict=True)), 0.0)

    ranked = sorted(every, key=key)  # sorted() is stable, product() is in row-major order
    found = cosine.orders(shape, terms)
    assert [tuple(k) for k in found.tolist()] == ranked[:terms]


@pytest.mark.parametrize(("shape", "most"), [((5000,), 4096), ((3, 900), 512), ((2, 2, 99), 64)])
def test_frequencies_are_limited(shape: tuple[int, ...], most: int) -> None:
    assert cosine.orders(shape, cosine.MAX_TERMS).max() < most
    assert len(cosine.orders(shape, cosine.MAX_TERMS)) <= cosine.MAX_TERMS


def test_values_are_those_of_the_format() -> None:
    shape = (4, 6)
    data = section(0.01, 50, 10, -20, 30)
    # in order of (k/n)^2: (0, 0), (0, 1), (1, 0), (1, 1)
    i, j = np.meshgrid(np.arange(4), np.arange(6), indexing="ij")
    u, v = np.cos(np.pi * (2 * i + 1) / 8), np.cos(np.pi * (2 * j + 1) / 12)
    expected = 0.5 + 0.1 * v - 0.2 * u + 0.3 * u * v
    np.testing.assert_allclose(whole(data, shape), expected, atol=1e-7)


@settings(max_examples=60)
@given(SHAPES, st.binary(min_size=0, max_size=60), st.data())
def test_a_part_equals_the_part_of_the_whole(
    shape: tuple[int, ...], rest: bytes, data: st.DataObject
) -> None:
    terms = len(cosine.orders(shape, len(rest) + 1))
    coefficients = cosine.read(section(0.01, 60) + rest[: terms - 1], shape)
    full = cosine.evaluate_grid(coefficients, shape, [np.arange(n) for n in shape])
    axes = [
        np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=12))) for n in shape
    ]
    part = cosine.evaluate_grid(coefficients, shape, axes)
    assert part.dtype == np.float32
    assert part.tobytes() == full[np.ix_(*axes)].tobytes()
    points = [np.resize(axis, 13) for axis in axes]
    some = cosine.evaluate_points(coefficients, shape, points)
    assert some.tobytes() == full[tuple(points)].tobytes()


@pytest.mark.parametrize("shape", [(3000,), (129, 70), (33, 20, 47), (9, 8, 11, 13)])
def test_parts_of_longer_axes(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    coefficients = cosine.read(section(0.01, 60, *rng.integers(-127, 128, 90)), shape)
    full = cosine.evaluate_grid(coefficients, shape, [np.arange(n) for n in shape])
    for step in (1, 2, 3, 7):
        axes = [np.arange(n)[n % step :: step] for n in shape]
        part = cosine.evaluate_grid(coefficients, shape, axes)
        assert part.tobytes() == full[np.ix_(*axes)].tobytes()
        points = [rng.integers(0, n, 100 + step) for n in shape]
        some = cosine.evaluate_points(coefficients, shape, points)
        assert some.tobytes() == full[tuple(points)].tobytes()


@given(SHAPES, st.integers(6, 300), st.integers(0, 2**32 - 1))
def test_fit_fills_its_bytes_and_reads_back(shape: tuple[int, ...], size: int, seed: int) -> None:
    unit = np.random.default_rng(seed).uniform(0, 1, shape).astype(np.float32)
    data = cosine.fit(unit, None, size)
    assert len(data) == min(size, 5 + unit.size)
    assert np.isfinite(whole(data, shape)).all()


def test_all_terms_restore_the_volume() -> None:
    unit = np.random.default_rng(0).uniform(0, 1, (5, 6, 4)).astype(np.float32)
    restored = whole(cosine.fit(unit, None, 1000), unit.shape)
    step = struct.unpack_from("<f", cosine.fit(unit, None, 1000))[0]
    assert np.abs(restored - unit).max() < step / 2 * unit.size**0.5 * 3


def test_more_terms_fit_better() -> None:
    z, y = np.meshgrid(np.linspace(0, 3, 40), np.linspace(0, 2, 30), indexing="ij")
    unit = (0.5 + 0.4 * np.sin(z * y)).astype(np.float32)
    errors = [
        float(((whole(cosine.fit(unit, None, size), unit.shape) - unit) ** 2).mean())
        for size in (6, 10, 20, 60)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 100


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.3, 1.0])
def test_a_level_volume(value: float) -> None:
    unit = np.full((7, 8), value, np.float32)
    np.testing.assert_allclose(whole(cosine.fit(unit, None, 20), unit.shape), value, atol=2e-5)


def test_masked_voxels_do_not_pull() -> None:
    unit = np.full((16, 16), 0.25, np.float32)
    weight = np.ones_like(unit)
    unit[:4], weight[:4] = 1.0, 0.0
    restored = whole(cosine.fit(unit, weight, 40), unit.shape)
    np.testing.assert_allclose(restored[4:], 0.25, atol=1e-4)
    assert (unit[:4] == 1).all()


@pytest.mark.parametrize(
    ("data", "shape", "says"),
    [
        (section(0.0, 1), (4,), "step 0"),
        (section(-1.0, 1), (4,), "step -1"),
        (section(float("nan"), 1), (4,), "step nan"),
        (section(float("inf"), 1), (4,), "step inf"),
        (section(1.0, 1, 2, 3, 4, 5), (2, 2), "5 terms where the chunk has 4"),
        (section(1.0, 1, *[0] * 4096), (90, 90), "4097 terms"),
        (section(1.0, 1), (), "0 axes"),
        (section(1.0, 1), (2,) * 5, "5 axes"),
    ],
)
def test_sections_out_of_range(data: bytes, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(CorruptPayload, match=says):
        cosine.read(data, shape)


def test_steps_that_no_encoder_writes_go_to_infinity() -> None:
    values = whole(section(3e38, 32767, 127, -127), (6, 6))
    assert np.isposinf(values).any()
    assert not np.isnan(values).any()


def test_cut_sections() -> None:
    for length in range(6):
        with pytest.raises(TruncatedPayload):
            cosine.read(section(1.0, 3)[:length], (4, 4))


@given(st.binary(max_size=40), st.lists(st.integers(2, 50), max_size=5))
def test_noise_gives_values_or_an_error(data: bytes, shape: list[int]) -> None:
    try:
        coefficients = cosine.read(data, shape)
    except TincError:
        return
    corner = cosine.evaluate_grid(coefficients, shape, [np.array([0, n - 1]) for n in shape])
    assert corner.shape == (2,) * len(shape)
    assert not np.isnan(corner).any()
