"""A volume coded as a wavelet section at a step, in a plan and with cuts.

fit/plans.py chooses the plan, fit/cutting.py the cuts, and fit/rate_control.py looks for the step.
Magnitudes are moved towards zero by what is best in the mean: the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.compiled import compiled
from tinc_codec.fit.steps import Magnitudes
from tinc_codec.forks import cached_value
from tinc_codec.stream.residual.axes import AXES, Shape, three_axes
from tinc_codec.stream.residual.wavelets import prior, section, segments, wavelet
from tinc_codec.stream.residual.wavelets.section import Header
from tinc_codec.stream.residual.wavelets.segments import Quantized
from tinc_codec.stream.residual.wavelets.tiles import NO_CUTS, Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan
from tinc_codec.threads import each

# Squared steps that a bit is worth. At high rate a bit is worth (step^2 / 12) 2 ln 2 = 0.115.
PRICE = 0.08
_LEAST_SAMPLES = 3
_MOST_LEVELS = 7
# Magnitudes stay below 2**_MOST_BITS.
_MOST_BITS = 22
# Bytes a voxel that a coding is given room for: the next where the last was too little, as for
# noise in fine steps. A decision takes 12 bits at most, a magnitude 16 of them and a tail.
_ROOMS = (4, 16, 64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Transform:
    """A volume in the bands of a plan, its mean taken out.

    Attributes
    ----------
    bands : Bands of float32
        The coefficients.
    worth : Bands of float32
        What the squared error of each weighs.
    is_weighted : bool
        Whether that is not 1 for all.
    """

    bands: Bands
    worth: Bands
    is_weighted: bool

    @property
    def plan(self) -> TransformPlan:
        """Which axes are halved at which level."""
        return self.bands.plan

    @cached_value
    def magnitudes(self) -> Magnitudes:
        """How many coefficients there are of each magnitude."""
        bands = self.bands.each()
        worth = self.worth.each() if self.is_weighted else [None] * len(bands)
        return Magnitudes.of(zip(bands, worth, strict=True))


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


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Residual:
    """What a tree leaves of a volume, or the volume itself, ready to be coded.

    Attributes
    ----------
    values : (z, y, x) float32
        In normalised units.
    weight : float32 array of the same shape, or None
        What the squared error of each voxel weighs, 0 to 1; None: 1.
    offset : float
        The mean, as the header holds it.
    starts : tuple of int or None
        The level that each axis is halved from (:func:`plan_of`); None: the plan was given.
    transform : Transform
        Of the values in the plan in use.
    cuts : Cuts
        Into tiles.
    price : float
        Squared steps that a bit is worth.
    """

    values: Float32Array
    weight: Float32Array | None
    offset: float
    starts: tuple[int, ...] | None
    transform: Transform
    cuts: Cuts = NO_CUTS
    price: float = PRICE

    @classmethod
    def of(
        cls,
        values: Float32Array,
        weight: Float32Array | None = None,
        plan: TransformPlan | None = None,
    ) -> Residual:
        """Return a volume in the plan to begin with, without cuts, at the usual price.

        Parameters
        ----------
        values : float32 array, 1 to 4 axes
            In normalised units.
        weight : float32 array of the same shape, or None
            As in :class:`Residual`.
        plan : TransformPlan, optional
            The only plan to use; by default axes are alike, and others may be tried.
        """
        shape = three_axes(values.shape)
        values = values.reshape(shape)
        weight = None if weight is None else weight.reshape(shape)
        unit = section.OFFSET_UNIT
        offset = min(max(round(float(values.mean(dtype=np.float64)) * unit), 0), unit) / unit
        starts = (0,) * AXES if plan is None else None
        transform = _transformed(values, weight, offset, plan or plan_of(shape, (0,) * AXES))
        return cls(values=values, weight=weight, offset=offset, starts=starts, transform=transform)

    def at_price(self, price: float) -> Residual:
        """Return the volume, its plan and cuts as they are, at another price of a bit."""
        return replace(self, price=price)

    def starting_at(self, starts: tuple[int, ...]) -> Residual:
        """Return the volume in another plan."""
        plan = plan_of(self.transform.plan.shapes[0], starts)
        transform = _transformed(self.values, self.weight, self.offset, plan)
        return replace(self, starts=starts, transform=transform)

    def quantized(self, step: float, cuts: Cuts, most: int | None = None) -> Quantized | None:
        """Code at a step with cuts; None where more than ``most`` bytes are needed."""
        return _coded(self.transform, step, self.price, cuts, most)

    def whole(self, step: float, most: int | None = None) -> Quantized | None:
        """Code at a step without cuts; None where more than ``most`` bytes are needed."""
        return self.quantized(step, NO_CUTS, most)

    def cost(self, coded: Quantized, step: float) -> float:
        """Return the squared error of a coding in squared steps, plus the price of its bits."""
        scale = np.float32(1 / step)
        triples = _triples(self.transform, coded)
        squares = sum(float(_squares(*triple, scale)) for triple in triples)
        return squares + 8 * self.price * coded.nbytes

    def code(self, step: float, most: int | None = None) -> Coding | None:
        """Code at the nearest step that is stored; None where it takes more than ``most`` bytes."""
        step = section.stored_step(step)
        coded = self.quantized(step, self.cuts, most)
        if coded is None:
            return None
        coding = self.finished(coded, step)
        return coding if most is None or len(coding.data) <= most else None

    def finished(self, coded: Quantized, step: float) -> Coding:
        """Return the section of a coding."""
        header = Header(
            plan=self.transform.plan, step=step, offset=self.offset, cuts=coded.cuts,
            bias=_bias(self.transform, coded, step),
        )  # fmt: skip
        data = section.to_bytes(header, coded.segments)
        return Coding(data=data, step=step, price=self.price)

    def spread(self) -> float:
        """Return the root mean square of what is to be coded."""
        squares = float(np.mean((self.values - np.float32(self.offset)) ** 2))
        return max(math.sqrt(squares), 1e-6)

    def finest_step(self) -> float:
        """Return the finest step that the coder's integers allow."""
        room = self.transform.bands.room
        largest = float(max(room.max(initial=0), -room.min(initial=0)))
        return float(max(largest, 2.0**-20) / 2**_MOST_BITS)


def _transformed(
    values: Float32Array, weight: Float32Array | None, offset: float, plan: TransformPlan
) -> Transform:
    bands = wavelet.forward(values - np.float32(offset), plan, each)
    worth = segments.ones(plan) if weight is None else worths(weight, plan)
    return Transform(bands=bands, worth=worth, is_weighted=weight is not None)


def _coded(
    transform: Transform, step: float, price: float, cuts: Cuts, most: int | None = None
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


def _triples(transform: Transform, coded: Quantized) -> list[tuple[Any, Any, Any]]:
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


def _bias(transform: Transform, coded: Quantized, step: float) -> float:
    """Return by how many steps magnitudes are too large in the mean, in units of the header."""
    total, count = 0.0, 0.0
    for triple in _triples(transform, coded):
        wanted, size, some = _magnitudes(*triple)
        total, count = total + size - wanted / step, count + some
    unit = section.BIAS_UNIT
    return min(max(round(unit * total / max(count, 1e-9)), 0), unit // 2 - 1) / unit
