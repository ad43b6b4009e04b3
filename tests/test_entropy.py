"""entropy: coded bytes are a format promise; a decoder written from FORMAT.md agrees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinc_codec.errors import CorruptPayload
from tinc_codec.stream import entropy
from tinc_codec.stream.entropy import ALL_ZERO, MAX_MAGNITUDE, PRECISION, SCALES, cumulative

MODELS = 3 * SCALES
TOTAL = 1 << 24


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


# FORMAT.md in plain integers.

GROW = (65536, 77936, 92682, 110218)
SHRINK = (1073741824, 902905651, 759250125, 638450708)
TAILS = (
    lambda x: math.erfc(x / math.sqrt(2)) / 2,
    lambda x: 1 / (1 + math.exp(x)),
    lambda x: math.exp(-x) / 2,
)


def scaled_tails(shape: int) -> list[float]:
    return [TOTAL * TAILS[shape](j / 32) for j in range(321)]


def reference_cumulative(model: int) -> list[int]:
    shape, scale = divmod(model, 64)
    table = [math.floor(v + 0.5) for v in scaled_tails(shape)]
    octave, quarter = divmod(scale, 4)
    top = min(32767, 2 + ((10 * GROW[quarter] << octave) >> 18))

    def tail(k: int) -> int:
        x = ((2 * k + 1) * SHRINK[quarter]) >> (8 + octave)
        i, f = x >> 16, x & 0xFFFF
        return 0 if i >= 320 else table[i] - (((table[i] - table[i + 1]) * f) >> 16)

    lower = [tail(top - j) for j in range(1, top + 1)]
    upper = [TOTAL - tail(j) for j in range(top)]
    n = 2 * top + 1
    return [((m * (TOTAL - n)) >> 24) + j for j, m in enumerate([0, *lower, *upper, TOTAL])]


def reference_decode(data: bytes, sizes: Sequence[int], models: Sequence[int]) -> list[list[int]]:
    padded = data + bytes(-len(data) % 4)
    words = [int.from_bytes(padded[i : i + 4], "little") for i in range(0, len(padded), 4)]

    def next_word() -> int:
        return words.pop(0) if words else 0

    mask = 2**64 - 1
    lower, width = 0, mask
    point = next_word() << 32 | next_word()
    out = []
    for size, model in zip(sizes, models, strict=True):
        if model == ALL_ZERO:
            out.append([0] * size)
            continue
        edges = cumulative(model)
        values = []
        for _ in range(size):
            scale = width >> 24
            quantile = ((point - lower) & mask) // scale
            assert quantile < TOTAL
            symbol = int(np.searchsorted(edges, quantile, side="right")) - 1
            left, right = int(edges[symbol]), int(edges[symbol + 1])
            lower = (lower + scale * left) & mask
            width = scale * (right - left)
            if width < 1 << 32:
                lower = (lower << 32) & mask
                width <<= 32
                point = ((point << 32) & mask) | next_word()
            values.append(symbol - (len(edges) - 2) // 2)
        out.append(values)
    return out


# Models.


@pytest.mark.parametrize(("shape", "checksum"), [(0, 0x61B98AAA), (1, 0xC6801488), (2, 0xE4B625E7)])
def test_tables_are_those_of_the_format(shape: int, checksum: int) -> None:
    table = entropy._tail_table(shape)
    assert table.shape == (321,)
    assert google_crc32c.value(table.astype("<u4").tobytes()) == checksum


@pytest.mark.parametrize("shape", range(3))
def test_no_entry_is_near_a_rounding_tie(shape: int) -> None:
    assert min(abs(v % 1 - 0.5) for v in scaled_tails(shape)) > 1e-6


@pytest.mark.parametrize("model", [*range(0, MODELS, 7), 63, 127, 191])
def test_models_are_those_of_the_format(model: int) -> None:
    assert cumulative(model).tolist() == reference_cumulative(model)


def test_every_model_gives_every_symbol_a_share() -> None:
    for model in range(MODELS):
        edges = cumulative(model)
        assert edges[0] == 0
        assert edges[-1] == TOTAL
        assert (np.diff(edges) > 0).all()
        assert len(edges) == 2 * entropy.largest_symbol(model % SCALES) + 2
        frequencies = np.diff(edges)
        # symmetric but for the rounding of each edge
        assert np.abs(frequencies - frequencies[::-1]).max() <= 1


def test_scales_are_quarter_octaves() -> None:
    for model in (4 * 8, SCALES + 4 * 8, 2 * SCALES + 4 * 8):  # scale 2**6
        frequencies = np.diff(cumulative(model)) / TOTAL
        symbols = np.arange(len(frequencies)) - len(frequencies) // 2
        deviation = math.sqrt((frequencies * symbols**2).sum())
        unit = {0: 1.0, 1: math.pi / math.sqrt(3), 2: math.sqrt(2)}[model // SCALES]
        assert deviation == pytest.approx(64 * unit, rel=0.02)


@pytest.mark.parametrize("model", [MODELS, 200, 254])
def test_unknown_models_are_refused(model: int) -> None:
    with pytest.raises(CorruptPayload, match=f"{model} is unknown"):
        entropy.decode(b"1234", [3], [model])


# Coding.


@pytest.mark.parametrize(
    ("groups", "models", "coded"),
    [
        ([ints(0, 1, -1, 2)], [8], "bc84b299"),
        ([ints(0, 1, -2, 0, 2)], [0], "22e79df458bd2359"),
        ([ints(5, -30, 7, 0, 0, 1)], [84], "644440a3e2f5cdb5"),
        ([ints(500, -300, 32, -1)], [168], "4a0acbedcbf58599"),
        ([ints(32767, -32767, 0)], [63], "cb99cafd"),
        ([ints(12345)], [191], "003ea3cb"),
        ([ints(-1, -1, -1, -1, -1)], [127], "fed0fe7f7459ae96e3faab05"),
        ([ints(0, 0, 0)], [ALL_ZERO], ""),
        (
            [ints(3, -4, 0), ints(*[0] * 7), ints(), ints(*range(-5, 6))],
            [12, ALL_ZERO, 8, 73],
            "68e058e5ef6b1b1d",
        ),
    ],
)
def test_coded_bytes_are_pinned(groups: list[np.ndarray], models: list[int], coded: str) -> None:
    assert entropy.encode(groups, models).hex() == coded
    decoded = entropy.decode(bytes.fromhex(coded), [len(g) for g in groups], models)
    for values, expected in zip(decoded, groups, strict=True):
        assert values.dtype == np.int32
        np.testing.assert_array_equal(values, expected)


@st.composite
def coded_groups(draw: st.DrawFn) -> tuple[list[np.ndarray], list[int]]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups, models = [], []
    for _ in range(draw(st.integers(1, 6))):
        model = draw(st.sampled_from([*range(MODELS), ALL_ZERO, ALL_ZERO]))
        size = draw(st.integers(0, 80))
        if model == ALL_ZERO:
            values = np.zeros(size)
        else:
            top = entropy.largest_symbol(model % SCALES)
            deviation = 2.0 ** draw(st.integers(-2, 16))
            values = np.clip(np.rint(rng.normal(0, deviation, size)), -top, top)
        groups.append(values.astype(np.int32))
        models.append(model)
    return groups, models


@settings(max_examples=150)
@given(coded_groups())
def test_the_format_s_decoder_reads_what_is_encoded(
    case: tuple[list[np.ndarray], list[int]],
) -> None:
    groups, models = case
    coded = entropy.encode(groups, models)
    assert not coded.endswith(b"\0")
    sizes = [len(g) for g in groups]
    expected = [g.tolist() for g in groups]
    assert reference_decode(coded, sizes, models) == expected
    assert [v.tolist() for v in entropy.decode(coded, sizes, models)] == expected


@settings(max_examples=100)
@given(st.binary(max_size=60), st.integers(0, MODELS - 1))
def test_the_format_s_decoder_reads_any_bytes_alike(data: bytes, model: int) -> None:
    try:
        expected = reference_decode(data, [40], [model])[0]
    except AssertionError:
        with pytest.raises(CorruptPayload, match="no code"):
            entropy.decode(data, [40], [model])
    else:
        assert entropy.decode(data, [40], [model])[0].tolist() == expected


def code_length(values: np.ndarray, model: int) -> float:
    """Return the bits that values take under a model; infinite where they do not fit."""
    if model == ALL_ZERO:
        return math.inf if values.any() else 0.0
    top = entropy.largest_symbol(model % SCALES)
    if np.abs(values).max(initial=0) > top:
        return math.inf
    bits = PRECISION - np.log2(np.diff(entropy.cumulative(model)))
    return float(bits[values + top].sum())


def test_length_is_as_estimated() -> None:
    values = np.rint(np.random.default_rng(0).laplace(0, 9, 5000)).astype(np.int32)
    for model in (20, 24, SCALES + 20, 2 * SCALES + 22):
        bits = code_length(values, model)
        assert 0 <= 8 * len(entropy.encode([values], [model])) - bits <= 72


# Choice of the model.


def best_length(values: np.ndarray) -> float:
    return min(code_length(values, model) for model in range(MODELS))


@settings(max_examples=60)
@given(
    st.sampled_from(["normal", "logistic", "laplace", "uniform"]),
    st.floats(-3, 14.5),
    st.integers(1, 3000),
    st.integers(0, 2**32 - 1),
)
def test_choice_is_close_to_the_best(shape: str, octave: float, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low = -(2**octave) if shape == "uniform" else 0
    real = getattr(rng, shape)(low, 2**octave, size)
    values = np.clip(np.rint(real), -MAX_MAGNITUDE, MAX_MAGNITUDE).astype(np.int32)
    model, length = entropy.choose_model(values)
    assert length == pytest.approx(code_length(values, model))
    if not values.any():
        assert length == 0
    else:
        assert length <= 1.01 * best_length(values) + 1


@pytest.mark.parametrize("outlier", [3, 100, 5000, MAX_MAGNITUDE, -MAX_MAGNITUDE])
@pytest.mark.parametrize("ordinary", [0, 1, 40])
@pytest.mark.parametrize("size", [1, 50, 100_000])
def test_outliers_can_be_coded(outlier: int, ordinary: int, size: int) -> None:
    values = np.full(size, ordinary, np.int32)
    values[-1] = outlier
    model, length = entropy.choose_model(values)
    assert length == pytest.approx(code_length(values, model))
    assert length < math.inf
    (decoded,) = entropy.decode(entropy.encode([values], [model]), [size], [model])
    np.testing.assert_array_equal(decoded, values)


def test_beyond_the_largest_magnitude_nothing_fits() -> None:
    values = ints(0, MAX_MAGNITUDE + 1, 0)
    model, length = entropy.choose_model(values)
    assert length == code_length(values, model) == math.inf


def test_a_good_fit_costs_its_entropy() -> None:
    values = np.rint(np.random.default_rng(3).normal(0, 64, 100_000)).astype(np.int32)
    entropy_bits = math.log2(64 * math.sqrt(2 * math.pi * math.e))
    length = entropy.choose_model(values)[1] / len(values)
    assert length == pytest.approx(entropy_bits, abs=0.02)
    assert PRECISION == 24
