"""Integers of a field <-> bits, each as its difference from what its neighbours predict (numba).

The points of one lattice are walked in C order. A prediction is a weighted sum of neighbours that
are known already, on the lattice or off it; the difference, in whole steps, is coded in the context
of the differences there and of how much the neighbours vary. FORMAT.md has the arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from tinc_codec.stream.residual.coder.binary import (
    CODER,
    DECODING,
    code,
    kernel,
    learn,
    mix,
    ran_out,
)
from tinc_codec.stream.residual.coder.mixing import EVEN

# Blocks of 4 x 4 x 4 that a sparse field skips.
BLOCK_SHIFT = 2
# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "be97b0ae"

# Neighbours whose differences count: the first four twice, eight more once.
TWICE, COUNTED = 4, 12
# Binary digits after the point of the weights of a prediction.
WEIGHT_BITS = 10
# Differences are kept up to this for contexts.
CLIP = 32767
# Of no field.
MISSING = np.int64(-1) << 62

_UNARY = 20
_KINDS = 16  # places in the unary code with statistics of their own
_LEVELS = 64
_NEAR = 7
_SHIFTS = 4
# Contexts of the bias: which of the first six neighbours are above, and how much eight vary.
_PATTERN, _SPREAD = 6, 8
BIASES = 64 * 16
# Rows of integers that a coder works in, and their length.
SCRATCH, MOST_NEIGHBOURS = 3, 18
_BIAS_BITS = 6

# Quarter octaves, of integers below 256; more by steps of an octave.
LEVEL = np.array([0, *(int(np.floor(4 * np.log2(n) + 1.5)) for n in range(1, 256))], np.uint8)

# Adaptive probabilities: where the table of each context starts.
_TABLES = (
    _KINDS * _SHIFTS * _LEVELS,  # differences around
    _KINDS * _SHIFTS * _NEAR * _NEAR,  # the nearest two
    _KINDS * _SHIFTS * _NEAR * _NEAR,  # the next two
    _KINDS * _LEVELS * _SHIFTS,  # how much the neighbours vary
    _KINDS * _LEVELS // 2 * _LEVELS // 2,  # both, coarsely
    27 * 8,  # sign
    2 * 40,  # length of a large one
    2 * 40 * 4,  # its digits below the first
    64,  # blocks
)
_START = np.concatenate([[0], np.cumsum(_TABLES)]).astype(np.int64)
SLOTS = int(_START[-1])
ROWS = _KINDS * _SHIFTS
FIRST_WEIGHT = 18000
_LIMIT, _RATE = 250, 3


@kernel(inlined=True)
def _level(n: Any) -> Any:
    """Return 4 log2 of n, about; at most 63."""
    up = 0
    while n > 255:
        n >>= 2
        up += 8
    return min(np.int64(LEVEL[n]) + up, 63)


@kernel(inlined=True)
def _code_plain(coder: Any, slot: Any, bit: Any) -> Any:
    """Code a bit under the one adaptive probability of its slot."""
    p: Any = np.int64(coder.words[slot])
    bit = code(coder, p, bit)
    p += (((bit << 16) - bit) - p) >> 5
    coder.words[slot] = min(max(p, 64), 65472)
    return bit


@kernel()
def _code_large(coder: Any, rest: Any) -> Any:
    """Code what is beyond the unary code, 0 or more: Exp-Golomb."""
    at = _START[6]
    rest += 1
    bits = 0
    while bits < 36 and _code_plain(coder, at + bits, 1 if rest >> (bits + 1) else 0):
        bits += 1
    value = np.int64(1)
    for b in range(bits - 1, -1, -1):
        value = 2 * value + code(coder, EVEN, (rest >> b) & 1)
    return value - 1


@kernel(inlined=True)
def _code_size(
    coder: Any, size: Any, shift: Any, around: Any, near: Any, next_near: Any, vary: Any
) -> Any:  # fmt: skip
    """Code a magnitude: its upper digits in unary, then the lower ones."""
    few: Any = min(shift, _SHIFTS - 1)
    both = (around >> 1) * (_LEVELS // 2) + (vary >> 1)
    wanted = size >> shift
    value: Any = np.int64(0)
    while value < _UNARY:
        k: Any = min(value, _KINDS - 1)
        row = k * _SHIFTS + few
        slots = (
            _START[0] + row * _LEVELS + around, _START[1] + row * _NEAR * _NEAR + near,
            _START[2] + row * _NEAR * _NEAR + next_near, _START[3] + row * _LEVELS + vary,
            _START[4] + k * (_LEVELS // 2) * (_LEVELS // 2) + both,
        )  # fmt: skip
        p, inputs, taken = mix(coder, slots, row)
        bit = code(coder, p, 1 if wanted > value else 0)
        learn(coder, slots, row, inputs, taken, p, bit, _LIMIT, _RATE)
        if bit == 0:
            break
        value += 1
    if value == _UNARY:
        value += _code_large(coder, wanted - _UNARY)
    first: Any = min(value, 3)
    for b in range(shift - 1, -1, -1):
        bit = (size >> b) & 1
        if b >= shift - 2:
            slot = _START[7] + (shift * 2 + shift - 1 - b) * 4 + first
            bit = _code_plain(coder, slot, bit)
        else:
            bit = code(coder, EVEN, bit)
        value = 2 * value + bit
    return value


@kernel(inlined=True)
def _gather(place: Any, field: Any, neighbours: Any, lowest: Any, values: Any, sizes: Any) -> None:
    """Set values and sizes to the neighbours of a place near a side of the field.

    One outside counts as the first one inside.
    """
    shape = field.shape
    first, size = lowest, np.int64(0)
    for backwards in range(len(neighbours)):
        i = len(neighbours) - 1 - backwards
        values[i] = MISSING
        z, y, x = (
            place[0] + neighbours[i, 0],
            place[1] + neighbours[i, 1],
            place[2] + neighbours[i, 2],
        )
        if 0 <= z < shape[0] and 0 <= y < shape[1] and 0 <= x < shape[2]:
            there = (z * shape[1] + y) * shape[2] + x
            first, size = field.known[there], np.int64(field.own[there])
            values[i], sizes[i] = first, size
    for i in range(len(neighbours)):
        if values[i] == MISSING:
            values[i], sizes[i] = first, size


@kernel(inlined=True)
def _offsets(z: Any, y: Any, shape: Any, neighbours: Any, flat: Any) -> None:
    """Set flat to where the neighbours are from a place of a row that is far from its ends."""
    first = np.int64(0)
    for backwards in range(len(neighbours)):
        i = len(neighbours) - 1 - backwards
        a, b = z + neighbours[i, 0], y + neighbours[i, 1]
        flat[i] = 0
        if 0 <= a < shape[0] and 0 <= b < shape[1]:
            first = (neighbours[i, 0] * shape[1] + neighbours[i, 1]) * shape[2] + neighbours[i, 2]
            flat[i] = first
    for i in range(len(neighbours)):
        if flat[i] == 0:
            flat[i] = first


@kernel(inlined=True)
def _code_difference(coder: Any, sizes: Any, vary: Any, part: Any, r: Any, most: Any) -> Any:
    """Code one difference, in steps, in the context of those of the neighbours; return it."""
    activity = np.int64(0)
    for i in range(TWICE):
        activity += 2 * abs(sizes[i])
    for i in range(TWICE, COUNTED):
        activity += abs(sizes[i])
    shift = np.int64(0)
    while activity >> (shift + 6):
        shift += 1
    around = _level(activity if shift == 0 else activity >> (shift - 1))
    last = _NEAR - 1
    near = min(abs(sizes[0]) >> shift, last) * _NEAR + min(abs(sizes[1]) >> shift, last)
    next_near = min(abs(sizes[2]) >> shift, last) * _NEAR + min(abs(sizes[3]) >> shift, last)
    size = _code_size(coder, abs(r), shift, around, near, next_near, vary)
    if size == 0:
        return np.int64(0)
    size = min(size, most)
    signs = 9 * np.sign(sizes[0]) + 3 * np.sign(sizes[1]) + np.sign(sizes[2]) + 13
    negative = _code_plain(coder, _START[5] + signs * 8 + part, 1 if r < 0 else 0)
    return -size if negative else size


class Field(NamedTuple):
    """A field that is coded, as kernels hand it on; arrays are given as one axis.

    Attributes
    ----------
    shape : (z, y, x)
        Of the field.
    wanted : int64
        What to encode; not read when decoding.
    known : int64
        Set to what the decoder gets, where coded; holds what was coded before.
    own : int16
        Set to the differences, clipped; zeros where nothing is coded yet.
    bound, lowest, highest : int
        Largest error; least and largest of the field.
    """

    shape: tuple[int, int, int]
    wanted: npt.NDArray[np.int64]
    known: npt.NDArray[np.int64]
    own: npt.NDArray[np.int16]
    bound: int
    lowest: int
    highest: int


class Lattice(NamedTuple):
    """Points of a field, and what they are predicted from.

    Attributes
    ----------
    first, stride : (3,) int64
        Where the points are.
    neighbours : (n, 3) int64
        Where the neighbours are, COUNTED to MOST_NEIGHBOURS; the first is the reference.
    weights : (n,) int64
        Of their differences from the reference, in 1 / 2**WEIGHT_BITS.
    """

    first: npt.NDArray[np.int64]
    stride: npt.NDArray[np.int64]
    neighbours: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int64]


_ROW, _TABLE = types.int64[::1], types.int64[:, ::1]
_SHAPE = types.UniTuple(types.int64, 3)  # type: ignore[no-untyped-call]
_FIELD = types.NamedTuple(  # type: ignore[no-untyped-call]
    [_SHAPE, _ROW, _ROW, types.int16[::1], *3 * [types.int64]], Field
)
_LATTICE = types.NamedTuple([_ROW, _ROW, _TABLE, _ROW], Lattice)  # type: ignore[no-untyped-call]


@kernel(inlined=True)
def _most_steps(field: Any) -> Any:
    """Return how many steps a difference has at most."""
    return (field.highest - field.lowest + 2 * field.bound) // (2 * field.bound + 1) + 1


@kernel(inlined=True)
def _predict(values: Any, weights: Any, step: Any) -> Any:
    """Return what neighbours predict, in 1 / 2**WEIGHT_BITS.

    And the context of its bias, and how much they vary.
    """
    fine = values[0] << WEIGHT_BITS
    spread, pattern = np.int64(0), np.int64(0)
    for i in range(1, len(weights)):
        fine += weights[i] * (values[i] - values[0])
    for i in range(1, _SPREAD):
        spread += abs(values[i] - values[0])
    for i in range(_PATTERN):
        pattern = 2 * pattern + (1 if values[i] > fine >> WEIGHT_BITS else 0)
    vary = _level(spread // step)
    return fine, pattern * 16 + (vary >> 2), vary


@kernel(inlined=True)
def _code_point(
    coder: Any, field: Any, at: Any, weights: Any, values: Any, sizes: Any, biases: Any, most: Any
) -> None:
    """Code a point, given the values and differences of its neighbours, ``most`` steps at most."""
    step = 2 * field.bound + 1
    fine, context, vary = _predict(values, weights, step)
    fine += biases[context] >> _BIAS_BITS
    rounded = fine + (1 << (WEIGHT_BITS - 1))
    p = min(max(rounded >> WEIGHT_BITS, field.lowest), field.highest)
    part = (rounded >> (WEIGHT_BITS - 3)) & 7
    r = np.int64(0)
    if not coder.state[DECODING]:
        r = (field.wanted[at] - p + field.bound) // step
    r = _code_difference(coder, sizes, vary, part, r, most)
    value = min(max(p + r * step, field.lowest - field.bound), field.highest + field.bound)
    field.known[at] = value
    field.own[at] = min(max(r, -CLIP), CLIP)
    biases[context] += (value << WEIGHT_BITS) - fine - (biases[context] >> _BIAS_BITS)


@kernel(types.boolean(CODER, _FIELD, _LATTICE, _TABLE, _ROW))
def code_lattice(coder: Any, field: Any, lattice: Any, scratch: Any, biases: Any) -> Any:
    """Encode the points of a lattice, or decode them; False: the data were too short.

    Parameters
    ----------
    coder : Coder
        Of SLOTS words and ROWS rows of weights.
    field : Field
        With the lattices coded before.
    lattice : Lattice
        The points.
    scratch : (SCRATCH, MOST_NEIGHBOURS) int64
        Overwritten.
    biases : (BIASES,) int64
        Zeros; overwritten.
    """
    shape, neighbours = field.shape, lattice.neighbours
    values, sizes, flat = scratch[0], scratch[1], scratch[2]
    most = _most_steps(field)
    left, right = np.int64(0), np.int64(0)
    for i in range(len(neighbours)):
        left, right = max(left, -neighbours[i, 2]), max(right, neighbours[i, 2])
    for z in range(lattice.first[0], shape[0], lattice.stride[0]):
        for y in range(lattice.first[1], shape[1], lattice.stride[1]):
            if ran_out(coder):
                return False
            _offsets(z, y, shape, neighbours, flat)
            row = (z * shape[1] + y) * shape[2]
            for x in range(lattice.first[2], shape[2], lattice.stride[2]):
                at = row + x
                if left <= x < shape[2] - right:
                    for i in range(len(neighbours)):
                        values[i] = field.known[at + flat[i]]
                    for i in range(COUNTED):
                        sizes[i] = field.own[at + flat[i]]
                else:
                    _gather((z, y, x), field, neighbours, field.lowest, values, sizes)
                _code_point(coder, field, at, lattice.weights, values, sizes, biases, most)
    return not ran_out(coder)


@kernel(types.boolean(CODER, _FIELD, types.uint8[:, :, ::1], _TABLE, _TABLE))
def code_sparse(coder: Any, field: Any, blocks: Any, neighbours: Any, scratch: Any) -> Any:
    """Encode a field that is nearly all within the bound, or decode it: nothing is predicted.

    Parameters are those of :func:`code_lattice`, and ``blocks``, uint8: 0 for each block of
    4 x 4 x 4 that is to be all 0; else how many of its neighbours are not, plus 1.
    """
    decoding = coder.state[DECODING] != 0
    shape, bound = field.shape, field.bound
    values, sizes = scratch[0], scratch[1]
    step, most = 2 * bound + 1, _most_steps(field)
    for z in range(shape[0]):
        for y in range(shape[1]):
            if ran_out(coder):
                return False
            row = (z * shape[1] + y) * shape[2]
            for x in range(shape[2]):
                flag = np.int64(blocks[z >> BLOCK_SHIFT, y >> BLOCK_SHIFT, x >> BLOCK_SHIFT])
                if flag == 0:
                    continue
                at = row + x
                _gather((z, y, x), field, neighbours, 0, values, sizes)
                r = np.int64(0) if decoding else (field.wanted[at] + bound) // step
                r = _code_difference(coder, sizes, flag, 0, r, most)
                field.known[at] = r * step
                field.own[at] = min(max(r, -CLIP), CLIP)
    return not ran_out(coder)


@kernel(types.boolean(CODER, types.uint8[:, :, ::1]))
def code_blocks(coder: Any, blocks: Any) -> Any:
    """Code which blocks have a difference but 0, each in the context of six that came before."""
    depth, height, width = blocks.shape
    for z in range(depth):
        for y in range(height):
            if ran_out(coder):
                return False
            for x in range(width):
                near = np.int64(0)
                if x > 0:
                    near += blocks[z, y, x - 1]
                if y > 0:
                    near += 2 * blocks[z, y - 1, x]
                if z > 0:
                    near += 4 * blocks[z - 1, y, x]
                if y > 0 and x + 1 < width:
                    near += 8 * blocks[z, y - 1, x + 1]
                if z > 0 and x + 1 < width:
                    near += 16 * blocks[z - 1, y, x + 1]
                if z > 0 and y + 1 < height:
                    near += 32 * blocks[z - 1, y + 1, x]
                blocks[z, y, x] = _code_plain(coder, _START[8] + near, np.int64(blocks[z, y, x]))
    return not ran_out(coder)
