"""``python -m benchmarks.kill --count 50``: conversions killed at random moments, and gone on with.

Each round starts a conversion of a small archive, sends SIGKILL to a worker, to dask's scheduler or
to the whole command at a random moment, and runs the same command until it ends well. The archive
has to be that of a conversion that nobody disturbed, byte for byte, and nothing else may be left.
What a round that went wrong left behind, the output of its runs too, is kept and its place printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tinc_codec.phantom import phantom

KINDS = ("worker", "scheduler", "command")
_TINC = [sys.executable, "-c", "import sys; from tinc_codec.cli import main; sys.exit(main())"]
_OPTIONS = ["--ratio", "16", "--effort", "1", "--chunks", "16,16,16", "--shards", "16,16,32"]
_SHAPE = (32, 48, 64)
_SHARDS = 2 * 3 * 2
_PATIENCE = 300.0  # seconds for a run
_MOST_RUNS = 5
_LOG = "log.txt"


@dataclass(frozen=True, slots=True)
class Round:
    """What became of a conversion that was disturbed.

    Attributes
    ----------
    kind : str
        Who was killed.
    shards : int
        In place when it was killed.
    hit : bool
        Whether the conversion was still under way then.
    runs : int
        How often the command was run until it ended well.
    wrong : str
        What differs from an undisturbed conversion, or how the runs failed; empty if all is well.
    """

    kind: str
    shards: int
    hit: bool
    runs: int
    wrong: str


class RunsFailed(Exception):
    """A round's command did not end well, however often it was run."""


def prepare(folder: Path) -> Path:
    """Write a small volume and convert it undisturbed; return the archive."""
    np.save(folder / "source.npy", phantom(_SHAPE))
    whole = folder / "whole.zarr"
    if _run(folder, whole, ["--workers", "1"]).wait(_PATIENCE):
        raise RunsFailed((folder / _LOG).read_text())
    return whole


def disturb(folder: Path, whole: Path, kind: str, shards: int, pause: float = 0.0) -> Round:
    """Convert, kill some time after so many shards are in place, go on until done, compare."""
    for old in folder.glob("killed.zarr*"):
        shutil.rmtree(old)
    (folder / _LOG).unlink(missing_ok=True)
    dst, hit = folder / "killed.zarr", False
    try:
        if kind == "scheduler":
            hit, runs = _with_scheduler(folder, dst, shards, pause)
        else:
            process = _run(folder, dst, ["--workers", "2"])
            _wait(process, dst, shards, pause)
            hit = _kill(process, kind)
            runs = _until_done(process, folder, dst, ["--workers", "2"])
    except RunsFailed as error:
        return Round(kind, shards, hit, _MOST_RUNS, str(error))
    return Round(kind, shards, hit, runs, _differences(folder, dst, whole))


def _run(folder: Path, dst: Path, options: list[str]) -> subprocess.Popen[bytes]:
    with (folder / _LOG).open("ab") as log:
        log.write(f"--- {datetime.now(UTC):%H:%M:%S} convert {' '.join(options)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [*_TINC, "convert", "source.npy", str(dst), *_OPTIONS, *options],
            cwd=folder,
            stderr=log,
            stdout=log,
        )


def _wait(process: subprocess.Popen[bytes], dst: Path, shards: int, pause: float) -> None:
    """Wait until so many shards are recorded, or the process has ended, and then a little more."""
    folder = dst.with_name(f"{dst.name}.tinc-progress")
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if sum(_lines(path) for path in folder.glob("shards-*.jsonl")) >= shards:
            break
        time.sleep(0.01)
    time.sleep(pause)


def _lines(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes().count(b"\n")
    return 0


def _kill(process: subprocess.Popen[bytes], kind: str) -> bool:
    """Kill the command, or one of its workers; tell whether there was one."""
    if process.poll() is not None:
        return False
    if kind == "command":
        process.kill()
        return True
    workers = _workers(process.pid)
    if workers:
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(random.choice(workers), signal.SIGKILL)
    return bool(workers)


def _workers(parent: int) -> list[int]:
    """Return the processes that Python started for another by spawning, its helpers left out."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(status[1]) == parent and b"spawn_main" in command:
            found.append(int(entry.name))
    return found


def _until_done(
    process: subprocess.Popen[bytes], folder: Path, dst: Path, options: list[str]
) -> int:
    """Run the command again until it ends well; return how often it ran."""
    for runs in range(1, _MOST_RUNS + 1):
        if _ends_well(process, folder):
            return runs
        if runs < _MOST_RUNS:
            process = _run(folder, dst, options)
    raise RunsFailed(f"{_MOST_RUNS} runs of the command failed")


def _ends_well(process: subprocess.Popen[bytes], folder: Path) -> bool:
    """Wait for a run to end; one that takes longer than our patience is ended, and fails."""
    try:
        code = process.wait(_PATIENCE)
        said = f"ended with {code}"
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
        said = f"had not ended after {_PATIENCE:g} s and was killed"
    with (folder / _LOG).open("a") as log:
        log.write(f"--- {datetime.now(UTC):%H:%M:%S} {said}\n")
    return code == 0


def _with_scheduler(folder: Path, dst: Path, shards: int, pause: float) -> tuple[bool, int]:
    """Convert with a scheduler and workers in processes of their own; kill the scheduler."""
    hit = False
    for runs in range(1, _MOST_RUNS + 1):
        file = folder / f"scheduler-{runs}.json"
        file.unlink(missing_ok=True)
        common = ["--scheduler-file", str(file)]
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
        with _ended(
            [*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *common]
        ) as scheduler:
            _until(file.exists)
            worker = [sys.executable, "-m", "distributed.cli.dask_worker", *common]
            with _ended([*worker, "--nthreads", "1", "--nworkers", "2", "--no-dashboard"]):
                process = _run(folder, dst, ["--scheduler", _address(file)])
                if runs == 1:
                    _wait(process, dst, shards, pause)
                    hit = process.poll() is None
                    scheduler.kill()
                if _ends_well(process, folder):
                    return hit, runs
    raise RunsFailed(f"{_MOST_RUNS} runs of the command failed")


class _ended:  # noqa: N801  # a context manager, used as a function
    """A process that is ended with the block."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _address(file: Path) -> str:
    return str(json.loads(file.read_text())["address"])


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RunsFailed("dask's scheduler did not start")
        time.sleep(0.05)


def _differences(folder: Path, dst: Path, whole: Path) -> str:
    left = sorted(p.name for p in folder.iterdir() if p.name.startswith(f"{dst.name}."))
    if left:
        return f"left over: {', '.join(left)}"
    ours, theirs = _files(dst), _files(whole)
    names = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
    return f"differ: {', '.join(sorted(names))}" if names else ""


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rounds(folder: Path, count: int, seed: int, kinds: Sequence[str] = KINDS) -> list[Round]:
    """Disturb conversions in turn, at moments drawn at random."""
    draw = random.Random(seed)
    whole = prepare(folder)
    found = []
    for number in range(count):
        shards, pause = draw.randrange(_SHARDS), draw.uniform(0, 0.5)
        one = disturb(folder, whole, kinds[number % len(kinds)], shards, pause)
        print(f"{number + 1}/{count}: {one}", file=sys.stderr, flush=True)
        if one.wrong:
            _keep(folder, number + 1)
        found.append(one)
    return found


def _keep(folder: Path, number: int) -> None:
    """Put a round that went wrong aside, and print what its runs said."""
    kept = Path(tempfile.mkdtemp(prefix=f"tinc-kill-{number}-"))
    for path in [*folder.glob("killed.zarr*"), folder / _LOG]:
        if path.exists():
            shutil.move(path, kept)
    print(f"kept in {kept}; its runs said:", file=sys.stderr)
    print((kept / _LOG).read_text(errors="replace"), file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill", description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="whom to kill (%(default)s)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        found = rounds(Path(folder), given.count, given.seed, given.kinds.split(","))
    wrong = [one for one in found if one.wrong]
    hits = Counter(one.kind for one in found if one.hit)
    print(
        f"{len(found)} kills, {sum(hits.values())} of them while the conversion was under way "
        f"({', '.join(f'{n} {kind}' for kind, n in sorted(hits.items()))}); "
        f"{len(found) - len(wrong)} archives equal to the undisturbed one, {len(wrong)} not"
    )
    for one in wrong:
        print(one)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
