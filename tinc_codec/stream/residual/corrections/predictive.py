"""The CORRECTION section: an integer field within a bound, every element of it, on every machine.

Three modes, of which the encoder keeps the smallest: nothing is predicted, for fields that are
nearly all within the bound of 0 (what a good approximation leaves); each element is predicted from
those before it; coarse lattices first, finer ones interpolated. The weights of predictions are
fitted to the field by least squares and stored; from there on, integers only. FORMAT.md has it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float64Array, Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run, even_parts
from tinc_codec.stream.residual.coder import binary, mixing
from tinc_codec.stream.residual.corrections import differences
from tinc_codec.stream.residual.corrections.differences import COUNTED, WEIGHT_BITS
from tinc_codec.stream.wire import Reader, Writer

Shape = tuple[int, int, int]
Window = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Offsets = tuple[tuple[int, int, int], ...]

AXES = 3
SPARSE, CAUSAL, INTERPOLATED = 0, 1, 2
# Fields and bounds are below this in magnitude.
LIMIT = 1 << 33
WEIGHT_LIMIT = 1 << 13
MOST_LEVELS = 5

_NAME = "CORRECTION section"
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
# Bytes for each element that a slab's buffer starts with.
_BUFFER = 9

# Neighbours of an element, nearest first, in units of the lattice.
_BEFORE: Offsets = (
    (0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, -1, -1), (0, -1, 1), (-1, 0, -1), (-1, 0, 1),
    (-1, -1, 0), (-1, 1, 0), (0, 0, -2), (0, -2, 0), (-2, 0, 0), (-1, -1, -1), (-1, -1, 1),
    (-1, 1, -1), (-1, 1, 1), (0, -1, -2), (0, -1, 2),
)  # fmt: skip
# Of one that is interpolated along z; y; x.
_BETWEEN: tuple[Offsets, ...] = (
    (
        (-1, 0, 0), (1, 0, 0), (0, 0, -2), (0, -2, 0), (-1, 0, -2), (-1, 0, 2), (1, 0, -2),
        (1, 0, 2), (-1, -2, 0), (-1, 2, 0), (1, -2, 0), (1, 2, 0), (-3, 0, 0), (3, 0, 0),
        (-2, 0, 0), (0, -2, -2), (0, -2, 2),
    ),
    (
        (0, -1, 0), (0, 1, 0), (-1, 0, 0), (0, 0, -2), (0, -1, -2), (0, -1, 2), (0, 1, -2),
        (0, 1, 2), (-1, -1, 0), (-1, 1, 0), (1, -1, 0), (1, 1, 0), (0, -3, 0), (0, 3, 0),
        (0, -2, 0), (-1, 0, -2), (-1, 0, 2),
    ),
    (
        (0, 0, -1), (0, 0, 1), (0, -1, 0), (-1, 0, 0), (0, -1, -1), (0, -1, 1), (-1, 0, -1),
        (-1, 0, 1), (0, 1, -1), (0, 1, 1), (1, 0, -1), (1, 0, 1), (0, 0, -3), (0, 0, 3),
        (0, 0, -2), (-1, -1, 0), (-1, 1, 0),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lattice:
    """Elements that are coded in one go.

    Attributes
    ----------
    first, stride : (3,) int64
        Where they are.
    neighbours : (n, 3) int64
        Of each of them.
    fitted : int
        Number of its set of weights; -1: all are 0.
    """

    first: Int64Array
    stride: Int64Array
    neighbours: Int64Array
    fitted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """All that is before the data of the slabs."""

    mode: int
    bound: int
    lowest: int
    highest: int
    weights: tuple[Int64Array, ...]


def _lattice(
    first: Sequence[int], stride: Sequence[int], near: Offsets, unit: int, fitted: int
) -> _Lattice:
    return _Lattice(
        first=np.array(first, np.int64) * unit, stride=np.array(stride, np.int64) * unit,
        neighbours=np.array(near, np.int64) * unit, fitted=fitted,
    )  # fmt: skip


def _lattices(mode: int, shape: Sequence[int]) -> list[_Lattice]:
    """Return the lattices of a slab in coding order."""
    if mode == CAUSAL:
        return [_lattice((0, 0, 0), (1, 1, 1), _BEFORE, 1, 0)]
    levels = 0
    while levels < MOST_LEVELS and 2 << levels < max(shape):
        levels += 1
    found = [_lattice((0, 0, 0), (1, 1, 1), _BEFORE, 1 << levels, -1)]
    for level in reversed(range(levels)):
        coarse = AXES if level else 0
        for axis in range(AXES):
            first = [int(k == axis) for k in range(AXES)]
            stride = [1 if k < axis else 2 for k in range(AXES)]
            found.append(_lattice(first, stride, _BETWEEN[axis], 1 << level, coarse + axis))
    return found


def _sets(mode: int) -> list[int]:
    """Return how many weights each set has."""
    if mode == SPARSE:
        return []
    return [len(_BEFORE) - 1] if mode == CAUSAL else [len(_BETWEEN[0]) - 1] * (2 * AXES)


# Fitting the weights.


def _samples(field: Int64Array, lattice: _Lattice, most: int) -> tuple[Float64Array, Float64Array]:
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


def _fit(field: Int64Array, lattice: _Lattice, bound: int, samples: int) -> Int64Array:
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


def _fit_all(
    field: Int64Array, mode: int, bound: int, samples: int = _SAMPLES
) -> tuple[Int64Array, ...]:
    """Return the sets of weights of a mode: those of the coarse levels from the last of them."""
    found = [np.zeros(n, np.int64) for n in _sets(mode)]
    if mode != SPARSE:
        last = {lattice.fitted: lattice for lattice in _lattices(mode, field.shape)}
        for fitted, lattice in last.items():
            if fitted >= 0:
                found[fitted] = _fit(field, lattice, bound, samples)
    return tuple(found)


# Coding.


def _new_model() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]:
    weights = np.full((differences.ROWS, mixing.INPUTS), differences.FIRST_WEIGHT, np.int32)
    return np.full(differences.SLOTS, mixing.EVEN, np.uint32), weights


def _blocks_of(field: Int64Array, bound: int) -> npt.NDArray[np.uint8]:
    """Return which blocks of a field are not all within the bound."""
    side = 1 << differences.BLOCK_SHIFT
    large = np.pad(np.abs(field) > bound, [(0, -n % side) for n in field.shape])
    a, b, c = (n // side for n in large.shape)
    return np.asarray(large.reshape(a, side, b, side, c, side).any(axis=(1, 3, 5)), np.uint8)


def _with_neighbours(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return 0 for a block that is 0, else 1 plus the blocks beside it that are not."""
    count = np.ones(blocks.shape, np.uint8)
    for axis in range(AXES):
        lower = tuple(slice(None, -1) if k == axis else slice(None) for k in range(AXES))
        upper = tuple(slice(1, None) if k == axis else slice(None) for k in range(AXES))
        count[lower] += blocks[upper]
        count[upper] += blocks[lower]
    found: npt.NDArray[np.uint8] = np.where(blocks, count, 0).astype(np.uint8)
    return found


def _code(
    header: _Header,
    field: Int64Array,
    out: Int64Array,
    data: npt.NDArray[np.uint8],
    *,
    decoding: bool,
) -> int:
    """Code a slab; return its bytes, -1 if the data were too short."""
    coder = binary.started(data, *_new_model(), decoding=decoding)
    scratch = np.zeros((differences.SCRATCH, differences.MOST_NEIGHBOURS), np.int64)
    depth, height, width = out.shape
    coded = differences.Field(
        shape=(depth, height, width), wanted=field.reshape(-1), known=out.reshape(-1),
        own=np.zeros(out.size, np.int16), bound=header.bound, lowest=header.lowest,
        highest=header.highest,
    )  # fmt: skip
    if header.mode == SPARSE:
        blocks = np.zeros([(n + 3) >> differences.BLOCK_SHIFT for n in out.shape], np.uint8)
        if not decoding:
            blocks = _blocks_of(field, header.bound)
        near = np.array(_BEFORE[:COUNTED], np.int64)
        whole = differences.code_blocks(coder, blocks) and differences.code_sparse(
            coder, coded, _with_neighbours(blocks), near, scratch
        )
    else:
        whole = True
        for lattice in _lattices(header.mode, out.shape):
            weights = np.zeros(len(lattice.neighbours), np.int64)
            if lattice.fitted >= 0:
                weights[1:] = header.weights[lattice.fitted]
            points = differences.Lattice(
                first=lattice.first, stride=lattice.stride, neighbours=lattice.neighbours,
                weights=weights,
            )  # fmt: skip
            biases = np.zeros(differences.BIASES, np.int64)
            whole = whole and differences.code_lattice(coder, coded, points, scratch, biases)
    if not whole:
        return -1
    return int(coder.state[binary.AT]) if decoding else binary.finish(coder)


def _encode_slab(header: _Header, field: Int64Array) -> bytes:
    """Return the data of a slab, from a buffer that grows until they fit."""
    most = _BUFFER * field.size + 64
    out = np.zeros(field.shape, np.int64)
    while True:
        data = np.zeros(most, np.uint8)
        size = _code(header, field, out, data, decoding=False)
        if 0 <= size <= most:
            return data[:size].tobytes()
        most *= 2
        out[:] = 0


def _modes(field: Int64Array, bound: int) -> list[int]:
    """Return the modes that may be the smallest."""
    within = float(np.mean(np.abs(field) <= bound))
    if within > _SURELY_SPARSE:
        return [SPARSE]
    return [SPARSE, CAUSAL, INTERPOLATED] if within > _MAYBE_SPARSE else [CAUSAL, INTERPOLATED]


def _best(headers: Sequence[_Header], field: Int64Array, run: Run) -> tuple[_Header, int]:
    """Return the header whose mode takes the fewest bytes, and how many slabs to cut the field in.

    Judged by the planes in the middle.
    """
    depth = len(field)
    most = depth // _SLAB_DEPTH
    if most < 2 and len(headers) == 1:
        return headers[0], 1
    planes = min(depth, max(depth // _TRIAL, _TRIAL_DEPTH))
    trial = field[(depth - planes) // 2 :][:planes]
    sizes = list(run(lambda header: len(_to_bytes(header, [_encode_slab(header, trial)])), headers))
    size = min(sizes)
    wanted = max(round(field.size / _SLAB_SIZE), size * depth // (planes * _SLAB_BYTES))
    return headers[sizes.index(size)], max(1, min(most, wanted))


def encode(field: npt.NDArray[np.int64], bound: int, *, run: Run = map) -> bytes:
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
        _Header(
            mode=mode, bound=bound, lowest=lowest, highest=highest,
            weights=_fit_all(field, mode, bound),
        )
        for mode in _modes(field, bound)
    ]  # fmt: skip
    header, count = _best(headers, field, run)
    slabs = [field[a:b] for a, b in even_parts(len(field), count)]
    return _to_bytes(header, list(run(lambda slab: _encode_slab(header, slab), slabs)))


def foretold(field: npt.NDArray[np.int64], bound: int) -> int:
    """Return about how many bytes a small field takes; arguments as of :func:`encode`.

    In little time: fields are interpolated by none, and weights fitted to few samples.
    """
    sizes = []
    for mode in set(_modes(field, bound)) - {INTERPOLATED}:
        weights = _fit_all(field, mode, bound, _FEW_SAMPLES)
        header = _Header(
            mode=mode, bound=bound, lowest=int(field.min()), highest=int(field.max()),
            weights=weights,
        )  # fmt: skip
        sizes.append(len(_encode_slab(header, np.ascontiguousarray(field))))
    return min(sizes)


def decode(
    data: bytes, shape: Sequence[int], *, window: Window | None = None, run: Run = map
) -> npt.NDArray[np.int64]:
    """Return a field, or a window of it.

    Takes 10 bytes of memory for each element of the slabs that the window touches.

    Parameters
    ----------
    data : bytes
        Of a CORRECTION section.
    shape : sequence of int
        Of the field: z, y, x, 1 or more each.
    window : pairs of int
        First and last (exclusive) element along each axis; all by default.
    run : callable
        Maps a function over items, on threads perhaps.

    Returns
    -------
    (z, y, x) int64

    Raises
    ------
    CorruptPayload
        If the header is out of its range, or a slab's data end before its elements do.
    TruncatedPayload
        If the data end before the header and its lengths say.
    """
    depth, height, width = shape
    header, coded = _from_bytes(data, depth)
    (z0, z1), (y0, y1), (x0, x1) = window or ((0, depth), (0, height), (0, width))
    slabs = [
        (slab, part)
        for slab, part in zip(even_parts(depth, len(coded)), coded, strict=True)
        if slab[0] < z1 and z0 < slab[1]
    ]
    if not slabs:
        return np.zeros((max(z1 - z0, 0), y1 - y0, x1 - x0), np.int64)
    top = slabs[0][0][0]
    out = np.zeros((slabs[-1][0][1] - top, height, width), np.int64)

    def decode_slab(job: tuple[tuple[int, int], bytes]) -> None:
        (a, b), part = job
        wanted = out[a - top : b - top]
        segment = np.frombuffer(part, np.uint8).copy()
        if _code(header, wanted, wanted, segment, decoding=True) < 0:
            raise CorruptPayload(
                f"{_NAME}: the {len(part)} bytes of planes {a} to {b - 1} end before the elements "
                "do"
            )

    list(run(decode_slab, slabs))
    whole = (slice(0, height), slice(0, width)) == (slice(y0, y1), slice(x0, x1))
    part = out[z0 - top : z1 - top]
    return part if whole else np.ascontiguousarray(part[:, y0:y1, x0:x1])


def check(data: bytes, shape: Sequence[int]) -> None:
    """Refuse a section whose header is not sound; arguments and errors as of :func:`decode`."""
    _from_bytes(data, shape[0])


# Bytes.


def _zigzag(n: int) -> int:
    return 2 * n if n >= 0 else -2 * n - 1


def _unzigzag(n: int) -> int:
    return -(n + 1 >> 1) if n & 1 else n >> 1


def _to_bytes(header: _Header, slabs: Sequence[bytes]) -> bytes:
    out = Writer().u8(header.mode).varint(header.bound)
    out.varint(_zigzag(header.lowest)).varint(header.highest - header.lowest).varint(len(slabs))
    for weights in header.weights:
        for weight in weights:
            out.varint(_zigzag(int(weight)))
    for slab in slabs[:-1]:
        out.varint(len(slab))
    for slab in slabs:
        out.raw(slab)
    return out.getvalue()


def _from_bytes(data: bytes, depth: int) -> tuple[_Header, list[bytes]]:
    """Return the header, and the data of each slab."""
    reader = Reader(data, _NAME)
    mode, bound = reader.u8(), reader.varint()
    if mode > INTERPOLATED or bound >= LIMIT:
        raise CorruptPayload(
            f"{_NAME}: mode {mode} (at most {INTERPOLATED}), bound {bound} (below 2**33)"
        )
    lowest = _unzigzag(reader.varint())
    highest = lowest + reader.varint()
    count = reader.varint()
    if max(-lowest, highest) >= LIMIT or not 1 <= count <= depth:
        raise CorruptPayload(
            f"{_NAME}: values {lowest} to {highest} (below 2**33 in magnitude), {count} slabs of "
            f"{depth} planes"
        )
    weights = tuple(
        np.array([_unzigzag(reader.varint()) for _ in range(n)], np.int64) for n in _sets(mode)
    )
    if any((np.abs(w) >= WEIGHT_LIMIT).any() for w in weights):
        raise CorruptPayload(f"{_NAME}: a weight is {WEIGHT_LIMIT} or more")
    lengths = tuple(reader.varint() for _ in range(count - 1))
    slabs = [reader.take(n) for n in lengths]
    slabs.append(reader.take(reader.remaining))
    header = _Header(mode=mode, bound=bound, lowest=lowest, highest=highest, weights=weights)
    return header, slabs
