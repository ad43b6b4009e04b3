"""Wavelet sections within a size, or as good as asked for: plan, step, and where values lie.

Steps:

1. Plan: which axes are halved how early. Voxels are rarely cubes, and what is smooth along one
   axis may be rough along another; a few plans are coded at the same step, and the one with the
   least squared error plus price of its bytes is taken.
2. Cuts: two tiles of the finest levels are decoded on two threads. How many levels to cut is
   tried: what is cut loses a little context, and what is not takes one thread.
3. Step: size and error are smooth, steep functions of it; a few codings find it.
4. Bias: magnitudes are moved towards zero by what is best in the mean.

The caller may try other prices of a bit: which one decodes best in the same bytes depends on the
volume, and where few voxels are far brighter than the rest, by tenths of a dB.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numba import njit

from tinc_codec.fit import cutting
from tinc_codec.stream.residual import section, wavelet
from tinc_codec.stream.residual.section import Bands, Header, Quantized
from tinc_codec.stream.residual.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelet import AXES, Float32Array, Layout, Shape
from tinc_codec.threads import each

_Finished = TypeVar("_Finished")

# Squared steps that a bit is worth. At high rate a bit is worth (step^2 / 12) 2 ln 2 = 0.115.
PRICE = 0.08
_LEAST_SAMPLES = 3
_MOST_LEVELS = 7
# Smaller sections are decoded in a few milliseconds.
_CUT_FROM_BYTES, _CUT_FROM_VOXELS = 6000, 1 << 18
# Share of a section's bytes that decoding all of it on one thread costs: with 0.05 two per cent of
# the bytes are worth 40 per cent of the time.
_TIME_WORTH = 0.05
_PLAN_GAIN = 0.004
_PLAN_ROUNDS = 3
# Tries after which steps are halved, and after which the search for a size ends; one for a score
# has to find it, and is over long before its own.
_TURNS, _MOST_TURNS = 14, 99
_SIZE_WIDTH, _SCORE_WIDTH = 1e-3, 0.005
# By how much a size falls for a step, about, both in octaves.
_SLOPE = 1.3
# By how many dB a score falls for an octave, about; how near to the wanted one it has to be; and
# beyond what it does not matter by how much it is better.
_DB_SLOPE, _NEAR_DB, _FAR_DB = 4.0, 0.01, 30.0
# Magnitudes stay below 2**_MOST_BITS; steps below 2**_COARSEST.
_MOST_BITS, _COARSEST = 22, 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transform:
    """A volume in the bands of a plan, its mean taken out, and what errors there weigh."""

    plan: Layout
    offset: float
    bands: Bands
    worth: Bands


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """A volume at a step.

    Attributes
    ----------
    data : bytes
        Of the section.
    step : float
        Quantisation step, in normalised units.
    price : float
        Squared steps that a bit was worth.
    """

    data: bytes
    step: float
    price: float

    @property
    def worth_of_byte(self) -> float:
        """Squared error, in squared normalised units, that a byte more or less is worth."""
        return 8 * self.price * self.step**2


def plan_of(shape: Shape, starts: tuple[int, ...]) -> Layout:
    """Return the plan in which axis k is halved from level ``starts[k]`` on, while it is long."""
    splits: list[int] = []
    lengths = list(shape)
    for level in range(_MOST_LEVELS + max(starts)):
        split = 0
        for k, n in enumerate(lengths):
            if n >= _LEAST_SAMPLES and level >= starts[k]:
                split |= 1 << k
                lengths[k] = (n + 1) // 2
        if split:
            splits.append(split)
    return wavelet.layout(shape, splits)


class Volume:
    """What is to be coded: transformed once for each plan.

    Parameters
    ----------
    values : float32 array, 1 to 4 axes
        In normalised units.
    weight : float32 array of the same shape, or None
        What the squared error of each voxel weighs, 0 to 1; None: 1.
    plan : Layout, optional
        The only plan to use.
    """

    def __init__(
        self,
        values: Float32Array,
        weight: Float32Array | None = None,
        plan: Layout | None = None,
    ) -> None:
        shape = wavelet.three_axes(values.shape)
        self._values = values.reshape(shape)
        self._weight = None if weight is None else weight.reshape(shape)
        mean = float(self._values.mean(dtype=np.float64))
        unit = section.OFFSET_UNIT
        self._offset = min(max(round(mean * unit), 0), unit) / unit
        self._starts = (0,) * AXES
        self._is_given = plan is not None
        self._cuts = NO_CUTS
        self._price = PRICE
        self._chosen = self._transform(plan or plan_of(shape, self._starts))

    def at_price(self, price: float) -> Volume:
        """Return the volume, its plan and cuts as chosen, to be coded at another price of a bit."""
        other = copy.copy(self)
        other._price = price
        return other

    def _transform(self, plan: Layout) -> _Transform:
        low, levels = wavelet.forward(self._values - np.float32(self._offset), plan, each)
        bands = Bands(low=low, levels=levels)
        worth = section.ones(plan) if self._weight is None else worths(self._weight, plan)
        return _Transform(plan=plan, offset=self._offset, bands=bands, worth=worth)

    def choose_plan(self, step: float) -> None:
        """Take the plan that does best at a step: axes are moved while that gains something."""
        if self._is_given:
            return
        self._cuts = NO_CUTS
        price = self._price
        best = _cost(self._chosen, _uncut(self._chosen, step, price), step, price)
        for _ in range(_PLAN_ROUNDS):
            shape = self._chosen.plan.shapes[0]
            tried = {
                starts: self._transform(plan_of(shape, starts))
                for starts in _neighbours(self._starts)
            }
            costs = {
                starts: _cost(found, _uncut(found, step, price), step, price)
                for starts, found in tried.items()
            }
            starts = min(costs, key=lambda s: costs[s])
            if not costs[starts] < best * (1 - _PLAN_GAIN):
                return
            best, self._starts, self._chosen = costs[starts], starts, tried[starts]

    def choose_cuts(self, step: float) -> bool:
        """Take the cuts that do best at a step, decoding time weighed in; tell if there are any."""
        self._cuts = NO_CUTS
        if self._values.size < _CUT_FROM_VOXELS:
            return False
        price = self._price
        whole = _uncut(self._chosen, step, price)
        size = len(whole.segments[0])
        if size < _CUT_FROM_BYTES:
            return False
        best = _cost(self._chosen, whole, step, price) + _time(whole, price, size)
        for cuts in cutting.candidates(self._chosen.plan, whole.bands):
            coded = _coded(self._chosen, step, price, cuts, _roomy(self._values.shape))
            assert coded is not None
            cost = _cost(self._chosen, coded, step, price) + _time(coded, price, size)
            if cost < best:
                best, self._cuts = cost, cuts
        return self._cuts != NO_CUTS

    def code(self, step: float, most: int | None = None) -> Coding | None:
        """Code at a step, rounded to binary32; None where more than ``most`` bytes are needed."""
        step = float(np.float32(step))
        room = _roomy(self._values.shape) if most is None else most
        coded = _coded(self._chosen, step, self._price, self._cuts, room)
        if coded is None:
            return None
        header = Header(
            plan=self._chosen.plan, step=step, offset=self._offset, cuts=self._cuts,
            bias=_bias(self._chosen, coded, step),
        )  # fmt: skip
        data = section.to_bytes(header, coded.segments)
        if most is not None and len(data) > most:
            return None
        return Coding(data=data, step=step, price=self._price)

    def spread(self) -> float:
        """Return the root mean square of what is to be coded."""
        squares = float(np.mean((self._values - np.float32(self._offset)) ** 2))
        return max(math.sqrt(squares), 1e-6)

    def finest_step(self) -> float:
        """Return the finest step that the coder's integers allow."""
        largest = max(float(np.abs(band).max(initial=0)) for band in _each(self._chosen.bands))
        return float(max(largest, 2.0**-20) / 2**_MOST_BITS)


def _neighbours(starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return plans with one axis halved later, or the other two."""
    found = []
    for k in range(AXES):
        for later in ((k,), tuple(j for j in range(AXES) if j != k)):
            moved = tuple(s + (j in later) for j, s in enumerate(starts))
            found.append(tuple(s - min(moved) for s in moved))
    return [s for s in dict.fromkeys(found) if s != starts]


def _roomy(shape: Sequence[int]) -> int:
    """Return bytes that any coding of a volume fits in."""
    return 4 * math.prod(shape) + 1024


def _coded(
    transform: _Transform, step: float, price: float, cuts: Cuts, most: int
) -> Quantized | None:
    return section.encode(
        transform.plan, transform.bands, transform.worth, step=step, price=price, cuts=cuts,
        most=most, run=each,
    )  # fmt: skip


def worths(weight: Float32Array, plan: Layout) -> Bands:
    """Return what the squared error of each coefficient weighs.

    The mean over the voxels that the coefficient has a say in, about: along an axis that is halved
    two thirds of the squares of CDF 9/7's synthesis filters are in the middle, a sixth beside it.
    """
    levels = []
    for k, split in enumerate(plan.splits):
        for axis in range(AXES):
            if split >> axis & 1:
                weight = _smoothed(weight, axis)
        places = {
            d: tuple(slice(d >> axis & 1, None, 1 + (split >> axis & 1)) for axis in range(AXES))
            for d in (wavelet.LOW_PASS, *plan.directions(k))
        }
        levels.append({d: weight[places[d]] for d in plan.directions(k)})
        weight = weight[places[wavelet.LOW_PASS]]
    return Bands(low=weight, levels=levels)


def _smoothed(weight: Float32Array, axis: int) -> Float32Array:
    """Return the mean of each place along an axis, taken four times, and of those beside it."""
    along = np.moveaxis(weight, axis, 0)
    beside = np.concatenate([along[:1], along, along[-1:]])
    smooth: Float32Array = np.moveaxis((beside[:-2] + 4 * along + beside[2:]) / 6, 0, axis)
    return smooth


def _each(bands: Bands) -> list[Any]:
    """Return all bands, the low-pass one first."""
    return [bands.low, *(level[d] for level in bands.levels for d in level)]


def _uncut(transform: _Transform, step: float, price: float) -> Quantized:
    """Return the coding in one segment, however large."""
    coded = _coded(transform, step, price, NO_CUTS, _roomy(transform.plan.shapes[0]))
    assert coded is not None
    return coded


def _time(coded: Quantized, price: float, size: int) -> float:
    """Return what two threads' time to decode costs, of ``size`` bytes, in the units of _cost."""
    first, *tiles = map(len, coded.segments)
    longest = first + max(sum(tiles) / 2, *tiles, 0)
    return 8 * price * _TIME_WORTH * longest


def _cost(transform: _Transform, coded: Quantized, step: float, price: float) -> float:
    """Return squared error in squared steps, plus the price of the bits."""
    bits = 8 * sum(map(len, coded.segments))
    squares = sum(
        float(np.sum(worth * (real / np.float32(step) - q) ** 2, dtype=np.float64))
        for real, worth, q in _triples(transform, coded)
    )
    return squares + price * bits


def _triples(transform: _Transform, coded: Quantized) -> list[tuple[Any, Any, Any]]:
    """Return coefficients, their worth and integers of every band."""
    parts = map(_each, (transform.bands, transform.worth, coded.bands))
    return list(zip(*parts, strict=True))


@njit(nogil=True, cache=True)
def _magnitudes(real: Any, worth: Any, q: Any) -> Any:
    """Return the weighted sums of magnitudes of a band where integers are not 0, of these, of 1."""
    size, wanted, count = 0.0, 0.0, 0.0
    for z in range(q.shape[0]):
        for y in range(q.shape[1]):
            reals, weights, integers = real[z, y], worth[z, y], q[z, y]
            for x in range(len(integers)):
                if integers[x] != 0:
                    weight = np.float64(weights[x])
                    wanted += weight * abs(reals[x])
                    size += weight * abs(integers[x])
                    count += weight
    return wanted, size, count


def _bias(transform: _Transform, coded: Quantized, step: float) -> float:
    """Return by how many steps magnitudes are too large in the mean, in units of the header."""
    total, count = 0.0, 0.0
    for triple in _triples(transform, coded):
        wanted, size, some = _magnitudes(*triple)
        total, count = total + size - wanted / step, count + some
    unit = section.BIAS_UNIT
    return min(max(round(unit * total / max(count, 1e-9)), 0), unit // 2 - 1) / unit


def settle(volume: Volume, step: float, *, plans: bool) -> bool:
    """Take the plan, if others are to be tried, and the cuts that do best at a step.

    Returns
    -------
    bool
        Whether a coding may now be another one.
    """
    if plans:
        volume.choose_plan(max(step, volume.finest_step()))
    return volume.choose_cuts(max(step, volume.finest_step())) or plans


def _next(
    low: tuple[float, float], high: tuple[float, float], wanted: float, slope: float, turn: int
) -> float:
    """Return the step to try between, or beyond, two sides of which (step, value) are known.

    Steps are logarithms to the base 2; values fall by about ``slope`` for each. Beyond a side,
    strides grow: at high rates values fall slowly.
    """
    growing = 1.6**turn / slope
    if math.isinf(high[0]):
        return low[0] + min(max((low[1] - wanted) * growing, 0.05), 4.0)
    if math.isinf(low[0]):
        return high[0] - min(max((wanted - high[1]) * growing, 0.05), 4.0)
    share = (low[1] - wanted) / max(low[1] - high[1], 1e-9)
    if turn >= _TURNS:
        share = 0.5
    return low[0] + min(max(share, 0.1), 0.9) * (high[0] - low[0])


def _search(
    start: float, finest: float, wanted: float, slope: float, width: float, turns: int,
    attempt: Callable[[float], tuple[float, bool, bool]],
) -> None:  # fmt: skip
    """Try steps until one is near enough to what is wanted, or nothing is left between two.

    Parameters
    ----------
    start, finest : float
        The first step, and the finest one that may be tried.
    wanted, slope : float
        As in :func:`_next`.
    width : float
        How near two sides may come, in octaves.
    turns : int
        The most tries.
    attempt : callable
        Tells of a step the value, whether that is on the side of finer steps, and whether it does.
    """
    least = math.log2(finest)
    low, high = (-math.inf, math.inf), (math.inf, -math.inf)
    at = max(math.log2(start), least)
    for turn in range(turns):
        value, is_fine, does = attempt(2.0**at)
        if is_fine:
            low = at, value
        else:
            high = at, value
        if does or high[0] == least or high[0] - low[0] < width:
            return
        at = max(_next(low, high, wanted, slope, turn), least)
        if at > _COARSEST:
            return


def within_size(
    volume: Volume, size: int, *, plans: bool = False, start: float | None = None
) -> Coding | None:
    """Return the coding with the finest step that takes at most ``size`` bytes.

    Not finer than integers can hold: a smooth volume may take less.

    Parameters
    ----------
    volume : Volume
        What to code.
    size : int
        Bytes at hand for the section.
    plans : bool
        Whether to try other plans than the one in use.
    start : float, optional
        A step near the wanted one, for a volume whose plan and cuts have been chosen.

    Returns
    -------
    Coding or None
        None where not even zeros fit.
    """

    def solve(start: float) -> Coding | None:
        best = None

        def attempt(step: float) -> tuple[float, bool, bool]:
            nonlocal best
            coding = volume.code(step, 4 * size)
            found = 4 * size if coding is None else len(coding.data)
            if coding is None or found > size:
                return math.log2(found), True, False
            best = coding
            return math.log2(found), False, found >= 0.998 * size

        finest, wanted = volume.finest_step(), math.log2(0.999 * size)
        _search(start, finest, wanted, _SLOPE, _SIZE_WIDTH, _TURNS, attempt)
        return best

    best = solve(start or volume.spread())
    if best is None or start is not None:
        return best
    if settle(volume, best.step, plans=plans):
        best = solve(best.step) or best
    return best


def as_good(
    volume: Volume,
    finish: Callable[[Coding], tuple[_Finished, float]],
    wanted: float,
    start: float,
) -> tuple[_Finished, Coding] | None:
    """Return what comes of the coding with about the coarsest step that is good enough.

    Parameters
    ----------
    volume : Volume
        What to code, whose plan and cuts have been chosen.
    finish : callable
        Makes of a coding what is wanted, and tells in dB how good that is, from its decoded bytes.
    wanted : float
        How good it has to be, in dB.
    start : float
        A step near the wanted one.

    Returns
    -------
    tuple or None
        What ``finish`` made, and of which coding: never worse than wanted, better by about
        0.01 dB or with a step that is finer by 0.3 % than one that is not good. None where not even
        the finest step that integers can hold is good.
    """
    best: tuple[_Finished, Coding] | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal best
        coding = volume.code(step)
        assert coding is not None
        finished, score = finish(coding)
        if score >= wanted:
            best = finished, coding
            return min(score, wanted + _FAR_DB), True, score <= wanted + _NEAR_DB
        return score, False, False

    aimed = wanted + _NEAR_DB / 2
    _search(start, volume.finest_step(), aimed, _DB_SLOPE, _SCORE_WIDTH, _MOST_TURNS, attempt)
    return best
