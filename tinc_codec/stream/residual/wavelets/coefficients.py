"""Quantised wavelet coefficients of one band <-> bits, in the context of those known already.

A band is coded in blocks of 4 x 4 x 4, each first as a flag: any coefficient but 0? Within a block
a coefficient is a zero flag, a size in unary, and a sign. The probability of a flag is mixed from
adaptive ones, which are told apart by the magnitudes of the neighbours coded before, of the same
place one level up (with its neighbours), and of the same place in the bands of this level that
came before. FORMAT.md has the arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from tinc_codec.compiled import compiled
from tinc_codec.stream.residual.coder.binary import (
    BITS,
    CODER,
    DECODING,
    code,
    kernel,
    learn,
    mix,
    ran_out,
)
from tinc_codec.stream.residual.coder.mixing import EVEN, PROBABILITY

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "be97b0ae"

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


class _Quantizer(NamedTuple):
    """What an encoder chooses integers by, as kernels hand it on; see :func:`code_bands`."""

    real: Any
    worth: Any
    scale: Any
    price: Any


class _Band(NamedTuple):
    """The band that is coded, as kernels hand it on; arrays but q and blocks are padded.

    Attributes
    ----------
    q : int32
        Integers of all bands; in_room: where this one's are, and how far rows and planes are apart.
    shape : (z, y, x)
        Of the band.
    own : int8
        Its integers, clipped; places: of the first, and how far rows and planes are apart.
    active, nearest : int16, uint8
        What :func:`_tell` adds up.
    blocks : (z, y, x) uint8
        1 for blocks that have any but 0, with a margin of 1.
    kind, direction : int
        See :func:`code_bands`.
    """

    q: Any
    in_room: Any
    shape: Any
    own: Any
    places: Any
    active: Any
    nearest: Any
    blocks: Any
    kind: Any
    direction: Any


class _Above(NamedTuple):
    """The band one level up: its integers, what :func:`_look_around` makes of them, its blocks.

    ``places`` of the coded band's first coefficient there, and how far rows and planes are apart;
    ``origin`` and ``shift`` as in :func:`code_bands`.
    """

    own: Any
    around: Any
    blocks: Any
    places: Any
    origin: Any
    shift: Any


class _Beside(NamedTuple):
    """Sums of magnitudes over the bands of this level before, what is made of them, and blocks."""

    sums: Any
    around: Any
    blocks: Any


@kernel(inlined=True)
def _code_size(coder: Any, size: int, every: Any, same: Any, near: int, direction: int) -> int:
    """Code a magnitude of 1 or more: in unary, a long one with an Exp-Golomb tail."""
    for k in range(1, _MOST_UNARY):
        slots = (
            _AT[6] + k * LEVELS + every, _AT[7] + (direction * _MOST_UNARY + k) * LEVELS + same,
            _AT[8] + k * _MOST_UNARY + near,
        )  # fmt: skip
        row = _SIZE_ROW + k
        p, inputs, taken = mix(coder, slots, row)
        bit = code(coder, p, 1 if size > k else 0)
        learn(coder, slots, row, inputs, taken, p, bit, _LIMIT, _RATE)
        if bit == 0:
            return k
    rest = size - _MOST_UNARY + 1
    bits = 0
    while bits < _LONGEST_TAIL and code(coder, EVEN, 1 if rest >> (bits + 1) else 0):
        bits += 1
    value = 1
    for b in range(bits - 1, -1, -1):
        value = 2 * value + code(coder, EVEN, (rest >> b) & 1)
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
def _code_sign(coder: Any, band: Any, i: Any, negative: int) -> int:
    """Code a sign in the context of the three nearest signs."""
    _, row, plane = band.places
    west, north = band.own[np.uint32(i - 1)], band.own[np.uint32(i - row)]
    up = band.own[np.uint32(i - plane)]
    signs = 9 * np.sign(west) + 3 * np.sign(north) + np.sign(up)
    slot = _AT[12] + band.direction * 27 + signs + 13
    p = np.int64(coder.words[slot])  # its count stays 0
    negative = code(coder, p, negative)
    coder.words[slot] = p + ((((negative << 16) - negative) - p) >> 7)
    return negative


@kernel(inlined=True)
def _code_coefficient(
    coder: Any, real: Any, worth: Any, price: Any, band: Any, i: Any, above: Any, beside: Any
) -> Any:
    """Code the coefficient at a place, given what is above and beside it; return it."""
    same, nearest = np.int64(band.active[i]), np.int64(band.nearest[i])
    kind, direction = band.kind, band.direction
    higher, side = above & _ACTIVITY, beside & _ACTIVITY
    every = _level(2 * same + 3 * higher + 4 * side)
    ls, lu, lb = _level(same), _level(higher), _level(side)
    near = 9 * nearest + 3 * (above >> _ACTIVITY_BITS) + (beside >> _ACTIVITY_BITS)
    slots = (
        _AT[0] + kind * LEVELS + ls, _AT[1] + ls * LEVELS + lu, _AT[2] + lu * LEVELS + lb,
        _AT[3] + near, _AT[4] + direction * LEVELS + every, _AT[5] + kind * LEVELS + every,
    )  # fmt: skip
    p, inputs, taken = mix(coder, slots, every)
    size = 0
    if not coder.state[DECODING]:
        size = _choose(coder.words, abs(real), worth, p, every, price)
    bit = code(coder, p, 1 if size else 0)
    learn(coder, slots, every, inputs, taken, p, bit, _LIMIT, _RATE)
    if bit == 0:
        return 0
    _, row, plane = band.places
    w: Any = abs(np.int64(band.own[np.uint32(i - 1)]))
    n: Any = abs(np.int64(band.own[np.uint32(i - row)]))
    u: Any = abs(np.int64(band.own[np.uint32(i - plane)]))
    largest = min(max(w, n, u), _MOST_UNARY - 1)
    size = _code_size(coder, size, every, ls, largest, direction)
    negative = _code_sign(coder, band, i, 1 if real < 0 else 0)
    return -size if negative else size


@kernel()
def _gain(by: Any, in_room: Any, first: Any, last: Any) -> Any:
    """Return what the large coefficients of a block gain, in squared steps times worth."""
    gain = np.float32(0.0)
    for z in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            line = in_room[0] + z * in_room[2] + y * in_room[1]
            for x in range(first[2], last[2]):
                i = np.uint32(line + x)
                r = abs(by.real[i]) * by.scale
                if r > 0.5:
                    gain += max(by.worth[i] * (2 * r - 1) - _BLOCK_BITS * by.price, np.float32(0.0))
    return gain


@kernel()
def _sum(v: Any, places: Any, first: Any, last: Any, shift: Any) -> Any:
    """Return the sum of magnitudes of a block."""
    at, row, plane = places
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
    coder: Any, kind: int, gain: Any, price: Any, around: int, higher: int, side: int
) -> Any:
    """Code whether a block has any coefficient but 0, given what they gain."""
    lu, lb = _level(2 * higher), _level(side)
    slots = (
        _AT[9] + kind * 8 + around, _AT[10] + lu * LEVELS + lb, _AT[11] + around * LEVELS + lu
    )  # fmt: skip
    row = _BLOCK_ROW + lu
    p, inputs, taken = mix(coder, slots, row)
    needed = price * (BITS[p >> 4] - BITS[4095 - (p >> 4)] + _BLOCK_BITS)
    bit = code(coder, p, 1 if gain > 0 and gain > needed else 0)
    learn(coder, slots, row, inputs, taken, p, bit, _BLOCK_LIMIT, _RATE)
    return bit


@kernel()
def _code_block(
    coder: Any, by: Any, band: Any, above: Any, beside: Any, first: Any, last: Any
) -> None:
    """Code the coefficients of a block that has one but 0."""
    here, row, plane = band.places
    there, up_row, up_plane = above.places
    in_room, shift = band.in_room, above.shift
    encoding = not coder.state[DECODING]
    for z in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            i = here + z * plane + y * row
            line = in_room[0] + z * in_room[2] + y * in_room[1]
            up = there + (z >> shift[0]) * up_plane + (y >> shift[1]) * up_row
            for x in range(first[2], last[2]):
                k = np.uint32(line + x)
                wanted = by.real[k] * by.scale if encoding else np.float32(0)
                weight = by.worth[k] if encoding else np.float32(0)
                at, over = np.uint32(i + x), np.uint32(up + (x >> shift[2]))
                value = _code_coefficient(
                    coder, wanted, weight, by.price, band, at, np.int64(above.around[over]),
                    np.int64(beside.around[at]),
                )  # fmt: skip
                if value:
                    band.q[k] = value
                    band.own[at] = min(max(value, -CLIP), CLIP)
                    _tell(band.active, band.nearest, at, row, plane, abs(band.own[at]))


@kernel()
def _activity(band: Any, above: Any, beside: Any, block: Any, first: Any, last: Any) -> Any:
    """Return the contexts of a block: flags of those before, magnitudes above it and beside it."""
    z, y, x = block
    near = band.blocks[z + 1, y + 1, x] + 2 * band.blocks[z + 1, y, x + 1]
    near += 4 * band.blocks[z, y + 1, x + 1]
    higher: Any = np.int64(0)
    side: Any = np.int64(0)
    origin, shift = above.origin, above.shift
    pz = ((origin[0] + (first[0] >> shift[0])) >> 2) + 1
    py = ((origin[1] + (first[1] >> shift[1])) >> 2) + 1
    px = ((origin[2] + (first[2] >> shift[2])) >> 2) + 1
    if above.blocks[pz, py, px]:
        higher = _sum(above.own, above.places, first, last, shift)
    if beside.blocks[z + 1, y + 1, x + 1]:
        side = _sum(beside.sums, band.places, first, last, (0, 0, 0))
    return near, higher, side


@kernel()
def _code_blocks(coder: Any, by: Any, band: Any, above: Any, beside: Any) -> bool:
    """Code all blocks of a band; False: the data were too short."""
    encoding = not coder.state[DECODING]
    depth, height, width = band.shape
    for z in range((depth + 3) >> 2):
        for y in range((height + 3) >> 2):
            if ran_out(coder):
                return False
            for x in range((width + 3) >> 2):
                first = (z * BLOCK, y * BLOCK, x * BLOCK)
                last = (
                    min(first[0] + BLOCK, depth), min(first[1] + BLOCK, height),
                    min(first[2] + BLOCK, width),
                )  # fmt: skip
                near, higher, side = _activity(band, above, beside, (z, y, x), first, last)
                gain = np.float32(0)
                if encoding:
                    gain = _gain(by, band.in_room, first, last)
                bit = _code_block_flag(coder, band.kind, gain, by.price, near, higher, side)
                band.blocks[z + 1, y + 1, x + 1] = bit
                if bit:
                    _code_block(coder, by, band, above, beside, first, last)
    return not ran_out(coder)


@kernel()
def _code_band(coder: Any, by: Any, band: Any, own_around: Any, above: Any, beside: Any) -> bool:
    """Code a band; False: the data were too short. See :func:`code_bands`."""
    _, row, plane = band.places
    if _any(beside.blocks):
        _look_around(beside.sums, row, plane, beside.around)
        _cut_off(beside.sums, row, plane, band.shape, beside.around)
    whole = _code_blocks(coder, by, band, above, beside)
    if whole and _any(band.blocks):
        _add(band.own, band.blocks, beside.sums, beside.blocks)
        if len(own_around):
            _look_around(band.own, row, plane, own_around)
    return bool(whole)


# Columns of a table of bands; from SHAPE on three each: along z, y and x, or a place and how far
# rows and planes are apart.
KIND, DIRECTION, BEGINS, OWN, AROUND, FLAGS, SIZE, PARENT, IS_FAR = range(9)
SHAPE, IN_ROOM, PLACES, BLOCKS, ORIGIN, SHIFT = range(9, 27, 3)
COLUMNS = 27
# Of all bands' magnitudes, contexts and flags the first are 0: of a band that is not there.
NO_FLAGS = 27


# What returns views counts references to arrays: once a band.
@compiled()
def _triple(band: Any, first: int) -> Any:
    return band[first], band[first + 1], band[first + 2]


@compiled()
def _flags(of_all: Any, band: Any) -> Any:
    """Return the flags of a band's blocks."""
    z, y, x = _triple(band, BLOCKS)
    return of_all[band[FLAGS] : band[FLAGS] + z * y * x].reshape((z, y, x))


@compiled()
def _above(band: Any, table: Any, contexts: Any, far_table: Any, far_contexts: Any) -> Any:
    """Return the band one level up, as the coding of this one looks at it."""
    own, around, flags = contexts
    origin, shift = _triple(band, ORIGIN), _triple(band, SHIFT)
    if band[PARENT] < 0:
        none = flags[:NO_FLAGS].reshape((3, 3, 3))
        return _Above(own[:1], around[:1], none, (0, 0, 0), origin, shift)
    parent = table[band[PARENT]]
    if band[IS_FAR]:
        own, around, flags = far_contexts
        parent = far_table[band[PARENT]]
    here, row, plane = _triple(parent, PLACES)
    z, y, x = origin
    places = (here + z * plane + y * row + x, row, plane)
    first, second, size = parent[OWN], parent[AROUND], parent[SIZE]
    return _Above(
        own[first : first + size], around[second : second + size], _flags(flags, parent), places,
        origin, shift,
    )  # fmt: skip


# One compiled form for all; worth may be one number for all places.
_CONTEXTS = types.Tuple(  # type: ignore[no-untyped-call]
    (types.int8[::1], types.int16[::1], types.uint8[::1])
)
_WORK = types.Tuple(  # type: ignore[no-untyped-call]
    (types.int16[::1], types.uint8[::1], types.uint8[::1], types.int16[::1], types.uint8[::1])
)
_TABLE = types.int64[:, ::1]


_FLOAT = types.float32
_CODE_BANDS = types.boolean(
    CODER, _FLOAT[::1], _FLOAT[:], _FLOAT, _FLOAT, types.int32[::1], _TABLE, _CONTEXTS, _TABLE,
    _CONTEXTS, _WORK,
)  # fmt: skip


@compiled(_CODE_BANDS)
def code_bands(
    coder: Any, real: Any, worth: Any, scale: Any, price: Any, q: Any, table: Any, contexts: Any,
    far_table: Any, far_contexts: Any, work: Any,
) -> bool:  # fmt: skip
    """Encode bands, choosing their integers, or decode them; False: the data were too short.

    Arrays called padded have PAD places around each band, but for the first axes of planes and
    lines (see PAD), and are given as one axis. Flags of blocks are 1 where a block may have
    anything but 0; along each axis one block of 0 comes before the first, and one after the last:
    a band may reach one place beyond that one level up.

    Parameters
    ----------
    coder : Coder
        Of SLOTS words and ROWS rows of weights.
    real : float32
        Coefficients of all bands, as one axis; not read when decoding.
    worth : float32
        Weight of each coefficient's squared error; not read when decoding.
    scale, price : float32
        One over the step; squared steps that a bit is worth.
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
    """
    by = _Quantizer(real, worth, scale, price)
    own, around, flags = contexts
    active, nearest, sums, sums_around, sum_flags = work
    for k in range(len(table)):
        row = table[k]
        first, size, shape = row[OWN], row[SIZE], _triple(row, BLOCKS)
        blocks = shape[0] * shape[1] * shape[2]
        if row[BEGINS]:
            sums[:size] = 0
            sums_around[:size] = 0
            sum_flags[:blocks] = 0
        active[:size] = 0
        nearest[:size] = 0
        band = _Band(
            q, _triple(row, IN_ROOM), _triple(row, SHAPE), own[first : first + size],
            _triple(row, PLACES), active[:size], nearest[:size], _flags(flags, row), row[KIND],
            row[DIRECTION],
        )  # fmt: skip
        above = _above(row, table, contexts, far_table, far_contexts)
        beside = _Beside(sums[:size], sums_around[:size], sum_flags[:blocks].reshape(shape))
        own_around = around[row[AROUND] : row[AROUND] + (size if row[AROUND] else 0)]
        if not _code_band(coder, by, band, own_around, above, beside):
            return False
    return True
