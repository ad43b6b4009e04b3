"""Wavelet sections within a size, or as good as asked for: plan, step, and where values lie.

Steps:

1. About the step: magnitudes tell it, or a coding or two do.
2. Plan: which axes are halved how early. Voxels are rarely cubes, and what is smooth along one
   axis may be rough along another; a few plans are coded at the same step, and the one with the
   least squared error plus price of its bytes is taken.
3. Cuts: two tiles of the finest levels are decoded on two threads. How many levels to cut is
   tried: what is cut loses a little context, and what is not takes one thread.
4. Step: size and error are smooth, steep functions of it; a few more codings find it.
5. Bias: magnitudes are moved towards zero by what is best in the mean.

The caller may try other prices of a bit: which one decodes best in the same bytes depends on the
volume, and where few voxels are far brighter than the rest, by tenths of a dB.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from tinc_codec.fit import cutting
from tinc_codec.fit.steps import HEADER_BYTES, Magnitudes, search
from tinc_codec.stream.residual import section, wavelet
from tinc_codec.stream.residual.section import Bands, Header, Quantized
from tinc_codec.stream.residual.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelet import AXES, Float32Array, Layout, Shape
from tinc_codec.threads import each

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
# A size is near enough from so many parts of it on, and these are aimed at; codings of more than
# so many times the size are given up.
_ENOUGH, _WANTED, _ROOM = 0.998, 0.999, 4
# The most tries for a size; for a score, which has to be found: the search is over long before.
_TURNS, _MOST_TURNS = 20, 99
# How near two tries may come, in octaves of the step.
_SIZE_WIDTH, _SCORE_WIDTH = 3e-4, 0.005
# How near to the size, in octaves, plan and cuts are chosen.
_ABOUT_SIZE = 0.1
# How near to the wanted score one has to be, in dB; beyond what it does not matter how much
# better it is.
_NEAR_DB, _FAR_DB = 0.01, 30.0
# Steps grow as the price of a bit falls, to this power, where the size is to be the same.
_STEP_BY_PRICE = 0.2
# Magnitudes stay below 2**_MOST_BITS.
_MOST_BITS = 22


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
        self._magnitudes: tuple[_Transform, Magnitudes] | None = None

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

    def whole(self, step: float, most: int | None = None) -> Quantized | None:
        """Code at a step without cuts; None where more than ``most`` bytes are needed."""
        self._cuts = NO_CUTS
        room = _roomy(self._values.shape) if most is None else most
        return _coded(self._chosen, step, self._price, NO_CUTS, room)

    def choose_plan(self, step: float, whole: Quantized) -> Quantized:
        """Take the plan that does best at a step: axes are moved while that gains something.

        Given the coding at that step without cuts, return that of the plan taken.
        """
        if self._is_given:
            return whole
        price, shape = self._price, self._chosen.plan.shapes[0]
        best = _cost(self._chosen, whole, step, price)
        for _ in range(_PLAN_ROUNDS):
            least, taken = best * (1 - _PLAN_GAIN), None
            for starts in _neighbours(self._starts):
                found = self._transform(plan_of(shape, starts))
                coded = _uncut(found, step, price)
                cost = _cost(found, coded, step, price)
                if cost < least:
                    least, taken = cost, (starts, found, coded)
            if taken is None:
                break
            best, (self._starts, self._chosen, whole) = least, taken
        return whole

    def choose_cuts(self, step: float, whole: Quantized) -> Quantized:
        """Take the cuts that do best at a step, decoding time weighed in.

        Given the coding at that step without cuts, return that with those taken, if any are.
        """
        self._cuts = NO_CUTS
        size = len(whole.segments[0])
        if self._values.size < _CUT_FROM_VOXELS or size < _CUT_FROM_BYTES:
            return whole
        price, taken = self._price, whole
        best = _cost(self._chosen, whole, step, price) + _time(whole, price, size)
        last = math.inf
        # Of most levels first, mostly the best: once fewer do no better, still fewer do not.
        for cuts in reversed(list(cutting.candidates(self._chosen.plan, whole.bands))):
            coded = _coded(self._chosen, step, price, cuts, _roomy(self._values.shape))
            assert coded is not None
            cost = _cost(self._chosen, coded, step, price) + _time(coded, price, size)
            if cost >= last:
                break
            last = cost
            if cost < best:
                best, self._cuts, taken = cost, cuts, coded
        return taken

    def code(self, step: float, most: int | None = None) -> Coding | None:
        """Code at a step, rounded to binary32; None where more than ``most`` bytes are needed."""
        step = float(np.float32(step))
        room = _roomy(self._values.shape) if most is None else most
        coded = _coded(self._chosen, step, self._price, self._cuts, room)
        coding = None if coded is None else self.finished(coded, step)
        return None if coding is None or len(coding.data) > room else coding

    def finished(self, coded: Quantized, step: float) -> Coding:
        """Return the section of a coding."""
        header = Header(
            plan=self._chosen.plan, step=step, offset=self._offset, cuts=self._cuts,
            bias=_bias(self._chosen, coded, step),
        )  # fmt: skip
        data = section.to_bytes(header, coded.segments)
        return Coding(data=data, step=step, price=self._price)

    def magnitudes(self) -> Magnitudes:
        """Return how many coefficients of the plan in use there are of each magnitude."""
        if self._magnitudes is None or self._magnitudes[0] is not self._chosen:
            bands = _each(self._chosen.bands)
            weighted = self._weight is not None
            worth = _each(self._chosen.worth) if weighted else [None] * len(bands)
            self._magnitudes = self._chosen, Magnitudes.of(zip(bands, worth, strict=True))
        return self._magnitudes[1]

    def spread(self) -> float:
        """Return the root mean square of what is to be coded."""
        squares = float(np.mean((self._values - np.float32(self._offset)) ** 2))
        return max(math.sqrt(squares), 1e-6)

    def finest_step(self) -> float:
        """Return the finest step that the coder's integers allow."""
        bands = _each(self._chosen.bands)
        largest = max(float(max(b.max(initial=0), -b.min(initial=0))) for b in bands)
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
    scale = np.float32(1 / step)
    squares = sum(float(_squares(*triple, scale)) for triple in _triples(transform, coded))
    return squares + 8 * price * _bytes(coded)


def _bytes(coded: Quantized) -> int:
    return sum(map(len, coded.segments))


def _triples(transform: _Transform, coded: Quantized) -> list[tuple[Any, Any, Any]]:
    """Return coefficients, their worth and integers of every band."""
    parts = map(_each, (transform.bands, transform.worth, coded.bands))
    return list(zip(*parts, strict=True))


@njit(nogil=True, cache=True)
def _squares(real: Any, worth: Any, q: Any, scale: Any) -> Any:
    """Return the weighted squared error of a band in squared steps."""
    total = 0.0
    for z in range(q.shape[0]):
        for y in range(q.shape[1]):
            reals, weights, integers = real[z, y], worth[z, y], q[z, y]
            row = np.float32(0)
            for x in range(len(integers)):
                row += weights[x] * (reals[x] * scale - np.float32(integers[x])) ** 2
            total += np.float64(row)
    return total


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


def step_at(price: float, coding: Coding) -> float:
    """Return the step that may give as large a coding at another price of a bit."""
    return float(coding.step * (coding.price / price) ** _STEP_BY_PRICE)


def settle(volume: Volume, step: float, whole: Quantized, *, plans: bool) -> int:
    """Take the plan, if others are to be tried, and the cuts that do best at a step.

    Given the coding at that step without cuts, return how many bytes it takes then, about.
    """
    if plans:
        whole = volume.choose_plan(step, whole)
    return _bytes(volume.choose_cuts(step, whole)) + HEADER_BYTES


def settle_about(volume: Volume, size: int, *, plans: bool) -> float | None:
    """Take plan and cuts where a size is about as wanted; return the step that may give it.

    None where all that was tried takes several times the size.
    """
    wanted = math.log2(_WANTED * size)
    tried: tuple[float, Quantized] | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal tried
        whole = volume.whole(step, _ROOM * size)
        if whole is None:
            return math.log2(_ROOM * size), True, False
        tried = step, whole
        found = math.log2(_bytes(whole) + HEADER_BYTES)
        return found, found > wanted, abs(found - wanted) < _ABOUT_SIZE

    forecast, finest = volume.magnitudes().sizes(), volume.finest_step()
    start = 2 ** forecast.step(wanted)
    search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    if tried is None:
        return None
    step, whole = tried
    found = math.log2(settle(volume, step, whole, plans=plans))
    return 2 ** volume.magnitudes().sizes().beyond(math.log2(step), wanted - found)


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
    if start is None:
        start = settle_about(volume, size, plans=plans)
    if start is None:
        return None
    best = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal best
        coding = volume.code(step, _ROOM * size)
        found = _ROOM * size if coding is None else len(coding.data)
        if coding is None or found > size:
            return math.log2(found), True, False
        best = coding
        return math.log2(found), False, found >= _ENOUGH * size

    forecast, finest = volume.magnitudes().sizes(), volume.finest_step()
    wanted = math.log2(_WANTED * size)
    search(forecast, start, finest, wanted, _SIZE_WIDTH, _TURNS, attempt)
    return best


def settle_near(
    volume: Volume, score: Callable[[Coding], float], wanted: float, within: float, *, plans: bool
) -> float:
    """Take plan and cuts where a score is within some dB of what is wanted.

    Return the step that may give it.
    """
    tried: tuple[float, float, Quantized] | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal tried
        step = float(np.float32(step))
        whole = volume.whole(step)
        assert whole is not None
        found = min(score(volume.finished(whole, step)), wanted + _FAR_DB)
        tried = step, found, whole
        return found, found >= wanted, abs(found - wanted) < within

    forecast, finest = volume.magnitudes().decibels(), volume.finest_step()
    start = min(2 ** forecast.step(wanted), volume.spread())
    search(forecast, start, finest, wanted, _SCORE_WIDTH, _MOST_TURNS, attempt)
    assert tried is not None
    step, found, whole = tried
    settle(volume, step, whole, plans=plans)
    return 2 ** volume.magnitudes().decibels().beyond(math.log2(step), wanted - found)


def as_good(
    volume: Volume, score: Callable[[Coding], float], wanted: float, start: float
) -> Coding | None:
    """Return the coding with about the coarsest step that is good enough.

    Parameters
    ----------
    volume : Volume
        What to code, whose plan and cuts have been chosen.
    score : callable
        Tells in dB how good a coding is, from its decoded bytes.
    wanted : float
        How good it has to be, in dB.
    start : float
        A step near the wanted one.

    Returns
    -------
    Coding or None
        Never worse than wanted, better by about 0.01 dB or with a step that is finer by 0.3 % than
        one that is not good. None where not even the finest step that integers can hold is good.
    """
    best: Coding | None = None

    def attempt(step: float) -> tuple[float, bool, bool]:
        nonlocal best
        coding = volume.code(step)
        assert coding is not None
        found = min(score(coding), wanted + _FAR_DB)
        if found >= wanted:
            best = coding
        return found, found >= wanted, wanted <= found <= wanted + _NEAR_DB

    forecast, finest = volume.magnitudes().decibels(), volume.finest_step()
    aimed = wanted + _NEAR_DB / 2
    search(forecast, start, finest, aimed, _SCORE_WIDTH, _MOST_TURNS, attempt)
    return best
