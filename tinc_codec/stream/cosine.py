"""The low-order form: a few coefficients of a separable cosine transform (DCT-II).

For chunks whose budget holds no useful tree. The basis of axis a with n voxels is
``cos(pi * k * (2 i + 1) / (2 n))``, not normalised. Coefficients are taken in the order of
``sum_a (k_a / n_a)^2`` (ties: in row-major order of k), as many as the section holds. They are
signed bytes times one float32 step; the first is the mean and takes two bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.stream.wire import Reader, Writer

MAX_TERMS = 4096
# Frequencies per axis that are ever used, by number of axes.
MAX_FREQUENCY = (0, 4096, 512, 64, 24)
# Numbers that evaluating single voxels may take at once; and places of a grid, for each voxel, that
# are evaluated rather than those voxels alone.
_PIECE, _FILLED = 1 << 20, 16


def orders(shape: Sequence[int], terms: int) -> Int64Array:
    """Return the frequencies (terms, axes) in canonical order, fewer if the chunk has fewer."""
    # A term comes after every other whose frequencies are all at most its own, so that only those
    # with prod(k + 1) <= terms can be among the first ones: far fewer than the whole grid.
    flat = np.zeros((1, 0), np.int64)
    below = np.ones(1, np.int64)
    for n in shape:
        limits = np.minimum(min(n, MAX_FREQUENCY[len(shape)]), terms // below)
        ends = np.cumsum(limits)
        k = np.arange(ends[-1]) - np.repeat(ends - limits, limits)
        flat = np.column_stack([np.repeat(flat, limits, axis=0), k])
        below = np.repeat(below, limits) * (k + 1)
    keys = np.zeros(len(flat))
    for axis, n in enumerate(shape):  # plain additions in axis order: ties are part of the format
        keys += (flat[:, axis] / n) ** 2
    return flat[np.argsort(keys, kind="stable")[:terms]]


def _cosine(k: Int64Array | int, index: Int64Array, n: int) -> Float64Array:
    """Return the basis function k of an axis of n voxels, at voxel indices."""
    return np.asarray(np.cos(np.pi * k * (2 * index + 1) / (2 * n)))


def fit(unit: Float32Array, weight: Float32Array | None, size: int) -> bytes:
    """Return the COSINE section, of at most ``size`` bytes, that best fits a volume.

    Parameters
    ----------
    unit : float32 array
        Normalised voxels.
    weight : float32 array of the same shape, or None
        Voxels of weight 0 are first set to the mean of the others.
    size : int
        Bytes at hand; at least 6.
    """
    mean = float(np.average(unit, weights=weight))
    values = unit.astype(np.float64) - mean
    if weight is not None:
        values[weight == 0] = 0
    k = orders(unit.shape, min(MAX_TERMS, size - 5))
    needed = k.max(axis=0) + 1
    spectrum: Float64Array = values
    for axis, n in enumerate(unit.shape):
        rows = _cosine(np.arange(needed[axis])[:, None], np.arange(n), n) * (2 / n)
        rows[0] /= 2
        spectrum = np.moveaxis(np.tensordot(rows, spectrum, axes=(1, axis)), 0, axis)
    coefficients = spectrum[tuple(k.T)]
    coefficients[0] += mean
    step = max(float(np.abs(coefficients[1:]).max(initial=0)) / 127, mean / 32767, 2**-40)
    step32 = float(np.float32(step * (1 + 1e-6)))
    integers = np.rint(coefficients / step32).astype(np.int64)
    out = Writer().f32(step32).u16(int(integers[0]) & 0xFFFF)
    return out.raw(integers[1:].astype(np.int8).tobytes()).getvalue()


def read(data: bytes, shape: Sequence[int]) -> Float64Array:
    """Return the coefficients of a COSINE section, one axis of frequencies per axis of the box.

    Parameters
    ----------
    data : bytes
        The section.
    shape : sequence of int
        Voxels of the box, singleton axes dropped.

    Raises
    ------
    TruncatedPayload, CorruptPayload
        If the section is malformed or holds more terms than the chunk has.
    """
    if not 1 <= len(shape) < len(MAX_FREQUENCY):
        raise CorruptPayload(
            f"cosine: {len(shape)} axes longer than 1 are not in 1..{len(MAX_FREQUENCY) - 1}"
        )
    reader = Reader(data, "COSINE")
    step = reader.f32()
    mean = reader.u16()
    rest = np.frombuffer(reader.take(reader.remaining), np.int8)
    terms = len(rest) + 1
    if not 0 < step < np.inf or terms > MAX_TERMS:
        raise CorruptPayload(f"cosine: {terms} terms (at most {MAX_TERMS}) of step {step}")
    k = orders(shape, terms)
    if len(k) < terms:
        raise CorruptPayload(f"cosine: {terms} terms where the chunk has {len(k)}")
    signed = mean - 65536 if mean >= 32768 else mean
    coefficients = np.zeros(k.max(axis=0) + 1)
    coefficients[tuple(k.T)] = np.concatenate([[signed], rest]).astype(np.float64) * step
    return coefficients


def _evaluate(
    coefficients: Float64Array, shape: Sequence[int], axes: Sequence[Int64Array], pointwise: bool
) -> Float32Array:
    """Sum the terms axis by axis, the same operations for every voxel however it is asked for."""
    values = coefficients
    for axis, n in enumerate(shape):
        spread = values if pointwise and axis > 0 else values[..., None]
        index = np.asarray(axes[axis], np.int64)
        values = spread[0] * _cosine(0, index, n)
        for k in range(1, len(spread)):
            values += spread[k] * _cosine(k, index, n)
    with np.errstate(over="ignore"):  # steps that no encoder writes
        return values.astype(np.float32)


def evaluate_points(
    coefficients: Float64Array, shape: Sequence[int], points: Sequence[Int64Array]
) -> Float32Array:
    """Return the values (n,) of coefficients at voxels given by one index array per axis.

    Where they nearly fill a grid, as those of a mask do, all of that is evaluated; others in
    pieces, since each takes memory for the coefficients of all axes but the first.
    """
    found = [np.unique(p, return_inverse=True) for p in points]
    if math.prod(len(index) for index, _ in found) <= _FILLED * len(points[0]):
        grid = evaluate_grid(coefficients, shape, [index for index, _ in found])
        return grid[tuple(place for _, place in found)]
    out = np.empty(len(points[0]), np.float32)
    step = max(1, _PIECE // math.prod(coefficients.shape[1:]))
    for at in range(0, len(out), step):
        some = [p[at : at + step] for p in points]
        out[at : at + step] = _evaluate(coefficients, shape, some, pointwise=True)
    return out


def evaluate_grid(
    coefficients: Float64Array, shape: Sequence[int], axes: Sequence[Int64Array]
) -> Float32Array:
    """Return the values of coefficients on the outer product of voxel indices."""
    return _evaluate(coefficients, shape, axes, pointwise=False)
