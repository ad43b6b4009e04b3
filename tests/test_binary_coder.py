"""The binary coder and its mixing: round trips, tables, ends of data."""

from __future__ import annotations

from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinc_codec.stream.residual import binary


def encoded(bits: list[int], probabilities: list[int], room: int = 1 << 16) -> bytes:
    state, data = np.zeros(binary.STATE_SIZE, np.int64), np.zeros(room, np.uint8)
    binary.start(state, data, False)
    for bit, p in zip(bits, probabilities, strict=True):
        assert binary.code(state, data, np.int64(p), bit) == bit
    return data[: binary.finish(state, data)].tobytes()


def decoded(coded: bytes, probabilities: list[int]) -> tuple[list[int], int]:
    """Return the bits, and the bytes that were looked at."""
    data = np.frombuffer(coded, np.uint8).copy()
    state = np.zeros(binary.STATE_SIZE, np.int64)
    binary.start(state, data, True)
    bits = [int(binary.code(state, data, np.int64(p), 0)) for p in probabilities]
    return bits, int(state[binary.AT])


# What the models give: SQUASH for mixed bits, 16 to 65519 for signs, 32768 for tails.
PROBABILITIES = st.one_of(st.integers(16, 65519), st.sampled_from((16, 24, 32768, 65512, 65519)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), PROBABILITIES), max_size=400))
def test_round_trip(pairs: list[tuple[int, int]]) -> None:
    bits, probabilities = [bit for bit, _ in pairs], [p for _, p in pairs]
    coded = encoded(bits, probabilities)
    found, looked_at = decoded(coded, probabilities)
    assert found == bits
    assert looked_at <= len(coded) + binary.SLACK


@pytest.mark.parametrize("p", [1, 16, 65519, 65535])
@pytest.mark.parametrize("bit", [0, 1])
def test_long_runs_under_extreme_probabilities(p: int, bit: int) -> None:
    bits = [bit] * 3000
    bits[1500] = 1 - bit
    assert decoded(encoded(bits, [p] * 3000), [p] * 3000)[0] == bits


def test_size_is_what_the_probabilities_say() -> None:
    rng = np.random.default_rng(3)
    probabilities = rng.integers(16, 65520, 20_000)
    bits = (rng.random(20_000) * 65536 < probabilities).astype(int)
    ideal = -np.log2(np.where(bits == 1, probabilities, 65536 - probabilities) / 65536).sum() / 8
    size = len(encoded(bits.tolist(), probabilities.tolist()))
    assert ideal <= size <= ideal * 1.001 + 2


def test_nothing_takes_one_byte() -> None:
    assert len(encoded([], [])) == 1


def test_a_cut_off_end_is_noticed_or_harmless() -> None:
    bits = np.random.default_rng(0).integers(0, 2, 4000).tolist()
    coded = encoded(bits, [32768] * 4000)
    for kept in (0, 1, 100, len(coded) - 8):
        found, looked_at = decoded(coded[:kept], [32768] * 4000)
        assert len(found) == 4000
        assert looked_at > kept + binary.SLACK


def test_a_full_buffer_is_told_by_its_size() -> None:
    bits = np.random.default_rng(0).integers(0, 2, 4000).tolist()
    state, data = np.zeros(binary.STATE_SIZE, np.int64), np.zeros(10, np.uint8)
    binary.start(state, data, False)
    for bit in bits:
        binary.code(state, data, np.int64(32768), bit)
    assert binary.finish(state, data) == len(encoded(bits, [32768] * 4000)) > len(data)


@pytest.mark.parametrize(
    ("table", "length", "checksum"),
    [(binary.STRETCH, 4096, 0x63851A8B), (binary.SQUASH, 5633, 0xA7E97F4B)],
)
def test_tables_are_those_of_the_format(table: Any, length: int, checksum: int) -> None:
    assert len(table) == length
    little = table.astype(table.dtype.newbyteorder("<")).tobytes()
    assert google_crc32c.value(little) == checksum


def test_learning_stays_within_its_types() -> None:
    """One bit for long, then the other: probabilities, counts and weights stay bounded."""
    prob, count = np.full(4, 1 << 15, np.uint16), np.zeros(4, np.uint8)
    weights = np.full((1, binary.INPUTS), 26214, np.int32)
    slots, inputs = np.array([0, 1, 2, 3] * 2), np.zeros(binary.INPUTS, np.int64)
    for bit in [1] * 5000 + [0] * 5000:
        p = binary.mix(prob, slots, inputs, weights, 0, 4)
        assert 24 <= p <= 65512
        binary.learn(prob, count, slots, inputs, weights, 0, 4, p, bit, 200, 6)
        assert 16 <= prob.min() <= prob.max() <= 65519
    assert count.max() == 200
    assert binary.mix(prob, slots, inputs, weights, 0, 4) < 2000
    assert np.abs(weights).max() < 1 << 24
