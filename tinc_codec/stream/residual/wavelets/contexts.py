"""What is known of a coefficient before it is coded, and the tables of probabilities chosen by it.

Three sources: magnitudes of the neighbours coded before, of the same place one level up (with its
neighbours), and of the same place in the bands of this level that came before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.stream.residual.coder.binary import kernel

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

# Magnitudes told apart by a code of their own; larger ones have a tail.
MOST_UNARY = 16

_MOST_ACTIVITY = 1023
LEVELS = 21
LEVEL = np.floor(2 * np.log2(1.0 + np.arange(_MOST_ACTIVITY + 1)) + 0.5).astype(np.uint8)
# Bits of what :func:`look_around` finds.
ACTIVITY_BITS = 11
ACTIVITY = (1 << ACTIVITY_BITS) - 1

# Adaptive probabilities: where the table of each context starts.
_TABLES = (
    CLASSES * LEVELS,  # zero flag: class, same
    LEVELS * LEVELS,  # same, above
    LEVELS * LEVELS,  # above, beside
    3**5,  # the nearest five
    8 * LEVELS,  # direction, all
    CLASSES * LEVELS,  # class, all
    MOST_UNARY * LEVELS,  # size flag: how large already, all
    8 * MOST_UNARY * LEVELS,  # direction, how large already, same
    MOST_UNARY * MOST_UNARY,  # how large already, largest neighbour
    CLASSES * 8,  # block flag: class, neighbours
    LEVELS * LEVELS,  # above, beside
    8 * LEVELS,  # neighbours, above
    8 * 27,  # sign: direction, signs of the neighbours
)
START = np.concatenate([[0], np.cumsum(_TABLES)]).astype(np.int64)
SLOTS = int(START[-1])
# Rows of mixing weights: for zero flags by all activity, then size flags, then block flags.
ROWS = LEVELS + MOST_UNARY + LEVELS
SIZE_ROW, BLOCK_ROW = LEVELS, LEVELS + MOST_UNARY


@kernel(inlined=True)
def level(activity: Any) -> Any:
    """Return the class of an activity, in half octaves: 0 to LEVELS - 1."""
    return np.int64(LEVEL[np.uint32(min(activity, _MOST_ACTIVITY))])


@kernel()
def tell(active: Any, nearest: Any, i: Any, row: int, plane: int, size: int) -> None:
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
    """Set ``out`` as :func:`look_around` does, for a band of one or two axes."""
    here, target, west, east = v[1:], out[1:], v, v[2:]
    for i in range(len(east)):
        size = abs(np.int16(here[i]))
        sides = abs(np.int16(west[i])) + abs(np.int16(east[i]))
        digit = np.int16(min(size, np.int16(2)))
        target[i] = np.int16(4 * size + sides + (digit << ACTIVITY_BITS))
    if row:
        below, north, south = out[row:], v, v[2 * row :]
        for i in range(len(south)):
            below[i] += abs(np.int16(north[i])) + abs(np.int16(south[i]))


@kernel()
def look_around(v: Any, row: int, plane: int, out: Any) -> None:
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
        target[i] = np.int16(4 * size + sides + (digit << ACTIVITY_BITS))


@kernel()
def cut_off(v: Any, row: int, plane: int, shape: Any, out: Any) -> None:
    """Take from what :func:`look_around` made of ``v`` all that is beyond a shape.

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
def has_any(flags: Any) -> bool:
    """Return whether any flag is 1."""
    found = np.uint8(0)
    for flag in flags.reshape(-1):
        found |= flag
    return bool(found)


@kernel()
def add_to_sums(v: Any, blocks: Any, sums: Any, sum_blocks: Any) -> None:
    """Add the magnitudes of a band, int8, to those of others, uint8, clipped; and its flags."""
    for i in range(len(v)):
        size = np.uint8(abs(np.int16(v[i])))
        sums[i] = min(np.uint8(sums[i] + size), np.uint8(CLIP))  # below 256: both are clipped
    flags, others = blocks.reshape(-1), sum_blocks.reshape(-1)
    for i in range(len(flags)):
        others[i] |= flags[i]


@kernel()
def block_sum(v: Any, places: Any, first: Any, last: Any, shift: Any) -> Any:
    """Return the sum of magnitudes of a block, of padded ones at ``places``.

    ``shift`` is 1 for each axis that ``v`` has half as many places of.
    """
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
