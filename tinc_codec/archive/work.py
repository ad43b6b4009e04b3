"""What a worker does with one task: read, encode, decode, score, put in place, tell."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import zarr
from numpy.typing import NDArray

from tinc_codec.archive.arrays import Level
from tinc_codec.archive.layout import grid_shape, region_of, within
from tinc_codec.archive.level_reading import read_level
from tinc_codec.archive.payloads import form
from tinc_codec.archive.plan import Plan, Task
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.remote import target_of
from tinc_codec.archive.scores import ChunkScore, score_chunk
from tinc_codec.archive.shard_encoding import (
    Shard,
    decode_shard,
    encode_shard,
    lossless_chunk,
    pack_shard,
)
from tinc_codec.archive.target import Target, with_retries
from tinc_codec.engines.gpu.device import check_device
from tinc_codec.forks import Lock
from tinc_codec.metrics import errors
from tinc_codec.runtime import current_runtime, runtime

_GPU_LOST = 70  # exit status
# One shard at a time in a process: the plan's memory and the threads are reckoned so.
_TURN = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is the same for all tasks of a run; small, since it goes along with each.

    Attributes
    ----------
    plan : Plan
        The plan.
    scratch : str
        Folder for unfinished files.
    device : str
        See :class:`tinc_codec.runtime.Runtime`.
    threads : int
        That one chunk may use; 0 leaves it to the worker's environment.
    """

    plan: Plan
    scratch: str
    device: str = "auto"
    threads: int = 0


def convert_task(job: Job, index: int) -> ShardRecord:
    """Do one task of a plan.

    Raises
    ------
    OSError
        If the source cannot be read or the target not be written, after some attempts.
    TincError
        If a chunk can be stored neither way, or the device is not there.
    """
    plan, task = job.plan, job.plan[index]
    threads = job.threads or current_runtime().threads
    with _TURN, runtime(device=job.device, threads=threads, cache_bytes=0), _zarr_settings():
        check_device()  # else no chunk could be fitted, and all would be stored losslessly
        seconds: dict[str, float] = {}
        lap = _laps()
        shard = _read(plan, task)
        seconds["read"] = lap()
        payloads, lossless = encode_shard(shard)
        seconds["encode"] = lap()
        data = pack_shard(shard, payloads)
        decoded = decode_shard(shard, data)
        below = _below_floor(shard, decoded)
        if below:
            for k in below:
                lossless[k] = f"it decodes with less than min_psnr={plan.min_psnr:g}"
                payloads[k] = lossless_chunk(shard, k, lossless[k])
            data = pack_shard(shard, payloads)
            decoded = decode_shard(shard, data)
        scores = _scores(shard, payloads, decoded, seconds["encode"] / len(payloads))
        seconds["decode"] = lap()
        with_retries(_put, target_of(plan.dst), shard.key, data, Path(job.scratch))
        seconds["write"] = lap()
        return ShardRecord(
            index=index,
            level=task.level,
            key=shard.key,
            size=len(data or b""),
            checksum=int(google_crc32c.value(data or b"")),
            chunks=scores,
            lossless=tuple(sorted(lossless)),
            why_lossless=next(iter(lossless.values()), ""),
            seconds=seconds,
        )


def convert_on_worker(job: Job, index: int) -> ShardRecord:
    """Do one task in a process that is started anew if it ends.

    After an error of CUDA other than a lack of memory, whatever a process does on the GPU fails:
    it ends, and the task goes to another.
    """
    try:
        return convert_task(job, index)
    except RuntimeError as error:
        told = str(error)
        lost = "CUDA error" in told or "Triton Error [CUDA]" in told
        if lost and "out of memory" not in told:
            os._exit(_GPU_LOST)
        raise


def _read(plan: Plan, task: Task) -> Shard:
    level = plan.levels[task.level]
    box = with_retries(read_level, plan, level, task.region)
    inside = tuple(s // c for s, c in zip(level.shards, level.chunks, strict=True))
    first = [p * n for p, n in zip(task.position, inside, strict=True)]
    grid = grid_shape(level.shape, level.chunks)
    regions, places = [], []
    for place, offset in enumerate(itertools.product(*map(range, inside))):
        where = tuple(f + o for f, o in zip(first, offset, strict=True))
        if all(w < n for w, n in zip(where, grid, strict=True)):
            regions.append(region_of(where, level.shape, level.chunks))
            places.append(place)
    # The machine's byte order, as the array of the archive has it.
    return Shard(
        plan, level, task, box.astype(level.dtype, copy=False), tuple(regions), tuple(places)
    )


def _below_floor(shard: Shard, decoded: NDArray[Any]) -> list[int]:
    floor = shard.plan.min_psnr
    if floor is None or shard.level.lossless:
        return []
    pairs = (
        (shard.original(k), decoded[within(region, shard.task.region)])
        for k, region in enumerate(shard.regions)
    )
    return [k for k, pair in enumerate(pairs) if errors(*pair).psnr() < floor]


def _scores(
    shard: Shard, payloads: Sequence[bytes | None], decoded: NDArray[Any], seconds: float
) -> tuple[ChunkScore, ...]:
    return tuple(
        score_chunk(
            shard.original(k),
            decoded[within(region, shard.task.region)],
            region=region,
            stored_bytes=len(payload or b""),
            structure=False,
            form=_form(payload, shard.level),
            seconds=seconds,
        )
        for k, (region, payload) in enumerate(zip(shard.regions, payloads, strict=True))
    )


def _form(payload: bytes | None, level: Level) -> str:
    return "lossless" if level.lossless and payload is not None else form(payload)


def _put(target: Target, key: str, data: bytes | None, scratch: Path) -> None:
    if data is None:
        target.remove(key)
    else:
        target.put(key, data, scratch)


@contextmanager
def _zarr_settings() -> Iterator[None]:
    """Hand chunks to torch in one batch, and elsewhere one by one: a chunk has all threads.

    Buffers are the host's, whatever ``zarr.config.enable_gpu()`` says: chunks are read from there.
    """
    batch = 1_000_000 if current_runtime().uses_torch else 1
    with zarr.config.set(
        {
            "codec_pipeline.batch_size": batch,
            "async.concurrency": 1,
            "buffer": "zarr.buffer.cpu.Buffer",
            "ndbuffer": "zarr.buffer.cpu.NDBuffer",
        }
    ):
        yield


def _laps() -> Callable[[], float]:
    """Return a function that gives the seconds since it, or this, was called last."""
    before = time.perf_counter()

    def lap() -> float:
        nonlocal before
        started, before = before, time.perf_counter()
        return before - started

    return lap
