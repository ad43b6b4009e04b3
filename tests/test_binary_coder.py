"""The binary coder and its mixing: round trips, tables, ends of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tinc_codec.stream.residual.coder import binary, mixing


def coder(data: NDArray[np.uint8], *, decoding: bool) -> binary.Coder:
    return binary.started(
        data, np.zeros(0, np.uint32), np.zeros((0, mixing.INPUTS), np.int32), decoding=decoding
    )


def encoded(bits: list[int], probabilities: list[int], room: int = 1 << 16) -> bytes:
    encoder = coder(np.zeros(room, np.uint8), decoding=False)
    for bit, p in zip(bits, probabilities, strict=True):
        assert binary.code(encoder, np.int64(p), bit) == bit
    return encoder.data[: binary.finish(encoder)].tobytes()


def decoded(coded: bytes, probabilities: list[int]) -> tuple[list[int], int]:
    """Return the bits, and the bytes that were looked at."""
    decoder = coder(np.frombuffer(coded, np.uint8).copy(), decoding=True)
    bits = [int(binary.code(decoder, np.int64(p), 0)) for p in probabilities]
    return bits, int(decoder.state[binary.AT])


# What the models give: SQUASH for mixed bits, 16 to 65519 for signs, 32768 for tails.
PROBABILITIES = st.one_of(st.integers(16, 65519), st.sampled_from((16, 24, 32768, 65512, 65519)))


@settings(max_examples=100)
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
    encoder = coder(np.zeros(10, np.uint8), decoding=False)
    for bit in bits:
        binary.code(encoder, np.int64(32768), bit)
    assert binary.finish(encoder) == len(encoded(bits, [32768] * 4000)) > len(encoder.data)


@pytest.mark.parametrize(
    ("table", "length", "checksum"),
    [(binary.STRETCH, 4096, 0x63851A8B), (binary.SQUASH, 5633, 0xA7E97F4B)],
)
def test_tables_are_those_of_the_format(table: Any, length: int, checksum: int) -> None:
    assert len(table) == length
    little = table.astype(table.dtype.newbyteorder("<")).tobytes()
    assert google_crc32c.value(little) == checksum


def of_model(words: NDArray[np.uint32], weights: NDArray[np.int32]) -> binary.Coder:
    return binary.started(np.zeros(0, np.uint8), words, weights, decoding=False)


@binary.kernel()
def decide(coder: Any, slots: Any, row: int, bit: int, limit: int, rate: int) -> Any:
    """Return the probability that a decision is given, and learn from what came."""
    p, inputs, taken = binary.mix(coder, slots, row)
    binary.learn(coder, slots, row, inputs, taken, p, bit, limit, rate)
    return p


def decided(
    words: list[list[int]],
    slots: Sequence[int],
    weights: list[int],
    bit: int,
    limit: int,
    rate: int,
) -> int:
    """The same by FORMAT.md, one integer after the other; words are [probability, count]."""
    inputs = [int(binary.STRETCH[words[s][0] >> 4]) for s in slots]
    x = sum(i * w for i, w in zip(inputs, weights, strict=False)) >> 16
    p = int(binary.SQUASH[min(max(x, -2816), 2816) + 2816])
    for k, s in enumerate(slots):
        weights[k] += (inputs[k] * ((bit << 16) - p) * rate + (1 << 17)) >> 18
        q, count = words[s]
        q += ((65535 * bit - q) * (655360 // (10 * count + 16))) >> 16
        words[s] = [min(max(q, 16), 65519), min(count + 1, limit)]
    return p


@pytest.mark.parametrize("inputs", [1, 3, 4, 5, 6, 8])
@pytest.mark.parametrize(("limit", "rate"), [(200, 6), (250, 3), (120, 6)])
def test_decisions_are_those_of_the_format(inputs: int, limit: int, rate: int) -> None:
    """Of all counts and all probabilities, by vectors as by single integers."""
    rng = np.random.default_rng(inputs)
    size = 40
    probability = rng.integers(16, 65520, size)
    probability[:6] = 16, 17, 65518, 65519, 32768, 65519
    count = rng.integers(0, limit + 1, size)
    words = (probability | count << mixing.COUNT_SHIFT).astype(np.uint32)
    weights = rng.integers(-(1 << 18), 1 << 18, (3, mixing.INPUTS)).astype(np.int32)
    known = [list(pair) for pair in zip(probability.tolist(), count.tolist(), strict=True)]
    known_weights = weights.tolist()
    for k in range(3000):
        slots = tuple(rng.permutation(size)[:inputs].tolist())
        row, bit = int(rng.integers(3)), int(k // 700 % 2 if k % 3 else rng.integers(2))
        found = decide(of_model(words, weights), slots, row, bit, limit, rate)
        assert found == decided(known, slots, known_weights[row], bit, limit, rate)
    assert (words & mixing.PROBABILITY).tolist() == [p for p, _ in known]
    assert (words >> mixing.COUNT_SHIFT).tolist() == [n for _, n in known]
    assert weights.tolist() == known_weights


def test_every_rate_is_that_of_the_format() -> None:
    """A quotient in binary32, rounded down, for each count."""
    for count in range(251):
        for bit, start in ((1, 16), (0, 65519), (1, 40000), (0, 40000)):
            words = np.array([start | count << mixing.COUNT_SHIFT], np.uint32)
            weights = np.zeros((1, mixing.INPUTS), np.int32)
            decide(of_model(words, weights), (0,), 0, bit, 250, 6)
            known = [[start, count]]
            decided(known, (0,), [0], bit, 250, 6)
            assert words[0] & mixing.PROBABILITY == known[0][0]


def test_learning_stays_within_its_types() -> None:
    """One bit for long, then the other: probabilities, counts and weights stay bounded."""
    words = np.full(4, mixing.EVEN, np.uint32)
    weights = np.full((1, mixing.INPUTS), 26214, np.int32)
    slots = (0, 1, 2, 3)
    for bit in [1] * 5000 + [0] * 5000:
        assert 24 <= decide(of_model(words, weights), slots, 0, bit, 200, 6) <= 65512
        probability = words & mixing.PROBABILITY
        assert 16 <= probability.min() <= probability.max() <= 65519
    assert (words >> mixing.COUNT_SHIFT).max() == 200
    assert decide(of_model(words, weights), slots, 0, 0, 200, 6) < 2000
    assert np.abs(weights).max() < 1 << 24
