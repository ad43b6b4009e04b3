"""The post-filter that brings decoded values nearest to what was encoded, for its bytes.

Least squares: with the weights of a term held, the strengths and the tone are linear, and the other
way round; a few turns from the best start settle both. All is done on the normal equations of a
sample of voxels, in which the full product of strengths and weights is linear too. A few
structures, from a tone alone to both terms over twelve knots, are solved and rounded; the one with
the least squared error plus price of its bytes is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.fit.normal_equations import (
    ACTIVITIES,
    Normal,
    normal_equations,
    sum_of_squares,
)
from tinc_codec.stream.residual.filters import postfilter
from tinc_codec.stream.residual.filters.filtering import SIDES
from tinc_codec.stream.residual.filters.postfilter import (
    MOST_EXPONENT,
    VALUE_UNIT,
    WEIGHT_UNIT,
    Curve,
    PostFilter,
    Term,
    axes_filtered,
    neighbours,
)
from tinc_codec.threads import each

_KNOTS, _FEW_KNOTS = 12, 6
# Quantiles of the values at which their curves have knots, before the widest gaps are halved.
_QUANTILES = (0, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 1)
# Voxels of the sample: a part of all, at least and at most.
_SAMPLED_PART, _FEWEST, _MOST = 16, 1 << 16, 1 << 17
# Numbers between the rows of a stencil.
_APART = 16
_TURNS = 12
# Bits of curves and weights that are tried.
_BITS = (8, 6, 5, 4)


def choose(
    said: Float32Array,
    unit: Float32Array,
    weight: Float32Array | None,
    price: float,
    like: PostFilter | None = None,
) -> PostFilter | None:
    """Return the best filter of decoded values; None where none is worth its bytes.

    Parameters
    ----------
    said, unit : float32 arrays, 1 to 4 axes
        What the payload says, not yet filtered, and what it should say.
    weight : float32 array or None
        What each voxel's squared error weighs; None: 1.
    price : float
        The squared error, weighted and summed over all voxels, that a byte is worth.
    like : PostFilter, optional
        Of a coding much like this one: a filter with the same terms is returned, of as many bytes
        at most.
    """
    voxels = _sample(unit.size, weight)
    wanted = (unit.reshape(-1)[voxels] - said.reshape(-1)[voxels]).astype(np.float64)
    squares = sum_of_squares(wanted)
    if squares == 0:
        return None
    stencil = _stencil(said, voxels)
    knots = _knots(stencil[0], _KNOTS)
    finest = _exponent(0.5 * math.sqrt(squares / len(voxels)))
    taps = (len(stencil) - 1) // 2
    normal = normal_equations(stencil, wanted, taps, knots, finest)
    shown = counted(unit.size, weight)
    most = math.inf if like is None else len(postfilter.to_bytes(like))
    best, least = None, squares / len(voxels)
    for few, by_activity, by_value in _structures(like):
        structure = _structure(len(normal.wanted), taps, knots, few, by_activity, by_value)
        weights = _solved(normal, structure, taps)
        for bits in _BITS:
            found, error = _rounded_filter(normal, structure, weights, finest, bits)
            size = len(postfilter.to_bytes(found))
            cost = error + price * size / shown
            if cost < least and size <= most:
                best, least = found, cost
    return best


def _structures(like: PostFilter | None) -> list[tuple[bool, bool, bool]]:
    """Return which are tried: with few knots, with terms by activity and by value, or without."""
    if like is None:
        return [(few, a, v) for few, a, v in product((True, False), repeat=3)]
    few = len(like.knots) <= _FEW_KNOTS
    return [(few, like.by_activity is not None, like.by_value is not None)]


def counted(size: int, weight: Float32Array | None) -> float:
    """Return how many voxels there are, each counted by what it weighs."""
    return size if weight is None else float(weight.sum())


def _sample(size: int, weight: Float32Array | None) -> Int64Array:
    """Return voxels, in order, as often as they weigh: one of each of runs of equal weight."""
    count = size if weight is None else int(np.count_nonzero(weight))
    wanted = min(max(size // _SAMPLED_PART, _FEWEST), _MOST, count)
    rng = np.random.default_rng(0)
    if weight is None:
        starts = np.arange(wanted + 1) * count // max(wanted, 1)
        return rng.integers(starts[:-1], starts[1:])
    reached = np.cumsum(weight, dtype=np.float64)
    drawn = (np.arange(wanted) + rng.random(wanted)) * (reached[-1] / wanted)
    places: Int64Array = np.searchsorted(reached, drawn, side="right")
    return np.minimum(places, size - 1)


def _stencil(said: Float32Array, voxels: Int64Array) -> Float32Array:
    """Return voxels, one row, and their neighbours, two rows for each tap."""
    flat = said.reshape(-1)
    places = np.unravel_index(voxels, said.shape)
    first = said.ndim - axes_filtered(said.ndim)
    # Rows a power of two apart would be in each other's way in a cache.
    rows = np.empty((1 + SIDES * (said.ndim - first), len(voxels) + _APART), np.float32)
    stencil = rows[:, : len(voxels)]
    stencil[0] = flat[voxels]
    for axis in range(first, said.ndim):
        apart = math.prod(said.shape[axis + 1 :])
        here = places[axis].astype(np.int64)
        shifts = neighbours(here, said.shape[axis])[1:] - here
        rows = stencil[1 + SIDES * (axis - first) :]

        def look_up(
            k: int, apart: int = apart, shifts: Int64Array = shifts, rows: Float32Array = rows
        ) -> None:
            flat.take(voxels + apart * shifts[k], out=rows[k], mode="clip")

        each(look_up, range(SIDES))
    return stencil


def _knots(values: Float32Array, count: int) -> tuple[int, ...]:
    """Return knots at quantiles of the values, the widest gaps between them halved."""
    at = np.quantile(np.clip(values, 0, 1), _QUANTILES) * VALUE_UNIT
    found = sorted(set(np.rint(at).astype(int).tolist()))
    if len(found) < 2:
        found = [found[0], found[0] + 1] if found[0] < VALUE_UNIT else [found[0] - 1, found[0]]
    while len(found) < count:
        gap, k = max((b - a, -k) for k, (a, b) in enumerate(pairwise(found)))
        if gap < 2:
            break
        found.insert(1 - k, (found[-k] + found[1 - k]) // 2)
    return tuple(found)


def _exponent(size: float) -> int:
    """Return e for the power of two 2**-e nearest to a size."""
    return min(max(-round(math.log2(max(size, 2.0**-MOST_EXPONENT))), 0), MOST_EXPONENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Structure:
    """Which terms a filter has, and which of the knots over the value.

    Attributes
    ----------
    knots : tuple of int
        Those kept.
    tone : (n, kept) float64
        What a knot kept says in the normal equations, for the tone.
    gates : list of (places, knots) float64
        Of each term: what a knot of its strength says at the knots of the normal equations.
    starts : list of int
        Where each term starts in the normal equations.
    """

    knots: tuple[int, ...]
    tone: Float64Array
    gates: list[Float64Array]
    starts: list[int]

    def solve(self, normal: Normal, blocks: list[Float64Array]) -> list[Float64Array]:
        """Return the best tone, and of each term's block of directions the best combination."""
        columns = self.columns(blocks)
        found = normal.solve(columns, len(self.knots))
        ends = np.cumsum([len(self.knots), *(block.shape[1] for block in blocks)])
        return np.split(found, ends[:-1])

    def columns(self, blocks: list[Float64Array]) -> Float64Array:
        """Return directions in the normal equations: of the tone, then of each term's block."""
        placed = [self.tone]
        for start, block in zip(self.starts, blocks, strict=True):
            whole = np.zeros((len(self.tone), block.shape[1]))
            whole[start : start + len(block)] = block
            placed.append(whole)
        return np.concatenate(placed, axis=1)

    def with_weights(self, weights: list[Float64Array]) -> list[Float64Array]:
        """Return the directions of strengths, weights being held."""
        pairs = zip(self.gates, weights, strict=True)
        return [_product(gate, own[:, None]) for gate, own in pairs]

    def with_strengths(self, strengths: list[Float64Array], taps: int) -> list[Float64Array]:
        """Return the directions of weights, strengths being held."""
        pairs = zip(self.gates, strengths, strict=True)
        return [_product((gate @ own)[:, None], np.eye(taps)) for gate, own in pairs]


def _product(a: Float64Array, b: Float64Array) -> Float64Array:
    """Return the Kronecker product of two matrices; numpy's own takes five times as long."""
    product = a[:, None, :, None] * b[None, :, None, :]
    return product.reshape(len(a) * len(b), -1)


def _structure(
    size: int, taps: int, knots: tuple[int, ...], few: bool, by_activity: bool, by_value: bool
) -> _Structure:
    """Return a structure; ``knots`` are those of the normal equations, ``size`` of them."""
    fewer = np.rint(np.linspace(0, len(knots) - 1, _FEW_KNOTS)).astype(int).tolist()
    kept = sorted(set(fewer)) if few else list(range(len(knots)))
    at = np.array(knots, np.float32)
    between = np.stack([np.interp(at, at[kept], row) for row in np.eye(len(kept))], axis=1)
    tone = np.zeros((size, len(kept)))
    tone[size - len(knots) :] = between
    return _Structure(
        knots=tuple(knots[k] for k in kept),
        tone=tone,
        gates=[np.eye(ACTIVITIES)] * by_activity + [between] * by_value,
        starts=[0] * by_activity + [taps * ACTIVITIES] * by_value,
    )


def _solved(normal: Normal, structure: _Structure, taps: int) -> list[Float64Array]:
    """Return the best weights of each term, the largest of each 1: in turns with strengths."""
    strengths = [np.ones(gate.shape[1]) for gate in structure.gates]
    weights: list[Float64Array] = []
    for _ in range(_TURNS if structure.gates else 0):
        found = structure.solve(normal, structure.with_strengths(strengths, taps))
        weights = [own / max(float(np.abs(own).max()), 1e-12) for own in found[1:]]
        strengths = structure.solve(normal, structure.with_weights(weights))[1:]
    return weights


def _rounded_filter(
    normal: Normal, structure: _Structure, weights: list[Float64Array], finest: int, bits: int
) -> tuple[PostFilter, float]:
    """Return the filter of some weights in integers of some bits, 8 at most.

    And the mean squared error that it leaves. Strengths and tone are solved again with the weights
    as they are stored.
    """
    most, unit = (1 << (bits - 1)) - 1, 1 << (8 - bits)
    stored = [unit * np.rint(most * own).astype(int) for own in weights]
    blocks = structure.with_weights([own / WEIGHT_UNIT for own in stored])
    curves = [_rounded(part, most) for part in structure.solve(normal, blocks)]
    terms = [
        Term(strength=curve, weights=tuple(own.tolist()))
        for curve, own in zip(curves[1:], stored, strict=True)
    ]
    by_activity, by_value = 0 in structure.starts, any(structure.starts)
    found = PostFilter(
        knots=structure.knots,
        tone=curves[0],
        by_activity=terms[0] if by_activity else None,
        by_value=terms[-1] if by_value else None,
        finest=finest if by_activity else 0,
    )
    solution = np.concatenate([curve.values() for curve in curves])
    return found, normal.error(structure.columns(blocks) @ solution)


def _rounded(values: Float64Array, most: int) -> Curve:
    """Return a curve of integers up to ``most``, as fine as its largest value allows."""
    largest = float(np.abs(values).max(initial=0))
    exponent = math.floor(math.log2(most / largest)) if largest > 0 else MOST_EXPONENT
    exponent = min(max(exponent, 0), MOST_EXPONENT)
    integers = np.clip(np.rint(values * 2.0**exponent), -most, most).astype(int)
    return Curve(exponent=exponent, integers=tuple(integers.tolist()))
