"""CORRECTION section of the second reader: written from FORMAT.md alone, as second_reader.py is."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from second_reader_coder import EVEN, Array, Coder, Mixer, NotASection, Place, sgn, three, varint

SPARSE, CAUSAL, INTERPOLATED = range(3)
AXES = range(3)
SIX_SIDES = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
BEFORE = ((0, 0, -1), (0, -1, 0), (-1, 0, 0), (0, -1, 1), (-1, 0, 1), (-1, 1, 0))


# Lattices and neighbours.


def offsets(text: str) -> list[Place]:
    """Read a list of the text: signs, or three numbers in parentheses."""
    out = []
    for item in text.split():
        if item.startswith("("):
            out.append(tuple(int(part) for part in item[1:-1].split(",")))
        else:
            out.append(tuple({"0": 0, "-": -1, "+": 1, "=": -2, "#": 2}[sign] for sign in item))
    return out


B = offsets("00- 0-0 -00 0-- 0-+ -0- -0+ --0 -+0 00= 0=0 =00 --- --+ -+- -++ 0-= 0-#")
T = [
    offsets("-00 +00 00= 0=0 -0= -0# +0= +0# -=0 -#0 +=0 +#0 (-3,0,0) (3,0,0) =00 0== 0=#"),
    offsets("0-0 0+0 -00 00= 0-= 0-# 0+= 0+# --0 -+0 +-0 ++0 (0,-3,0) (0,3,0) 0=0 -0= -0#"),
    offsets("00- 00+ 0-0 -00 0-- 0-+ -0- -0+ 0+- 0++ +0- +0+ (0,0,-3) (0,0,3) 00= --0 -+0"),
]


@dataclass(frozen=True, kw_only=True)
class Lattice:
    start: Place
    stride: Place
    unit: int
    neighbours: list[Place]
    weights: Sequence[int]

    def places(self, shape: Place) -> Iterator[Place]:
        spans = zip(self.start, shape, self.stride, strict=True)
        return product(*(range(a, n, step) for a, n, step in spans))


def lattices(mode: int, shape: Place, weights: Sequence[Sequence[int]]) -> Iterator[Lattice]:
    start, stride = (0, 0, 0), (1, 1, 1)
    if mode == CAUSAL:
        yield Lattice(start=start, stride=stride, unit=1, neighbours=B, weights=weights[0])
        return
    top = 0
    while top < 5 and 2 ** (top + 1) < max(shape):
        top += 1
    u = 2**top
    yield Lattice(start=start, stride=(u,) * 3, unit=u, neighbours=B, weights=(0,) * 17)
    for k in reversed(range(top)):
        u = 2**k
        for a in AXES:
            yield Lattice(
                start=tuple(u if axis == a else 0 for axis in AXES),
                stride=tuple(u if axis < a else 2 * u for axis in AXES),
                unit=u,
                neighbours=T[a],
                weights=weights[a if k == 0 else 3 + a],
            )


# Differences.

LEVEL = [0, *(math.floor(4 * math.log2(n) + 1.5) for n in range(1, 256))]


def level(n: int) -> int:
    up = 0
    while n > 255:
        n, up = n >> 2, up + 8
    return min(63, LEVEL[n] + up)


MIXED = (0, 4096, 7232, 10368, 14464, 30848)  # where T0 to T4 begin in one list, and its length


class Differences:
    """Decodes the differences of one slab."""

    def __init__(self, data: bytes, most: int) -> None:
        self.coder, self.most = Coder(data), most
        self.mixer = Mixer(MIXED[5], [[18000] * 5 for _ in range(64)], 3)
        self.plain = {5: [EVEN] * 216, 6: [EVEN] * 80, 7: [EVEN] * 320, 8: [EVEN] * 64}

    def plain_flag(self, table: int, slot: int) -> int:
        q = self.plain[table][slot]
        bit = self.coder.bit(q)
        self.plain[table][slot] = min(max(q + (65535 * bit - q >> 5), 64), 65472)
        return bit

    def even(self, count: int) -> int:
        value = 0
        for _ in range(count):
            value = 2 * value + self.coder.bit(EVEN)
        return value

    def difference(self, d: Sequence[int], vary: int, part: int) -> int:
        size = [abs(value) for value in d]
        activity = 2 * sum(size[:4]) + sum(size[4:12])
        shift = 0
        while activity >> shift + 6:
            shift += 1
        around = level(activity if shift == 0 else activity >> shift - 1)
        near, after = (7 * min(6, size[i] >> shift) + min(6, size[i + 1] >> shift) for i in (0, 2))
        upper = self.upper(min(shift, 3), around, near, after, vary)
        lower = 0
        for j in range(min(shift, 2)):
            slot = 4 * (2 * shift + j) + min(3, upper)
            lower = 2 * lower + self.plain_flag(7, slot)
        left = max(shift - 2, 0)
        lower = lower << left | self.even(left)
        r = min(upper << shift | lower, self.most)
        signs = 9 * sgn(d[0]) + 3 * sgn(d[1]) + sgn(d[2]) + 13
        return -r if r and self.plain_flag(5, 8 * signs + part) else r

    def upper(self, few: int, around: int, near: int, after: int, vary: int) -> int:
        for n in range(20):
            k = min(n, 15)
            row = 4 * k + few
            slots = (
                MIXED[0] + 64 * row + around,
                MIXED[1] + 49 * row + near,
                MIXED[2] + 49 * row + after,
                MIXED[3] + 64 * row + vary,
                MIXED[4] + 1024 * k + 32 * (around >> 1) + (vary >> 1),
            )
            if not self.mixer.decide(self.coder, slots, row, 250):
                return n
        b = 0
        while b < 36 and self.plain_flag(6, b):
            b += 1
        return 19 + (1 << b | self.even(b))


# Slabs.


class Slab:
    """The field in one slab: values, and differences clipped to ±32767."""

    def __init__(self, header: Header, shape: Place, data: bytes) -> None:
        self.header, self.shape = header, shape
        self.values = np.zeros(shape, np.int64)
        self.d: dict[Place, int] = {}
        reach = header.highest - header.lowest + 2 * header.bound
        self.coded = Differences(data, reach // header.step + 1)

    def inside(self, place: Place) -> bool:
        return all(0 <= i < n for i, n in zip(place, self.shape, strict=True))

    def neighbours(self, place: Place, around: Sequence[Place], unit: int) -> list[Place | None]:
        """Their places; for those outside, that of the first inside; None if none is."""
        moved = [
            tuple(i + unit * o for i, o in zip(place, offset, strict=True)) for offset in around
        ]
        within: list[Place | None] = [p if self.inside(p) else None for p in moved]
        first = next((p for p in within if p is not None), None)
        return [first if p is None else p for p in within]

    def differences_at(self, places: Sequence[Place | None]) -> list[int]:
        return [0 if p is None else self.d.get(p, 0) for p in places]

    def put(self, place: Place, value: int, r: int) -> None:
        self.values[place] = value
        self.d[place] = min(max(r, -32767), 32767)

    def predicted(self) -> None:
        """Modes 1 and 2."""
        for lattice in lattices(self.header.mode, self.shape, self.header.weights):
            bias = [0] * 1024
            for place in lattice.places(self.shape):
                self.element(place, lattice, bias)

    def element(self, place: Place, lattice: Lattice, bias: list[int]) -> None:
        low, high = self.header.lowest, self.header.highest
        bound, step = self.header.bound, self.header.step
        near = self.neighbours(place, lattice.neighbours, lattice.unit)
        v = [low if p is None else int(self.values[p]) for p in near]
        f = 1024 * v[0]
        f += sum(w * (value - v[0]) for w, value in zip(lattice.weights, v[1:], strict=True))
        spread = sum(abs(value - v[0]) for value in v[1:8])
        pattern = 0
        for value in v[:6]:
            pattern = 2 * pattern + (value > f >> 10)
        vary = level(spread // step)
        c = 16 * pattern + (vary >> 2)
        f += bias[c] >> 6
        g = f + 512
        p = min(max(g >> 10, low), high)
        r = self.coded.difference(self.differences_at(near), vary, (g >> 7) % 8)
        value = min(max(p + r * step, low - bound), high + bound)
        bias[c] += 1024 * value - f - (bias[c] >> 6)
        self.put(place, value, r)

    def sparse(self) -> None:
        """Mode 0."""
        flags: dict[Place, int] = {}
        for block in product(*(range(math.ceil(n / 4)) for n in self.shape)):
            near = [flags.get(moved(block, offset), 0) for offset in BEFORE]
            flags[block] = self.coded.plain_flag(8, sum(f << k for k, f in enumerate(near)))
        for place in product(*(range(n) for n in self.shape)):
            block = tuple(i // 4 for i in place)
            if flags[block]:
                vary = 1 + sum(flags.get(moved(block, side), 0) for side in SIX_SIDES)
                d = self.differences_at(self.neighbours(place, B[:12], 1))
                r = self.coded.difference(d, vary, 0)
                self.put(place, r * self.header.step, r)


def moved(place: Place, offset: Place) -> Place:
    return tuple(i + o for i, o in zip(place, offset, strict=True))


# The section.


@dataclass(frozen=True, kw_only=True)
class Header:
    mode: int
    bound: int
    lowest: int
    highest: int
    slabs: int
    weights: list[list[int]]

    @property
    def step(self) -> int:
        return 2 * self.bound + 1


def zigzag(code: int) -> int:
    return -(code + 1) // 2 if code & 1 else code // 2


def read_header(data: bytes) -> tuple[Header, bytes]:
    mode, at = data[0], 1
    if mode > INTERPOLATED:
        raise NotASection("mode")
    numbers = []
    sets, size = ((0, 0), (1, 17), (6, 16))[mode]
    for _ in range(4 + sets * size):
        number, at = varint(data, at)
        numbers.append(number)
    bound, lowest, span, slabs = numbers[:4]
    weights = [zigzag(code) for code in numbers[4:]]
    header = Header(
        mode=mode,
        bound=bound,
        lowest=zigzag(lowest),
        highest=zigzag(lowest) + span,
        slabs=slabs,
        weights=[weights[k * size : (k + 1) * size] for k in range(sets)],
    )
    return header, data[at:]


def evaluate_correction(data: bytes, shape: Place) -> Array:
    """Return the field, int64, of the axes of the box longer than one voxel."""
    header, rest = read_header(data)
    field = np.zeros(three(shape), np.int64)
    lengths, at = [], 0
    for _ in range(header.slabs - 1):
        length, at = varint(rest, at)
        lengths.append(length)
    edges = [k * len(field) // header.slabs for k in range(header.slabs + 1)]
    for k in range(header.slabs):
        part = field[edges[k] : edges[k + 1]]
        end = at + lengths[k] if k < len(lengths) else len(rest)
        slab = Slab(header, part.shape, rest[at:end])
        slab.sparse() if header.mode == SPARSE else slab.predicted()
        part[...] = slab.values
        at = end
    return field.reshape(shape)


def corrected(data: bytes, values: Array, low: float, high: float) -> Array:
    """Use: the stored values, of the box's axes longer than one voxel, with the field added."""
    if values.dtype.kind != "f":
        exact = values.astype(np.int64) + evaluate_correction(data, values.shape)
        return exact.clip(int(low), int(high)).astype(values.dtype)
    (unit,) = struct.unpack("<d", data[:8])
    field = evaluate_correction(data[8:], values.shape).astype(np.float64)
    return (values.astype(np.float64) + field * unit).clip(low, high).astype(values.dtype)
