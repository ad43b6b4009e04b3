"""The WAVELET section: fields, damaged segments, tiles, threads."""

from __future__ import annotations

import math
import random
import struct
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from volumes import volume
from wavelets import in_turn, section_of, whole

from tinc_codec import runtime
from tinc_codec.errors import CorruptPayload, TruncatedPayload
from tinc_codec.stream.residual.axes import Window
from tinc_codec.stream.residual.wavelets import section
from tinc_codec.stream.residual.wavelets.section import Coefficients
from tinc_codec.stream.residual.wavelets.tiles import Cuts
from tinc_codec.threads import each

SHAPE = (20, 18, 19)


def texture(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    values: np.ndarray = volume(shape, "f4") / np.float32(120)
    return values


def coded(cuts: int = 7, splits: tuple[int, ...] = (7, 7), step: float = 0.02) -> bytes:
    return section_of(texture(), splits, step=step, cuts=cuts)


def opened(cuts: int = 7) -> Coefficients:
    return section.from_bytes(coded(cuts), SHAPE)


def everything(read: Coefficients) -> np.ndarray:
    return read.values(whole(read.header.plan), in_turn) + np.float32(read.header.offset)


@pytest.mark.parametrize("cuts", range(8))
def test_values_come_back(cuts: int) -> None:
    values = everything(section.from_bytes(coded(cuts), SHAPE))
    assert np.abs(values - texture()).max() < 0.04
    assert np.sqrt(((values - texture()) ** 2).mean()) < 0.02 / np.sqrt(12) * 1.5


def test_fields_come_back() -> None:
    data = section_of(texture(), (7, 3), step=0.03, offset=0.25, bias=0.125, cuts=2)
    header = section.from_bytes(data, SHAPE).header
    assert header.plan.splits == (7, 3)
    assert header.step == section.stored_step(0.03) == pytest.approx(0.03, rel=1 / 2048)
    assert header.offset == round(0.25 * 65535) / 65535
    assert header.bias == 0.125
    assert header.cuts == Cuts(levels=1, at=(0, 2, 0))
    assert len(header.cuts.tiles(header.plan)) == 2


@given(st.floats(2**-47, 2**16))
def test_steps_are_stored_to_the_nearest(step: float) -> None:
    stored = section.stored_step(step)
    assert stored == pytest.approx(step, rel=1 / 2048)
    assert section.stored_step(stored) == stored
    assert np.float32(stored) == stored


def test_steps_out_of_range_are_the_least_and_the_largest() -> None:
    assert section.stored_step(1e-30) == 2.0**-47
    assert section.stored_step(1e30) == 2.0**17 * (1 - 1 / 2048)
    assert section.stored_step(math.nextafter(1, 0)) == 1.0


def refused(data: bytes, at: int, value: bytes, match: str) -> None:
    """Assert that a sound section is refused once a field has another value."""
    section.from_bytes(data, SHAPE)
    with pytest.raises(CorruptPayload, match=match):
        section.from_bytes(data[:at] + value + data[at + len(value) :], SHAPE)


# Fields that are refused. Offsets: cuts 0, levels 1, splits 2, step 3, offset 5, bias 7.


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, b"\x8f", "cuts"),
        (1, b"\x11", "17 levels"),
        (1, b"\xff", "127 levels"),
        (2, b"\x00", "split 0"),
        (2, b"\x7f", "WAVELET section has 2 bits after its end"),
    ],
)
def test_fields_out_of_range_are_refused(at: int, value: bytes, match: str) -> None:
    refused(coded(), at, value, match)


# Of a header that is not compact: cuts 0, levels 1, splits 2 and 3, step 4, offset 8, bias 10.


@pytest.mark.parametrize(
    ("at", "value", "match"),
    [
        (0, b"\x0f", "cuts"),
        (1, b"\x11", "17 levels"),
        (1, b"\xff", "127 levels"),
        (2, b"\x00", "split 0"),
        (2, b"\x08", "split 8"),
        (3, b"\xff", "split 255"),
        (4, struct.pack("<f", 0), "step"),
        (4, struct.pack("<f", -1), "step"),
        (4, struct.pack("<f", np.nan), "step"),
        (4, struct.pack("<f", np.inf), "step"),
    ],
)
def test_fields_out_of_range_of_a_long_header_are_refused(
    at: int, value: bytes, match: str
) -> None:
    refused(struct.pack("<BB2BfHB", 0, 2, 7, 7, 0.1, 0, 0) + 999 * b"\0", at, value, match)


# Of shape (40, 20, 40), halved twice: low-pass bands of 20 x 10 x 20, then 10 x 5 x 10.


@pytest.mark.parametrize(
    ("cuts", "places", "match"),
    [
        (0x08, b"", "cuts 0x08"),  # levels without an axis
        (0x40, b"", "cuts 0x40"),
        (0x11, b"", "cuts 0x11"),  # three levels of two
        (0x39, b"", "cuts 0x39"),
        (0x0A, b"", "cuts 0x0a"),  # axis 1 is too short
        (0x49, b"\0", "block 0"),
        (0x49, b"\3", "block 3"),
        (0x49, b"\xff\x7f", "block 16383"),
        (0x49, b"\2", "in the middle"),
        (0x4D, b"\2\2", "in the middle"),
    ],
)
def test_cuts_out_of_range_are_refused(cuts: int, places: bytes, match: str) -> None:
    long = struct.pack("<BB2BfHB", cuts, 2, 7, 7, 0.1, 0, 0)
    compact = struct.pack("<BBBHHB", cuts | 128, 2, 63, 44 << 10, 0, 0)
    for head in (long, compact):
        with pytest.raises(CorruptPayload, match=match):
            section.from_bytes(head + places + 999 * b"\0", (40, 20, 40))


def test_splits_of_axes_of_one_sample_are_refused() -> None:
    head = struct.pack("<BB6BfHB", 0, 6, *(7,) * 6, 0.1, 0, 0)
    with pytest.raises(CorruptPayload, match="does not fit a band of shape"):
        section.from_bytes(head + b"\0", SHAPE)


@pytest.mark.parametrize("splits", [(), (7,), (4,)])
def test_cuts_of_short_axes_are_refused(splits: tuple[int, ...]) -> None:
    head = struct.pack(f"<BB{len(splits)}BfHB", 4, len(splits), *splits, 0.1, 0, 0)
    with pytest.raises(CorruptPayload, match="cuts 0x04"):
        section.from_bytes(head + b"\1\0\0", (20, 20, 14))


@pytest.mark.parametrize("cuts", [0, 7])
def test_a_header_cut_short(cuts: int) -> None:
    data = coded(cuts)
    sizes = 8 + (2 * 8 if cuts else 0)
    for length in range(8):
        with pytest.raises(TruncatedPayload):
            section.from_bytes(data[:length], SHAPE)
    if cuts:
        for length in range(8, sizes):
            with pytest.raises(TruncatedPayload):
                section.from_bytes(data[:length], SHAPE)


# Segments.


def check(data: bytes, shape: tuple[int, ...] = SHAPE) -> bool:
    """Return whether damaged data gave values, which have the right shape; or else an error."""
    try:
        read = section.from_bytes(data, shape)
        values = everything(read)
    except CorruptPayload:
        return False
    assert values.shape == read.header.plan.shapes[0]
    assert values.dtype == np.float32
    return True


@pytest.mark.parametrize("cuts", [0, 5])
def test_truncated_segments(cuts: int) -> None:
    data = coded(cuts, step=0.1)
    read = [check(data[:length]) for length in range(11, len(data), 7)]
    assert not all(read)
    assert not check(data[: len(data) - 40])


@pytest.mark.parametrize("cuts", [0, 5])
def test_flipped_segments(cuts: int) -> None:
    data, rng = coded(cuts, step=0.1), random.Random(cuts)
    read = []
    for _ in range(200):
        damaged = bytearray(data)
        damaged[rng.randrange(11, len(data))] ^= 1 << rng.randrange(8)
        read.append(check(bytes(damaged)))
    assert any(read)


@pytest.mark.parametrize("cuts", [0, 7])
def test_segments_of_noise(cuts: int) -> None:
    rng, head = random.Random(9), struct.pack("<BB2BfHB", cuts, 2, 7, 7, 0.1, 0, 0)
    for _ in range(60):
        sizes = bytes(rng.randrange(128) for _ in range(8 if cuts else 0))
        check(head + sizes + rng.randbytes(rng.randrange(3000)))
    for byte in (b"\0", b"\xff", b"\x80"):
        check(head + (b"\x20" * 8 if cuts else b"") + 2000 * byte)


def test_an_error_in_a_tile_is_an_error_each_time() -> None:
    shape = (32, 32, 32)
    data = section_of(texture(shape), (7, 7), step=0.02, cuts=7)
    read = section.from_bytes(data[:-200], shape)
    expected = everything(section.from_bytes(data, shape))
    for _ in range(2):
        with pytest.raises(CorruptPayload, match="end early"):
            everything(read)
    # The tiles that are whole can be read still.
    corner = read.values(((0, 2), (0, 2), (0, 2)), in_turn) + np.float32(read.header.offset)
    assert corner.tobytes() == expected[:2, :2, :2].tobytes()


# Tiles.


def tiles_decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that collects the origin of each tile that is decoded."""
    seen: list[Any] = []
    original = section.decode_tile

    def decode_tile(coarse: Any, tile: Any, *arguments: Any) -> None:
        seen.append(tuple(a for a, _ in tile[0]))
        original(coarse, tile, *arguments)

    monkeypatch.setattr(section, "decode_tile", decode_tile)
    return seen


def test_a_plane_needs_the_tiles_it_touches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (64, 40, 40)
    data = section_of(texture(shape), (7, 7), step=0.05, cuts=7)
    expected = everything(section.from_bytes(data, shape))
    seen = tiles_decoded(monkeypatch)
    read = section.from_bytes(data, shape)
    assert seen == []
    plane = read.values(((3, 4), (0, 40), (0, 40)), in_turn) + np.float32(read.header.offset)
    assert plane.tobytes() == expected[3:4].tobytes()
    assert len(seen) == 4
    assert {origin[0] for origin in seen} == {0}
    read.values(((5, 6), (0, 40), (0, 40)), in_turn)
    assert len(seen) == 4  # kept
    read.values(((60, 61), (35, 36), (35, 36)), in_turn)
    assert len(seen) == 5
    assert everything(read).tobytes() == expected.tobytes()
    assert sorted(seen) == sorted(
        tuple(a for a, _ in tile[0]) for tile in read.header.cuts.tiles(read.header.plan)
    )


@pytest.mark.parametrize(
    ("shape", "splits"),
    [
        ((4, 40, 48), (7, 6)),
        ((40, 4, 48), (7, 5, 4)),
        ((48, 40, 4), (7, 3)),
        ((40, 40, 48), (7, 1, 6)),
        ((300, 4, 300), (7, 5)),
    ],
)
def test_tiles_of_bands_without_one_above(shape: tuple[int, ...], splits: tuple[int, ...]) -> None:
    """A level may halve an axis that the next one does not: short axes, flat voxels."""
    values = texture(shape)
    cuts = sum(1 << k for k, n in enumerate(shape) if n >= 40)
    data = section_of(values, splits, step=0.01, cuts=cuts)
    read = section.from_bytes(data, shape)
    assert np.abs(everything(read) - values).max() < 0.03


DEEP = (64, 36, 40)
DEEP_CUTS = [
    Cuts(levels=2, at=(2, 0, 2)), Cuts(levels=2, at=(1, 2, 1)), Cuts(levels=3, at=(1, 0, 0))
]  # fmt: skip


@pytest.mark.parametrize("cuts", DEEP_CUTS)
def test_tiles_of_some_levels(cuts: Cuts, monkeypatch: pytest.MonkeyPatch) -> None:
    data = section_of(texture(DEEP), (7, 7, 7), step=0.02, cuts=cuts)
    read = section.from_bytes(data, DEEP)
    assert read.header.cuts == cuts
    values = everything(read)
    assert np.abs(values - texture(DEEP)).max() < 0.04
    seen = tiles_decoded(monkeypatch)
    read = section.from_bytes(data, DEEP)
    tiles = cuts.tiles(read.header.plan)
    for window in (((0, 1), (0, 36), (0, 2)), ((30, 33), (17, 19), (20, 21))):
        part = read.values(window, in_turn) + np.float32(read.header.offset)
        assert part.tobytes() == values[tuple(slice(a, b) for a, b in window)].tobytes()
        if window[0][0] == 0:
            assert len(seen) < len(tiles)
    assert everything(read).tobytes() == values.tobytes()
    assert len(seen) == len(tiles)


@pytest.mark.parametrize("cuts", DEEP_CUTS)
def test_damaged_tiles_of_some_levels(cuts: Cuts) -> None:
    data = section_of(texture(DEEP), (7, 7, 7), step=0.1, cuts=cuts)
    rng = random.Random(2)
    assert not any(check(data[:n], DEEP) for n in range(0, len(data) - 20, len(data) // 16))
    for _ in range(16):
        damaged = bytearray(data)
        damaged[rng.randrange(12, len(data))] ^= 1 << rng.randrange(8)
        check(bytes(damaged), DEEP)


# Threads.


def test_threads_change_no_byte_and_no_value() -> None:
    values = texture((40, 40, 40))
    plain = section_of(values, (7, 7), step=0.05, cuts=7)
    with runtime(threads=4):
        assert section_of(values, (7, 7), step=0.05, cuts=7, run=each) == plain
        read = section.from_bytes(plain, values.shape)
        together = read.values(whole(read.header.plan), each)
    read = section.from_bytes(plain, values.shape)
    assert together.tobytes() == read.values(whole(read.header.plan), in_turn).tobytes()


def test_readers_of_one_object_agree() -> None:
    data = coded(7)
    expected = everything(section.from_bytes(data, SHAPE))
    read = section.from_bytes(data, SHAPE)
    rng = random.Random(5)
    wrong: list[Window] = []

    def look(windows: list[Window]) -> None:
        for window in windows:
            found = read.values(window, in_turn) + np.float32(read.header.offset)
            if found.tobytes() != expected[tuple(slice(a, b) for a, b in window)].tobytes():
                wrong.append(window)

    def draw() -> Window:
        (a, b), (c, d), (e, f) = (sorted(rng.sample(range(n + 1), 2)) for n in SHAPE)
        return (a, b), (c, d), (e, f)

    threads = [threading.Thread(target=look, args=([draw() for _ in range(20)],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
