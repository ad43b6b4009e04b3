"""Decoded chunks kept for zarr v3: never stale, never beyond the limit, safe among threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, count_evaluations, volume

import tinc_codec
from tinc_codec import InvalidSetting, runtime
from tinc_codec.decoding import cache as decoded_cache
from tinc_codec.decoding.cache import DecodedCache, current_cache, decode_remembered
from tinc_codec.decoding.together import decode_chunks

zarr = pytest.importorskip("zarr", minversion="3.1")

LARGE = 1 << 20
EDGE = 16


@pytest.fixture(autouse=True)
def empty_cache() -> None:
    decoded_cache.forget_decoded()


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_evaluations(monkeypatch)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that collects which parts are decoded."""
    found: list[Any] = []

    def noted(payloads: Any, parts: Any) -> Any:
        found.extend(parts)
        return decode_chunks(payloads, parts)

    monkeypatch.setattr(decoded_cache, "decode_chunks", noted)
    return found


def payload(seed: int = 0) -> bytes:
    return tinc_codec.encode(np.roll(volume((EDGE,) * 3), seed, 0), **QUICK)


def archive(path: Path, **options: Any) -> Any:
    codec = tinc_codec.TINCSerializer(**QUICK)
    array = zarr.create_array(
        path, shape=(32, 32, 32), chunks=(EDGE,) * 3, dtype="uint16", serializer=codec,
        compressors=None, **options,
    )  # fmt: skip
    array[:] = volume((32, 32, 32))
    return array


def kept_whole(*payloads: bytes) -> None:
    """Read chunks until they are kept: the second time."""
    for _ in range(2):
        decode_remembered(payloads, [None] * len(payloads))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_by_default_planes_are_copies_from_the_third_on(
    tmp_path: Path, decoded: list[Any], zarr_format: int
) -> None:
    array = created(tmp_path / "a.zarr", zarr_format, shape=(EDGE,) * 3, chunks=(EDGE,) * 3)
    array[:] = volume((EDGE,) * 3)
    with runtime(cache_bytes=0):
        whole = array[:]
    decoded.clear()
    for z in range(EDGE):
        np.testing.assert_array_equal(array[z], whole[z])
        assert len(decoded) == min(z + 1, 2)


def created(path: Path, zarr_format: int, **settings: Any) -> Any:
    if zarr_format == 2:
        codec = tinc_codec.TINC(**QUICK)
        return zarr.create(
            store=str(path), zarr_format=2, dtype="uint16", compressor=codec, **settings
        )
    serializer = tinc_codec.TINCSerializer(**QUICK)
    return zarr.create_array(
        path, dtype="uint16", serializer=serializer, compressors=None, **settings
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_reading_a_volume_once_keeps_nothing(tmp_path: Path, zarr_format: int) -> None:
    shape = (2 * EDGE, EDGE, EDGE)
    array = created(tmp_path / "a.zarr", zarr_format, shape=shape, chunks=(EDGE,) * 3)
    array[:EDGE], array[EDGE:] = volume((EDGE,) * 3), volume((EDGE,) * 3)[::-1]
    assert array[:].any()
    assert current_cache().nbytes == 0
    assert array[:].any()
    assert current_cache().nbytes == 2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)


def test_chunks_that_overhang_the_array_are_kept_as_whole_ones_are(tmp_path: Path) -> None:
    """zarr reads them in parts."""
    shape = (EDGE - 2, EDGE - 3, 2 * EDGE)
    array = created(tmp_path / "a.zarr", 3, shape=shape, chunks=(EDGE,) * 3)
    array[:] = volume(shape)
    assert array[:].any()
    assert current_cache().nbytes == 0
    assert array[:].any()
    assert current_cache().nbytes == 2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)


def test_a_chunk_is_decoded_whole_by_one_thread_alone(decoded: list[Any]) -> None:
    data = payload()
    whole = tinc_codec.decode(data)
    cache, key = current_cache(), decoded_cache._key_of(data, "cpu")
    with runtime(cache_bytes=LARGE):
        decode_remembered([data], [np.s_[0]])
        assert cache.expect(key, np.s_[1])  # as by a thread that is about to decode it
        (plane,) = decode_remembered([data], [np.s_[1]])
        np.testing.assert_array_equal(plane, whole[1])
        cache.expect_no_more([key])
        for z in (2, 3):
            decode_remembered([data], [np.s_[z]])
    assert decoded == [np.s_[0], np.s_[1], None]


def test_a_chunk_that_failed_to_decode_is_tried_again(
    decoded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = payload()
    with runtime(cache_bytes=LARGE):
        decode_remembered([data], [np.s_[0]])
        with monkeypatch.context() as patch:
            patch.setattr(decoded_cache, "decode_chunks", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                decode_remembered([data], [np.s_[1]])
        decode_remembered([data], [np.s_[1]])
    assert decoded == [np.s_[0], None]


def test_a_batch_decodes_no_more_chunks_whole_than_there_is_room_for(decoded: list[Any]) -> None:
    payloads = [payload(seed) for seed in range(4)]
    with runtime(cache_bytes=2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)):
        for z in range(2):
            decode_remembered(payloads, [np.s_[z]] * 4)
    assert decoded[4:].count(None) == 2


@pytest.mark.parametrize("part", [np.s_[3, 4, 5], np.s_[3], np.s_[:, [1, 5]], np.s_[::-1]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_is_kept_comes_as_it_is_decoded(part: Any, order: Any) -> None:
    data = tinc_codec.encode(volume((EDGE,) * 3, ">u2", order), **QUICK)
    expected = tinc_codec.decode(data, part)
    with runtime(cache_bytes=LARGE):
        kept_whole(data)
        (found,) = decode_remembered([data], [part])
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    assert expected.flags.c_contiguous


def test_chunks_read_whole_that_make_way_unused_are_not_kept_for_a_while(
    decoded: list[Any],
) -> None:
    payloads = [payload(k) for k in range(3)]
    with runtime(cache_bytes=2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)):
        for _ in range(8):
            for data in payloads:
                decode_remembered([data], [None])
    # A cache of the last two would never hit. Those that stay do.
    assert len(decoded) < 20


def test_reads_under_a_smaller_limit_empty_the_cache_and_those_without_a_limit_do_not() -> None:
    first, second = payload(), payload(1)
    with runtime(cache_bytes=LARGE):
        kept_whole(first, second)
    kept = current_cache().nbytes
    with runtime(cache_bytes=0):
        decode_remembered([first], [None])
    assert current_cache().nbytes == kept > 0
    with runtime(cache_bytes=kept - 1):
        decode_remembered([second], [None])  # a hit
    assert 0 < current_cache().nbytes < kept


@pytest.mark.parametrize("options", [{}, {"shards": (32, 32, 32)}], ids=["chunks", "shards"])
def test_a_plane_read_again_is_not_evaluated_again(
    tmp_path: Path, evaluated: list[int], options: dict[str, Any]
) -> None:
    array = archive(tmp_path / "a.zarr", **options)
    whole = array[:]
    evaluated.clear()
    with runtime(cache_bytes=LARGE):
        first, again = array[3, :, ::2], array[3, :, ::2]
    assert sum(evaluated) == 32 * 16
    np.testing.assert_array_equal(first, whole[3, :, ::2])
    np.testing.assert_array_equal(again, first)


def test_plane_after_plane_costs_one_and_a_half_chunks(evaluated: list[int]) -> None:
    data = tinc_codec.encode(volume((EDGE,) * 3), **QUICK, form="tree")
    whole = tinc_codec.decode(data)
    evaluated.clear()
    with runtime(cache_bytes=LARGE):
        for z in range(EDGE):
            (plane,) = decode_remembered([data], [np.s_[z]])
            np.testing.assert_array_equal(plane, whole[z])
        assert sum(evaluated) == 1.5 * whole.size
        (rest,) = decode_remembered([data], [np.s_[:, [1, 5], ::4]])
    np.testing.assert_array_equal(rest, whole[:, [1, 5], ::4])
    assert sum(evaluated) == 1.5 * whole.size


@pytest.mark.parametrize("settings", [{"ratio": 8, "effort": 1}, {"max_error": 1}])
def test_of_wavelets_the_second_plane_is_of_the_whole(
    decoded: list[Any], settings: dict[str, Any]
) -> None:
    """Any plane of them takes half the work of the whole, or more."""
    data = tinc_codec.encode(volume((EDGE,) * 3), **settings)
    whole = tinc_codec.decode(data)
    with runtime(cache_bytes=LARGE):
        for z in range(EDGE):
            (plane,) = decode_remembered([data], [np.s_[z]])
            np.testing.assert_array_equal(plane, whole[z])
    assert decoded == [np.s_[0], None]


def test_chunks_that_make_way_unused_are_decoded_in_parts(decoded: list[Any]) -> None:
    """The planes of three chunks, in a cache of two: the first turns tell that it is too small."""
    payloads = [tinc_codec.encode(np.roll(volume((EDGE,) * 3), k, 0), ratio=8, effort=1)
                for k in range(3)]  # fmt: skip
    whole = [tinc_codec.decode(data) for data in payloads]
    with runtime(cache_bytes=2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)):
        decode_remembered(payloads, [None] * 3)
        decoded.clear()
        for z in range(EDGE):
            for data, known in zip(payloads, whole, strict=True):
                (plane,) = decode_remembered([data], [np.s_[z]])
                np.testing.assert_array_equal(plane, known[z])
        assert decoded.count(None) <= 4
        assert None not in decoded[12:]
    with runtime(cache_bytes=LARGE):
        decoded.clear()
        for z in range(EDGE):
            decode_remembered(payloads, [np.s_[z, ::2]] * 3)
    assert decoded.count(None) >= 2


def test_a_chunk_written_anew_is_never_served_from_the_old_one(tmp_path: Path) -> None:
    array = archive(tmp_path / "a.zarr")
    with runtime(cache_bytes=LARGE):
        before = array[:]
        array[:EDGE, :EDGE, :EDGE] = np.full((EDGE,) * 3, 7, np.uint16)
        after = array[:]
        plane = array[2]
    assert (after[:EDGE, :EDGE, :EDGE] == 7).all()
    assert (plane[:EDGE, :EDGE] == 7).all()
    np.testing.assert_array_equal(after[EDGE:], before[EDGE:])


def test_engines_do_not_share(evaluated: list[int]) -> None:
    data = payload()
    evaluated.clear()
    for device in ("cpu", "reference", "auto"):
        with runtime(cache_bytes=LARGE, device=device):
            kept_whole(data)
    assert len(evaluated) == 4


def test_the_limit_holds_and_the_ones_read_last_stay(evaluated: list[int]) -> None:
    payloads = [payload(seed) for seed in range(4)]
    one = 2 * EDGE**3 + decoded_cache._PER_ENTRY
    with runtime(cache_bytes=2 * one):
        for data in payloads[:2] + payloads[:1] + payloads[2:3]:
            kept_whole(data)
            assert current_cache().nbytes <= 2 * one
        evaluated.clear()
        decode_remembered(payloads[:1] + payloads[2:3], [None, None])
        assert evaluated == []
        decode_remembered(payloads[1:2], [None])
        assert len(evaluated) == 1
    with runtime(cache_bytes=one):
        kept_whole(*payloads[3:])
        assert current_cache().nbytes == one


def test_many_tiny_entries_count_for_what_they_take() -> None:
    cache = DecodedCache()
    for k in range(1000):
        cache.put((b"payload", "cpu"), np.s_[k, 0, 0], np.zeros((), np.uint8), 10_000)
    assert len(cache._arrays) < 20
    assert cache.nbytes <= 10_000


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    with runtime(cache_bytes=100):
        kept_whole(payload())
    assert current_cache().nbytes == 0


@pytest.mark.parametrize("part", [None, np.s_[2:4], np.s_[:, [1, 5]]])
def test_callers_cannot_spoil_what_is_kept(part: Any) -> None:
    data = payload()
    expected = tinc_codec.decode(data, part)
    with runtime(cache_bytes=LARGE):
        kept_whole(data)
        for _ in range(3):
            (array,) = decode_remembered([data], [part])
            np.testing.assert_array_equal(array, expected)
            array[:] = 0


def test_threads_share_it() -> None:
    payloads = [payload(seed) for seed in range(4)]
    whole = [tinc_codec.decode(data) for data in payloads]
    limit = 2 * (2 * EDGE**3 + decoded_cache._PER_ENTRY)

    def read(seed: int) -> int:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            k, z = int(rng.integers(4)), int(rng.integers(EDGE))
            part = None if rng.random() < 0.2 else np.s_[z, ::2]
            with runtime(cache_bytes=limit, threads=1):
                (array,) = decode_remembered([payloads[k]], [part])
            np.testing.assert_array_equal(array, whole[k] if part is None else whole[k][part])
            assert current_cache().nbytes <= limit
        return seed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == list(range(8))
    cache = current_cache()
    held = sum(array.nbytes + decoded_cache._PER_ENTRY for array in cache._arrays.values())
    assert held == cache.nbytes


def test_damaged_payloads_are_refused_before_and_after() -> None:
    data = payload()
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    with runtime(cache_bytes=LARGE):
        kept_whole(data)
        with pytest.raises(tinc_codec.TincError):
            decode_remembered([damaged], [None])


def test_the_environment_sets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINC_CACHE", "0")
    kept_whole(payload())
    assert current_cache().nbytes == 0
    monkeypatch.setenv("TINC_CACHE", str(LARGE))
    kept_whole(payload())
    assert current_cache().nbytes > 0
    monkeypatch.setenv("TINC_CACHE", "64 MB")
    with pytest.raises(InvalidSetting, match="TINC_CACHE='64 MB'"):
        decode_remembered([payload()], [None])
    monkeypatch.delenv("TINC_CACHE")
    with pytest.raises(InvalidSetting, match="cache_bytes=-1"), runtime(cache_bytes=-1):
        pass
