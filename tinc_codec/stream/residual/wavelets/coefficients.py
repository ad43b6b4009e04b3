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
    CODER,
    DECODING,
    code,
    kernel,
    learn,
    mix,
    ran_out,
)
from tinc_codec.stream.residual.coder.mixing import EVEN
from tinc_codec.stream.residual.wavelets.choosing import choose, gain_of_block, pays
from tinc_codec.stream.residual.wavelets.contexts import (
    ACTIVITY,
    ACTIVITY_BITS,
    BLOCK,
    BLOCK_ROW,
    CLIP,
    LEVELS,
    MOST_UNARY,
    SIZE_ROW,
    START,
    add_to_sums,
    block_sum,
    cut_off,
    has_any,
    level,
    look_around,
    tell,
)

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "8c3e2d92"

_LONGEST_TAIL = 24

# How fast probabilities settle, and weights move.
_LIMIT, _RATE = 200, 6
_BLOCK_LIMIT = 120


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
        What :func:`tell` adds up.
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
    """The band one level up: its integers, what :func:`look_around` makes of them, its blocks.

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
    for k in range(1, MOST_UNARY):
        slots = (
            START[6] + k * LEVELS + every, START[7] + (direction * MOST_UNARY + k) * LEVELS + same,
            START[8] + k * MOST_UNARY + near,
        )  # fmt: skip
        row = SIZE_ROW + k
        p, inputs, taken = mix(coder, slots, row)
        bit = code(coder, p, 1 if size > k else 0)
        learn(coder, slots, row, inputs, taken, p, bit, _LIMIT, _RATE)
        if bit == 0:
            return k
    rest = size - MOST_UNARY + 1
    bits = 0
    while bits < _LONGEST_TAIL and code(coder, EVEN, 1 if rest >> (bits + 1) else 0):
        bits += 1
    value = 1
    for b in range(bits - 1, -1, -1):
        value = 2 * value + code(coder, EVEN, (rest >> b) & 1)
    return value + MOST_UNARY - 1


@kernel(inlined=True)
def _code_sign(coder: Any, band: Any, i: Any, negative: int) -> int:
    """Code a sign in the context of the three nearest signs."""
    _, row, plane = band.places
    west, north = band.own[np.uint32(i - 1)], band.own[np.uint32(i - row)]
    up = band.own[np.uint32(i - plane)]
    signs = 9 * np.sign(west) + 3 * np.sign(north) + np.sign(up)
    slot = START[12] + band.direction * 27 + signs + 13
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
    higher, side = above & ACTIVITY, beside & ACTIVITY
    every = level(2 * same + 3 * higher + 4 * side)
    ls, lu, lb = level(same), level(higher), level(side)
    near = 9 * nearest + 3 * (above >> ACTIVITY_BITS) + (beside >> ACTIVITY_BITS)
    slots = (
        START[0] + kind * LEVELS + ls, START[1] + ls * LEVELS + lu, START[2] + lu * LEVELS + lb,
        START[3] + near, START[4] + direction * LEVELS + every, START[5] + kind * LEVELS + every,
    )  # fmt: skip
    p, inputs, taken = mix(coder, slots, every)
    size = 0
    if not coder.state[DECODING]:
        size = choose(coder.words, abs(real), worth, p, every, price)
    bit = code(coder, p, 1 if size else 0)
    learn(coder, slots, every, inputs, taken, p, bit, _LIMIT, _RATE)
    if bit == 0:
        return 0
    _, row, plane = band.places
    w: Any = abs(np.int64(band.own[np.uint32(i - 1)]))
    n: Any = abs(np.int64(band.own[np.uint32(i - row)]))
    u: Any = abs(np.int64(band.own[np.uint32(i - plane)]))
    largest = min(max(w, n, u), MOST_UNARY - 1)
    size = _code_size(coder, size, every, ls, largest, direction)
    negative = _code_sign(coder, band, i, 1 if real < 0 else 0)
    return -size if negative else size


@kernel()
def _code_block_flag(
    coder: Any, kind: int, gain: Any, price: Any, around: int, higher: int, side: int
) -> Any:
    """Code whether a block has any coefficient but 0, given what they gain."""
    lu, lb = level(2 * higher), level(side)
    slots = (
        START[9] + kind * 8 + around, START[10] + lu * LEVELS + lb, START[11] + around * LEVELS + lu
    )  # fmt: skip
    row = BLOCK_ROW + lu
    p, inputs, taken = mix(coder, slots, row)
    bit = code(coder, p, 1 if pays(gain, p, price) else 0)
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
                    tell(band.active, band.nearest, at, row, plane, abs(band.own[at]))


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
        higher = block_sum(above.own, above.places, first, last, shift)
    if beside.blocks[z + 1, y + 1, x + 1]:
        side = block_sum(beside.sums, band.places, first, last, (0, 0, 0))
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
                    gain = gain_of_block(by, band.in_room, first, last)
                bit = _code_block_flag(coder, band.kind, gain, by.price, near, higher, side)
                band.blocks[z + 1, y + 1, x + 1] = bit
                if bit:
                    _code_block(coder, by, band, above, beside, first, last)
    return not ran_out(coder)


@kernel()
def _code_band(coder: Any, by: Any, band: Any, own_around: Any, above: Any, beside: Any) -> bool:
    """Code a band; False: the data were too short. See :func:`code_bands`."""
    _, row, plane = band.places
    if has_any(beside.blocks):
        look_around(beside.sums, row, plane, beside.around)
        cut_off(beside.sums, row, plane, band.shape, beside.around)
    whole = _code_blocks(coder, by, band, above, beside)
    if whole and has_any(band.blocks):
        add_to_sums(band.own, band.blocks, beside.sums, beside.blocks)
        if len(own_around):
            look_around(band.own, row, plane, own_around)
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
