"""WAVELET section of the second reader: written from FORMAT.md alone, as second_reader.py is."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from second_reader_coder import EVEN, Array, Coder, Mixer, NotASection, Place, sgn, three, varint

Part = tuple[tuple[int, int], ...]  # first place and end along each axis
AXES = range(3)
SIX_SIDES = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))


# Tables.


def level_of(a: int) -> int:
    return math.floor(2 * math.log2(1 + min(a, 1023)) + 0.5)


LEVEL = [level_of(a) for a in range(1024)]


def level(a: int) -> int:
    return LEVEL[min(a, 1023)]


# Mixing.


MOST = 200  # counts of all decisions but block flags


# The normative file beside FORMAT.md.
PRIOR = Path(__file__).parents[1] / "tinc_codec" / "stream" / "residual" / "wavelets" / "prior.bin"


class Model(Mixer):
    def __init__(self, *, from_prior: bool) -> None:
        super().__init__(8598, [[19661 if row < 21 else 26214] * 8 for row in range(58)], 6)
        if from_prior:
            found = struct.unpack("<8598H8598B464i", PRIOR.read_bytes())
            self.p, self.count = list(found[:8598]), list(found[8598 : 2 * 8598])
            rows = iter(found[2 * 8598 :])
            self.rows = [[next(rows) for _ in range(8)] for _ in range(58)]

    def sign(self, coder: Coder, slot: int) -> int:
        p = self.p[slot]
        bit = coder.bit(p)
        self.p[slot] += 65535 * bit - p >> 7
        return bit


# Bands.


@dataclass(frozen=True, kw_only=True)
class Level:
    shape: Place  # of what it takes
    split: int
    axes_are_closed: bool

    def closed(self, k: int) -> bool:
        return self.axes_are_closed and self.shape[k] % 2 == 0 and self.shape[k] >= 6

    def low(self) -> Place:
        return tuple((n + 1) // 2 if self.split >> k & 1 else n for k, n in enumerate(self.shape))

    def band(self, direction: int) -> Place:
        return tuple(
            n // 2 if direction >> k & 1 else low
            for k, (n, low) in enumerate(zip(self.shape, self.low(), strict=True))
        )

    def directions(self) -> list[int]:
        """The order of its bands; that of direction 0 is not of it."""
        subsets = [s for s in range(1, 8) if s & ~self.split == 0]
        return sorted(subsets, key=lambda s: (s.bit_count(), s))


class Clipped:
    """V of a band or of a part of one: integers clipped to ±127, 0 where not coded or outside."""

    def __init__(self, shape: Place) -> None:
        self.shape = shape
        self.values: dict[Place, int] = {}

    def __call__(self, z: int, y: int, x: int) -> int:
        return self.values.get((z, y, x), 0)

    def put(self, place: Place, integer: int) -> None:
        self.values[place] = min(max(integer, -127), 127)

    def size(self, z: int, y: int, x: int) -> int:
        return abs(self.values.get((z, y, x), 0))


# Contexts and blocks.


@dataclass(frozen=True, kw_only=True)
class Context:
    w: int
    n: int
    u: int
    p: int
    b: int
    same: int
    higher: int
    side: int
    all: int
    signs: int


class Band:
    """Decodes one band, or a tile's part of one."""

    def __init__(
        self,
        *,
        part: Part,
        kind: int,
        direction: int,
        above: Clipped | None,
        origin: Place,
        halved: int,
        beside: dict[Place, int],
    ) -> None:
        self.first = tuple(a for a, _ in part)
        self.origin = origin
        self.shape = tuple(b - a for a, b in part)
        self.kind, self.direction = kind, direction
        self.above, self.halved, self.beside = above, halved, beside
        self.v = Clipped(self.shape)
        self.integers = np.zeros(self.shape, np.int64)

    def place_above(self, place: Place) -> Place:
        moved = [a + b for a, b in zip(place, self.origin, strict=True)]
        return tuple(a >> (self.halved >> k & 1) for k, a in enumerate(moved))

    def decode(self, coder: Coder, model: Model) -> None:
        flags: dict[Place, int] = {}
        for block in product(*(range(math.ceil(n / 4)) for n in self.shape)):
            spans = [
                range(4 * i, min(4 * i + 4, n)) for i, n in zip(block, self.shape, strict=True)
            ]
            z, y, x = block
            f = flags.get((z, y, x - 1), 0)
            f += 2 * flags.get((z, y - 1, x), 0) + 4 * flags.get((z - 1, y, x), 0)
            flags[block] = self.flag(coder, model, spans, f)
            if flags[block]:
                for place in product(*spans):
                    integer = self.integer(coder, model, self.context(*place))
                    self.integers[place] = integer
                    self.v.put(place, integer)

    def flag(self, coder: Coder, model: Model, spans: list[range], f: int) -> int:
        big_p = 0
        if self.above is not None:
            first = self.place_above(tuple(span[0] for span in spans))
            last = self.place_above(tuple(span[-1] for span in spans))
            places = product(*(range(a, b + 1) for a, b in zip(first, last, strict=True)))
            big_p = sum(self.above.size(*place) for place in places)
        big_b = sum(self.beside.get(place, 0) for place in product(*spans))
        over = level(2 * big_p)
        slots = (7261 + 8 * self.kind + f, 7773 + 21 * over + level(big_b), 8214 + 21 * f + over)
        return model.decide(coder, slots, 37 + over, 120)

    def context(self, z: int, y: int, x: int) -> Context:
        size = self.v.size
        w, n, u = size(z, y, x - 1), size(z, y - 1, x), size(z - 1, y, x)
        two = size(z, y - 1, x - 1) + size(z, y - 1, x + 1)
        two += size(z - 1, y, x - 1) + size(z - 1, y, x + 1)
        two += size(z - 1, y - 1, x) + size(z - 1, y + 1, x)
        two += size(z, y, x - 2) + size(z, y - 2, x) + size(z - 2, y, x)
        one = size(z - 1, y - 1, x - 1) + size(z - 1, y - 1, x + 1)
        one += size(z - 1, y + 1, x - 1) + size(z - 1, y + 1, x + 1)
        same = 4 * (w + n + u) + 2 * two + one
        p = higher = 0
        if self.above is not None:
            c, d, e = self.place_above((z, y, x))
            p = self.above.size(c, d, e)
            higher = 4 * p
            higher += sum(self.above.size(c + i, d + j, e + k) for i, j, k in SIX_SIDES)
        b = self.beside.get((z, y, x), 0)
        side = 4 * b + sum(self.beside_at(z + i, y + j, x + k) for i, j, k in SIX_SIDES)
        signs = 9 * sgn(self.v(z, y, x - 1)) + 3 * sgn(self.v(z, y - 1, x))
        signs += sgn(self.v(z - 1, y, x)) + 13
        whole = level(2 * same + 3 * higher + 4 * side)
        return Context(
            w=w, n=n, u=u, p=p, b=b, same=same, higher=higher, side=side, all=whole, signs=signs
        )

    def beside_at(self, *place: int) -> int:
        inside = all(0 <= i < n for i, n in zip(place, self.shape, strict=True))
        return self.beside.get(place, 0) if inside else 0

    def integer(self, coder: Coder, model: Model, c: Context) -> int:
        s, same, whole = self.direction, level(c.same), c.all
        near = 81 * min(c.w, 2) + 27 * min(c.n, 2) + 9 * min(c.u, 2)
        slots = (
            21 * self.kind + same,
            1344 + 21 * same + level(c.higher),
            1785 + 21 * level(c.higher) + level(c.side),
            2226 + near + 3 * min(c.p, 2) + min(c.b, 2),
            2469 + 21 * s + whole,
            2637 + 21 * self.kind + whole,
        )
        if not model.decide(coder, slots, whole, MOST):
            return 0
        size = 1
        largest = min(max(c.w, c.n, c.u), 15)
        while size < 16:
            k = size
            slots = (
                3981 + 21 * k + whole,
                4317 + 21 * (16 * s + k) + same,
                7005 + 16 * k + largest,
            )
            if not model.decide(coder, slots, 21 + k, MOST):
                break
            size += 1
        if size > 15:
            size = 15 + tail(coder)
        negative = model.sign(coder, 8382 + 27 * s + c.signs)
        return -size if negative else size

    def add_to_beside(self) -> None:
        for place, integer in self.v.values.items():
            self.beside[place] = min(self.beside.get(place, 0) + abs(integer), 127)


def tail(coder: Coder) -> int:
    after = 0
    while after < 24 and coder.bit(EVEN):
        after += 1
    r = 1
    for _ in range(after):
        r = 2 * r + coder.bit(EVEN)
    return r


# Segments.


def whole(shape: Place) -> Part:
    return tuple((0, n) for n in shape)


class Bands:
    """All integers of a section: by level and direction, and the low-pass band as (D, 0)."""

    def __init__(self, levels: list[Level], lowest: Place) -> None:
        self.levels = levels
        self.lowest = lowest
        self.integers: dict[tuple[int, int], Array] = {}
        self.v: dict[tuple[int, int], Clipped] = {}

    def coarse(self, coder: Coder, model: Model, *, down_to: int) -> None:
        """The first segment."""
        low = Band(
            part=whole(self.lowest), kind=56, direction=0, above=None, origin=(0, 0, 0), halved=0,
            beside={},
        )  # fmt: skip
        low.decode(coder, model)
        self.integers[len(self.levels), 0] = low.integers
        for d in reversed(range(down_to, len(self.levels))):
            for s, band in self.level(coder, model, d, whole(self.levels[d].low()), self.v, True):
                self.integers[d, s], self.v[d, s] = band.integers, band.v

    def level(
        self,
        coder: Coder,
        model: Model,
        d: int,
        places: Part,
        above: dict[tuple[int, int], Clipped],
        above_is_whole: bool,
    ) -> Iterator[tuple[int, Band]]:
        beside: dict[Place, int] = {}
        for s in self.levels[d].directions():
            part = tuple(
                (min(a, n), min(b, n))
                for (a, b), n in zip(places, self.levels[d].band(s), strict=True)
            )
            band = Band(
                part=part,
                kind=8 * min(d, 6) + s,
                direction=s,
                above=above.get((d + 1, s)),
                origin=tuple(a if above_is_whole else 0 for a, _ in part),
                halved=self.levels[d + 1].split if d + 1 < len(self.levels) else 0,
                beside=beside,
            )
            band.decode(coder, model)
            band.add_to_beside()
            yield s, band

    def tile(self, coder: Coder, model: Model, places: Part, cut_levels: int) -> None:
        above, above_is_whole = self.v, True
        for d in reversed(range(cut_levels)):
            found = {}
            for s, band in self.level(coder, model, d, places, above, above_is_whole):
                where = tuple(slice(a, a + n) for a, n in zip(band.first, band.shape, strict=True))
                self.integers[d, s][where] = band.integers
                found[d, s] = band.v
            above, above_is_whole = found, False
            places = tuple(
                (2 * a, min(2 * b, n)) if self.levels[d].split >> k & 1 else (a, b)
                for k, ((a, b), n) in enumerate(zip(places, self.levels[d].shape, strict=True))
            )


def cuts_of(data: bytes, at: int, levels: list[Level]) -> tuple[int, list[Part], int]:
    """Return how many levels are cut, the tiles of the coarsest of them, and where sizes start."""
    axes, cut_levels, given = data[0] & 7, (data[0] >> 3 & 7) + 1, data[0] >> 6 & 1
    if not data[0] & 127:
        return 0, [], at
    if not axes or cut_levels > len(levels):
        raise NotASection("cuts that are none")
    spans, middles, blocks = [], [], []
    for k, m in enumerate(levels[cut_levels - 1].low()):
        if not axes >> k & 1:
            spans.append([(0, m)])
            continue
        if m < 8:
            raise NotASection("cuts a short axis")
        block = middle = math.ceil(m / 8)
        if given:
            block, at = varint(data, at)
        if not 0 < 4 * block < m:
            raise NotASection("cuts off nothing")
        middles.append(middle)
        blocks.append(block)
        spans.append([(0, 4 * block), (4 * block, m)])
    if given and blocks == middles:
        raise NotASection("the middle is not given")
    return cut_levels, list(product(*spans)), at


# Synthesis.

F = np.float32
LOW, HIGH = F(0.869864452), F(1.149604398)
STEPS = ((0, -0.4435068522), (1, -0.8829110762), (0, 0.05298011854), (1, 1.586134342))


ENDS = (
    (0.723, 1.277, 0.798, 1.202),
    (1.347, 0.653, 2.817, -0.817),
    (0.749, 1.251, 1.869, 0.131),
    (1.403, 0.597, 2.158, -0.158),
)


def lift(line: Array, closed: bool) -> Array:
    """Of lines along the first axis."""
    x = line.copy()
    n = len(x)
    x[0::2] *= LOW
    x[1::2] *= HIGH
    for (start, factor), ends in zip(STEPS, ENDS, strict=True):
        before_two, after_two, before_one, after_one = map(F, ends)
        for i in range(start, n, 2):
            before = x[i - 1] if i else x[1]
            after = x[i + 1] if i < n - 1 else x[n - 2]
            if closed and i in (n - 4, n - 3):
                both = before_two * before + after_two * after
            elif closed and i == n - 2:
                both = before_one * before + after_one * after
            elif closed and i == n - 1:
                both = before_one * before + after_one * x[n - 4]
            else:
                both = before + after
            x[i] = x[i] + F(factor) * both
    if closed:
        x[[n - 2, n - 1]] = x[[n - 1, n - 2]]
    return x


def synthesis(
    levels: list[Level], bands: dict[tuple[int, int], Array], tree: tuple[int, Array] | None
) -> Array:
    """From coefficients, binary32; a tree may be added to a low-pass band."""
    low = bands[len(levels), 0]
    for d in reversed(range(len(levels))):
        split, out = levels[d].split, np.zeros(levels[d].shape, F)
        if tree is not None and tree[0] == d + 1:
            low = low + tree[1].reshape(low.shape)
        for s in (0, *levels[d].directions()):
            place = tuple(
                slice(s >> k & 1, None, 2) if split >> k & 1 else slice(None) for k in AXES
            )
            out[place] = low if s == 0 else bands[d, s]
        for k in reversed(AXES):
            if split >> k & 1:
                out = np.moveaxis(lift(np.moveaxis(out, k, 0), levels[d].closed(k)), 0, k)
        low = out
    return low


# The section.


def splits_of(data: bytes) -> tuple[list[int], int]:
    """Return the splits of a section, and where the step starts."""
    depth = data[1] % 128
    if data[0] < 128:
        return list(data[2 : 2 + depth]), 2 + depth
    end = 2 + math.ceil(3 * depth / 8)
    packed = int.from_bytes(data[2:end], "little")
    if packed >> 3 * depth:
        raise NotASection("unused bits")
    return [packed >> 3 * k & 7 for k in range(depth)], end


def low_pass_shape(data: bytes, shape: Place, count: int) -> Place:
    """Return the lengths of the axes longer than one sample of the low-pass band after levels."""
    assert 1 <= count <= data[1] % 128
    low = three(shape)
    for split in splits_of(data)[0][:count]:
        low = Level(shape=low, split=split, axes_are_closed=data[1] > 127).low()
    return tuple(n for n in low if n > 1)


def evaluate_wavelet(data: bytes, shape: Place, tree: tuple[int, Array] | None = None) -> Array:
    """Return the sums, binary32, of the axes of the box longer than one voxel."""
    axes_are_closed, compact = data[1] > 127, data[0] > 127
    splits, at = splits_of(data)
    if compact:
        code, offset, bias = struct.unpack("<HHB", data[at : at + 5])
        step = (1024 + code % 1024) * 2.0 ** (code // 1024 - 57)
    else:
        step, offset, bias = struct.unpack("<fHB", data[at : at + 7])
    at += 5 if compact else 7
    levels: list[Level] = []
    lowest = three(shape)
    for split in splits:
        levels.append(Level(shape=lowest, split=split, axes_are_closed=axes_are_closed))
        lowest = levels[-1].low()
    if axes_are_closed and not any(
        level.split >> k & 1 and level.closed(k) for level in levels for k in AXES
    ):
        raise NotASection("closes nothing")
    cut_levels, tiles, at = cuts_of(data, at, levels)
    sizes = []
    for _ in tiles:
        size, at = varint(data, at)
        sizes.append(size)
    segments = []
    for size in sizes:
        segments.append(data[at : at + size])
        at += size
    segments.append(data[at:])

    bands, model = Bands(levels, lowest), Model(from_prior=compact)
    bands.coarse(Coder(segments[0]), model, down_to=cut_levels)
    for d in range(cut_levels):
        for s in levels[d].directions():
            bands.integers[d, s] = np.zeros(levels[d].band(s), np.int64)
    for segment, tile in zip(segments[1:], tiles, strict=True):
        bands.tile(Coder(segment), model.copy(), tile, cut_levels)

    less, unit = F(bias / 256), F(step)
    values = {}
    for key, q in bands.integers.items():
        size = (np.abs(q).astype(F) - less) * unit
        values[key] = np.where(q < 0, -size, np.where(q > 0, size, F(0))).astype(F)
    return (synthesis(levels, values, tree) + F(offset / 65535)).reshape(shape)
