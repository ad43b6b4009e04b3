"""Quantised wavelet coefficients of one band <-> bits, in the context of those known already.

A band is coded in blocks of 4 x 4 x 4, each first as a flag: any coefficient but 0? Within a block
a coefficient is a zero flag, a size in unary, and a sign. The probability of a flag is mixed from
adaptive ones, which are told apart by the magnitudes of the neighbours coded before, of the same
place one level up (with its neighbours), and of the same place in the bands of this level that
came before. FORMAT.md has the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from tinc_codec.stream.residual.coder.binary import (
    AT,
    BITS,
    DECODING,
    SLACK,
    code,
    kernel,
    learn,
    mix,
)
from tinc_codec.stream.residual.coder.mixing import PROBABILITY

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "e1053753"

# Zeros around each array of magnitudes, so that neighbours need no checks. Where the volume is a
# plane or a line there are none along the axes that it lacks, and planes, or rows too, are 0 apart.
PAD = 2
BLOCK = 4
# Magnitudes are kept up to this for contexts.
CLIP = 127
# Classes of bands: 8 for each level from the finest, 7 levels; then those of low-pass bands.
CLASSES = 64

_MOST_ACTIVITY = 1023
LEVELS = 21
LEVEL = np.floor(2 * np.log2(1.0 + np.arange(_MOST_ACTIVITY + 1)) + 0.5).astype(np.uint8)
# Bits of what :func:`_look_around` finds.
_ACTIVITY_BITS = 11
_ACTIVITY = (1 << _ACTIVITY_BITS) - 1
_EVEN = 1 << 15
_MOST_UNARY = 16
_LONGEST_TAIL = 24

# Adaptive probabilities: where the table of each context starts.
_TABLES = (
    CLASSES * LEVELS,  # zero flag: class, same
    LEVELS * LEVELS,  # same, above
    LEVELS * LEVELS,  # above, beside
    3**5,  # the nearest five
    8 * LEVELS,  # direction, all
    CLASSES * LEVELS,  # class, all
    _MOST_UNARY * LEVELS,  # size flag: how large already, all
    8 * _MOST_UNARY * LEVELS,  # direction, how large already, same
    _MOST_UNARY * _MOST_UNARY,  # how large already, largest neighbour
    CLASSES * 8,  # block flag: class, neighbours
    LEVELS * LEVELS,  # above, beside
    8 * LEVELS,  # neighbours, above
    8 * 27,  # sign: direction, signs of the neighbours
)
_AT = np.concatenate([[0], np.cumsum(_TABLES)]).astype(np.int64)
SLOTS = int(_AT[-1])
# Rows of mixing weights: for zero flags by all activity, then size flags, then block flags.
ROWS = LEVELS + _MOST_UNARY + LEVELS
_SIZE_ROW, _BLOCK_ROW = LEVELS, LEVELS + _MOST_UNARY

# How fast probabilities settle, and weights move.
_LIMIT, _RATE = 200, 6
_BLOCK_LIMIT = 120
# Bits that a lone coefficient, and a block for its zeros, are guessed to take.
_BLOCK_BITS = 6


@kernel(inlined=True)
def _level(activity: Any) -> Any:
    return np.int64(LEVEL[np.uint32(min(activity, _MOST_ACTIVITY))])


@kernel()
def _tell(active: Any, nearest: Any, i: Any, row: int, plane: int, size: int) -> None:
    """Add a coded magnitude to the activity of its neighbours that come later.

    The weights add up to 34. Also note the magnitude, 2 at most, as a digit of base 3 in
    ``nearest`` of the next place along x, y and z.
    """
    digit = min(size, 2)
    nearest[np.uint32(i + 1)] += 9 * digit
    nearest[np.uint32(i + row)] += 3 * digit
    nearest[np.uint32(i + plane)] += digit
    for step in (1, row, plane):
        active[np.uint32(i + step)] += 4 * size
    for step in (2, 2 * row, 2 * plane):
        active[np.uint32(i + step)] += 2 * size
    if not row:
        return
    for step in (row + 1, row - 1):
        active[np.uint32(i + step)] += 2 * size
    if not plane:
        return
    for step in (plane + 1, plane - 1, plane + row, plane - row):
        active[np.uint32(i + step)] += 2 * size
    for step in (plane + row + 1, plane + row - 1, plane - row + 1, plane - row - 1):
        active[np.uint32(i + step)] += size


@kernel()
def _look_around_flat(v: Any, row: int, out: Any) -> None:
    """Do the same of a band of one or two axes."""
    here, target, west, east = v[1:], out[1:], v, v[2:]
    for i in range(len(east)):
        size = abs(np.int16(here[i]))
        sides = abs(np.int16(west[i])) + abs(np.int16(east[i]))
        digit = np.int16(min(size, np.int16(2)))
        target[i] = np.int16(4 * size + sides + (digit << _ACTIVITY_BITS))
    if row:
        below, north, south = out[row:], v, v[2 * row :]
        for i in range(len(south)):
            below[i] += abs(np.int16(north[i])) + abs(np.int16(south[i]))


@kernel()
def _look_around(v: Any, row: int, plane: int, out: Any) -> None:
    """Set ``out``, int16, to what each place of a band is as a context of later bands.

    In the low 11 bits 4 times its magnitude plus those of its six face neighbours; above them the
    magnitude, 2 at most. ``v``, int8 or uint8, and ``out`` are padded; zeros around lines and
    planes let all be done as one axis.
    """
    if not plane:
        _look_around_flat(v, row, out)
        return
    target = out[plane:]
    # Views that all begin at place 0: loops with places before it are not vectorised.
    here, up, down = v[plane:], v, v[2 * plane :]
    west, east, north, south = v[plane - 1 :], v[plane + 1 :], v[plane - row :], v[plane + row :]
    for i in range(len(down)):
        size = abs(np.int16(here[i]))
        sides = abs(np.int16(west[i])) + abs(np.int16(east[i]))
        sides += abs(np.int16(north[i])) + abs(np.int16(south[i]))
        sides += abs(np.int16(up[i])) + abs(np.int16(down[i]))
        digit = np.int16(min(size, np.int16(2)))
        target[i] = np.int16(4 * size + sides + (digit << _ACTIVITY_BITS))


@kernel()
def _cut_off(v: Any, row: int, plane: int, shape: Any, out: Any) -> None:
    """Take from what :func:`_look_around` made of ``v`` all that is beyond a shape.

    Bands of a level differ by one place at most.
    """
    depth, height, width = shape
    here = PAD * (plane + row + 1)
    across = plane if plane else len(v)
    if plane and depth < len(v) // plane - 2 * PAD:
        for y in range(height):
            for x in range(width):
                i = np.uint32(here + (depth - 1) * plane + y * row + x)
                out[i] -= np.int16(v[i + np.uint32(plane)])
    if row and height < across // row - 2 * PAD:
        for z in range(depth):
            for x in range(width):
                i = np.uint32(here + z * plane + (height - 1) * row + x)
                out[i] -= np.int16(v[i + np.uint32(row)])
    if width < (row if row else across) - 2 * PAD:
        for z in range(depth):
            for y in range(height):
                i = np.uint32(here + z * plane + y * row + width - 1)
                out[i] -= np.int16(v[i + np.uint32(1)])


@kernel()
def _any(flags: Any) -> bool:
    """Return whether any flag is 1."""
    found = np.uint8(0)
    for flag in flags.reshape(-1):
        found |= flag
    return bool(found)


@kernel()
def _add(v: Any, blocks: Any, sums: Any, sum_blocks: Any) -> None:
    """Add the magnitudes of a band, int8, to those of others, uint8, clipped; and its flags."""
    for i in range(len(v)):
        size = np.uint8(abs(np.int16(v[i])))
        sums[i] = min(np.uint8(sums[i] + size), np.uint8(CLIP))  # below 256: both are clipped
    flags, others = blocks.reshape(-1), sum_blocks.reshape(-1)
    for i in range(len(flags)):
        others[i] |= flags[i]


@kernel(inlined=True)
def _code_size(
    state: Any, data: Any, words: Any, weights: Any, size: int,
    every: Any, same: Any, near: int, direction: int,
) -> int:  # fmt: skip
    """Code a magnitude of 1 or more: in unary, a long one with an Exp-Golomb tail."""
    for k in range(1, _MOST_UNARY):
        slots = (
            _AT[6] + k * LEVELS + every, _AT[7] + (direction * _MOST_UNARY + k) * LEVELS + same,
            _AT[8] + k * _MOST_UNARY + near,
        )  # fmt: skip
        row = _SIZE_ROW + k
        p, inputs, taken = mix(words, slots, weights, row)
        bit = code(state, data, p, 1 if size > k else 0)
        learn(words, slots, weights, row, inputs, taken, p, bit, _LIMIT, _RATE)
        if bit == 0:
            return k
    rest = size - _MOST_UNARY + 1
    bits = 0
    while bits < _LONGEST_TAIL and code(state, data, _EVEN, 1 if rest >> (bits + 1) else 0):
        bits += 1
    value = 1
    for b in range(bits - 1, -1, -1):
        value = 2 * value + code(state, data, _EVEN, (rest >> b) & 1)
    return value + _MOST_UNARY - 1


@kernel()
def _size_bits(words: Any, size: int, every: int) -> Any:
    """Estimate the bits of a magnitude of 1 or more."""
    bits = np.float32(0.0)
    for k in range(1, min(size + 1, _MOST_UNARY)):
        p = (words[_AT[6] + k * LEVELS + every] & PROBABILITY) >> 4
        bits += BITS[p] if size > k else BITS[4095 - p]
    return bits


@kernel()
def _choose(words: Any, real: Any, worth: Any, p: Any, every: Any, price: Any) -> int:
    """Return the magnitude with the least squared error times worth plus price times bits."""
    size = int(real + 0.5)
    if size == 0:
        return 0
    best = worth * (real * real) + price * BITS[4095 - (p >> 4)]
    chosen = 0
    for m in range(size, max(size - 2, 0), -1):
        bits = BITS[p >> 4] + 1 + _size_bits(words, m, every)
        cost = worth * (real - m) ** 2 + price * bits
        if cost < best:
            best, chosen = cost, m
    return chosen


@kernel(inlined=True)
def _code_sign(
    state: Any, data: Any, words: Any, v: Any, i: Any, row: int, plane: int, direction: int,
    negative: int,
) -> int:  # fmt: skip
    """Code a sign in the context of the three nearest signs."""
    west, north, up = v[np.uint32(i - 1)], v[np.uint32(i - row)], v[np.uint32(i - plane)]
    signs = 9 * np.sign(west) + 3 * np.sign(north) + np.sign(up)
    slot = _AT[12] + direction * 27 + signs + 13
    p = np.int64(words[slot])  # its count stays 0
    negative = code(state, data, p, negative)
    words[slot] = p + ((((negative << 16) - negative) - p) >> 7)
    return negative


@kernel(inlined=True)
def _code_coefficient(
    state: Any, data: Any, words: Any, weights: Any, real: Any,
    worth: Any, v: Any, i: Any, row: int, plane: int, same: Any, nearest: Any, above: Any,
    beside: Any, kind: int, direction: int, price: Any,
) -> Any:  # fmt: skip
    """Code one coefficient; return it."""
    higher, side = above & _ACTIVITY, beside & _ACTIVITY
    every = _level(2 * same + 3 * higher + 4 * side)
    ls, lu, lb = _level(same), _level(higher), _level(side)
    near = 9 * nearest + 3 * (above >> _ACTIVITY_BITS) + (beside >> _ACTIVITY_BITS)
    slots = (
        _AT[0] + kind * LEVELS + ls, _AT[1] + ls * LEVELS + lu, _AT[2] + lu * LEVELS + lb,
        _AT[3] + near, _AT[4] + direction * LEVELS + every, _AT[5] + kind * LEVELS + every,
    )  # fmt: skip
    p, inputs, taken = mix(words, slots, weights, every)
    size = 0 if state[DECODING] else _choose(words, abs(real), worth, p, every, price)
    bit = code(state, data, p, 1 if size else 0)
    learn(words, slots, weights, every, inputs, taken, p, bit, _LIMIT, _RATE)
    if bit == 0:
        return 0
    w: Any = abs(np.int64(v[np.uint32(i - 1)]))
    n: Any = abs(np.int64(v[np.uint32(i - row)]))
    u: Any = abs(np.int64(v[np.uint32(i - plane)]))
    largest = min(max(w, n, u), _MOST_UNARY - 1)
    size = _code_size(
        state, data, words, weights, size, every, ls, largest, direction
    )  # fmt: skip
    negative = _code_sign(
        state, data, words, v, i, row, plane, direction, 1 if real < 0 else 0
    )  # fmt: skip
    return -size if negative else size


@kernel()
def _gain(
    real: Any, scale: float, worth: Any, at: Any, first: Any, last: Any, price: float
) -> Any:  # fmt: skip
    """Return what the large coefficients of a block gain, in squared steps times worth."""
    gain = np.float32(0.0)
    for z in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            line = at[0] + z * at[2] + y * at[1]
            for x in range(first[2], last[2]):
                i = np.uint32(line + x)
                r = abs(real[i]) * scale
                if r > 0.5:
                    gain += max(worth[i] * (2 * r - 1) - _BLOCK_BITS * price, np.float32(0.0))
    return gain


@kernel()
def _sum(v: Any, at: int, row: int, plane: int, first: Any, last: Any, shift: Any) -> Any:
    """Return the sum of magnitudes of a block, whose corner (0, 0, 0) is at ``at``."""
    start = first[2] >> shift[2]
    width = ((last[2] - 1) >> shift[2]) + 1 - start
    total = np.int32(0)
    for z in range(first[0] >> shift[0], ((last[0] - 1) >> shift[0]) + 1):
        for y in range(first[1] >> shift[1], ((last[1] - 1) >> shift[1]) + 1):
            i = np.uint32(at + z * plane + y * row + start)
            if width == BLOCK:
                total += (
                    abs(np.int32(v[i])) + abs(np.int32(v[i + np.uint32(1)]))
                    + abs(np.int32(v[i + np.uint32(2)])) + abs(np.int32(v[i + np.uint32(3)]))
                )  # fmt: skip
                continue
            for x in range(width):
                total += abs(np.int32(v[i + np.uint32(x)]))
    return np.int64(total)


@kernel()
def _code_block_flag(
    state: Any, data: Any, words: Any, weights: Any, gain: Any,
    around: int, higher: int, side: int, kind: int, price: Any,
) -> Any:  # fmt: skip
    """Code whether a block has any coefficient but 0, given what they gain."""
    lu, lb = _level(2 * higher), _level(side)
    slots = (
        _AT[9] + kind * 8 + around, _AT[10] + lu * LEVELS + lb, _AT[11] + around * LEVELS + lu
    )  # fmt: skip
    row = _BLOCK_ROW + lu
    p, inputs, taken = mix(words, slots, weights, row)
    needed = price * (BITS[p >> 4] - BITS[4095 - (p >> 4)] + _BLOCK_BITS)
    bit = code(state, data, p, 1 if gain > 0 and gain > needed else 0)
    learn(words, slots, weights, row, inputs, taken, p, bit, _BLOCK_LIMIT, _RATE)
    return bit


@kernel()
def _code_block(
    state: Any, data: Any, words: Any, weights: Any, real: Any,
    scale: Any, worth: Any, own: Any, own_active: Any, nearest: Any, q: Any, in_room: Any,
    above: Any, shift: Any, beside: Any, first: Any, last: Any, places: Any, above_places: Any,
    kind: int, direction: int, price: Any,
) -> None:  # fmt: skip
    """Code the coefficients of a block that has one but 0."""
    here, row, plane = places
    there, up_row, up_plane = above_places
    encoding = not state[DECODING]
    for z in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            i = here + z * plane + y * row
            line = in_room[0] + z * in_room[2] + y * in_room[1]
            up = there + (z >> shift[0]) * up_plane + (y >> shift[1]) * up_row
            for x in range(first[2], last[2]):
                k = np.uint32(line + x)
                wanted = real[k] * scale if encoding else np.float32(0)
                weight = worth[k] if encoding else np.float32(0)
                at, over = np.uint32(i + x), np.uint32(up + (x >> shift[2]))
                value = _code_coefficient(
                    state, data, words, weights, wanted, weight, own, at, row, plane,
                    np.int64(own_active[at]), np.int64(nearest[at]), np.int64(above[over]),
                    np.int64(beside[at]), kind, direction, price,
                )  # fmt: skip
                if value:
                    q[k] = value
                    own[at] = min(max(value, -CLIP), CLIP)
                    _tell(own_active, nearest, at, row, plane, abs(own[at]))


@kernel()
def _code_blocks(
    state: Any, data: Any, words: Any, weights: Any, real: Any,
    scale: Any, worth: Any, q: Any, in_room: Any, shape: Any, own: Any, own_active: Any,
    nearest: Any, blocks: Any, places: Any, parents: Any, above: Any, parent_blocks: Any,
    origin: Any, shift: Any, parent_places: Any, sums: Any, beside: Any, sum_blocks: Any, kind: int,
    direction: int, price: Any,
) -> bool:  # fmt: skip
    """Code all blocks of a band; False: the data were too short."""
    encoding = not state[DECODING]
    depth, height, width = shape
    here, row, plane = places
    above_places = (parent_places[0], parent_places[1], parent_places[2])
    for bz in range((depth + 3) >> 2):
        for by in range((height + 3) >> 2):
            if state[AT] > len(data) + SLACK:
                return False
            for bx in range((width + 3) >> 2):
                first = (bz * BLOCK, by * BLOCK, bx * BLOCK)
                last = (
                    min(first[0] + BLOCK, depth), min(first[1] + BLOCK, height),
                    min(first[2] + BLOCK, width),
                )  # fmt: skip
                near = blocks[bz + 1, by + 1, bx] + 2 * blocks[bz + 1, by, bx + 1]
                near += 4 * blocks[bz, by + 1, bx + 1]
                higher: Any = np.int64(0)
                side: Any = np.int64(0)
                pz = ((origin[0] + (first[0] >> shift[0])) >> 2) + 1
                py = ((origin[1] + (first[1] >> shift[1])) >> 2) + 1
                px = ((origin[2] + (first[2] >> shift[2])) >> 2) + 1
                if parent_blocks[pz, py, px]:
                    higher = _sum(parents, *above_places, first, last, shift)
                if sum_blocks[bz + 1, by + 1, bx + 1]:
                    side = _sum(sums, here, row, plane, first, last, (0, 0, 0))
                gain = np.float32(0)
                if encoding:
                    gain = _gain(real, scale, worth, in_room, first, last, price)
                bit = _code_block_flag(
                    state, data, words, weights, gain, near, higher, side,
                    kind, price,
                )  # fmt: skip
                blocks[bz + 1, by + 1, bx + 1] = bit
                if bit:
                    _code_block(
                        state, data, words, weights, real, scale, worth, own, own_active, nearest,
                        q, in_room, above, shift, beside, first, last, (here, row, plane),
                        above_places, kind, direction, price,
                    )  # fmt: skip
    return bool(state[AT] <= len(data) + SLACK)


@kernel()
def _code_band(
    state: Any, data: Any, words: Any, weights: Any, real: Any, scale: Any, worth: Any, q: Any,
    in_room: Any, shape: Any, own: Any, own_active: Any, nearest: Any, own_around: Any,
    blocks: Any, places: Any, parents: Any, above: Any, parent_blocks: Any, origin: Any, shift: Any,
    parent_places: Any, sums: Any, beside: Any, sum_blocks: Any, kind: int, direction: int,
    price: Any,
) -> bool:  # fmt: skip
    """Code a band; False: the data were too short. See :func:`code_bands`."""
    row, plane = places[1], places[2]
    if _any(sum_blocks):
        _look_around(sums, row, plane, beside)
        _cut_off(sums, row, plane, shape, beside)
    whole = _code_blocks(
        state, data, words, weights, real, scale, worth, q, in_room, shape, own, own_active,
        nearest, blocks, places, parents, above, parent_blocks, origin, shift, parent_places, sums,
        beside, sum_blocks, kind, direction, price,
    )  # fmt: skip
    if whole and _any(blocks):
        _add(own, blocks, sums, sum_blocks)
        if len(own_around):
            _look_around(own, row, plane, own_around)
    return bool(whole)


# Columns of a table of bands; from SHAPE on three each: along z, y and x, or a place and how far
# rows and planes are apart.
KIND, DIRECTION, BEGINS, OWN, AROUND, FLAGS, SIZE, PARENT, IS_FAR = range(9)
SHAPE, IN_ROOM, PLACES, BLOCKS, ORIGIN, SHIFT = range(9, 27, 3)
COLUMNS = 27
# Of all bands' magnitudes, contexts and flags the first are 0: of a band that is not there.
NO_FLAGS = 27


# What returns views counts references to arrays: once a band.
@njit(nogil=True, cache=True)
def _triple(band: Any, first: int) -> Any:
    return band[first], band[first + 1], band[first + 2]


@njit(nogil=True, cache=True)
def _flags(of_all: Any, band: Any) -> Any:
    """Return the flags of a band's blocks."""
    z, y, x = _triple(band, BLOCKS)
    return of_all[band[FLAGS] : band[FLAGS] + z * y * x].reshape((z, y, x))


@njit(nogil=True, cache=True)
def _parent(band: Any, table: Any, contexts: Any, far_table: Any, far_contexts: Any) -> Any:
    """Return magnitudes, contexts and flags of the band one level up, and places of this one."""
    own, around, flags = contexts
    if band[PARENT] < 0:
        return own[:1], around[:1], flags[:NO_FLAGS].reshape((3, 3, 3)), (0, 0, 0)
    parent = table[band[PARENT]]
    if band[IS_FAR]:
        own, around, flags = far_contexts
        parent = far_table[band[PARENT]]
    here, row, plane = _triple(parent, PLACES)
    z, y, x = _triple(band, ORIGIN)
    first, second, size = parent[OWN], parent[AROUND], parent[SIZE]
    return (
        own[first : first + size], around[second : second + size], _flags(flags, parent),
        (here + z * plane + y * row + x, row, plane),
    )  # fmt: skip


# One compiled form for all; worth may be one number for all places.
_CONTEXTS = "Tuple((int8[::1], int16[::1], uint8[::1]))"
_CODE_BANDS = (
    "boolean(int64[::1], uint8[::1], uint32[::1], int32[:, ::1], float32[::1], float32, float32[:],"
    f"int32[::1], int64[:, ::1], {_CONTEXTS}, int64[:, ::1], {_CONTEXTS},"
    "Tuple((int16[::1], uint8[::1], uint8[::1], int16[::1], uint8[::1])), float32)"
)


@njit(_CODE_BANDS, nogil=True, cache=True)
def code_bands(
    state: Any, data: Any, words: Any, weights: Any, real: Any, scale: Any, worth: Any, q: Any,
    table: Any, contexts: Any, far_table: Any, far_contexts: Any, work: Any, price: Any,
) -> bool:  # fmt: skip
    """Encode bands, choosing their integers, or decode them; False: the data were too short.

    Arrays called padded have PAD places around each band, but for the first axes of planes and
    lines (see PAD), and are given as one axis. Flags of blocks are 1 where a block may have
    anything but 0; along each axis one block of 0 comes before the first, and one after the last:
    a band may reach one place beyond that one level up.

    Parameters
    ----------
    state, data : arrays
        Of the binary coder.
    words, weights : arrays
        Its model; changed.
    real : float32
        Coefficients of all bands, as one axis; not read when decoding.
    scale : float32
        One over the step.
    worth : float32
        Weight of each coefficient's squared error; not read when decoding.
    q : int32
        Zeros; then the integers, of all bands as one axis.
    table : (bands, COLUMNS) int64
        Of each band in turn:

        - KIND, DIRECTION: its class; bit k of the direction: high-pass along axis k;
        - BEGINS: 1 for the first band of a level;
        - OWN, AROUND, FLAGS, SIZE: where its magnitudes, contexts and flags begin among those of
          all, and how many places it has padded. AROUND 0: no finer level looks at it;
        - PARENT, IS_FAR: row of the band of this direction one level up, -1 without, and whether
          that is of ``far_table``;
        - SHAPE: of the band; IN_ROOM: its place in ``real``, ``worth`` and ``q``;
        - PLACES: its place within its magnitudes; BLOCKS: the shape of its flags;
        - ORIGIN: place in the band one level up of (0, 0, 0) of this one; SHIFT: 1 for each axis
          that halves towards that band, 40 without.
    contexts : int8 and int16, padded, and uint8
        Zeros; then of all bands the integers, clipped, what contexts of the next finer level take
        of them, and flags of blocks.
    far_table, far_contexts
        The same of bands coded before.
    work : int16, uint8, uint8, int16 and uint8
        For the largest band: activity of the neighbours that came before; 9, 3 and 1 times the
        magnitudes, up to 2, of those along x, y and z; sums of the magnitudes in the bands of the
        level coded before, what contexts take of them, and their flags.
    price : float32
        Squared steps that a bit is worth.
    """
    own, around, flags = contexts
    active, nearest, sums, beside, sum_flags = work
    for k in range(len(table)):
        band = table[k]
        size, blocks = band[SIZE], band[BLOCKS] * band[BLOCKS + 1] * band[BLOCKS + 2]
        if band[BEGINS]:
            sums[:size] = 0
            beside[:size] = 0
            sum_flags[:blocks] = 0
        active[:size] = 0
        nearest[:size] = 0
        parents, above, parent_flags, parent_places = _parent(
            band, table, contexts, far_table, far_contexts
        )
        own_around = around[band[AROUND] : band[AROUND] + (size if band[AROUND] else 0)]
        whole = _code_band(
            state, data, words, weights, real, scale, worth, q, _triple(band, IN_ROOM),
            _triple(band, SHAPE), own[band[OWN] : band[OWN] + size], active[:size], nearest[:size],
            own_around, _flags(flags, band), _triple(band, PLACES), parents, above, parent_flags,
            _triple(band, ORIGIN), _triple(band, SHIFT), parent_places, sums[:size], beside[:size],
            sum_flags[:blocks].reshape((band[BLOCKS], band[BLOCKS + 1], band[BLOCKS + 2])),
            band[KIND], band[DIRECTION], price,
        )  # fmt: skip
        if not whole:
            return False
    return True
