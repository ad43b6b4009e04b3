"""What a worker does with one task: read, encode, decode, score, put in place, tell."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype

from tinc_codec.archive import shards
from tinc_codec.archive.arrays import Documents, Level, new_array, new_stack
from tinc_codec.archive.layout import Region, grid_shape, region_of, slices_text, within
from tinc_codec.archive.memory import PIECE_BYTES
from tinc_codec.archive.payloads import form
from tinc_codec.archive.plan import Plan, Task
from tinc_codec.archive.pyramid import downsample, level_region
from tinc_codec.archive.remote import target_of
from tinc_codec.archive.scores import ChunkScore, score_chunk
from tinc_codec.archive.sources import Source, Staging, open_source
from tinc_codec.archive.target import Target, with_retries
from tinc_codec.decode import decode
from tinc_codec.encode import encode_chunk
from tinc_codec.engines.gpu.device import check_device
from tinc_codec.errors import InvalidSetting, TincError
from tinc_codec.forks import Lock
from tinc_codec.metrics import Errors, errors
from tinc_codec.runtime import current_runtime, runtime

# A class of torch's is told by its name: reading and writing archives needs no torch.
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
_GPU_LOST = 70  # exit status
_FIT_FAILED = (TincError, ArithmeticError, np.linalg.LinAlgError)
# One shard at a time in a process: the plan's memory and the threads are reckoned so.
_TURN = Lock()
_OPENED: dict[str, tuple[Source, Source | Staging]] = {}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRecord:
    """What is known of a finished task.

    Attributes
    ----------
    index, level : int
        Of the task.
    key : str
        Of the shard within the archive.
    size : int
        Bytes of the shard; 0 if all its chunks hold only the fill value, and nothing is stored.
    checksum : int
        CRC32C of these bytes.
    chunks : tuple of ChunkScore
        In C order of their positions.
    lossless : tuple of int
        Which of the chunks were stored losslessly, since the fit failed or was below the floor.
    seconds : dict of str to float
        Time to read, encode, decode with scoring, and write.
    """

    index: int
    level: int
    key: str
    size: int
    checksum: int
    chunks: tuple[ChunkScore, ...]
    lossless: tuple[int, ...] = ()
    seconds: dict[str, float]

    @property
    def raw_bytes(self) -> int:
        """Bytes of the shard's voxels."""
        return sum(chunk.raw_bytes for chunk in self.chunks)

    @property
    def errors(self) -> Errors:
        """Sum over the chunks, none for the coarser levels of a pyramid."""
        return sum((c.errors for c in self.chunks), Errors()) if self.level == 0 else Errors()

    def to_json(self) -> dict[str, Any]:
        """Return plain values; Python's json keeps NaN and infinities."""
        chunks = [chunk.to_record() for chunk in self.chunks]
        return {**{name: getattr(self, name) for name in self.__slots__}, "chunks": chunks}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Return the record that gave such values."""
        chunks = tuple(ChunkScore.from_record(chunk) for chunk in values["chunks"])
        return cls(**{**values, "chunks": chunks, "lossless": tuple(values["lossless"])})


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard in work: its chunks that hold voxels of the array, in C order.

    Attributes
    ----------
    plan : Plan
        The plan.
    level : Level
        Its level.
    task : Task
        The task.
    box : ndarray
        Voxels of the task's region.
    regions : tuple of slices, of each chunk
        Voxels of the level.
    places : of each chunk
        Its number among all chunks of a whole shard.
    """

    plan: Plan
    level: Level
    task: Task
    box: NDArray[Any]
    regions: tuple[Region, ...]
    places: tuple[int, ...]

    @property
    def key(self) -> str:
        """Of the shard within the archive."""
        name = _codec_array(self.plan, self.level, {}).metadata.encode_chunk_key(self.task.position)
        return f"{self.level.path}/{name}"

    def original(self, k: int) -> NDArray[Any]:
        """Return the voxels of a chunk."""
        return self.box[within(self.regions[k], self.task.region)]

    def padded(self, k: int) -> NDArray[Any]:
        """Return the voxels of a chunk, padded to a whole one with the fill value."""
        voxels = self.original(k)
        if voxels.shape == self.level.chunks:
            return voxels
        whole = np.zeros(self.level.chunks, voxels.dtype)
        whole[tuple(map(slice, voxels.shape))] = voxels
        return whole


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
        payloads, lossless = _encoded(shard)
        seconds["encode"] = lap()
        data = _packed(shard, payloads)
        decoded = _decoded(shard, data)
        below = _below_floor(shard, decoded)
        if below:
            for k in below:
                payloads[k] = lossless_chunk(shard.padded(k), plan, shard.level, shard.regions[k])
            lossless |= set(below)
            data = _packed(shard, payloads)
            decoded = _decoded(shard, data)
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
        if "CUDA error" in str(error):
            os._exit(_GPU_LOST)
        raise


def lossless_chunk(chunk: NDArray[Any], plan: Plan, level: Level, region: Region) -> bytes:
    """Return a payload that restores a chunk exactly, in an array whose codec is lossy.

    Raises
    ------
    InvalidSetting
        If the encoder has no exact form for such voxels. The message names the chunk.
    """
    exact = replace(
        plan.settings,
        ratio=None,
        psnr=None,
        rmse=None,
        ssim=None,
        max_error=0,
        importance=None,
        form="auto",
        preset="default",
        milestones="auto",
    )
    try:
        payload = encode_chunk(chunk, exact)
        same = np.array_equal(decode(payload), chunk, equal_nan=chunk.dtype.kind == "f")
        why = "" if same else "its decoded bytes differ"
    except TincError as error:
        why = str(error)
    if why:
        where = slices_text(region)
        raise InvalidSetting(
            f"the chunk {where} of {level.path!r} is not fitted well enough by these settings, "
            f"and cannot be stored losslessly either ({why}): take {_remedy(plan)}"
        )
    return payload


def _remedy(plan: Plan) -> str:
    if plan.settings.max_error is not None:
        return "a larger max_error"
    return "a lower ratio" if plan.min_psnr is None else "a lower ratio, or a lower --min-psnr"


def _read(plan: Plan, task: Task) -> _Shard:
    level = plan.levels[task.level]
    box = with_retries(_read_level, plan, level, task.region)
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
    return _Shard(
        plan, level, task, box.astype(level.dtype, copy=False), tuple(regions), tuple(places)
    )


def _read_level(plan: Plan, level: Level, region: Region) -> NDArray[Any]:
    """Read a region of a level: of a coarse one, the means of blocks of the source, in pieces."""
    source = _source(plan, level)
    if math.prod(level.factors) == 1:
        return source.read(region)
    shape = (source.source if isinstance(source, Staging) else source).shape
    result = np.empty([axis.stop - axis.start for axis in region], level.dtype)
    pieces = [region]
    while pieces:
        piece = pieces.pop()
        fine = level_region(piece, level.factors, shape)
        size = math.prod(axis.stop - axis.start for axis in fine) * result.itemsize
        longest = max(range(len(piece)), key=lambda k: piece[k].stop - piece[k].start)
        start, stop = piece[longest].start, piece[longest].stop
        if size > PIECE_BYTES and stop - start > 1:
            for half in (slice(start, (start + stop) // 2), slice((start + stop) // 2, stop)):
                pieces.append((*piece[:longest], half, *piece[longest + 1 :]))
            continue
        voxels = source.read(fine)
        if level.labels:
            voxels = voxels[tuple(slice(None, None, f) for f in level.factors)]
        else:
            voxels = downsample(voxels, level.factors, missing=level.missing)
        result[within(piece, region)] = voxels
    return result


def _source(plan: Plan, level: Level) -> Source | Staging:
    """Open the source once in a process; the fingerprint keeps apart what a path meant before."""
    key = f"{plan.fingerprint}/{level.path}"
    if key not in _OPENED:
        close_sources()
        source = open_source(level.source)
        _OPENED[key] = source, source
        if level.staged:
            _OPENED[key] = source, Staging(source=source, folder=slab_folder(plan))
    return _OPENED[key][1]


def slab_folder(plan: Plan) -> Path:
    """Return the folder of slabs of the source, on a local disk of each machine, of this user."""
    return Path(tempfile.gettempdir()) / f"tinc-slabs-{os.getuid()}-{plan.fingerprint[:16]}"


def close_sources() -> None:
    """Let go of what :func:`convert_task` has kept open in this process."""
    while _OPENED:
        _OPENED.popitem()[1][0].close()


def _encoded(shard: _Shard) -> tuple[list[bytes | None], set[int]]:
    """Return the payload of each chunk, None where zarr leaves it out, and which are lossless.

    All are encoded in one batch. Where that fails halves are tried, down to the chunks that are to
    blame, or until the memory is enough.
    """
    payloads: list[bytes | None] = [None] * len(shard.regions)
    lossless: set[int] = set()
    batches = [range(len(payloads))]
    while batches:
        batch = batches.pop()
        try:
            payloads[batch.start : batch.stop] = _encode_batch(shard, batch)
        except Exception as error:
            failed = isinstance(error, _FIT_FAILED) and not shard.level.lossless
            if not failed and type(error).__name__ not in _OUT_OF_MEMORY:
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                batches += [batch[:middle], batch[middle:]]
            elif failed:
                (k,) = batch
                region = shard.regions[k]
                payloads[k] = lossless_chunk(shard.padded(k), shard.plan, shard.level, region)
                lossless.add(k)
            else:
                raise
    return payloads, lossless


def _encode_batch(shard: _Shard, batch: Sequence[int]) -> list[bytes | None]:
    plan, written = shard.plan, Documents()
    array = new_stack(written, len(batch), shard.level, plan.settings, plan.zarr_format)
    array[:] = np.concatenate([shard.padded(k) for k in batch])
    rest = (0,) * (array.ndim - 1)
    found = (written.get(array.metadata.encode_chunk_key((k, *rest))) for k in range(len(batch)))
    return [None if payload is None else payload.to_bytes() for payload in found]


def _packed(shard: _Shard, payloads: Sequence[bytes | None]) -> bytes | None:
    """Return the bytes to store; None where all chunks hold only the fill value."""
    if not shard.level.sharded:
        return payloads[0]
    whole: list[bytes | None] = [None] * shards.chunks_in_a_shard(
        shard.level.shards, shard.level.chunks
    )
    for place, payload in zip(shard.places, payloads, strict=True):
        whole[place] = payload
    return shards.pack(whole)


def _decoded(shard: _Shard, data: bytes | None) -> NDArray[Any]:
    """Return the voxels of the shard as zarr reads them from the bytes to store."""
    documents = Documents()
    array = _codec_array(shard.plan, shard.level, documents)
    if data is not None:
        documents[shard.key] = default_buffer_prototype().buffer.from_bytes(data)
    return np.asarray(array[shard.task.region])


def _codec_array(plan: Plan, level: Level, documents: Documents) -> zarr.Array[Any]:
    return new_array(documents, level, plan.settings, plan.zarr_format)


def _below_floor(shard: _Shard, decoded: NDArray[Any]) -> list[int]:
    floor = shard.plan.min_psnr
    if floor is None or shard.level.lossless:
        return []
    pairs = (
        (shard.original(k), decoded[within(region, shard.task.region)])
        for k, region in enumerate(shard.regions)
    )
    return [k for k, pair in enumerate(pairs) if errors(*pair).psnr() < floor]


def _scores(
    shard: _Shard, payloads: Sequence[bytes | None], decoded: NDArray[Any], seconds: float
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
    """Hand chunks to torch in one batch, and elsewhere one by one: a chunk has all threads."""
    batch = 1_000_000 if current_runtime().uses_torch else 1
    with zarr.config.set({"codec_pipeline.batch_size": batch, "async.concurrency": 1}):
        yield


def _laps() -> Callable[[], float]:
    """Return a function that gives the seconds since it, or this, was called last."""
    before = time.perf_counter()

    def lap() -> float:
        nonlocal before
        started, before = before, time.perf_counter()
        return before - started

    return lap
