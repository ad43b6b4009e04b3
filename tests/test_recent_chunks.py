"""Chunks opened last are kept for the next reading, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from volumes import QUICK, volume

import tinc_codec
from tinc_codec import CorruptPayload
from tinc_codec.decoding import opened
from tinc_codec.decoding.opened import open_chunk


def payload(seed: int) -> bytes:
    chunk = volume((16, 12, 9), "uint16") + np.uint16(seed)
    return tinc_codec.encode(chunk, **QUICK)


def test_the_same_bytes_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened, "_recent", opened._RecentChunks())
    one = payload(1)
    first = open_chunk(one)
    assert open_chunk(bytearray(one)) is first
    assert open_chunk(payload(2)) is not first


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [payload(seed) for seed in range(6)]
    each = len(chunks[0]) + open_chunk(chunks[0]).nbytes
    monkeypatch.setattr(opened, "_KEPT_BYTES", 4 * each + each // 2)
    recent = opened._RecentChunks()
    monkeypatch.setattr(opened, "_recent", recent)
    for chunk in chunks:
        open_chunk(chunk)
        assert recent._size <= opened._KEPT_BYTES
    assert recent.get(chunks[0]) is None
    assert recent.get(chunks[-1]) is not None
    # A chunk larger than all of it is kept alone, up to a limit of its own.
    monkeypatch.setattr(opened, "_KEPT_BYTES", each - 1)
    for largest, kept in ((2 * each, True), (each - 1, False)):
        monkeypatch.setattr(opened, "_LARGEST_KEPT", largest)
        recent = opened._RecentChunks()
        monkeypatch.setattr(opened, "_recent", recent)
        open_chunk(chunks[0]), open_chunk(chunks[1])
        assert recent.get(chunks[0]) is None
        assert (recent.get(chunks[1]) is not None) == kept


def test_corrupt_payloads_are_not_kept() -> None:
    broken = bytearray(payload(1))
    broken[-1] ^= 1
    for _ in range(2):
        with pytest.raises(CorruptPayload):
            open_chunk(broken)


def test_planes_of_a_usual_chunk_of_wavelets_are_decoded_once() -> None:
    chunk = np.random.default_rng(0).integers(0, 999, (128, 128, 128), np.uint16)
    coded = tinc_codec.encode(chunk, ratio=1000, form="wavelet", effort=1)
    assert open_chunk(coded) is open_chunk(coded)


def test_numbers_are_no_payload() -> None:
    for given in (5, None, "text"):
        with pytest.raises(TypeError):
            tinc_codec.decode(given)  # type: ignore[arg-type]
