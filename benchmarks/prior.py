"""``python -m benchmarks.prior``: the statistics that the coder of coefficients starts from.

Blocks of every volume are coded from even statistics; what the coder knows at the end, averaged,
is the prior. Prints what each volume's blocks save, in bytes at equal cost of error and bits: from
the prior in the package, and from one learnt of the other volumes alone. With ``--out FILE`` writes
that of all volumes. The file in the package was made so of the sixteen volumes of
``benchmarks.unseen``, and of none of those that the figures in README are of; another one would be
another version of the format.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import datasets
from benchmarks.rows import markdown
from tinc_codec.array_types import Float32Array
from tinc_codec.fit.residual import PRICE, plan_of
from tinc_codec.stream.residual.axes import three_axes
from tinc_codec.stream.residual.coder import mixing
from tinc_codec.stream.residual.wavelets import prior, segments, wavelet
from tinc_codec.stream.residual.wavelets.prior import Model
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS
from tinc_codec.stream.residual.wavelets.wavelet import Bands
from tinc_codec.threads import each

# Blocks of each volume: the side, and how many.
_BLOCKS = ((48, 2), (64, 3), (96, 2), (128, 1))
_BYTES = (250, 500, 1000, 2000, 4000, 16000)
_LEAST_RATIO = 16
# Bisections of the step, in octaves from the least to the most.
_TURNS, _LEAST_STEP, _MOST_STEP = 12, -14.0, 4.0
# Of a place that has learnt n times in a chunk: it weighs n / (n + _FEW); and a chunk that knows
# nothing of it is counted as _EVEN of one.
_FEW, _EVEN = 1.0, 0.7
_MOST_COUNT = 8
# How often weights are taken from where those of the chunks went.
_PASSES = 4
_COLUMNS = ("volume", *(f"{size} bytes" for size in _BYTES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A block at a step that makes it about so large, from even statistics."""

    volume: str
    size: int
    bands: Bands
    step: float
    coded: Quantized
    model: Model


def blocks(volume: str) -> Iterator[Float32Array]:
    """Yield blocks of a volume, normalised, less their mean."""
    whole = datasets.load(volume)
    whole = whole.reshape(-1, *whole.shape[-3:])[-1]
    rng = np.random.default_rng(0)
    for side, count in _BLOCKS:
        for _ in range(count):
            first = [int(rng.integers(0, max(n - side, 0) + 1)) for n in whole.shape]
            block = whole[tuple(slice(a, a + side) for a in first)].astype(np.float32)
            span = float(np.ptp(block)) or 1.0
            yield (block - block.mean()) / np.float32(span)


def _coded(bands: Bands, step: float, model: Model) -> Quantized:
    coded = segments.encode(
        bands, segments.ones(bands.plan), model, step=step, price=PRICE, cuts=NO_CUTS,
        most=bands.room.size * 4 + 1024, run=each,
    )  # fmt: skip
    assert coded is not None
    return coded


def samples(volume: str) -> Iterator[Sample]:
    """Yield codings of a volume's blocks, of several sizes, from even statistics."""
    for block in blocks(volume):
        plan = plan_of(three_axes(block.shape), (0, 0, 0))
        bands = wavelet.forward(block, plan, each)
        for size in _BYTES:
            if size * _LEAST_RATIO > 2 * block.size:
                continue
            low, high = _LEAST_STEP, _MOST_STEP
            for _ in range(_TURNS):
                middle = (low + high) / 2
                is_large = _coded(bands, 2.0**middle, prior.even()).nbytes > size
                low, high = (middle, high) if is_large else (low, middle)
            model = prior.even()
            coded = _coded(bands, 2.0**high, model)
            yield Sample(
                volume=volume, size=size, bands=bands, step=2.0**high, coded=coded, model=model
            )


def learnt(found: Sequence[Sample]) -> Model:
    """Return what to start from, given what the coder knew at the end of samples."""
    words = np.stack([sample.model[0] for sample in found])
    weights = np.mean([sample.model[1] for sample in found], axis=0)
    start = _words(words), np.rint(weights).astype(np.int32)
    for _ in range(_PASSES):
        ends = []
        for sample in found:
            model = prior.copy(start)
            _coded(sample.bands, sample.step, model)
            ends.append(model[1])
        start = start[0], np.rint(np.mean(ends, axis=0)).astype(np.int32)
    return start


def _words(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return probabilities and counts, given those that each sample ended with."""
    known = (words >> mixing.COUNT_SHIFT).astype(np.float64)
    share = known / (known + _FEW)
    p = np.clip(words & mixing.PROBABILITY, 16, 65519) / 65536
    logit = np.log(p / (1 - p))
    total = share.sum(0)
    mean = (share * logit).sum(0) / (total + _EVEN)
    spread = (share * (logit - mean) ** 2).sum(0) / np.maximum(total, 1e-9)
    q = 1 / (1 + np.exp(-mean))
    # What varies little from chunk to chunk is to move slowly: as after so many bits.
    counts = np.clip(np.rint(1 / np.maximum(spread * q * (1 - q), 1e-3)), 0, _MOST_COUNT)
    # Signs do not count; what hardly ever came is not known.
    counts = np.where(total > 0.5, counts, 0).astype(np.uint32)
    q = np.where(total > 0, q, 0.5)
    found = np.clip(np.rint(65536 * q), 16, 65519).astype(np.uint32)
    return found | counts << mixing.COUNT_SHIFT


def saved(sample: Sample, start: Model) -> float:
    """Return the bytes that a start saves, errors counted at the price of bits."""
    other = _coded(sample.bands, sample.step, prior.copy(start))
    return (_cost(sample, sample.coded) - _cost(sample, other)) / (8 * PRICE)


def _cost(sample: Sample, coded: Quantized) -> float:
    scaled: npt.NDArray[Any] = sample.bands.room / np.float32(sample.step)
    squares = float(np.sum((scaled.astype(np.float64) - coded.bands.room) ** 2))
    return squares + 8 * PRICE * coded.nbytes


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prior", description=__doc__)
    parser.add_argument("--volumes", default="", help="names, comma-separated; all by default")
    parser.add_argument("--out", type=Path, help="where the prior of all of them goes")
    options = parser.parse_args(arguments)
    names = [name for name in datasets.selected(options.volumes) if name != "phantom"]
    found = {name: list(samples(name)) for name in names}
    rows = []
    for name in names:
        others = [s for other in names if other != name for s in found[other]]
        starts = [prior.learnt()] + ([learnt(others)] if others else [])
        cells = []
        for size in _BYTES:
            same = [s for s in found[name] if s.size == size]
            gains = [np.mean([saved(s, start) for s in same]) for start in starts if same]
            cells.append(" / ".join(f"{gain:.0f}" for gain in gains))
        rows.append((name, *cells))
    print(markdown(_COLUMNS, rows))
    if options.out:
        model = learnt([s for name in names for s in found[name]])
        options.out.write_bytes(prior.to_bytes(model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
