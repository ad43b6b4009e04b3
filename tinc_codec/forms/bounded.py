"""Forms whose every voxel is within a bound: integers alone, since engines may differ by a level.

Wavelet coefficients and a correction of what they decode to, or a correction alone. They serve a
bound that was asked for, and any other target where they are much better than a transform: volumes
of which most was set to one value, and all that is nearly without loss.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.decode import decode
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.errors import InvalidSetting
from tinc_codec.forms import scoring, wavelets
from tinc_codec.forms.candidate import Form
from tinc_codec.forms.volume import Volume
from tinc_codec.forms.wavelets import Search
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.normalize import ArrayInfo
from tinc_codec.threads import each

_Steps = tuple[float, ...]

# A transform is tried where a correction alone takes fewer bits a voxel than this, with steps of so
# many bounds; 0: a correction alone.
_BASE_BELOW_BITS = 0.6
_STEPS_OF_BOUND: _Steps = (0.0, 2.5, 4.0, 6.0)
# A bounded form takes up to ten times as long to decode as another: so much better it has to be, in
# dB or in bytes. One without loss need only be smaller.
_WORTH_DB, _WORTH_BYTES = 1.0, 0.89
# It is coded if no more bytes are foretold, for the other form's error, than that has, times this;
# and these are foretold if the entropy of steps between neighbours is no more, times that.
_HOPEFUL, _MAY_BE_HOPEFUL = 1.3, 3.0
# Bytes that a correction takes whatever its size, about.
_LEARNING = 120
# How often it is coded to meet a target, and how much of a budget is enough.
_TRIALS, _ENOUGH = 4, 0.97
# Bounds looked at: so many, up to so many times finer and coarser than the other form's error.
_BOUNDS, _FURTHEST = 800, 64
# Of floats, in times what rounding adds: the step is what is left.
_ABOVE = 1.1
# Differences of neighbours are told apart up to so many steps.
_MOST_STEPS = 255
# A bound is moved by no more at once.
_MOST_MOVED_DB = 20.0


def within_bound(volume: Volume, bound: float, search: Search) -> Form:
    """Return the smallest of the forms whose every voxel is within a bound, in the data's units."""
    return _smallest(volume, bound, search, _STEPS_OF_BOUND)[0]


def _smallest(volume: Volume, bound: float, search: Search, steps: _Steps) -> tuple[Form, _Steps]:
    """Return the smallest form within a bound of transforms with some steps, and its step."""
    span, found = _span(volume), list[tuple[Form, _Steps]]()
    for step in steps:
        base = None
        if step:
            if found and 8 * _size(found[0][0]) > _BASE_BELOW_BITS * volume.unit.size:
                break
            if not 0 < step * bound < span:
                continue
            base = wavelets.at_step(volume, step * bound / span, search)
        found.append((_with_correction(volume, base, bound), (step,)))
    if not found:
        return _smallest(volume, bound, search, _STEPS_OF_BOUND[:1])
    return min(found, key=lambda pair: _size(pair[0]))


def better_within_budget(volume: Volume, form: Form, search: Search) -> Form | None:
    """Return a bounded form within the budget that is much better than another, if there is one."""
    budget, exact = volume.own_budget(), math.isinf(form.psnr_db)
    # A form far below its budget is as good as the transform's precision lets it be.
    outlook = _outlook(volume, form, _size(form) if exact else budget)
    if outlook is None:
        return None
    if exact:
        return _smaller_exact(volume, form, search)
    best, scale = form, 1.0
    steps, tried = _steps_tried(search), set[float]()
    for _ in range(_TRIALS):
        bound = outlook.least_within(budget / scale)
        if bound is None or bound in tried:
            break
        tried.add(bound)
        try:
            found, steps = _smallest(volume, bound, search, steps)
        except InvalidSetting:  # finer than the chunk's floats are spaced
            break
        if _size(found) <= budget:
            best = max(best, found, key=lambda form: form.psnr_db)
            if bound == 0 or _size(found) >= _ENOUGH * budget:
                break
        scale = _size(found) / outlook.foretold(bound)
    if 0 not in tried and outlook.foretold(0) <= _HOPEFUL * budget:
        with suppress(InvalidSetting):  # of floats
            found = within_bound(volume, 0, search)
            best = found if _size(found) <= budget else best
    return best if best.psnr_db >= form.psnr_db + _WORTH_DB else None


def smaller_as_good(
    volume: Volume, form: Form, score: Callable[[Form], float], wanted: float, search: Search
) -> Form | None:
    """Return a bounded form that is much smaller than another and as good, if there is one.

    ``score`` tells in dB how good a form is, ``wanted`` how good it has to be.
    """
    outlook = _outlook(volume, form, _size(form))
    if outlook is None:
        return None
    if math.isinf(form.psnr_db):
        return _smaller_exact(volume, form, search)
    best, bound = form, outlook.usual
    steps, good, bad = _steps_tried(search), -math.inf, math.inf
    for _ in range(_TRIALS):
        try:
            found, steps = _smallest(volume, bound, search, steps)
        except InvalidSetting:  # finer than the chunk's floats are spaced
            break
        more = score(found) - wanted
        if more >= 0:
            good, best = bound, min(best, found, key=_size)
        else:
            bad = bound
        bound = outlook.moved(bound, min(more, _MOST_MOVED_DB))
        if not good < bound < bad:
            break
    if _size(best) <= _WORTH_BYTES * _size(form):
        return best
    if outlook.foretold(0) > _HOPEFUL * _size(form):
        return None
    return _smaller_exact(volume, form, search)


def _steps_tried(search: Search) -> _Steps:
    """Return the transforms tried for other targets than a bound: at the least effort none."""
    return _STEPS_OF_BOUND if search.tries else _STEPS_OF_BOUND[:1]


def as_good(
    volume: Volume, score: Callable[[Form], float], wanted: float, search: Search
) -> Form | None:
    """Return a bounded form that is good, where no transform is precise enough; None if none is."""
    rmse = _span(volume) * 10 ** (-wanted / 20)
    bounds = [1.7 * rmse, rmse] if volume.info.dtype.kind == "f" else [math.floor(rmse), 0]
    for bound in bounds:
        with suppress(InvalidSetting):
            found = within_bound(volume, bound, search)
            if score(found) >= wanted:
                return found
    return None


def _smaller_exact(volume: Volume, form: Form, search: Search) -> Form | None:
    """Return the form without loss if it is smaller than another."""
    exact = within_bound(volume, 0, search)
    return exact if _size(exact) < _size(form) else None


@dataclass(frozen=True, kw_only=True)
class _Outlook:
    """What bounded forms of a volume promise, beside another form.

    Attributes
    ----------
    planes : (z, y, x) array
        Some of the volume.
    part : float
        How many of all voxels there are in these.
    bounds : (n,) float64
        Those looked at, increasing; whole numbers for integers.
    usual : float
        The bound for which errors up to it, all as frequent, have the other form's RMSE.
    """

    planes: npt.NDArray[Any]
    part: float
    bounds: npt.NDArray[np.float64]
    usual: float
    _known: dict[float, float] = field(default_factory=dict)

    def foretold(self, bound: float) -> float:
        """Return about how many bytes a correction to a bound takes; inf if that is too fine."""
        from tinc_codec.fit import correction

        if bound not in self._known:
            size = math.inf
            with suppress(InvalidSetting):
                some = correction.foretold(self.planes, bound)
                learning = min(some, _LEARNING)  # header, weights, statistics: once
                size = learning + (some - learning) / self.part
            self._known[bound] = size
        return self._known[bound]

    def least_within(self, size: float) -> float | None:
        """Return the least bound for which no more bytes are foretold; None if there is none."""
        at = bisect_left(self.bounds, x=True, key=lambda b: self.foretold(float(b)) <= size)
        return float(self.bounds[at]) if at < len(self.bounds) else None

    def moved(self, bound: float, db: float) -> float:
        """Return the bound looked at whose errors are so much larger, or hardly less."""
        half = 0.5 if self.bounds[0] == 0 else 0.0  # errors of integers: sqrt(b (b + 1) / 3)
        wanted = (bound + half) * 10 ** (db / 20) - half
        at = int(np.searchsorted(self.bounds, wanted, side="right")) - 1
        return float(self.bounds[max(at, 0)])


def _outlook(volume: Volume, form: Form, size: int) -> _Outlook | None:
    """Return what bounded forms promise; None where that is less than another form has."""
    from tinc_codec.fit import correction

    exact, floats = math.isinf(form.psnr_db), volume.info.dtype.kind == "f"
    if (exact and floats) or math.isinf(_span(volume)):
        return None
    rmse = _span(volume) * 10 ** (-form.psnr_db / 20)
    usual = math.sqrt(3) * rmse
    with np.errstate(over="ignore"):
        bounds = usual * np.geomspace(1 / _FURTHEST, _FURTHEST, _BOUNDS)
    bounds = bounds[np.isfinite(bounds)]
    if not floats:
        usual = math.floor((math.sqrt(1 + 12 * rmse**2) - 1) / 2)
        bounds = np.unique(np.append(np.floor(bounds), (0, usual)))
    wanted = _wanted(volume)
    planes = correction.some_planes(wanted)
    bounds = bounds[bounds > _ABOVE * correction.finest(wanted)]
    if not len(bounds):
        return None
    part = planes.size / volume.unit.size
    if part < 1 and _entropy(planes, usual) / part > _MAY_BE_HOPEFUL * size:
        return None
    found = _Outlook(planes=planes, part=part, bounds=bounds, usual=max(usual, float(bounds[0])))
    return found if found.foretold(found.usual) <= _HOPEFUL * size else None


def _entropy(planes: npt.NDArray[Any], bound: float) -> float:
    """Return the bytes that differences of neighbours take, in steps of a bound, each by itself.

    Along y or x, whichever takes less.
    """
    step, values = 2 * bound + (planes.dtype.kind != "f"), planes.astype(np.float64)
    return min(
        (_entropy_along(axis, values, step) for axis in (1, 2) if values.shape[axis] > 1),
        default=0.0,
    )


def _entropy_along(axis: int, values: npt.NDArray[np.float64], step: float) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(np.clip(np.diff(values, axis=axis) / step, -_MOST_STEPS, _MOST_STEPS))
    counts = np.bincount(np.nan_to_num(steps + _MOST_STEPS).astype(np.int64).reshape(-1))
    shares = counts[counts > 0] / steps.size
    return float(-(shares * np.log2(shares)).sum()) * steps.size / 8


def _size(form: Form) -> int:
    return len(form.payload)


def _with_correction(volume: Volume, base: Form | None, max_error: float) -> Form:
    """Add to a form, or to nothing, what brings every voxel within a bound.

    Raises
    ------
    InvalidSetting
        If the dtype cannot hold that.
    """
    from tinc_codec.fit import correction

    if base is None:
        wanted = _wanted(volume)
        given = np.full(wanted.shape, volume.info.low, wanted.dtype)
    else:
        given = scoring.decoded(base.payload, volume).reshape(volume.unit.shape)
        wanted = _wanted(volume, given)
    data = correction.encode(wanted, given, max_error, each)
    sections = {**(base.sections if base else {}), SectionKind.CORRECTION: data}
    payload = container.pack({**volume.exact, **sections})
    psnr = _psnr_within(volume, payload, max_error)
    return Form(sections=sections, payload=payload, psnr_db=psnr, price=None)


def _wanted(volume: Volume, given: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """Return the voxels in native byte order; masked ones as given, or the mean of the others."""
    wanted = volume.values.astype(volume.info.dtype.newbyteorder("=")).reshape(volume.unit.shape)
    if volume.weight is None:
        return wanted
    inside = volume.weight != 0
    return np.where(inside, wanted, _mean(wanted[inside], volume.info) if given is None else given)


def _span(volume: Volume) -> float:
    return float(volume.info.high) - float(volume.info.low)


def _mean(values: npt.NDArray[Any], info: ArrayInfo) -> Any:
    """Return the mean of values in their dtype; near its limits one of the ends."""
    with np.errstate(over="ignore"):
        mean = float(values.mean(dtype=np.float64))
    return values.dtype.type(min(max(mean, info.low), info.high))


def _psnr_within(volume: Volume, payload: bytes, max_error: float) -> float:
    """Return the PSNR of a payload, of voxels as they weigh; make sure that its bound holds.

    Both from decoded bytes.
    """
    given, crop = decode(payload), open_chunk(payload).crop
    error = scoring.errors(given if crop is None else given[crop.slices], volume)
    largest = float(np.abs(error).max())
    if largest > max_error:
        raise InvalidSetting(
            f"max_error={max_error:g} is out of reach for this chunk of {volume.info.dtype} "
            f"values: an error of {largest:g} is left; use a lossless codec"
        )
    weights = None if volume.weight is None else volume.weight[volume.weight != 0].reshape(-1)
    squares = scoring.of_range(error, volume.info) ** 2
    return scoring.decibels(float(np.average(squares, weights=weights)))
