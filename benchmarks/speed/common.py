"""What the tables of speed share: options, rows, timing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.environment import describe
from benchmarks.rows import Store
from tinc_codec import Settings, decode
from tinc_codec.encode import encode_chunk
from tinc_codec.phantom import phantom

VOLUMES = ("lsfm_axons_dense_trailmap", "ct_tooth", "fibsem_medulla_train1")
_LIBRARIES = ("torch", "av", "imagecodecs", "numcodecs")

_Name = TypeVar("_Name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and where rows go.

    Attributes
    ----------
    volumes : tuple of str
        Names.
    out : Path
        Folder of the CSV files.
    quick : bool
        The tiniest sizes, in files of their own: to see that everything runs.
    """

    volumes: tuple[str, ...]
    out: Path
    quick: bool

    def store(self, table: str, more: Mapping[str, str] | None = None) -> Store:
        """Return the rows of a table, which say on what they were measured, and more."""
        quick = "_quick" if self.quick else ""
        constants = asdict(describe()) | {"libraries": _libraries()} | dict(more or {})
        return Store(self.out / f"speed_{table}{quick}.csv", constants)


def default_volumes() -> tuple[str, ...]:
    """Return the volumes of :data:`VOLUMES` that are at hand, or the phantom alone."""
    there = datasets.names()
    return tuple(name for name in VOLUMES if name in there) or (datasets.PHANTOM,)


def _libraries() -> str:
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def warm_up() -> None:
    """Load what both presets need, so that the first time is not that of a compiler."""
    block = phantom((12, 12, 12))
    for preset in ("default", "paper"):
        decode(encode_chunk(block, Settings(ratio=4, preset=preset, iterations=1)))


def interleaved(
    functions: Mapping[_Name, Callable[[], Any]],
    rounds: int,
    before: Callable[[], Any] = lambda: None,
) -> dict[_Name, float]:
    """Return each function's median seconds over rounds that call all of them in turn.

    Parameters
    ----------
    functions : mapping of name to callable
        What is timed.
    rounds : int
        Calls of each.
    before : callable
        Called before each of them, untimed.
    """
    seconds: dict[_Name, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            before()
            seconds[name].append(timed(function)[1])
    return {name: statistics.median(times) for name, times in seconds.items()}
