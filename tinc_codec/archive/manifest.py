"""What is known of an unfinished conversion: which shards are in place, and who is at work.

A folder beside the archive holds ``plan.json``, the digest of source and settings with what they
are in words; files of lines, each the record of a shard that is in place; and locks, which the
system releases when their process ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import google_crc32c
import numpy as np

from tinc_codec.archive.plan import Plan
from tinc_codec.archive.records import ShardRecord
from tinc_codec.archive.target import Target
from tinc_codec.errors import InvalidSetting

Partition = tuple[int, int]
_WHOLE: Partition = (0, 1)
# A last line without its end is being written, or was cut off; where the power failed, the system
# may have left zeros.
_RECORD = re.compile(rb'\{"index":(\d+),[^\0]*\}\n')


@dataclass(slots=True)
class Manifest:
    """The records of a conversion, of which one part is being written by this process.

    Attributes
    ----------
    folder : Path
        Beside the archive.
    scratch : Path
        Folder of this process for unfinished files.
    done : bytearray
        1 for each task that is in place, by its index.
    """

    folder: Path
    scratch: Path
    done: bytearray
    _file: IO[bytes]

    def add(self, record: ShardRecord) -> None:
        """Record a shard that is in place."""
        line = json.dumps(record.to_json(), separators=(",", ":")).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self.done[record.index] = 1

    def sync(self) -> None:
        """Bring the records to the disk."""
        os.fsync(self._file.fileno())

    def records(self) -> Iterator[ShardRecord]:
        """Yield all records, of other processes, too, each task once."""
        yield from _last_records(self.folder, len(self.done))


@contextlib.contextmanager
def open_manifest(
    plan: Plan,
    target: Target,
    *,
    overwrite: bool,
    partition: Partition = _WHOLE,
) -> Iterator[Manifest]:
    """Open the records of a conversion, or begin them, for one writer.

    Records of shards that are not in place as recorded do not count.

    Parameters
    ----------
    plan : Plan
        Has to be the one that the records belong to.
    target : Target
        The archive.
    overwrite : bool
        Throw away what another plan left unfinished.
    partition : (int, int)
        Which part of how many this process works on.

    Raises
    ------
    InvalidSetting
        If another source or other settings began the conversion.
    BlockingIOError
        If another process is at work on it.
    OSError
        If the folder cannot be written.
    """
    folder = target.progress
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{partition[0] + 1}-of-{partition[1]}"
    with contextlib.ExitStack() as stack:
        shared = partition[1] > 1
        _lock(stack, folder, "whole.lock", target, shared=shared)
        _lock(stack, folder, f"{name}.lock", target)
        _begin(plan, target, overwrite, shared)
        for old in folder.glob(f"scratch-{name}-*"):
            _put_away(old)
        scratch = folder / f"scratch-{name}-{uuid.uuid4().hex}"
        scratch.mkdir()
        file = stack.enter_context(_append(folder / f"shards-{name}.jsonl"))
        done = _in_place(folder, target, len(plan))
        yield Manifest(folder=folder, scratch=scratch, done=done, _file=file)
        shutil.rmtree(scratch, ignore_errors=True)


def _put_away(scratch: Path) -> None:
    """Remove the scratch folder of an earlier run, of which a worker may still be writing there.

    Under another name nothing comes in any more, nor goes from it to its place.
    """
    gone = scratch.with_name(f"{scratch.name}.gone")
    with contextlib.suppress(FileNotFoundError):
        scratch.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


@contextlib.contextmanager
def finishing(target: Target) -> Iterator[bool]:
    """Give the turn to finish an archive, to one process after the other.

    Yields
    ------
    bool
        Whether it is still to be finished.
    """
    with contextlib.ExitStack() as stack:
        try:
            _lock(stack, target.progress, "finish.lock", target, wait=True)
        except FileNotFoundError:
            yield False
            return
        yield target.is_unfinished()


def _lock(
    stack: contextlib.ExitStack,
    folder: Path,
    name: str,
    target: Target,
    *,
    shared: bool = False,
    wait: bool = False,
) -> None:
    path = folder / name
    file = stack.enter_context(path.open("ab"))
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(file, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(
            f"another process is converting to {target.dst}; wait for it, or end it. "
            "What it has done is not lost"
        ) from None
    # Whoever held it may just have finished, and removed it.
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise FileNotFoundError(f"{target.dst} has just been finished by another process")


def _begin(plan: Plan, target: Target, overwrite: bool, shared: bool) -> None:
    """Check that the folder belongs to the plan; note the plan in a new one."""
    path = target.progress / "plan.json"
    said = {"fingerprint": plan.fingerprint, "plan": plan.summary()}
    try:
        found = json.loads(path.read_bytes())
        found = found if isinstance(found, dict) else {}
    except FileNotFoundError:
        found = None
    except ValueError:
        found = {}
    if found is not None and found.get("fingerprint") != plan.fingerprint:
        if not overwrite or shared:
            before = found.get("plan")
            known = before if isinstance(before, dict) else {}
            raise InvalidSetting(_differences(known, plan, target))
        for old in target.progress.glob("shards-*.jsonl"):
            old.unlink()
        found = None
    if found is None:
        target.begin(fresh=not shared)
        new = path.with_suffix(f".{os.getpid()}")
        with new.open("w") as file:
            file.write(json.dumps(said, indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    target.begin(fresh=False)


def _differences(before: dict[str, Any], plan: Plan, target: Target) -> str:
    now = plan.summary()
    changed = [
        "the source (its voxels, metadata or time of change)"
        if name == "source"
        else f"{name} {before.get(name)} (now {value})"
        for name, value in now.items()
        if before.get(name) != value
    ]
    return (
        f"{target.where} was begun with something else: {', '.join(changed) or 'levels'}. Go on "
        "with what it was begun with, give another name, or start over with --overwrite "
        "(overwrite=True)"
    )


@contextlib.contextmanager
def _append(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of lines to add to; a last line that was cut off goes."""
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        while size:
            start = max(0, size - 65536)
            file.seek(start)
            end = file.read(size - start).rfind(b"\n")
            if end >= 0:
                size = start + end + 1
                break
            size = start
        file.truncate(size)
        yield file


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("shards-*.jsonl"))


def _lines(path: Path, count: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the lines that are records, with the index of their tasks and where they begin."""
    start = 0
    with path.open("rb") as file:
        for line in file:
            match = _RECORD.fullmatch(line)
            if match and int(match[1]) >= count:
                raise _damaged(path, line, f"there are {count} tasks")
            if match:
                yield int(match[1]), start, line
            start += len(line)


def _record(path: Path, line: bytes) -> ShardRecord:
    try:
        return ShardRecord.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, line, f"{type(error).__name__}: {error}") from error


def _damaged(path: Path, line: bytes, why: str) -> InvalidSetting:
    return InvalidSetting(
        f"what is recorded of a shard in {path} is damaged ({why}): {line[:80]!r}; remove that "
        "file, and its shards are made again"
    )


def _last_records(folder: Path, count: int) -> Iterator[ShardRecord]:
    """Yield the last record of each task: a shard that was found damaged has several.

    Which lines they are is found out once, for other processes go on adding to their files.
    """
    files = _files(folder)
    last = np.full((count, 2), -1, np.int64)  # of each task: the file, and where the line begins
    for number, path in enumerate(files):
        for index, start, _ in _lines(path, count):
            last[index] = number, start
    for number, path in enumerate(files):
        with path.open("rb") as file:
            for start in np.sort(last[last[:, 0] == number, 1]).tolist():
                file.seek(start)
                yield _record(path, file.readline())


def _in_place(folder: Path, target: Target, count: int) -> bytearray:
    """Return which tasks are recorded and in place: each file is read, and its checksum taken."""
    done = bytearray(count)
    records = (_record(path, line) for path in _files(folder) for *_, line in _lines(path, count))
    with ThreadPoolExecutor() as pool:
        for index, good in _in_order(pool, lambda r: _is_good(target, r), records):
            done[index] |= good
    return done


def _in_order(
    pool: ThreadPoolExecutor,
    check: Callable[[ShardRecord], bool],
    records: Iterator[ShardRecord],
) -> Iterator[tuple[int, bool]]:
    """Check records in threads, a few at a time."""
    while batch := [record for _, record in zip(range(256), records, strict=False)]:
        for record, good in zip(batch, pool.map(check, batch), strict=True):
            yield record.index, good


def _is_good(target: Target, record: ShardRecord) -> bool:
    data = target.read(record.key)
    if data is None:
        return record.size == 0
    return len(data) == record.size and int(google_crc32c.value(data)) == record.checksum
