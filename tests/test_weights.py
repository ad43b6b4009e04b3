"""The WEIGHTS section: what was quantised comes back bit for bit, and its size is as told."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import parameters_of, trees

from tinc_codec.errors import CorruptPayload, TincError, TruncatedPayload, UnsupportedVersion
from tinc_codec.stream import quantize
from tinc_codec.stream.entropy import ALL_ZERO
from tinc_codec.tree import weights
from tinc_codec.tree.geometry import Geometry
from tinc_codec.tree.network import Layout, Tree, layout
from tinc_codec.tree.weights import QuantizedWeights

SMALL = layout(
    Tree(
        geometry=Geometry(shape=(8, 8), splits=(), coordinates="global"),
        widths=(np.array([[2]]),),
    )
)


def quantized(table: Layout, seed: int, base: float) -> QuantizedWeights:
    rng = np.random.default_rng(seed)
    codes = tuple(rng.integers(100, 150, len(table.groups)).tolist())
    sizes = [g.stop - g.start for g in table.groups]
    spread = 2.0 ** rng.uniform(-2, 10)
    groups = tuple(np.rint(rng.normal(0, spread, n)).astype(np.int32) for n in sizes)
    return QuantizedWeights(base=base, codes=codes, groups=groups)


def test_bytes_are_pinned() -> None:
    packed = weights.pack_quantized(
        QuantizedWeights(
            base=0.5,
            codes=(128, 136, 120, 129),
            groups=tuple(np.array(g, np.int32) for g in ([1, -2, 0, 3], [0, 0], [40, -7], [1])),
        )
    )
    assert packed.hex() == "010000003f808878810cff1b08a1142fa1"
    values = weights.unpack(packed, SMALL)
    step = np.float32(0.5) * np.float32(9147842 / 2**23)
    expected = np.array([0.5, -1, 0, 1.5, 0, 0, 10, -1.75, step], np.float32)
    np.testing.assert_array_equal(values, expected)


@settings(max_examples=60)
@given(trees(), st.integers(0, 2**32 - 1), st.floats(2**-20, 1, width=32))
def test_quantised_round_trip(tree: Tree, seed: int, base: float) -> None:
    table = layout(tree)
    original = quantized(table, seed, base)
    packed = weights.pack_quantized(original)
    values = weights.unpack(packed, table)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, original.values())
    for group, code, integers in zip(table.groups, original.codes, original.groups, strict=True):
        step = quantize.step_size(base, code)
        assert (values[group.start : group.stop] == integers.astype(np.float32) * step).all()
    assert abs(len(packed) - weights.quantized_size(original)) <= 8


@settings(max_examples=30)
@given(trees())
def test_raw_round_trip(tree: Tree) -> None:
    parameters = parameters_of(tree)
    packed = weights.pack_raw(parameters)
    assert len(packed) == 1 + 4 * len(parameters)
    values = weights.unpack(packed, layout(tree))
    assert values.tobytes() == parameters.tobytes()
    assert values.flags.writeable


def test_groups_of_zeros_cost_no_code() -> None:
    zeros = tuple(np.zeros(g.stop - g.start, np.int32) for g in SMALL.groups)
    nothing = QuantizedWeights(base=1.0, codes=(128,) * 4, groups=zeros)
    assert nothing.models() == (ALL_ZERO,) * 4
    packed = weights.pack_quantized(nothing)
    assert len(packed) == weights.quantized_size(nothing) == 5 + 2 * 4
    assert not weights.unpack(packed, SMALL).any()


@pytest.mark.parametrize("mode", [2, 255])
def test_unknown_modes(mode: int) -> None:
    with pytest.raises(UnsupportedVersion, match=f"mode {mode} is unknown"):
        weights.unpack(bytes([mode]) + bytes(40), SMALL)


def test_raw_length_must_fit() -> None:
    packed = weights.pack_raw(np.zeros(SMALL.size, np.float32))
    for length in range(len(packed)):
        with pytest.raises(TruncatedPayload):
            weights.unpack(packed[:length], SMALL)
    with pytest.raises(CorruptPayload, match="after its end"):
        weights.unpack(packed + b"\0", SMALL)


def test_quantised_head_must_be_whole() -> None:
    packed = weights.pack_quantized(quantized(SMALL, 0, 1.0))
    for length in range(5 + 2 * len(SMALL.groups)):
        with pytest.raises(TruncatedPayload):
            weights.unpack(packed[:length], SMALL)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_raw_weights_are_finite(value: float) -> None:
    parameters = np.zeros(SMALL.size, np.float32)
    parameters[3] = value
    with pytest.raises(CorruptPayload, match="not finite"):
        weights.unpack(weights.pack_raw(parameters), SMALL)


@given(st.binary(max_size=60))
def test_noise_gives_finite_parameters_or_an_error(data: bytes) -> None:
    try:
        values = weights.unpack(data, SMALL)
    except TincError:
        return
    assert values.shape == (SMALL.size,)
    assert np.isfinite(values).all()
