"""What the experiments share: options, cases in files that can be cut in parts, measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from benchmarks import datasets
from benchmarks.baselines.protocol import Array, Coded
from benchmarks.environment import describe
from benchmarks.rows import Row, Store, read, write
from tinc_codec import metrics

OUT_OF_REACH = "out of reach"
THRESHOLDS = (200, 500, 2000)
# The TINC paper's tables have this peak whatever the range of the data: some 19 dB more on its CT.
PAPER_PEAK = 65535
_LIBRARIES = ("torch", "av", "imagecodecs", "numcodecs", "scikit-image")
_Case = TypeVar("_Case")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to measure, and where rows and plots go.

    Attributes
    ----------
    volumes, codecs : tuple of str
        Names.
    ratios : tuple of float
        Raw bytes over stored bytes.
    effort : int
        Of codecs that fit.
    side : int
        Largest side of the blocks, voxels.
    part : (int, int)
        i and n: measure only each n-th case from the i-th on.
    out : Path
        Folder of the CSV files.
    plots : Path or None
        Folder of the plots; none are made without.
    fresh : bool
        Measure again what the files have.
    """

    volumes: tuple[str, ...]
    codecs: tuple[str, ...]
    ratios: tuple[float, ...]
    effort: int
    side: int
    out: Path
    part: tuple[int, int] = (1, 1)
    plots: Path | None = None
    fresh: bool = False
    constants: dict[str, Any] = field(default_factory=lambda: asdict(describe()) | libraries())

    def file(self, experiment: str) -> Path:
        """Return the CSV file of an experiment."""
        return self.out / f"{experiment}.csv"


def libraries() -> dict[str, str]:
    """Return the versions of what codecs are made of, as a column."""
    found = []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return {"libraries": ", ".join(found)}


def run_cases(
    options: Options,
    experiment: str,
    cases: Sequence[_Case],
    measure: Callable[[_Case], list[dict[str, Any]]],
) -> list[Row]:
    """Measure the cases that files lack, and return the rows of all of them.

    A part writes a file of its own, ``EXPERIMENT.i-of-n.csv``. A run without parts first takes
    the rows of all parts into the experiment's file, and removes theirs. Rows of cases that
    another part has to measure are left out.
    """
    path = options.file(experiment)
    number, parts = options.part
    if parts == 1:
        _absorb(path)
        own, known = path, None
    else:
        own, known = path.with_suffix(f".{number}-of-{parts}.csv"), path
    mine = cases[number - 1 :: parts]
    if options.fresh:
        _drop(path if parts == 1 else own, mine)
        known = None
    store = Store(own, options.constants, known)
    found: list[Row] = []
    for case in mine:
        found += store.rows(case, lambda case=case: measure(case))  # type: ignore[misc]
    return found


def _absorb(path: Path) -> None:
    parts = sorted(path.parent.glob(f"{path.stem}.*-of-*.csv"))
    rows = read(path)
    for part in parts:
        rows += read(part)
    if parts:
        write(path, rows)
    for part in parts:
        part.unlink()


def _drop(path: Path, cases: Iterable[Any]) -> None:
    keys = [{name: str(value) for name, value in asdict(case).items()} for case in cases]
    rows = read(path)
    kept = [row for row in rows if not any(key.items() <= row.items() for key in keys)]
    if kept:
        write(path, kept)
    elif rows:
        path.unlink()


class Blocks:
    """The block of each volume; the last one is kept."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._last: tuple[str, Array] | None = None

    def __call__(self, volume: str) -> Array:
        """Return a volume's block."""
        if self._last is None or self._last[0] != volume:
            self._last = (volume, datasets.block(volume, self._side))
        return self._last[1]


SCORES = (
    *("psnr_db", "psnr_65535_db", "psnr_foreground_db", "psnr_background_db", "foreground_above"),
    *("ssim_2d", "ssim_3d", *(f"acc_{t}" for t in THRESHOLDS), "max_error", "face_jump"),
)


def middle_planes(shape: Sequence[int]) -> list[list[int]]:
    """Return the middle plane of each axis, where the trees' first split is; none of short axes."""
    return [[(n + 1) // 2] if n >= 8 else [] for n in shape]


def psnr_by_region(reference: Array, test: Array, threshold: float) -> tuple[float, float]:
    """Return the PSNR in dB of the foreground and of the background, apart.

    In sparse volumes the background's voxels drown the foreground's in a single PSNR.

    Parameters
    ----------
    reference, test : array
        Finite volumes of one shape. The peak of both is the range of the reference.
    threshold : float
        Voxels of the reference above it are foreground.

    Returns
    -------
    foreground, background : float
        NaN where there are no voxels of the kind.
    """
    bright, dark = metrics.errors_by_threshold(reference, test, np.nextafter(threshold, math.inf))
    peak = (bright + dark).data_range
    foreground, background = (p.psnr(peak) if p.voxels else math.nan for p in (bright, dark))
    return foreground, background


def scores(block: Array, decoded: Array) -> dict[str, Any]:
    """Return the fidelity of a decoded block, in the columns of :data:`SCORES`.

    ``face_jump`` is at the middle planes.
    """
    found = metrics.errors(block, decoded)
    otsu = metrics.otsu_threshold(block)
    foreground, background = psnr_by_region(block, decoded, otsu)
    middle = middle_planes(block.shape)
    return {
        "psnr_db": _shown(found.psnr(), 3),
        "psnr_65535_db": _shown(found.psnr(PAPER_PEAK), 3),
        "psnr_foreground_db": _shown(foreground, 3),
        "psnr_background_db": _shown(background, 3),
        "foreground_above": _shown(otsu, 2),
        "ssim_2d": _shown(metrics.ssim(block, decoded, ndim=2), 5),
        "ssim_3d": _shown(metrics.ssim(block, decoded), 5),
        **{f"acc_{t}": _shown(metrics.accuracy(block, decoded, t), 6) for t in THRESHOLDS},
        "max_error": _shown(found.max_error, 3),
        "face_jump": _shown(metrics.block_jump(block, decoded, middle), 4),
    }


_SIZES = ("shape", "dtype", "payload_bytes", "reached", "encode_s", "decode_s", "knob", "note")


def measured(block: Array, coded: Coded | None) -> dict[str, Any]:
    """Return a row's columns of sizes, times and scores; empty ones if out of reach."""
    shape = {"shape": "x".join(map(str, block.shape)), "dtype": str(block.dtype)}
    if coded is None:
        return dict.fromkeys((*_SIZES, *SCORES), "") | shape | {"note": OUT_OF_REACH}
    sizes = {
        "payload_bytes": coded.payload_bytes,
        "reached": round(block.nbytes / coded.payload_bytes, 2),
        "encode_s": round(coded.encode_s, 4),
        "decode_s": round(coded.decode_s, 5),
        "knob": coded.knob,
        "note": coded.note,
    }
    return shape | sizes | scores(block, coded.decoded)


def _shown(value: float, digits: int) -> float | str:
    return round(value, digits) if math.isfinite(value) else str(value)
