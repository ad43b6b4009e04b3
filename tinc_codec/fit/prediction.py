"""How an integer field is predicted: the weights by least squares, the mode, how many slabs.

The encoder's side of the CORRECTION section; stream/residual/corrections has what is stored and how
it is coded. Of the modes that may be the smallest the one that is so on some planes is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinc_codec.array_types import Float64Array, Int64Array
from tinc_codec.parallel import Run, even_parts
from tinc_codec.stream.residual.axes import AXES
from tinc_codec.stream.residual.corrections import slabs
from tinc_codec.stream.residual.corrections.differences import WEIGHT_BITS
from tinc_codec.stream.residual.corrections.header import LIMIT, WEIGHT_LIMIT, Header, to_bytes
from tinc_codec.stream.residual.corrections.lattices import (
    CAUSAL,
    INTERPOLATED,
    SPARSE,
    Lattice,
    lattices,
    set_sizes,
)

# A slab has about this many bytes of data, or as many elements, and these planes at least. What it
# has to learn anew takes up to 0.5 % more; slabs are decoded side by side, or left alone.
_SLAB_BYTES, _SLAB_SIZE, _SLAB_DEPTH = 1 << 17, 1 << 20, 16
# Where more of the field than this is within the bound of 0: sparse is tried; nothing else is.
_MAYBE_SPARSE, _SURELY_SPARSE = 0.5, 0.98
_SAMPLES, _FEW_SAMPLES = 1 << 14, 1 << 11
# The mode is chosen on one in so many planes, in the middle, and on this many at least.
_TRIAL, _TRIAL_DEPTH = 4, 16
_RIDGE = 1e-6
# Samples summed up at once when weights are fitted.
_PIECE = 512


def encode(field: Int64Array, bound: int, *, run: Run = map) -> bytes:
    """Return the data of a CORRECTION section.

    Takes 9 bytes of memory for each element of the field and, of a slab under way, 10 more and its
    data.

    Parameters
    ----------
    field : (z, y, x) int64
        Below 2**33 in magnitude.
    bound : int
        Largest error of any element; 0: none, lossless. Below 2**33.
    run : callable
        Maps a function over items, on threads perhaps; the bytes are the same.

    Raises
    ------
    ValueError
        If the field or the bound is beyond its limits, or the field is empty.
    """
    if field.ndim != AXES or field.size == 0:
        raise ValueError(f"a field has {AXES} axes and is not empty; got shape {field.shape}")
    field = np.ascontiguousarray(field, np.int64)
    lowest, highest = int(field.min()), int(field.max())
    if max(-lowest, highest) >= LIMIT or not 0 <= bound < LIMIT:
        raise ValueError(f"field {lowest} to {highest}, bound {bound}: all are to be below 2**33")
    headers = [
        Header(
            mode=mode, bound=bound, lowest=lowest, highest=highest,
            weights=fit_weights(field, mode, bound),
        )
        for mode in _modes(field, bound)
    ]  # fmt: skip
    header, count = _best(headers, field, run)
    parts = [field[a:b] for a, b in even_parts(len(field), count)]
    return to_bytes(header, list(run(lambda part: slabs.encode(header, part), parts)))


def foretold(field: Int64Array, bound: int) -> int:
    """Return about how many bytes a small field takes; arguments as of :func:`encode`.

    In little time: fields are interpolated by none, and weights fitted to few samples.
    """
    sizes = []
    for mode in set(_modes(field, bound)) - {INTERPOLATED}:
        weights = fit_weights(field, mode, bound, _FEW_SAMPLES)
        header = Header(
            mode=mode, bound=bound, lowest=int(field.min()), highest=int(field.max()),
            weights=weights,
        )  # fmt: skip
        sizes.append(len(slabs.encode(header, np.ascontiguousarray(field))))
    return min(sizes)


def _modes(field: Int64Array, bound: int) -> list[int]:
    """Return the modes that may be the smallest."""
    within = float(np.mean(np.abs(field) <= bound))
    if within > _SURELY_SPARSE:
        return [SPARSE]
    return [SPARSE, CAUSAL, INTERPOLATED] if within > _MAYBE_SPARSE else [CAUSAL, INTERPOLATED]


def _best(headers: Sequence[Header], field: Int64Array, run: Run) -> tuple[Header, int]:
    """Return the header whose mode takes the fewest bytes, and how many slabs to cut the field in.

    Judged by the planes in the middle.
    """
    depth = len(field)
    most = depth // _SLAB_DEPTH
    if most < 2 and len(headers) == 1:
        return headers[0], 1
    planes = min(depth, max(depth // _TRIAL, _TRIAL_DEPTH))
    trial = field[(depth - planes) // 2 :][:planes]
    sizes = list(run(lambda header: len(to_bytes(header, [slabs.encode(header, trial)])), headers))
    size = min(sizes)
    wanted = max(round(field.size / _SLAB_SIZE), size * depth // (planes * _SLAB_BYTES))
    return headers[sizes.index(size)], max(1, min(most, wanted))


def fit_weights(
    field: Int64Array, mode: int, bound: int, samples: int = _SAMPLES
) -> tuple[Int64Array, ...]:
    """Return the sets of weights of a mode: those of the coarse levels from the last of them."""
    found = [np.zeros(n, np.int64) for n in set_sizes(mode)]
    if mode != SPARSE:
        last = {lattice.fitted: lattice for lattice in lattices(mode, field.shape)}
        for fitted, lattice in last.items():
            if fitted >= 0:
                found[fitted] = _fit(field, lattice, bound, samples)
    return tuple(found)


def _samples(field: Int64Array, lattice: Lattice, most: int) -> tuple[Float64Array, Float64Array]:
    """Return neighbours (n, samples) and elements (samples,), less the reference."""
    counts = [
        len(range(int(a), n, int(s)))
        for a, n, s in zip(lattice.first, field.shape, lattice.stride, strict=True)
    ]
    size = int(np.prod(counts))
    index = np.arange(size)
    if size > most:  # spread without a period
        index = np.arange(most) * 0x9E3779B1 % size
    place = np.stack(np.unravel_index(index, counts), axis=1) if size else np.zeros((0, AXES), int)
    place = place * lattice.stride + lattice.first
    shape = np.array(field.shape)
    values = []
    missing = []
    for offset in lattice.neighbours:
        there = place + offset
        missing.append(((there < 0) | (there >= shape)).any(axis=1))
        values.append(field[tuple(np.clip(there, 0, shape - 1).T)])
    reference = np.full(len(place), field.min())
    for value, absent in zip(reversed(values), reversed(missing), strict=True):
        reference = np.where(absent, reference, value)
    near = [np.where(m, reference, v) - reference for v, m in zip(values, missing, strict=True)]
    wanted = field[tuple(place.T)] - reference
    return np.array(near[1:], np.float64), wanted.astype(np.float64)


def _fit(field: Int64Array, lattice: Lattice, bound: int, samples: int) -> Int64Array:
    """Return the weights of the least squares, each element's by one over what is around it.

    Decoded neighbours have noise of the bound, independent of each other: it is in the equations.
    """
    near, wanted = _samples(field, lattice, samples)
    n = len(near)
    if near.shape[1] < 8 * n:
        return np.zeros(n, np.int64)
    share = 1 / (np.abs(near[:8]).mean(axis=0) + bound + 0.5)
    noise = bound * (bound + 1) / 3 * share.sum()
    square, right = _weighted_sums(near, share, wanted)
    square += noise * (np.eye(n) + 1)
    square += np.eye(n) * (_RIDGE * np.trace(square) / n + 1e-9)
    weights = np.linalg.solve(square, right + noise)
    whole = np.rint(weights * (1 << WEIGHT_BITS))
    found: Int64Array = np.clip(whole, 1 - WEIGHT_LIMIT, WEIGHT_LIMIT - 1).astype(np.int64)
    return found


def _weighted_sums(
    near: Float64Array, share: Float64Array, wanted: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """Return the weighted sums of products of the neighbours, and of each with what is wanted.

    In pieces that BLAS takes no threads of its own for: sums do not depend on how many there are,
    and no core stays busy with them.
    """
    square, right = np.zeros((len(near), len(near))), np.zeros(len(near))
    for at in range(0, near.shape[1], _PIECE):
        some = near[:, at : at + _PIECE]
        weighted = some * share[at : at + _PIECE]
        square += weighted @ some.T
        right += weighted @ wanted[at : at + _PIECE]
    return square, right
