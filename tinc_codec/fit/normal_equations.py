"""Normal equations of the post-filter's least-squares fit, summed over a sample of voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array
from tinc_codec.compiled import compiled
from tinc_codec.parallel import even_parts
from tinc_codec.stream.residual.filters.filtering import REACH
from tinc_codec.stream.residual.filters.postfilter import activity_knots, value_knots
from tinc_codec.threads import each

# Knots of activity.
ACTIVITIES = 8
# Parts of the sample that threads add up.
_PARTS = 4
# Usual size of strengths and weights.
_USUAL = 1.0
# Weights of the four knots around a voxel in linear interpolation. With a the part of the way from
# the knot of activity below it to the one above, and v that for knots of value, they are 1 - a, a,
# 1 - v and v: each row gives one of them as a sum of 1, a and v.
_GATES = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, -1.0], [0.0, 0.0, 1.0]])
# Products of two of 1, a and v, and which of them each two have.
_PRODUCTS = ("1", "a", "v", "aa", "av", "vv")
_PRODUCT = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


def sum_of_squares(values: Float64Array) -> float:
    """Return the sum of squares.

    By einsum: BLAS would take threads of its own, which go on for a while after, and take a core
    from the threads of other chunks.
    """
    return float(np.einsum("i,i", values, values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Normal:
    """Normal equations of all products of strengths and weights, and of the tone.

    Attributes
    ----------
    matrix, wanted : (n, n) and (n,) float64
        n = taps * (activities + knots) + knots: tap after tap for each knot of activity, then of
        value, then the tone.
    squares : float
        Of the error before.
    count : int
        Voxels of the sample.
    """

    matrix: Float64Array
    wanted: Float64Array
    squares: float
    count: int

    def error(self, solution: Float64Array) -> float:
        """Return the mean squared error that a solution leaves."""
        squares = np.einsum("i,ij,j", solution, self.matrix, solution)  # see sum_of_squares
        left = self.squares - 2 * solution @ self.wanted + squares
        return max(float(left), 0.0) / self.count

    def solve(self, directions: Float64Array, tones: int) -> Float64Array:
        """Return the best combination of some directions, as columns.

        Tones are expected to be as large as errors, strengths and weights of the order of 1: what
        the sample hardly says stays near 0.
        """
        noise = self.squares / self.count
        ridge = np.full(directions.shape[1], noise / _USUAL**2)
        ridge[:tones] = 1.0
        matrix = _projected(self.matrix, directions) + np.diag(ridge)
        wanted = directions.T @ self.wanted
        found: Float64Array
        try:
            found = np.linalg.solve(matrix, wanted)
        except np.linalg.LinAlgError:  # of a sample that is nearly right, or says nothing of some
            found = np.linalg.lstsq(matrix, wanted)[0]
        return found


def normal_equations(
    stencil: Float32Array, wanted: Float64Array, taps: int, knots: tuple[int, ...], finest: int
) -> Normal:
    """Return the normal equations of a sample.

    Parameters
    ----------
    stencil : (1 + 2 taps, n) float32
        Row 0: the voxels; then the neighbours of each tap, before and after.
    wanted : (n,) float64
        What is to be added to each.
    taps : int
        Distances to neighbours, of all axes.
    knots : tuple of int
        Of the curves over the value.
    finest : int
        Activity has knots at 0 and at 2**(k - finest), k = 0, 1, ...
    """
    activities, values = activity_knots(ACTIVITIES, finest), value_knots(knots)
    cells, said = (len(activities) - 1) * (len(values) - 1), taps + 1

    def add_up(part: slice) -> tuple[Float64Array, Float64Array]:
        squares = np.zeros((cells, len(_PRODUCTS), said * (said + 1) // 2))
        right = np.zeros((cells, len(_GATES[0]), said))
        _add_up(stencil[:, part], wanted[part], activities, values, squares, right)
        return squares, right

    # As many parts whatever the number of threads, so that the sums are the same.
    sums = each(add_up, [slice(*ends) for ends in even_parts(len(wanted), _PARTS)])
    squares, right = (np.sum(parts, axis=0) for parts in zip(*sums, strict=True))
    size = taps * (len(activities) + len(values)) + len(values)
    matrix, whole = np.zeros((size, size)), np.zeros(size)
    _place(squares, right, len(activities), len(values), _GATES, _PRODUCT, matrix, whole)
    return Normal(matrix=matrix, wanted=whole, squares=sum_of_squares(wanted), count=len(wanted))


@compiled()
def _between(x: Any, knots: Any) -> Any:
    """Return the knot below x, and the weight of the one above it in linear interpolation."""
    k = 0
    while k < len(knots) - 2 and x >= knots[k + 1]:
        k += 1
    return k, min(max((x - knots[k]) / (knots[k + 1] - knots[k]), 0.0), 1.0)


@compiled()
def _add_up(
    stencil: Any, wanted: Any, activities: Any, values: Any, squares: Any, right: Any
) -> None:
    """Add what voxels say to sums for each cell between knots, of activity then of value.

    What a voxel says at a knot is a gate times a difference of its neighbours to it, or times 1 for
    the tone: ``squares`` are sums of products of each two of these, the lower triangle, times each
    of ``_PRODUCTS``; ``right`` of each, times what is wanted, times 1, a and v.
    """
    taps, count = (len(stencil) - 1) // 2, len(wanted)
    said, pairs = np.ones(taps + 1), np.empty(squares.shape[2])
    shares = np.ones(squares.shape[1])
    for i in range(count):
        own, activity = np.float64(stencil[0, i]), 0.0
        for tap in range(taps):
            before, after = stencil[1 + 2 * tap, i], stencil[2 + 2 * tap, i]
            said[tap] = 0.5 * (before + after) - own
            if tap % REACH == 0:
                activity += abs(before - own) + abs(after - own)
        below, a = _between(activity, activities)
        k, v = _between(own, values)
        shares[1], shares[2], shares[3], shares[4], shares[5] = a, v, a * a, a * v, v * v
        at = 0
        for b in range(taps + 1):
            row, one = pairs[at : at + b + 1], said[b]
            for c in range(len(row)):
                row[c] = one * said[c]
            at += b + 1
        cell = below * (len(values) - 1) + k
        for m in range(len(shares)):
            row, share = squares[cell, m], shares[m]
            for n in range(len(pairs)):
                row[n] += share * pairs[n]
        for m in range(right.shape[1]):
            row, share = right[cell, m], shares[m] * wanted[i]
            for n in range(len(said)):
                row[n] += share * said[n]


@compiled()
def _place(
    squares: Any, right: Any, activities: int, values: int, gates: Any, product: Any, matrix: Any,
    whole: Any,
) -> None:  # fmt: skip
    """Add the sums of cells, see :func:`_add_up`, to the normal equations of all knots."""
    kinds, taps = len(gates), right.shape[2] - 1
    places = np.empty((kinds, taps + 1), np.int64)
    for cell in range(len(squares)):
        below, k = divmod(cell, values - 1)
        for tap in range(taps):
            for above in range(2):
                places[above, tap] = taps * (below + above) + tap
                places[2 + above, tap] = taps * (activities + k + above) + tap
        places[:2, taps] = -1  # a tone over the activity: there is none
        places[2, taps] = taps * (activities + values) + k
        places[3, taps] = places[2, taps] + 1
        for kind, b in np.ndindex(kinds, taps + 1):
            row = places[kind, b]
            if row < 0:
                continue
            for p in range(3):
                whole[row] += gates[kind, p] * right[cell, p, b]
            for other, c in np.ndindex(kinds, taps + 1):
                column = places[other, c]
                if column < 0:
                    continue
                pair = max(b, c) * (max(b, c) + 1) // 2 + min(b, c)
                for p in range(3):
                    for q in range(3):
                        both = gates[kind, p] * gates[other, q]
                        matrix[row, column] += both * squares[cell, product[p, q], pair]


@compiled()
def _projected(matrix: Any, directions: Any) -> Any:
    """Return directions.T @ matrix @ directions, of directions that are mostly 0.

    On this thread alone: the threads of a BLAS get in the way of those that chunks are fitted on.
    """
    size, count = directions.shape
    half, out = np.zeros((count, size)), np.zeros((count, count))
    for j in range(size):
        for a in range(count):
            if directions[j, a] != 0:
                for i in range(size):
                    half[a, i] += directions[j, a] * matrix[j, i]
    for j in range(size):
        for a in range(count):
            if directions[j, a] != 0:
                for b in range(count):
                    out[b, a] += half[b, j] * directions[j, a]
    return out
