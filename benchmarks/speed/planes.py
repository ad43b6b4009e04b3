"""Planes of an archive read one after the other through zarr, as a viewer does.

Milliseconds of the first plane of chunks never read, of the second, of those after, and of all of
the array at once; medians of rounds in which the codecs take turns. Files are in the system's
cache. Beside the package, which keeps chunks that are read again: Zstandard, as zarr's default
compressor has it, and no compression. zarr itself keeps nothing decoded.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options, warm_up
from tinc_codec import TINC, TINCSerializer
from tinc_codec.decoding.cache import forget_decoded
from tinc_codec.decoding.opened import forget_chunks

_FIGURES = ("first_ms", "second_ms", "later_ms", "whole_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A volume in chunks of an edge, at a ratio: a row for each codec."""

    volume: str
    chunk: int
    ratio: float
    effort: int


def _written(volume: NDArray[Any], case: Case, folder: Path) -> dict[str, zarr.Array[Any]]:
    """Return the volume as an array of each codec."""
    settings: dict[str, Any] = {"ratio": case.ratio, "effort": case.effort}
    shared: dict[str, Any] = {
        "shape": volume.shape, "chunks": (case.chunk,) * volume.ndim, "dtype": volume.dtype
    }  # fmt: skip
    found = {
        "TINC, zarr 3": zarr.create_array(
            folder / "3", serializer=TINCSerializer(**settings), compressors=None, **shared
        ),
        "TINC, zarr 2": zarr.create(
            store=str(folder / "2"), compressor=TINC(**settings), zarr_format=2, **shared
        ),
        "Zstandard": zarr.create_array(folder / "zstd", **shared),
        "uncompressed": zarr.create_array(folder / "raw", compressors=None, **shared),
    }
    for array in found.values():
        array[...] = volume
    return found


def _read(array: zarr.Array[Any], planes: int) -> list[float]:
    """Return the milliseconds of each plane, then of all of the array, read for the first time."""
    _forget()
    seconds = [timed(lambda z=z: array[z])[1] for z in range(planes)]
    _forget()
    return [1e3 * s for s in [*seconds, timed(lambda: array[...])[1]]]


def _forget() -> None:
    forget_chunks()
    forget_decoded()


def measure(volume: NDArray[Any], case: Case, rounds: int, planes: int) -> list[dict[str, Any]]:
    """Return the rows of a case."""
    with tempfile.TemporaryDirectory() as folder:
        arrays = _written(volume, case, Path(folder))
        found: dict[str, list[list[float]]] = {name: [] for name in arrays}
        for _ in range(rounds):
            for name, array in arrays.items():
                found[name].append(_read(array, planes))
        rows = []
        for name, array in arrays.items():
            first, second, *later, whole = np.median(found[name], axis=0).tolist()
            figures = first, second, statistics.median(later), whole
            rows.append(
                {"codec": name, "reached": round(volume.nbytes / array.nbytes_stored(), 2)}
                | {key: round(value, 3) for key, value in zip(_FIGURES, figures, strict=True)}
            )
    return rows


def lines(rows: list[Row]) -> list[list[str]]:
    """Return a line of the table for each codec."""
    return [
        [row["volume"], row["codec"], f"{float(row['reached']):.1f}"]
        + [f"{float(row[key]):.1f}" for key in _FIGURES]
        for row in rows
    ]


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("planes")
    chunk, ratio, rounds, planes, effort = 64, 64, 7, 10, 2
    if options.quick:
        chunk, ratio, rounds, planes, effort = 16, 16, 1, 4, 1
    warm_up()
    found = []
    for name in options.volumes:
        volume = np.asarray(datasets.load(name))
        if options.quick:
            volume = np.asarray(datasets.first_block(volume, 24))
        case = Case(volume=name, chunk=chunk, ratio=ratio, effort=effort)
        found.append(store.rows(case, lambda v=volume, c=case: measure(v, c, rounds, planes)))
    heads = ("first plane, ms", "second", "those after", "all of the array")
    return markdown(
        ("volume", "codec", "ratio", *heads), (x for rows in found for x in lines(rows))
    )
