"""How far a conversion is: a live display on a terminal, plain lines elsewhere, JSON on request."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from tinc_codec.archive import Outcome, Plan, ShardRecord, db
from tinc_codec.archive import Progress as State

_LINES = 20  # off a terminal, whatever the number of shards or chunks
_LINE_SECONDS = 60.0  # and one a minute

_Show = Callable[[int, int, str], None]


def sizes(edges: Sequence[int]) -> str:
    """Return edges in words, such as 64×64×64."""
    return "×".join(map(str, edges))


def duration(seconds: float) -> str:
    """Return a time in words, in the unit that suits it."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def bytes_text(count: float) -> str:
    """Return a number of bytes in words."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def plan_rows(plan: Plan, workers: int) -> dict[str, str]:
    """Return what a plan will do, for ``--dry-run``."""
    rows = {"source": f"{plan.src} ({plan.kind}, {plan.source_dtype})", "archive": plan.dst}
    if plan.roi_text:
        rows["box"] = plan.roi_text
    mask = plan.levels[0].source.mask
    if mask:
        rows["mask"] = f"{mask.location}; voxels outside of it become 0"
    for level in plan.levels:
        codec = "lossless" if level.lossless else _target(plan)
        shards = f" in {level.tasks} shards of {sizes(level.shards)}" if level.sharded else ""
        rows[f"array {level.path}"] = (
            f"{sizes(level.shape)} {level.dtype}, {codec}, "
            f"{level.chunk_count} chunks of {sizes(level.chunks)}{shards}"
        )
    if plan.left_out:
        rows["left out"] = "; ".join(plan.left_out)
    rows["tasks"] = f"{len(plan)}, each read, encoded and written by one process"
    rows["bytes"] = f"{bytes_text(plan.raw_bytes)} of voxels"
    ratio = plan.settings.ratio
    if ratio is not None:
        most = sum(v.raw_bytes / (1 if v.lossless else ratio) for v in plan.levels)
        rows["bytes"] += f" to {bytes_text(most)} at most, padding, shards' indices "
        rows["bytes"] += "and chunks that can only be stored losslessly aside"
    rows["memory"] = f"{bytes_text(plan.bytes_per_worker)} for each of {workers} workers"
    rows["settings"] = ", ".join(f"{k}={v}" for k, v in plan.settings.to_json().items())
    return rows


def _target(plan: Plan) -> str:
    wanted = plan.settings
    said = {
        "ratio {:g}": wanted.ratio,
        "PSNR {:g} dB": wanted.psnr,
        "RMSE {:g}": wanted.rmse,
        "SSIM {:g}": wanted.ssim,
        "maximum error {:g}": wanted.max_error,
    }
    return next(text.format(value) for text, value in said.items() if value is not None)


class Display:
    """What :func:`tinc_codec.archive.run` tells after each shard, shown and written down.

    Parameters
    ----------
    plan : Plan
        The plan.
    show : callable
        As :func:`_progress` gives it.
    log : file, optional
        Gets a JSON line for each shard.
    earlier_too : bool
        Whether shards that were there when the run began are shown.
    """

    def __init__(self, plan: Plan, show: _Show, log: IO[str] | None, earlier_too: bool) -> None:
        self._plan = plan
        self._show = show
        self._log = log
        self._earlier_too = earlier_too
        self._sum = Outcome()
        self._earlier = 0
        self._started = time.monotonic()

    def add(self, record: ShardRecord, earlier: bool) -> None:
        """Take the record of a shard; ``earlier`` if it was there when the run began."""
        self._sum += record
        self._earlier += earlier
        if self._log and not earlier:
            self._log.write(json.dumps(_plain(record.to_json()), allow_nan=False) + "\n")
            self._log.flush()
        if self._earlier_too or not earlier:
            self._show(self._sum.shards, len(self._plan), self._state())

    def _state(self) -> str:
        done, total = self._sum, len(self._plan)
        left = _left(self._started, done.shards - self._earlier, total - done.shards)
        return (
            f"{bytes_text(done.raw_bytes)} to {bytes_text(done.stored_bytes)}, "
            f"ratio {done.ratio:.1f}, PSNR {db(done.errors.psnr())}, {left} left"
        )


@contextmanager
def display(plan: Plan, log: Path | None, dashboard: str | None) -> Iterator[Display]:
    """Show a conversion while the block runs.

    Parameters
    ----------
    plan : Plan
        The plan.
    log : Path, optional
        File to which JSON lines are added.
    dashboard : str, optional
        Address of dask's own display.
    """
    console = Console(stderr=True)
    with ExitStack() as stack:
        file = stack.enter_context(log.open("a")) if log else None
        if dashboard and console.is_terminal:
            console.print(f"dashboard: {dashboard}")
        show = stack.enter_context(_progress(console, "encoding", "shards"))
        show(0, len(plan), "")
        # A bar moves on at once; lines would be printed again with each run.
        yield Display(plan, show, file, earlier_too=console.is_terminal)


@contextmanager
def chunk_progress(verb: str) -> Iterator[Callable[[State], None]]:
    """Give what shows the progress of chunks while the block runs."""
    started = time.monotonic()
    with _progress(Console(stderr=True), verb, "chunks") as show:

        def tell(state: State) -> None:
            left = _left(started, state.done, state.total - state.done)
            said = f"ratio {state.ratio:.1f}, PSNR {db(state.errors.psnr())}, {left} left"
            show(state.done, state.total, said)

        yield tell


@contextmanager
def _progress(console: Console, verb: str, things: str) -> Iterator[_Show]:
    """Give what shows how many are done, of how many, and words: a bar on a terminal, or lines."""
    if not console.is_terminal:
        yield _lines(verb, things)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(verb, total=None, said="")
        yield lambda done, total, said: bar.update(task, completed=done, total=total, said=said)


def _lines(verb: str, things: str) -> _Show:
    step, printed = 0, time.monotonic()

    def show(done: int, total: int, said: str) -> None:
        nonlocal step, printed
        before, step, now = step, done * _LINES // total, time.monotonic()
        if step != before or now - printed > _LINE_SECONDS:
            printed = now
            print(f"{verb} {done}/{total} {things}, {said}", file=sys.stderr, flush=True)

    return show


def _left(started: float, done: int, left: int) -> str:
    """Return in words how long the rest takes, if it goes on as since the start."""
    return duration((time.monotonic() - started) / done * left) if done else "unknown time"


def _plain(value: Any) -> Any:
    """Return values as JSON has them: no infinities, no NaN."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
