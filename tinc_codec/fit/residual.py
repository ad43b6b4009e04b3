"""A volume coded as a wavelet section at a step: which plan, which cuts, and where values lie.

1. Plan: which axes are halved how early. Voxels are rarely cubes, and what is smooth along one
   axis may be rough along another; a few plans are coded at the same step, and the one with the
   least squared error plus price of its bytes is taken.
2. Cuts: two tiles of the finest levels are decoded on two threads. How many levels to cut is
   tried: what is cut loses a little context, and what is not takes one thread.
3. Bias: magnitudes are moved towards zero by what is best in the mean.

fit/rate_control.py looks for the step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.compiled import compiled
from tinc_codec.fit import cutting
from tinc_codec.fit.steps import ZERO_BELOW, Magnitudes
from tinc_codec.stream.residual.axes import AXES, Shape, three_axes
from tinc_codec.stream.residual.wavelets import prior, section, segments, wavelet
from tinc_codec.stream.residual.wavelets.section import Header
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan
from tinc_codec.threads import each

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

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
# Magnitudes stay below 2**_MOST_BITS.
_MOST_BITS = 22
# Bytes a voxel that a coding is given room for: the next where the last was too little, as for
# noise in fine steps. A decision takes 12 bits at most, a magnitude 16 of them and a tail.
_ROOMS = (4, 16, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transform:
    """A volume in the bands of a plan, its mean taken out, and what errors there weigh."""

    bands: Bands
    worth: Bands

    @property
    def plan(self) -> TransformPlan:
        """Which axes are halved at which level."""
        return self.bands.plan


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


def plan_of(shape: Shape, starts: tuple[int, ...]) -> TransformPlan:
    """Return the plan in which axis k is halved from level ``starts[k]`` on, while it is long.

    Axes are closed where they can be: errors at their last faces are half as large then.
    """
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
    return wavelet.transform_plan(shape, splits).closed_where_possible()


class Residual:
    """What a tree leaves of a volume, or the volume itself, transformed once for each plan.

    Parameters
    ----------
    values : float32 array, 1 to 4 axes
        In normalised units.
    weight : float32 array of the same shape, or None
        What the squared error of each voxel weighs, 0 to 1; None: 1.
    plan : TransformPlan, optional
        The only plan to use.
    """

    def __init__(
        self,
        values: Float32Array,
        weight: Float32Array | None = None,
        plan: TransformPlan | None = None,
    ) -> None:
        shape = three_axes(values.shape)
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

    def at_price(self, price: float) -> Residual:
        """Return the volume, its plan and cuts as chosen, to be coded at another price of a bit."""
        other = copy.copy(self)
        other._price = price
        return other

    def _transform(self, plan: TransformPlan) -> _Transform:
        bands = wavelet.forward(self._values - np.float32(self._offset), plan, each)
        worth = segments.ones(plan) if self._weight is None else worths(self._weight, plan)
        return _Transform(bands=bands, worth=worth)

    def whole(self, step: float, most: int | None = None) -> Quantized | None:
        """Code at a step without cuts; None where more than ``most`` bytes are needed."""
        return _coded(self._chosen, step, self._price, NO_CUTS, most)

    def choose_plan(self, step: float, whole: Quantized) -> Quantized:
        """Take the plan that does best at a step: axes are moved while that gains something.

        Given the coding at that step without cuts, return that of the plan taken.
        """
        if self._is_given:
            return whole
        price, shape = self._price, self._chosen.plan.shapes[0]
        best = _cost(self._chosen, whole, step, price)
        for _ in range(_PLAN_ROUNDS):
            least, moved = best * (1 - _PLAN_GAIN), None
            for starts in _neighbours(self._starts):
                # One by one, and none kept that is not the best: they take a lot of memory.
                found = self._transform(plan_of(shape, starts))
                coded = _uncut(found, step, price)
                cost = _cost(found, coded, step, price)
                if cost < least:
                    least, moved = cost, starts
                    self._chosen, whole = found, coded
                del found, coded
            if moved is None:
                break
            best, self._starts = least, moved
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
        best = _cost(self._chosen, whole, step, price) + _time(whole, price)
        last = math.inf

        def tried(cuts: Cuts) -> tuple[float, Quantized]:
            coded = _coded(self._chosen, step, price, cuts)
            assert coded is not None
            return _cost(self._chosen, coded, step, price) + _time(coded, price), coded

        # Of most levels first, mostly the best: once fewer do no better, still fewer do not.
        candidates = list(cutting.candidates(whole.bands))[::-1]
        for cost, coded in _in_pairs(tried, candidates):
            if cost >= last:
                break
            last = cost
            if cost < best:
                best, self._cuts, taken = cost, coded.cuts, coded
        return taken

    def cut_by_rule(self, step: float) -> None:
        """Take the cuts of most levels, mostly the best, unless a coding at a step will be small.

        Judged by what will not be 0, without coding anything.
        """
        self._cuts = NO_CUTS
        size = 2 ** self.magnitudes().sizes().value(math.log2(step))
        if self._values.size < _CUT_FROM_VOXELS or size < _CUT_FROM_BYTES:
            return
        room = np.abs(self._chosen.bands.room) >= ZERO_BELOW * step
        kept = Bands(plan=self._chosen.plan, room=room)
        self._cuts = [NO_CUTS, *cutting.candidates(kept)][-1]

    def code(self, step: float, most: int | None = None) -> Coding | None:
        """Code at the nearest step that is stored; None where it takes more than ``most`` bytes."""
        step = section.stored_step(step)
        coded = _coded(self._chosen, step, self._price, self._cuts, most)
        if coded is None:
            return None
        coding = self.finished(coded, step)
        return coding if most is None or len(coding.data) <= most else None

    def finished(self, coded: Quantized, step: float) -> Coding:
        """Return the section of a coding."""
        header = Header(
            plan=self._chosen.plan, step=step, offset=self._offset, cuts=coded.cuts,
            bias=_bias(self._chosen, coded, step),
        )  # fmt: skip
        data = section.to_bytes(header, coded.segments)
        return Coding(data=data, step=step, price=self._price)

    def magnitudes(self) -> Magnitudes:
        """Return how many coefficients of the plan in use there are of each magnitude."""
        if self._magnitudes is None or self._magnitudes[0] is not self._chosen:
            bands = self._chosen.bands.each()
            weighted = self._weight is not None
            worth = self._chosen.worth.each() if weighted else [None] * len(bands)
            self._magnitudes = self._chosen, Magnitudes.of(zip(bands, worth, strict=True))
        return self._magnitudes[1]

    def spread(self) -> float:
        """Return the root mean square of what is to be coded."""
        squares = float(np.mean((self._values - np.float32(self._offset)) ** 2))
        return max(math.sqrt(squares), 1e-6)

    def finest_step(self) -> float:
        """Return the finest step that the coder's integers allow."""
        room = self._chosen.bands.room
        largest = float(max(room.max(initial=0), -room.min(initial=0)))
        return float(max(largest, 2.0**-20) / 2**_MOST_BITS)


def _in_pairs(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[_Result]:
    """Yield function(item) of each item, two done together: more would take too much memory."""
    for at in range(0, len(items), 2):
        yield from each(function, items[at : at + 2])


def _neighbours(starts: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return plans with one axis halved later, or the other two."""
    found = []
    for k in range(AXES):
        for later in ((k,), tuple(j for j in range(AXES) if j != k)):
            moved = tuple(s + (j in later) for j, s in enumerate(starts))
            found.append(tuple(s - min(moved) for s in moved))
    return [s for s in dict.fromkeys(found) if s != starts]


def _coded(
    transform: _Transform, step: float, price: float, cuts: Cuts, most: int | None = None
) -> Quantized | None:
    """Code at a step; None where more than ``most`` bytes are needed, never without it."""
    voxels = math.prod(transform.plan.shapes[0])
    for room in [factor * voxels + 1024 for factor in _ROOMS] if most is None else [most]:
        coded = segments.encode(
            transform.bands, transform.worth, prior.learnt(), step=step, price=price, cuts=cuts,
            most=room, run=each,
        )  # fmt: skip
        if coded is not None:
            return coded
    return None


def worths(weight: Float32Array, plan: TransformPlan) -> Bands:
    """Return what the squared error of each coefficient weighs.

    The mean over the voxels that the coefficient has a say in, about: along an axis that is halved
    two thirds of the squares of CDF 9/7's synthesis filters are in the middle, a sixth beside it.
    """
    found = Bands(plan=plan, room=np.empty(weight.size, np.float32))
    for k, split in enumerate(plan.splits):
        for axis in range(AXES):
            if split >> axis & 1:
                weight = _smoothed(weight, axis, exchanged=plan.closes(k, axis))
        places = {
            d: tuple(slice(d >> axis & 1, None, 1 + (split >> axis & 1)) for axis in range(AXES))
            for d in (wavelet.LOW_PASS, *plan.directions(k))
        }
        for d, band in found.levels[k].items():
            band[...] = weight[places[d]]
        weight = weight[places[wavelet.LOW_PASS]]
    found.low[...] = weight
    return found


def _smoothed(weight: Float32Array, axis: int, *, exchanged: bool) -> Float32Array:
    """Return the mean of each place along an axis, taken four times, and of those beside it.

    With the last two exchanged, as they are on a closed axis.
    """
    along = np.moveaxis(weight, axis, 0)
    smooth: Float32Array = 4 * along
    smooth[1:] += along[:-1]
    smooth[0] += along[0]
    smooth[:-1] += along[1:]
    smooth[-1] += along[-1]
    smooth /= 6
    if exchanged:
        smooth[[-2, -1]] = smooth[[-1, -2]]
    return np.moveaxis(smooth, 0, axis)


def _uncut(transform: _Transform, step: float, price: float) -> Quantized:
    """Return the coding in one segment, however large."""
    coded = _coded(transform, step, price, NO_CUTS)
    assert coded is not None
    return coded


def _time(coded: Quantized, price: float) -> float:
    """Return what two threads' time to decode costs, in the units of _cost."""
    first, *tiles = map(len, coded.segments)
    longest = first + max(sum(tiles) / 2, *tiles, 0)
    return 8 * price * _TIME_WORTH * longest


def _cost(transform: _Transform, coded: Quantized, step: float, price: float) -> float:
    """Return squared error in squared steps, plus the price of the bits."""
    scale = np.float32(1 / step)
    squares = sum(float(_squares(*triple, scale)) for triple in _triples(transform, coded))
    return squares + 8 * price * coded.nbytes


def _triples(transform: _Transform, coded: Quantized) -> list[tuple[Any, Any, Any]]:
    """Return coefficients, their worth and integers of every band."""
    parts = (bands.each() for bands in (transform.bands, transform.worth, coded.bands))
    return list(zip(*parts, strict=True))


@compiled()
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


@compiled()
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
