"""A payload decoded at a lower resolution: from low-pass bands, without what is finer.

A sample of an overview is at each n-th voxel, and is what CDF 9/7 low-pass filters make of the
voxels around it. Wavelets hold just that: their finer levels are then not decoded. Other forms are
decoded whole, and smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import le
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import turns
from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.decoding.arrays import array_of
from tinc_codec.decoding.opened import Chunk, long_axes, open_chunk
from tinc_codec.decoding.selection import index_of
from tinc_codec.decoding.voxels import box_values, tree_below, unit_values
from tinc_codec.engines import current_engine
from tinc_codec.errors import InvalidSetting
from tinc_codec.stream import normalize, special_values
from tinc_codec.threads import each

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tinc_codec.stream.residual.wavelets.wavelet import TransformPlan

_MOST = 1 << 16
# Axes of a transform.
_AXES = 3


def decode_overview(payload: Buffer, factor: int | Sequence[int]) -> npt.NDArray[Any]:
    """Decode a payload at a lower resolution.

    Sample i along an axis is at voxel ``factor * i``, and says what is around that voxel (the
    low-pass band of CDF 9/7), where ``decode(payload, np.s_[::factor])`` gives the voxel itself:
    there is no aliasing. Of wavelets finer levels are not decoded, which takes a fraction of the
    time and memory; nor are values then filtered (FILTER), which counts where small things are far
    brighter than what is around them. Where only one level at most could be left out, and of all
    other forms, the chunk is decoded whole, and smoothed; with 1 for all axes it is as decoded.

    Parameters
    ----------
    payload : bytes-like
        What :func:`tinc_codec.encode` gave.
    factor : int or sequence of int
        A power of two, for all axes or for each of them; 1 takes all places of an axis.

    Returns
    -------
    numpy.ndarray
        The dtype of the array encoded, C order; ``ceil(n / factor)`` samples along an axis of n.
        Of special values (NaN, infinities, those preserved) and of padding the samples that are
        at such voxels are exact; others, and segmentations, are means like the rest.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    InvalidSetting
        If a factor is not a power of two from 1 to 65536, or there are not as many as axes.
    """
    chunk = open_chunk(payload)
    shape = chunk.info.shape
    factors = checked_factors(factor, len(shape))
    if max(factors, default=1) == 1:
        return np.ascontiguousarray(array_of(chunk))
    wanted = [np.arange(0, n, f) for n, f in zip(shape, factors, strict=True)]
    with turns.counted():
        return _samples(chunk, wanted, factors)


def _samples(
    chunk: Chunk, wanted: Sequence[Int64Array], factors: Sequence[int]
) -> npt.NDArray[Any]:
    """Return samples at places of the chunk."""
    if chunk.crop is None:
        return _box(chunk, wanted, factors)
    out = np.empty([len(at) for at in wanted], chunk.info.dtype)
    special_values.fill_with(out, chunk.crop.fill)
    inside = chunk.crop.holds(wanted)
    places = chunk.crop.places(wanted, inside)
    if all(map(len, places)):
        at = index_of([np.flatnonzero(keep) for keep in inside], pointwise=False)
        out[at] = _box(chunk, places, factors)
    return out


def checked_factors(factor: int | Sequence[int], axes: int) -> tuple[int, ...]:
    """Return the factor of each axis.

    Raises
    ------
    InvalidSetting
        As :func:`decode_overview` does.
    """
    several = isinstance(factor, Sequence) and not isinstance(factor, str)
    factors: tuple[Any, ...] = tuple(factor) if several else (factor,) * axes  # type: ignore[arg-type]
    if len(factors) != axes:
        raise InvalidSetting(
            f"overview: {len(factors)} factors for {axes} axes; give one, or one for each axis"
        )
    for f in factors:
        if not _is_power_of_two(f):
            raise InvalidSetting(
                f"overview: the factor {f!r} is not a power of two from 1 to {_MOST}; "
                "give 1, 2, 4, 8, …"
            )
    return tuple(map(int, factors))


def _is_power_of_two(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return 0 < int(value) <= _MOST and int(value).bit_count() == 1


def _box(chunk: Chunk, places: Sequence[Int64Array], factors: Sequence[int]) -> npt.NDArray[Any]:
    """Return samples at places of the box in the chunk's dtype, special values restored."""
    info = chunk.info
    size = [len(at) for at in places]
    if chunk.form == "constant":
        values = np.full(size, info.low, info.dtype)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that no encoder writes
            unit, found = _low_pass(chunk, [f.bit_length() - 1 for f in factors])
            for axis, (at, known) in enumerate(zip(places, found, strict=True)):
                unit = _interpolated(unit, axis, known, at)
        values = normalize.denormalize(unit, info.low, info.high, info.dtype)
    if chunk.mask is not None:
        labels = chunk.mask.labels[index_of(places, pointwise=False)]
        special_values.restore(values, labels, chunk.mask.patterns)
    return values


def _low_pass(chunk: Chunk, halvings: Sequence[int]) -> tuple[Float32Array, list[Int64Array]]:
    """Return the box halved so often along each axis, normalised; and where its samples are."""
    shape = chunk.box_shape
    done = [0] * len(shape)
    depth = _depth(chunk, halvings)
    if depth:
        unit, found, done = _of_band(chunk, depth)
    else:
        unit, found = _whole(chunk), [np.arange(n) for n in shape]
    for axis, (wanted, had) in enumerate(zip(halvings, done, strict=True)):
        for _ in range(wanted - had):
            if unit.shape[axis] > 1:
                unit, found[axis] = _halved(unit, axis), found[axis][::2]
    return unit, found


def _depth(chunk: Chunk, halvings: Sequence[int]) -> int:
    """Return how many levels of a transform need not be decoded, 0 where all is.

    Of four axes two are one in the transform; and leaving out one level saves less than leaving out
    the filter may cost.
    """
    if chunk.wavelet is None or chunk.correction is not None:
        return 0
    if len(long_axes(chunk.box_shape)) > _AXES:
        return 0
    allowed = [0] * _AXES
    for axis, own in _own_axes(chunk).items():
        allowed[own] = halvings[axis]
    counts = _halvings_of(chunk.wavelet.header.plan)
    depth = max(k for k, done in enumerate(counts) if all(map(le, done, allowed)))
    return depth if chunk.postfilter is None or depth > 1 else 0


def _own_axes(chunk: Chunk) -> dict[int, int]:
    """Return the axis of the transform, the last of three, of each axis longer than one voxel."""
    long = [axis for axis, n in enumerate(chunk.box_shape) if n > 1]
    return dict(zip(long, range(_AXES - len(long), _AXES), strict=True))


def _whole(chunk: Chunk) -> Float32Array:
    """Return the box, normalised; special values as what was coded in their places."""
    axes = [np.arange(n) for n in chunk.box_shape]
    if chunk.correction is None:
        return np.array(unit_values(chunk, axes, pointwise=False))
    values = box_values(replace(chunk, mask=None), axes, pointwise=False)
    return normalize.normalize(values, chunk.info.low, chunk.info.high, each)


def _of_band(chunk: Chunk, depth: int) -> tuple[Float32Array, list[Int64Array], list[int]]:
    """Return the low-pass band after so many levels, where its samples are, and its halvings."""
    from tinc_codec.stream.residual.wavelets import wavelet

    coded, shape, own = chunk.wavelet, chunk.box_shape, _own_axes(chunk)
    assert coded is not None
    plan = coded.header.plan
    done = _halvings_of(plan)
    below = None if chunk.tree is None else tree_below(chunk, current_engine())
    unit = coded.low_pass(depth, each, below)
    unit *= np.float32(2 ** (-sum(done[depth]) / 2))
    unit += np.float32(coded.header.offset)
    at = wavelet.places(plan, depth)
    found = [at[own[axis]] if axis in own else np.arange(1) for axis in range(len(shape))]
    counts = [done[depth][own[axis]] if axis in own else 0 for axis in range(len(shape))]
    return unit.reshape([len(places) for places in found]), found, counts


def _halvings_of(plan: TransformPlan) -> list[list[int]]:
    """Return how often each axis has been halved after 0, 1, … levels."""
    found = [[0] * _AXES]
    for split in plan.splits:
        found.append([n + (split >> axis & 1) for axis, n in enumerate(found[-1])])
    return found


def _halved(values: Float32Array, axis: int) -> Float32Array:
    """Return the low-pass samples along an axis."""
    from tinc_codec.stream.residual.wavelets import wavelet

    before, n = math.prod(values.shape[:axis]), values.shape[axis]
    last = axis == values.ndim - 1
    three, split = ((1, before, n), 4) if last else ((before, n, values.size // (before * n)), 2)
    plan = wavelet.transform_plan(three, [split])
    low = wavelet.forward(values.reshape(three), plan, each).low
    low *= np.float32(2**-0.5)
    return low.reshape(*values.shape[:axis], (n + 1) // 2, *values.shape[axis + 1 :])


def _interpolated(
    values: Float32Array, axis: int, known: Int64Array, wanted: Int64Array
) -> Float32Array:
    """Return samples at other places along an axis, linear between those that are known."""
    if np.array_equal(known, wanted):
        return values
    at = np.interp(wanted, known, np.arange(len(known)))
    first = at.astype(np.int64)
    second = np.minimum(first + 1, len(known) - 1)
    share = (at - first).astype(np.float32).reshape(-1, *[1] * (values.ndim - axis - 1))
    return values.take(first, axis) * (1 - share) + values.take(second, axis) * share
