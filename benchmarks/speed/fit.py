"""Seconds until the default recipe has the PSNR that the paper's has after 10,000 iterations.

For each block and ratio:

- The per-node loop of :mod:`benchmarks.baselines.per_node_loop` is timed over some iterations; the
  seconds of 10,000 are extrapolated, and marked so. It runs on the trees that ``preset="paper"``
  chooses, and where those have fewer than three levels on the released code's three as well.
- Its PSNR is that of ``preset="paper"`` on the CPU engine, all 10,000 iterations with as many
  voxels each: the same recipe and bytes, decoded from the payload. tests/test_baselines.py shows
  that both trainers go the same way step by step.
- ``preset="paper"`` on torch is timed over some iterations too.
- The default recipe runs at effort 1, 2, ... until it has that PSNR, and at effort 5.

Steps take 8,192 voxels, of which the loop is done some 10 to 50 times sooner than with the 262,144
of the released configuration; the seconds of an iteration with those are in a column of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.rows import Row, Store, markdown
from benchmarks.speed.common import Options, warm_up
from tinc_codec import Settings, decode, inspect, runtime
from tinc_codec.encode import encode_chunk
from tinc_codec.fit.recipe import PAPER_BATCH
from tinc_codec.metrics import psnr
from tinc_codec.runtime import current_runtime
from tinc_codec.tree.network import Tree

if TYPE_CHECKING:
    from benchmarks.baselines.per_node_loop import Pace

Float32Array = NDArray[np.float32]

_RELEASED_LEVELS = 3
_LAST_EFFORT = 7
_SHOWN_EFFORT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to fit a block.

    Attributes
    ----------
    volume : str
        Its name.
    block : int
        Largest side.
    ratio : float
        Raw bytes over budget.
    way : str
        "loop"; "paper" or "default", on the engine in force; "paper, torch".
    levels : str
        Of the settings; "auto" or a number.
    effort : int
        Of the settings; the paper's recipe does not depend on it, as iterations are given.
    """

    volume: str
    block: int
    ratio: float
    way: str
    levels: str = "auto"
    effort: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    blocks: tuple[int, ...]
    ratios: tuple[float, ...]
    iterations: int
    timed: int
    timed_released: int


_FULL = Size(blocks=(64, 128), ratios=(64, 512), iterations=10_000, timed=200, timed_released=4)
_QUICK = Size(blocks=(24,), ratios=(16,), iterations=20, timed=4, timed_released=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A block at a ratio, and where its rows are."""

    store: Store
    size: Size
    volume: str
    block: int
    ratio: float
    array: NDArray[Any]

    def row(self, way: str, measure: Callable[[Case], dict[str, Any]], **more: Any) -> Row:
        """Return the row of a way to fit, measured if it is missing."""
        case = Case(volume=self.volume, block=self.block, ratio=self.ratio, way=way, **more)
        return self.store.row(case, lambda: measure(case))

    def settings(self, case: Case, iterations: int | None = None) -> Settings:
        """Return the encoder's settings of a case."""
        if case.way == "default":
            return Settings(ratio=self.ratio, effort=case.effort)
        levels: Any = case.levels if case.levels == "auto" else int(case.levels)
        return Settings(
            ratio=self.ratio,
            preset="paper",
            levels=levels,
            iterations=iterations or self.size.iterations,
        )


def _facts(subject: Subject, payload: bytes) -> dict[str, Any]:
    facts = inspect(payload)
    return {
        "shape": "x".join(map(str, facts.shape)),
        "payload_bytes": len(payload),
        "tree_levels": facts.levels,
        "widths": " ".join("-".join(map(str, level)) for level in facts.widths),
        "macs_per_voxel": round(facts.macs_per_voxel),
        "psnr_db": round(psnr(subject.array, decode(payload)), 3),
    }


def _times(
    seconds: float, timed: int | str = "", batch: int | str = "", released: float | str = ""
) -> dict[str, Any]:
    """Return the columns of time; ``timed`` iterations mean that the rest is extrapolated."""
    return {
        "seconds": round(seconds, 4),
        "extrapolated_from": timed,
        "batch": batch,
        "released_batch_iteration_s": released if released == "" else round(float(released), 5),
    }


def measure_whole(subject: Subject, case: Case) -> dict[str, Any]:
    """Encode once, timed."""
    payload, seconds = timed(lambda: encode_chunk(subject.array, subject.settings(case)))
    return _facts(subject, payload) | _times(seconds)


def measure_torch(subject: Subject, case: Case, like: Row) -> dict[str, Any]:
    """Time iterations of the paper preset on torch; its PSNR is that of the "paper" row."""
    some = subject.size.timed // 8 + 1
    counts = (some, some + subject.size.timed)
    with runtime(device="torch"):
        few, many = (
            timed(lambda n=n: encode_chunk(subject.array, subject.settings(case, n)))[1]
            for n in counts
        )
    each = max(many - few, 0.0) / subject.size.timed
    seconds = few + each * (subject.size.iterations - some)
    return _same_result(like) | _times(seconds, subject.size.timed, PAPER_BATCH)


def measure_loop(subject: Subject, case: Case, like: Row) -> dict[str, Any]:
    """Time iterations of the per-node loop; its PSNR is that of the "paper" row."""
    from benchmarks.baselines.per_node_loop import RELEASED_BATCH, structure_of

    settings = subject.settings(case)
    tree, unit = structure_of(subject.array, subject.ratio, settings.levels)
    batch = min(PAPER_BATCH, unit.size)
    pace = _best_pace(tree, unit, batch, subject.size.timed)
    slow = _best_pace(tree, unit, min(RELEASED_BATCH, unit.size), subject.size.timed_released)
    seconds = pace.seconds * subject.size.iterations
    return _same_result(like) | _times(seconds, pace.timed, batch, slow.seconds)


def _best_pace(tree: Tree, unit: Float32Array, batch: int, iterations: int) -> Pace:
    """Return the loop's pace on one thread or on all, whichever is faster."""
    import torch

    from benchmarks.baselines.per_node_loop import PerNodeLoop

    device = current_runtime().device
    before = torch.get_num_threads()
    paces = []
    for threads in sorted({1, current_runtime().thread_count()}):
        torch.set_num_threads(threads)
        loop = PerNodeLoop(tree, unit, batch, device=device if device.startswith("cuda") else "cpu")
        paces.append(loop.pace(iterations, warm_up=max(1, iterations // 20)))
    torch.set_num_threads(before)
    return min(paces, key=lambda pace: pace.seconds)


def _same_result(like: Row) -> dict[str, Any]:
    names = ("shape", "payload_bytes", "tree_levels", "widths", "macs_per_voxel", "psnr_db")
    return {name: like[name] for name in names}


def loops(subject: Subject) -> list[Row]:
    """Return the rows of the per-node loop on trees of the paper's recipe."""

    def whole(case: Case) -> dict[str, Any]:
        return measure_whole(subject, case)

    found: list[Row] = []
    for levels in ("auto", str(_RELEASED_LEVELS)):
        paper = subject.row("paper", whole, levels=levels)
        if found and paper["tree_levels"] == found[0]["tree_levels"]:
            break
        found.append(
            subject.row("loop", lambda case, p=paper: measure_loop(subject, case, p), levels=levels)
        )
        if levels == "auto" and current_runtime().device in ("auto", "cpu"):
            subject.row("paper, torch", lambda case, p=paper: measure_torch(subject, case, p))
    return found


def measure(subject: Subject) -> list[Row]:
    """Return the rows of a block at a ratio: (loop, levels), and the default by effort."""

    def whole(case: Case) -> dict[str, Any]:
        return measure_whole(subject, case)

    against = loops(subject)
    wanted = max(float(loop["psnr_db"]) for loop in against)
    efforts = []
    for effort in range(1, _LAST_EFFORT + 1):
        efforts.append(subject.row("default", whole, effort=effort))
        if float(efforts[-1]["psnr_db"]) >= wanted:
            break
    shown = subject.row("default", whole, effort=_SHOWN_EFFORT)
    return [*against, *efforts, *([] if shown in efforts else [shown])]


# The table.

COLUMNS = (
    *("volume", "shape", "ratio", "loop: levels", "loop, s", "loop, dB"),
    *("default reaches it", "s", "dB", "loop / default", "effort 5, s", "dB"),
)


def lines(rows: list[Row]) -> list[list[str]]:
    """Return the lines of a block at a ratio, one for each tree of the loop."""
    against = [row for row in rows if row["way"] == "loop"]
    efforts = sorted((row for row in rows if row["way"] == "default"), key=lambda r: r["effort"])
    (shown,) = (row for row in efforts if row["effort"] == str(_SHOWN_EFFORT))
    return [_line(loop, efforts, shown) for loop in against]


def _line(loop: Row, efforts: list[Row], shown: Row) -> list[str]:
    there = [row for row in efforts if float(row["psnr_db"]) >= float(loop["psnr_db"])]
    if there:
        first = there[0]
        speed_up = float(loop["seconds"]) / float(first["seconds"])
        cells = [f"at effort {first['effort']}", _short(first["seconds"])]
        cells += [f"{float(first['psnr_db']):.2f}", f"{speed_up:.0f}"]
    else:
        cells = [f"not by effort {efforts[-1]['effort']}", "", "", ""]
    return [
        *(loop["volume"], loop["shape"].replace("x", "×"), f"{float(loop['ratio']):g}"),
        *(loop["tree_levels"], f"{_short(loop['seconds'])} *", f"{float(loop['psnr_db']):.2f}"),
        *cells,
        *(_short(shown["seconds"]), f"{float(shown['psnr_db']):.2f}"),
    ]


def _short(seconds: str) -> str:
    return f"{float(seconds):.3g}"


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("fit")
    size = _QUICK if options.quick else _FULL
    warm_up()
    found: list[list[str]] = []
    for volume in options.volumes:
        for block in size.blocks:
            array = np.asarray(datasets.first_block(datasets.load(volume), block))
            for ratio in size.ratios:
                subject = Subject(
                    store=store, size=size, volume=volume, block=block, ratio=ratio, array=array
                )
                found += lines(measure(subject))
    note = f"\\* {size.iterations} iterations, extrapolated from fewer: see the CSV file."
    return f"{markdown(COLUMNS, found)}\n\n{note}"
