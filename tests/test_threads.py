"""Many threads at once give what one thread gives, and the same seed the same bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
from volumes import QUICK, volume

from tinc_codec import TINC, decode, runtime

WORKERS = 8
SHAPES = [(16, 16, 16), (20, 12, 17), (2048,), (8, 8, 8, 8)]
DTYPES = ["uint16", "float32", ">i2", "uint16"]
CHUNKS = [volume(shape, dtype) for shape, dtype in zip(SHAPES, DTYPES, strict=True)]


def round_trip(chunk: np.ndarray) -> tuple[bytes, bytes]:
    payload = bytes(TINC(**QUICK).encode(chunk))
    return payload, decode(payload).tobytes()


def test_eight_threads_give_what_one_gives() -> None:
    alone = [round_trip(chunk) for chunk in CHUNKS]
    start = Barrier(WORKERS)

    def work(worker: int) -> list[tuple[bytes, bytes]]:
        start.wait()
        places = range(worker, worker + len(CHUNKS))  # each worker at another chunk at any time
        found = {at % len(CHUNKS): round_trip(CHUNKS[at % len(CHUNKS)]) for at in places}
        return [found[at] for at in range(len(CHUNKS))]

    with ThreadPoolExecutor(WORKERS) as pool:
        for found in pool.map(work, range(WORKERS)):
            assert found == alone


def test_eight_threads_decode_one_payload() -> None:
    payload = TINC(**QUICK).encode(CHUNKS[0])
    whole = decode(payload)
    selections: list[Any] = [np.s_[at, 1:9, ::3] for at in range(16)] * 4
    with ThreadPoolExecutor(WORKERS) as pool:
        parts = list(pool.map(lambda selection: decode(payload, selection), selections))
    for selection, part in zip(selections, parts, strict=True):
        np.testing.assert_array_equal(part, whole[selection])


def test_the_same_seed_gives_the_same_bytes() -> None:
    for chunk in CHUNKS[:3]:
        assert TINC(**QUICK, seed=3).encode(chunk) == TINC(**QUICK, seed=3).encode(chunk.copy())


def test_voxels_do_not_depend_on_the_number_of_threads() -> None:
    payload = TINC(**QUICK).encode(CHUNKS[0])
    decoded = []
    for threads in (1, 3):
        with runtime(threads=threads):
            decoded.append(decode(payload))
    np.testing.assert_array_equal(*decoded)
