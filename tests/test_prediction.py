"""Integer fields within a bound: every element, every shape, every part, and damage."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import google_crc32c
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinc_codec.errors import CorruptPayload, TruncatedPayload
from tinc_codec.fit import prediction
from tinc_codec.fit.prediction import encode
from tinc_codec.stream.residual.coder import binary
from tinc_codec.stream.residual.corrections import differences
from tinc_codec.stream.residual.corrections.header import from_bytes
from tinc_codec.stream.residual.corrections.lattices import CAUSAL, INTERPOLATED, SPARSE
from tinc_codec.stream.residual.corrections.slabs import decode

# Written once; each must decode to the same integers for ever: mode, payload, CRC32C of them.
PINNED = {
    SPARSE: (
        "000345a70201008d21e7028db2255e24275d150e30f1f40ab5feabf9084a57d73dd148929c14d32d"
        "97db8c3cc238a9aacb521d7679c5aff8b90cf65dde55b7e55b60c4c9b133e311d62d7d69cfd6d579"
        "feab875adb5448a04fc9c36cdf686359efa237",
        4216171611,
    ),
    CAUSAL: (
        "010345a70201709c08c5029202840373be0574e507a701f30891049d01dc01d803b602d0010759ca"
        "0df059f53f2c9c908565d894d97806d0c3aa00467bb5ac303981c9bdf48d53d81441684b7bb5dbea"
        "abe0dac24d6f340adf297db10902310ddd3d32b5ef7eb02c4b6b",
        1780185898,
    ),
    INTERPOLATED: (
        "020345a7020100000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000006dbfcd8378b17d6c02dfc39b465b7360ab7"
        "32349d3e91a4ee702c4c56af1faf3b8cdb1d755fbea55048357674ced368f36153e1c83d649a42d4"
        "58fe1499026ce680526f8d6b807099c9ee3606b35f35df0ff3a288c0f857d180909ca2ed1ea1",
        565197886,
    ),
}
TABLES = [1669667467, 2817097547, 1042516158]


def texture(shape: tuple[int, int, int], noise: int = 5, seed: int = 0) -> np.ndarray:
    """Integer waves, the same on every machine, and noise."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    wave = (7 * z * z + 5 * y * x + 3 * x * x) % 997 // 8 + 11 * z + 6 * y
    rng = np.random.default_rng(seed)
    return wave + rng.integers(-noise, noise + 1, shape)


def errors(field: np.ndarray, data: bytes) -> int:
    return int(np.abs(decode(data, field.shape) - field).max())


@st.composite
def fields(draw: st.DrawFn) -> np.ndarray:
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 9, 18]), min_size=3, max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low, high = draw(
        st.sampled_from(
            [
                (0, 0),
                (0, 255),
                (-128, 127),
                (0, 65535),
                (-(2**31), 2**31 - 1),
                (0, 2**32 - 1),
                (1 - 2**33, 2**33 - 1),
            ]
        )
    )
    kind = draw(st.sampled_from(["constant", "noise", "extremes", "smooth", "sparse"]))
    if kind == "noise":
        return rng.integers(low, high, shape, endpoint=True)
    if kind == "extremes":
        return rng.choice(np.array([low, high]), shape)
    if kind == "smooth":
        return np.clip(texture(shape), low, high)
    if kind == "sparse":
        return np.where(rng.random(shape) < 0.02, rng.integers(low, high, shape, endpoint=True), 0)
    return np.full(shape, draw(st.integers(low, high)))


@settings(max_examples=150)
@given(fields(), st.one_of(st.integers(0, 3), st.integers(0, 2**20)))
@example(np.array([[[2**33 - 1, 1 - 2**33]]]), 2**33 - 1)
def test_no_element_is_beyond_the_bound(field: np.ndarray, bound: int) -> None:
    data = encode(field, bound)
    restored = decode(data, field.shape)
    assert restored.dtype == np.int64
    assert restored.shape == field.shape
    assert np.abs(restored - field).max() <= bound
    assert from_bytes(data, len(field))[0].bound == bound


def only(monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    monkeypatch.setattr(prediction, "_modes", lambda field, bound: [mode])


def slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make slabs of small fields."""
    monkeypatch.setattr(prediction, "_SLAB_SIZE", 1 << 10)
    monkeypatch.setattr(prediction, "_SLAB_DEPTH", 4)


@pytest.mark.parametrize("mode", [SPARSE, CAUSAL, INTERPOLATED])
@pytest.mark.parametrize("bound", [0, 2, 40])
def test_every_mode_keeps_the_bound(monkeypatch: pytest.MonkeyPatch, mode: int, bound: int) -> None:
    only(monkeypatch, mode)
    field = texture((21, 18, 35))
    data = encode(field, bound)
    assert data[0] == mode
    assert errors(field, data) <= bound


@pytest.mark.parametrize("mode", [SPARSE, CAUSAL, INTERPOLATED])
def test_a_window_equals_that_of_the_whole(monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    only(monkeypatch, mode)
    slabs(monkeypatch)
    field = texture((20, 17, 23))
    data = encode(field, 3)
    whole = decode(data, field.shape)
    for window in [
        ((0, 20), (0, 17), (0, 23)), ((0, 1), (3, 4), (5, 23)), ((4, 11), (0, 17), (0, 23)),
        ((19, 20), (16, 17), (22, 23)), ((7, 7), (0, 2), (0, 2)),
    ]:  # fmt: skip
        part = decode(data, field.shape, window=window)
        assert np.array_equal(part, whole[tuple(slice(*w) for w in window)])


def test_only_slabs_of_the_window_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    slabs(monkeypatch)
    field = texture((20, 17, 23))
    data = encode(field, 3)
    decoded = []

    def spy(function, items):
        decoded.extend(items)
        return map(function, items)

    decode(data, field.shape, window=((4, 5), (0, 17), (0, 23)), run=spy)
    assert len(decoded) == 1
    decode(data, field.shape, run=spy)
    assert len(decoded) == 1 + 5


@pytest.mark.parametrize(("spread", "bound", "slabs"), [(200, 0, 2), (200, 20, 1), (1, 1, 1)])
def test_slabs_are_cut_by_the_bytes_they_take(spread: int, bound: int, slabs: int) -> None:
    field = np.random.default_rng(1).integers(-spread, spread + 1, (48, 64, 80))
    data = encode(field, bound)
    _, coded = from_bytes(data, len(field))
    assert len(coded) == slabs
    largest = max(map(len, coded))
    assert largest <= 1.5 * prediction._SLAB_BYTES
    np.testing.assert_allclose(decode(data, field.shape), field, rtol=0, atol=bound)


def test_bytes_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    slabs(monkeypatch)
    field = texture((24, 17, 23))
    with ThreadPoolExecutor(4) as pool:
        data = encode(field, 2, run=pool.map)
        assert data == encode(field, 2)
        assert np.array_equal(decode(data, field.shape, run=pool.map), decode(data, field.shape))


def test_what_is_nearly_all_within_the_bound_costs_next_to_nothing() -> None:
    field = np.random.default_rng(1).integers(-3, 4, (64, 64, 64))
    assert len(encode(field, 3)) < 32
    field[::16, ::16, ::16] = 9
    data = encode(field, 3)
    assert 8 * len(data) < 0.006 * field.size
    assert errors(field, data) <= 3


def test_steep_fields_take_little_more_than_their_noise() -> None:
    z, y, x = np.ogrid[:32, :32, :32]
    field = 40 * z * z + 3 * y * x - 5 * x * x
    assert 8 * len(encode(field, 0)) < 4 * field.size  # 17 bits as they are
    noise = np.random.default_rng(0).integers(0, 16, (32, 32, 32))
    assert 8 * len(encode(field + noise, 0)) < 6 * field.size


@pytest.mark.parametrize("mode", [SPARSE, CAUSAL, INTERPOLATED])
def test_damage_is_an_error_or_other_values(monkeypatch: pytest.MonkeyPatch, mode: int) -> None:
    only(monkeypatch, mode)
    slabs(monkeypatch)
    field = texture((8, 9, 30), noise=300)
    data = encode(field, 4)
    for length in [*range(150), *range(150, len(data) - binary.SLACK - 2, 37)]:
        with pytest.raises(CorruptPayload):
            decode(data[:length], field.shape)
    rng = np.random.default_rng(0)
    for at in [*range(min(len(data), 150)), *rng.integers(0, len(data), 150)]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(8)
        with contextlib.suppress(CorruptPayload):
            assert decode(bytes(damaged), field.shape).shape == field.shape


def test_headers_out_of_range_are_refused() -> None:
    data = encode(texture((6, 5, 4)), 1)
    with pytest.raises(TruncatedPayload):
        decode(b"", (6, 5, 4))
    with pytest.raises(CorruptPayload, match="mode 3"):
        decode(b"\x03" + data[1:], (6, 5, 4))
    with pytest.raises(CorruptPayload, match="bound 8589934592"):
        from_bytes(b"\x01\x80\x80\x80\x80\x20", 6)
    with pytest.raises(CorruptPayload, match="0 slabs of 6 planes"):
        decode(b"\x00\x01\x00\x00\x00", (6, 5, 4))
    with pytest.raises(CorruptPayload, match="7 slabs of 6 planes"):
        decode(b"\x00\x01\x00\x00\x07", (6, 5, 4))
    with pytest.raises(CorruptPayload, match="a weight is 8192"):
        decode(b"\x01\x01\x00\x00\x01" + b"\x80\x80\x01" * 17, (6, 5, 4))


@pytest.mark.parametrize(
    ("field", "bound"),
    [
        (np.zeros((2, 2), np.int64), 0), (np.zeros((0, 2, 2), np.int64), 0),
        (np.full((1, 1, 1), 2**33), 0), (np.full((1, 1, 1), -(2**33)), 0),
        (np.zeros((1, 1, 1), np.int64), -1), (np.zeros((1, 1, 1), np.int64), 2**33),
    ],
)  # fmt: skip
def test_fields_beyond_the_limits_are_refused(field: np.ndarray, bound: int) -> None:
    with pytest.raises(ValueError, match=r"field|bound"):
        encode(field, bound)


@pytest.mark.parametrize("mode", [SPARSE, CAUSAL, INTERPOLATED])
def test_pinned_payloads_decode(mode: int) -> None:
    z, y, x = np.ogrid[:5, :6, :7]
    field = 9 * z * z + 5 * y * x - x * x + (z * 7 + y * 5 + x * 11) % 13
    payload, checksum = PINNED[mode]
    restored = decode(bytes.fromhex(payload), field.shape)
    assert np.abs(restored - field).max() <= 3
    assert google_crc32c.value(restored.astype("<i8").tobytes()) == checksum


def test_tables_are_the_same_everywhere() -> None:
    """Nothing in them is near a tie, so any library gives these integers."""
    p = (np.arange(4096) + 0.5) / 4096
    away(np.log(p / (1 - p)) * binary.UNIT, 0.5)
    away(
        65536 / (1 + np.exp(-np.arange(-11 * binary.UNIT, 11 * binary.UNIT + 1) / binary.UNIT)), 0.5
    )
    away(4 * np.log2(np.arange(1, 256)) + 1.5, 0.0)
    tables = [binary.STRETCH, binary.SQUASH, differences.LEVEL]
    found = [google_crc32c.value(t.astype(t.dtype.newbyteorder("<")).tobytes()) for t in tables]
    assert found == TABLES


def away(x: np.ndarray, tie: float) -> None:
    part = np.mod(x - tie, 1)
    assert np.minimum(part, 1 - part).min() > 1e-7
