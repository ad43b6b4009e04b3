"""Carrying out a plan: in this process or on dask's workers, a window of tasks at a time."""

from __future__ import annotations

import contextlib
import contextvars
import json
import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinc_codec import __version__
from tinc_codec.archive.cluster import worker_memory
from tinc_codec.archive.in_flight import on_client
from tinc_codec.archive.layout import slices_text
from tinc_codec.archive.level_reading import close_sources, slab_folder
from tinc_codec.archive.manifest import Manifest, Partition, finishing, open_manifest
from tinc_codec.archive.metadata import documents
from tinc_codec.archive.plan import Plan
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.remote import target_of
from tinc_codec.archive.scores import ratio
from tinc_codec.archive.target import FATAL, Target
from tinc_codec.archive.work import Job, convert_on_worker, convert_task
from tinc_codec.engines.gpu.device import check_device
from tinc_codec.errors import InvalidSetting, TincError
from tinc_codec.metrics import Errors
from tinc_codec.runtime import current_runtime

if TYPE_CHECKING:
    from distributed import Client

_FAILURES_IN_A_ROW = 10
_SYNC_SECONDS = 2.0
# Read again of provenance.
_TOLD = {"fingerprint", "raw_bytes", "stored_bytes", "lossless_chunks"}

Result = ShardRecord | Exception
OnShard = Callable[[ShardRecord, bool], None]


class ShardsFailed(TincError, RuntimeError):
    """Some shards could not be converted; the others are in place, and running again goes on.

    Attributes
    ----------
    failed : dict of int to str
        What went wrong, by the task's index.
    """

    def __init__(self, failed: dict[int, str], plan: Plan) -> None:
        shown = "; ".join(
            f"{_where(plan, index)}: {message}" for index, message in list(failed.items())[:3]
        )
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(
            f"{len(failed)} of {len(plan)} shards failed ({shown}{more}); the others are in "
            f"{target_of(plan.dst).where}, run again to go on"
        )
        self.failed = failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run did.

    Attributes
    ----------
    finished : bool
        Whether the archive is complete; a part of a partitioned run may leave that to others.
    shards, chunks : int
        In place, earlier runs included.
    errors : Errors
        Sum over the chunks of the full resolution.
    raw_bytes, stored_bytes : int
        Of all levels.
    lossless : int
        Chunks stored losslessly since their fit failed or was below the floor.
    why_lossless : str
        Why one of these was; "" where none was, or an earlier run completed the archive.
    seconds : float
        Wall time of this run.
    earlier : bool
        The archive was complete before this run, which did nothing; ``errors`` are those of none.
    """

    finished: bool = False
    shards: int = 0
    chunks: int = 0
    errors: Errors = field(default_factory=Errors)
    raw_bytes: int = 0
    stored_bytes: int = 0
    lossless: int = 0
    why_lossless: str = ""
    seconds: float = 0.0
    earlier: bool = False

    @property
    def ratio(self) -> float:
        """Raw bytes over stored bytes."""
        return ratio(self.raw_bytes, self.stored_bytes)

    def __add__(self, record: ShardRecord) -> Outcome:
        return replace(
            self,
            shards=self.shards + 1,
            chunks=self.chunks + len(record.chunks),
            errors=self.errors + record.errors,
            raw_bytes=self.raw_bytes + record.raw_bytes,
            stored_bytes=self.stored_bytes + record.size,
            lossless=self.lossless + len(record.lossless),
            why_lossless=self.why_lossless or record.why_lossless,
        )


def run(
    plan: Plan,
    client: Client | None = None,
    *,
    overwrite: bool = False,
    partition: Partition = (0, 1),
    on_shard: OnShard | None = None,
) -> Outcome:
    """Carry out a plan, or go on with it where an earlier run was interrupted.

    An archive that this very plan has completed already is left as it is, so that a run that was
    killed at its very end, or came again from a queue, ends well.

    Parameters
    ----------
    plan : Plan
        See :func:`tinc_codec.archive.plan`.
    client : distributed.Client, optional
        Of the workers, one thread each; see :mod:`tinc_codec.archive.cluster`. By default all is
        done in this process.
    overwrite : bool
        Replace an archive that is there, once the new one is complete, and throw away what
        another plan has left unfinished.
    partition : (int, int)
        (i, n): do only the i-th of n parts, i from 0. Whichever part is done last finishes.
    on_shard : callable, optional
        Called with the record of each shard and whether it was in place before; those are first.

    Returns
    -------
    Outcome

    Raises
    ------
    FileExistsError
        If the destination exists and is not to be, or cannot be, overwritten.
    InvalidSetting
        If it was begun with another source or settings, the workers have too little memory, or
        this process is to work on a device that is not there.
    BlockingIOError
        If another process is converting to it.
    ShardsFailed
        If some shards could not be converted.
    OSError
        If the target cannot be written, or the scheduler is gone.
    """
    check_partition(partition)
    part, parts = partition
    started = time.perf_counter()
    target = target_of(plan.dst)
    if is_complete(plan, overwrite):
        return replace(_complete(plan, target), seconds=time.perf_counter() - started)
    check_target(plan, overwrite)
    if client is None:
        check_device()
    plan.check_memory(worker_memory(client))
    with open_manifest(plan, target, overwrite=overwrite, partition=partition) as manifest:
        outcome = _told(manifest, on_shard)
        own = (k for k in range(part, len(plan), parts) if not manifest.done[k])
        failed: dict[int, str] = {}
        with contextlib.closing(_results(plan, own, manifest, client)) as results:
            for index, result in results:
                if isinstance(result, ShardRecord):
                    manifest.add(result)
                    outcome += result
                    if on_shard:
                        on_shard(result, False)
                else:
                    failed[index] = _message(result)
        if failed:
            raise ShardsFailed(failed, plan)
        outcome = _finished(plan, target, manifest, outcome)
    return replace(outcome, seconds=time.perf_counter() - started)


def check_target(plan: Plan, overwrite: bool) -> None:
    """Refuse a destination that is in use for something else, before workers are started.

    Raises
    ------
    FileExistsError, InvalidSetting
        See :func:`run`.
    """
    source = plan.levels[0].source
    target_of(plan.dst).check([source, *([source.mask] if source.mask else [])], overwrite)


def check_partition(partition: Partition, name: str = "partition") -> None:
    """Refuse what is no part of so many; ``name`` is what the message calls it.

    Raises
    ------
    InvalidSetting
        If it is none.
    """
    part, parts = partition
    if not 0 <= part < parts:
        raise InvalidSetting(f"{name} {part + 1}/{parts} must be I/N with I from 1 to N")


def is_complete(plan: Plan, overwrite: bool) -> bool:
    """Tell whether the archive is there already, made by the same plan from the same source.

    Parameters
    ----------
    plan : Plan
        The plan.
    overwrite : bool
        Whether it is to be replaced. Then it only counts as complete if the run that completed it
        was killed before it had cleared up.
    """
    target = target_of(plan.dst)
    if overwrite and not target.progress.exists():
        return False
    return _stored_provenance(plan, target).get("fingerprint") == plan.fingerprint


def _stored_provenance(plan: Plan, target: Target) -> dict[str, Any]:
    """Return what the archive tells of its making; nothing if it is not there, or not all told."""
    name = "zarr.json" if plan.zarr_format == 3 else ".zattrs"
    try:
        found = json.loads(target.read_finished(f"{plan.levels[0].path}/{name}") or b"{}")
        attributes = found["attributes"] if plan.zarr_format == 3 else found
        told = dict(attributes["tinc_codec"])
        return told if told.keys() >= _TOLD else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _complete(plan: Plan, target: Target) -> Outcome:
    """Clear up after a run that was killed once the archive had its name, and tell of that."""
    _clear_up(plan, target)
    told = _stored_provenance(plan, target)
    return Outcome(
        finished=True,
        earlier=True,
        shards=len(plan),
        chunks=plan.chunks,
        raw_bytes=told["raw_bytes"],
        stored_bytes=told["stored_bytes"],
        lossless=told["lossless_chunks"],
    )


def _clear_up(plan: Plan, target: Target) -> None:
    shutil.rmtree(target.progress, ignore_errors=True)
    shutil.rmtree(slab_folder(plan), ignore_errors=True)


def _told(manifest: Manifest, on_shard: OnShard | None) -> Outcome:
    """Return the sum of what is in place from earlier runs, told record by record."""
    outcome = Outcome()
    for record in manifest.records():
        if manifest.done[record.index]:
            outcome += record
            if on_shard:
                on_shard(record, True)
    return outcome


def _results(
    plan: Plan, tasks: Iterator[int], manifest: Manifest, client: Client | None
) -> Generator[tuple[int, Result]]:
    """Yield what became of each task, as they end.

    Raises
    ------
    OSError
        If the target cannot be written: no other shard can be, either.
    """
    here = current_runtime()
    job = Job(plan=plan, scratch=str(manifest.scratch), device=here.device, threads=here.threads)
    if client is None:
        results = _in_process(job, tasks)
    else:
        results = on_client(convert_on_worker, job, tasks, client, name=manifest.scratch.name)
    in_a_row, synced = 0, time.monotonic()
    with contextlib.closing(results):
        for index, result in results:
            if isinstance(result, OSError) and result.errno in FATAL:
                raise result
            yield index, result
            in_a_row = in_a_row + 1 if isinstance(result, Exception) else 0
            if in_a_row == _FAILURES_IN_A_ROW:
                return
            if time.monotonic() - synced > _SYNC_SECONDS:
                manifest.sync()
                synced = time.monotonic()
    manifest.sync()


def _in_process(job: Job, tasks: Iterator[int]) -> Generator[tuple[int, Result]]:
    """Do the tasks in a thread of this process, one after the other.

    An interrupt lets the one in work end: zarr would otherwise go on while the folder is left.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # starts the thread: one interrupted then is not waited for
        try:
            for index in tasks:
                context = contextvars.copy_context()
                try:
                    result: Result = pool.submit(context.run, convert_task, job, index).result()
                except (TincError, OSError, MemoryError) as error:
                    result = error
                yield index, result
        finally:
            pool.submit(close_sources)


def _finished(plan: Plan, target: Target, manifest: Manifest, outcome: Outcome) -> Outcome:
    """Write metadata and give the archive its name, if all is there."""
    with finishing(target) as unfinished:
        if not unfinished:
            return replace(outcome, finished=True)
        whole = Outcome()
        for record in manifest.records():
            whole += record
        if whole.shards < len(plan):
            return outcome
        target.finish(documents(plan, _provenance(plan, whole)))
        _clear_up(plan, target)
    return replace(whole, finished=True)


def _provenance(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None  # JSON has no infinities

    source = plan.levels[0].source
    part = {
        "roi": source.roi,
        "mask": source.mask and source.mask.location,
        "min_psnr": plan.min_psnr,
    }
    return {
        "version": __version__,
        **{name: value for name, value in part.items() if value is not None},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "fingerprint": plan.fingerprint,
        "source": {
            "name": Path(plan.src).name,
            "kind": plan.kind,
            "shape": list(plan.levels[0].shape),
            "dtype": plan.source_dtype,
        },
        "settings": plan.settings.to_json(),
        "raw_bytes": outcome.raw_bytes,
        "stored_bytes": outcome.stored_bytes,
        "psnr_db": finite(outcome.errors.psnr()),
        "max_error": finite(outcome.errors.max_error),
        "lossless_chunks": outcome.lossless,
    }


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _where(plan: Plan, index: int) -> str:
    task = plan[index]
    region = slices_text(task.region)
    return f"{plan.levels[task.level].path} {region}"
