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
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tinc_codec.archive import Outcome, Plan, ShardRecord, db
from tinc_codec.archive import Progress as State

_LINES = 20  # off a terminal, whatever the number of shards
_LINE_SECONDS = 60.0  # and one a minute


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
        rows["bytes"] += f" to {bytes_text(most)} at most, padding and shards' indices aside"
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
    console : Console
        Of the terminal, or of what stands for it.
    log : file, optional
        Gets a JSON line for each shard.
    dashboard : str, optional
        Address of dask's own display.
    """

    def __init__(
        self, plan: Plan, console: Console, log: IO[str] | None = None, dashboard: str | None = None
    ) -> None:
        self._plan = plan
        self._log = log
        self._sum = Outcome()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._earlier = 0
        self._started = self._printed = time.monotonic()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                console=console,
            )
            self._task = self._bar.add_task("encoding", total=len(plan), state="")
            if dashboard:
                console.print(f"dashboard: {dashboard}")

    @property
    def bar(self) -> Progress | None:
        """The live display, None off a terminal."""
        return self._bar

    def add(self, record: ShardRecord, earlier: bool) -> None:
        """Take the record of a shard; ``earlier`` if it was there when the run began."""
        self._sum += record
        self._earlier += earlier
        if self._log and not earlier:
            self._log.write(json.dumps(_plain(record.to_json()), allow_nan=False) + "\n")
            self._log.flush()
        if self._bar:
            self._bar.update(self._task, completed=self._sum.shards, state=self._state())
        elif not earlier:
            self._print_line()

    def _print_line(self) -> None:
        done, total, now = self._sum.shards, len(self._plan), time.monotonic()
        step = done * _LINES // total != (done - 1) * _LINES // total
        if step or now - self._printed > _LINE_SECONDS:
            self._printed = now
            print(f"encoding {done}/{total} shards, {self._state()}", file=sys.stderr, flush=True)

    def _state(self) -> str:
        done, total = self._sum, len(self._plan)
        spent = time.monotonic() - self._started
        here = done.shards - self._earlier
        left = duration(spent / here * (total - done.shards)) if here else "unknown time"
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
        See :class:`Display`.
    """
    with ExitStack() as stack:
        file = stack.enter_context(log.open("a")) if log else None
        shown = Display(plan, Console(stderr=True), file, dashboard)
        if shown.bar:
            stack.enter_context(shown.bar)
        yield shown


@contextmanager
def chunk_progress(verb: str) -> Iterator[Callable[[State], None]]:
    """Show a bar on a terminal, and plain lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_lines(verb)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[quality]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(verb, total=None, quality="")

        def show(state: State) -> None:
            bar.update(task, completed=state.done, total=state.total, quality=_quality(state))

        yield show


def _log_lines(verb: str) -> Callable[[State], None]:
    started = time.perf_counter()

    def show(state: State) -> None:
        # About twenty lines, whatever the number of chunks.
        if state.done * 20 // state.total == (state.done - 1) * 20 // state.total:
            return
        left = (time.perf_counter() - started) / state.done * (state.total - state.done)
        print(
            f"{verb} {state.done}/{state.total} chunks, {_quality(state)}, {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    return show


def _quality(state: State) -> str:
    return f"ratio {state.ratio:.1f}, PSNR {db(state.errors.psnr())}"


def _plain(value: Any) -> Any:
    """Return values as JSON has them: no infinities, no NaN."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
