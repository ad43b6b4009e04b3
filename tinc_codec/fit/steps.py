"""The quantisation step that gives a size, or a score: foretold from magnitudes, then searched for.

How large the coefficients are tells either within a tenth, mostly: what is coded as 0 takes nothing
and leaves its square, what is not takes three bits, one more for each doubling, and leaves about an
eighth of a squared step. Each coding that is tried corrects the forecast where it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array
from tinc_codec.compiled import compiled

_Made = TypeVar("_Made")

# Magnitudes below so many steps are mostly coded as 0.
ZERO_BELOW = 0.6
# Bits that another takes when it is no larger, and squared steps that it leaves.
_BITS, _LEFT = 3.0, 0.12
# Of a section with few levels.
HEADER_BYTES = 16
# Less is not foretold.
_LEAST_ERROR = 1e-20
# Magnitudes are counted by the exponent and the first bits of the mantissa: 32 to an octave.
_SHIFT, _CELLS = 18, 1 << 13
# Tries after which the two sides are halved.
_TURNS = 14
# The least stride beyond a side, in octaves, and by how much strides grow.
_STRIDE, _GROWTH = 0.002, 1.6
# By how much values may change faster or slower than foretold.
_MOST_PACE = 3.0
# How near to a side the next try may come, as a share of what is between them.
_NEAR = 0.05


@dataclass(frozen=True, slots=True)
class Forecast:
    """A quantity that falls as the step grows: linear between knots, constant beyond them.

    Attributes
    ----------
    steps : (n,) float64
        Logarithms to the base 2, increasing.
    values : (n,) float64
        Falling, or at least not rising.
    """

    steps: Float64Array
    values: Float64Array

    def value(self, step: float) -> float:
        """Return what is expected at a step, given as its logarithm."""
        return float(np.interp(step, self.steps, self.values))

    def step(self, value: float) -> float:
        """Return the step, as its logarithm, at which a value is expected."""
        return float(np.interp(value, self.values[::-1], self.steps[::-1]))

    def beyond(self, step: float, more: float) -> float:
        """Return the step at which so much more is expected than at another."""
        return self.step(self.value(step) + more)


@dataclass(frozen=True, slots=True)
class Magnitudes:
    """How many coefficients there are of each magnitude.

    Attributes
    ----------
    steps : (n,) float64
        Logarithms to the base 2 of steps, increasing; each at the edge of two cells.
    larger : (n,) float64
        How many are not coded as 0 at a step.
    octaves : (n,) float64
        Sum over these of log2(magnitude / the least magnitude that is not coded as 0).
    squares : (n,) float64
        Sum of the squares of the others.
    count : int
        Of all coefficients.
    """

    steps: Float64Array
    larger: Float64Array
    octaves: Float64Array
    squares: Float64Array
    count: int

    @classmethod
    def of(cls, bands: Iterable[tuple[Float32Array, Float32Array | None]]) -> Magnitudes:
        """Count bands, each with the worth of its squares or None."""
        counts, squares = np.zeros(_CELLS), np.zeros(_CELLS)
        for real, worth in bands:
            scaled = real if worth is None else real * np.sqrt(worth)
            _count(scaled, scaled.view(np.int32), counts, squares)
        there = np.flatnonzero(counts[1:]) + 1
        first, last = (int(there[0]), int(there[-1]) + 1) if len(there) else (1, 1)
        edges = np.arange(first, last + 1, dtype=np.int32) << _SHIFT
        logs = np.log2(edges.view(np.float32).astype(np.float64))
        inside, below = counts[first:last], squares[: last + 1]
        larger = np.append(np.cumsum(inside[::-1])[::-1], 0.0)
        middles = (logs[:-1] + logs[1:]) / 2
        sums = np.append(np.cumsum((inside * middles)[::-1])[::-1], 0.0)
        # At the last step all are 0 for certain.
        steps = logs - math.log2(ZERO_BELOW)
        steps[-1] += 1
        return cls(
            steps=steps,
            larger=larger,
            octaves=np.maximum(sums - larger * logs, 0.0),
            squares=np.cumsum(below)[first - 1 : last],
            count=int(counts.sum()),
        )

    def cost(self, step: float, price: float) -> float:
        """Return what coding at a step leaves and takes, in squared steps, a bit having a price."""
        found = math.log2(step)
        larger, octaves, squares = (
            float(np.interp(found, self.steps, sums))
            for sums in (self.larger, self.octaves, self.squares)
        )
        return squares / step**2 + _LEFT * larger + price * (_BITS * larger + octaves)

    def sizes(self) -> Forecast:
        """Return the forecast of the logarithm to the base 2 of a size in bytes."""
        bits = _BITS * self.larger + self.octaves
        return Forecast(self.steps, np.log2(HEADER_BYTES + bits / 8))

    def decibels(self) -> Forecast:
        """Return the forecast of the PSNR in dB, of values from 0 to 1."""
        left = self.squares + _LEFT * self.larger * np.exp2(2 * self.steps)
        mean = np.maximum.accumulate(left) / max(self.count, 1)
        return Forecast(self.steps, -10 * np.log10(np.maximum(mean, _LEAST_ERROR)))


@compiled()
def _count(values: Any, bits: Any, counts: Any, squares: Any) -> None:
    """Add values, the same as integers too, to the cells of their magnitudes."""
    for z in range(values.shape[0]):
        for y in range(values.shape[1]):
            row, cells = values[z, y], bits[z, y]
            for x in range(len(row)):
                cell = (cells[x] & 0x7FFFFFFF) >> _SHIFT
                counts[cell] += 1
                squares[cell] += np.float64(row[x]) * np.float64(row[x])


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial(Generic[_Made]):
    """A step that was tried.

    Attributes
    ----------
    step : float
        In normalised units.
    value : float
        What was found there.
    is_fine : bool
        Whether a coarser step is wanted.
    is_enough : bool
        Whether no other has to be tried.
    made : object
        What came of it, a coding say.
    """

    step: float
    value: float
    is_fine: bool
    is_enough: bool
    made: _Made


@dataclass(frozen=True, slots=True)
class _Side:
    """A step that was tried, as its logarithm, and the value found."""

    at: float
    value: float


def search(
    forecast: Forecast, start: float, finest: float, wanted: float, width: float, turns: int,
    attempt: Callable[[float], Trial[_Made]],
) -> Iterator[Trial[_Made]]:  # fmt: skip
    """Try steps until one is near enough to what is wanted, or nothing is left between two.

    Yields each trial, at least one, and keeps none: what they made may take much memory. Of those
    that are fine the last one is the coarsest, of the others the finest.

    Parameters
    ----------
    forecast : Forecast
        What the values are expected to be, but for about a constant.
    start, finest : float
        The first step, and the finest one that may be tried.
    wanted : float
        The value wanted.
    width : float
        How near two sides may come, in octaves.
    turns : int
        The most tries.
    attempt : callable
        Called with a step.
    """
    least, most = math.log2(finest), max(math.log2(finest), float(forecast.steps[-1]))
    fine: _Side | None = None
    coarse: _Side | None = None
    pace = 1.0
    at = min(max(math.log2(start), least), most)
    for turn in range(turns):
        trial = attempt(2.0**at)
        yield trial
        last, here = coarse if fine is None else fine, _Side(at, trial.value)
        if trial.is_fine:
            fine = here
        else:
            coarse = here
        if trial.is_enough or at == (most if trial.is_fine else least):
            return
        if fine is not None and coarse is not None:
            if coarse.at - fine.at < width:
                return
            at = _between(forecast, fine, coarse, wanted, turn)
        else:
            pace = pace if last is None else _pace(forecast, last, here)
            stride = _STRIDE * _GROWTH**turn
            beyond = forecast.beyond(at, (wanted - trial.value) / pace)
            at = max(beyond, at + stride) if trial.is_fine else min(beyond, at - stride)
            at = min(max(at, least), most)


def _pace(forecast: Forecast, a: _Side, b: _Side) -> float:
    """Return by how much values differ where the forecasts differ by 1."""
    expected = forecast.value(b.at) - forecast.value(a.at)
    found = b.value - a.value
    return min(max(found / expected, 1 / _MOST_PACE), _MOST_PACE) if expected else 1.0


def _between(forecast: Forecast, fine: _Side, coarse: _Side, wanted: float, turn: int) -> float:
    """Return the step to try between two sides."""
    apart = coarse.at - fine.at
    if turn >= _TURNS:
        return fine.at + apart / 2
    share = (fine.value - wanted) / max(fine.value - coarse.value, 1e-9)
    above, below = forecast.value(fine.at), forecast.value(coarse.at)
    at = forecast.step(above + share * (below - above))
    return min(max(at, fine.at + _NEAR * apart), coarse.at - _NEAR * apart)
