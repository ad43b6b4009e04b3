"""Chunks of 64³ voxels decoded at once, one to a thread: what dask, or zarr, does to read many.

Milliseconds a chunk: wall time over all chunks that all threads decoded, medians of rounds in which
the codecs take turns. TINC decodes each on one thread here, and bytes that it has not seen; the
others as everywhere else.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines import registry
from benchmarks.baselines.protocol import Target, timed
from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options, warm_up
from tinc_codec import Settings, decode, runtime
from tinc_codec.decoding.opened import forget_chunks
from tinc_codec.encode import encode_chunk

_OWN = "TINC"
_RIVALS = ("HEVC", "SPERR bpp")
_THREADS = (1, 2, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A block at a ratio: a row for each codec."""

    volume: str
    block: int
    ratio: float
    effort: int


def _own(payload: bytes) -> Callable[[], Any]:
    def read() -> Any:
        forget_chunks()
        with runtime(threads=1):
            return decode(payload)

    return read


def _milliseconds(read: Callable[[], Any], threads: int, chunks: int) -> float:
    """Return the wall time of a chunk where each thread decodes so many, one after the other."""

    def several() -> None:
        for _ in range(chunks):
            read()

    def all_threads() -> None:
        with ThreadPoolExecutor(threads) as pool:
            for done in [pool.submit(several) for _ in range(threads)]:
                done.result()

    return timed(all_threads)[1] * 1e3 / (threads * chunks)


def measure(array: NDArray[Any], case: Case, rounds: int, chunks: int) -> list[dict[str, Any]]:
    """Return the rows of a case; a codec that cannot reach the ratio has one without figures."""
    payload = encode_chunk(array, Settings(ratio=case.ratio, effort=case.effort))
    coded = {name: registry.get(name).encode(array, Target(ratio=case.ratio)) for name in _RIVALS}
    reads = {_OWN: _own(payload)} | {name: c.decode if c else None for name, c in coded.items()}
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for name, read in reads.items():
            for threads in _THREADS:
                if read is not None:
                    taken = _milliseconds(read, threads, max(1, chunks // threads))
                    found.setdefault((name, threads), []).append(taken)
    return [
        {"codec": name}
        | {
            f"ms_{threads}": round(statistics.median(found[name, threads]), 3) if read else ""
            for threads in _THREADS
        }
        for name, read in reads.items()
    ]


def lines(rows: list[Row]) -> list[list[str]]:
    """Return a line of the table for each codec."""
    return [
        [row["volume"], f"{float(row['ratio']):g}", row["codec"]]
        + [row[f"ms_{threads}"] or "out of reach" for threads in _THREADS]
        for row in rows
    ]


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("at_once")
    block, ratios, rounds, chunks, effort = 64, (64, 512), 9, 24, 2
    if options.quick:
        block, ratios, rounds, chunks, effort = 24, (16,), 1, 2, 1
    warm_up()
    found = []
    for volume in options.volumes:
        array = np.asarray(datasets.first_block(datasets.load(volume), block))
        for ratio in ratios:
            case = Case(volume=volume, block=block, ratio=ratio, effort=effort)
            found.append(store.rows(case, lambda a=array, c=case: measure(a, c, rounds, chunks)))
    heads = (f"{n} thread{'s' * (n > 1)}, ms a chunk" for n in _THREADS)
    return markdown(
        ("volume", "ratio", "codec", *heads), (x for rows in found for x in lines(rows))
    )
