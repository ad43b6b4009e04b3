"""A second reader of the payload format, written from FORMAT.md alone.

Slow, plain and in binary64; it imports nothing of the package, and trusts what it reads but for the
checks of the container. Section names in the comments are FORMAT.md's.
"""

from __future__ import annotations

import math
import struct
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from second_reader_correction import corrected
from second_reader_filter import evaluate_filter
from second_reader_wavelet import evaluate_wavelet, low_pass_shape

Array = npt.NDArray[Any]
Box = tuple[tuple[int, int], ...]

ARRAY, TREE, WEIGHTS, COSINE, CROP, MASK, WAVELET, CORRECTION, FILTER = range(1, 10)
KINDS = {0: "u", 1: "i", 2: "f"}


class NotAPayload(ValueError):
    """The container is not as FORMAT.md has it."""


# Conventions.


class Fields:
    """Takes fields from the front of some bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise NotAPayload("ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def unsigned(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def f32(self) -> float:
        return float(struct.unpack("<f", self.take(4))[0])

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.unsigned(1)
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value


# Container.


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def framed(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tags and data of version 2, the bit of the last one taken out."""
    fields = Fields(payload)
    if fields.take(2) != b"T2":
        raise NotAPayload("magic or version")
    last = False
    found = []
    while not last:
        tag = fields.unsigned(1)
        last = bool(tag & 64)
        found.append((tag & ~64, fields.take(fields.varint())))
    if crc32c(payload[: fields.at]) != fields.unsigned(4):
        raise NotAPayload("checksum")
    if fields.rest():
        raise NotAPayload("goes on after its end")
    yield from found


def framed_1(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield tags and data of version 1."""
    fields = Fields(payload)
    if fields.take(4) != b"TINC" or fields.unsigned(1) != 1:
        raise NotAPayload("magic or version")
    for _ in range(fields.unsigned(1)):
        start = fields.at
        tag = fields.unsigned(1)
        data = fields.take(fields.varint())
        if crc32c(payload[start : fields.at]) != fields.unsigned(4):
            raise NotAPayload("checksum")
        if tag & 64:
            raise NotAPayload("tag")
        yield tag, data
    if fields.rest():
        raise NotAPayload("goes on after its end")


def sections(payload: bytes) -> dict[int, bytes]:
    out: dict[int, bytes] = {}
    previous = 0
    for tag, data in (framed_1 if payload[:4] == b"TINC" else framed)(payload):
        kind, optional = tag & 63, bool(tag & 128)
        if kind <= previous or (optional and kind <= FILTER):
            raise NotAPayload("tag")
        previous = kind
        if kind <= FILTER:
            out[kind] = data
        elif not optional:
            raise NotAPayload("needs a section that is unknown")
    return out


# ARRAY section.


@dataclass(frozen=True, kw_only=True)
class Header:
    dtype: np.dtype[Any]
    fortran: bool
    shape: tuple[int, ...]
    low: float
    high: float
    psnr: int


def dtype_of(code: int) -> np.dtype[Any]:
    return np.dtype(f"{'<>'[code & 1]}{KINDS[code >> 4]}{1 << (code >> 1 & 7)}")


def read_array(data: bytes) -> Header:
    fields = Fields(data)
    dtype, flags = dtype_of(fields.unsigned(1)), fields.unsigned(1)
    shape = tuple(fields.varint() for _ in range(fields.unsigned(1)))
    low, high = np.frombuffer(fields.take(2 * dtype.itemsize), dtype.newbyteorder("<")).tolist()
    psnr = fields.unsigned(2)
    assert not fields.rest()
    return Header(dtype=dtype, fortran=flags == 1, shape=shape, low=low, high=high, psnr=psnr)


def stored_values(unit: Array, header: Header) -> Array:
    """From normalised to stored values."""
    low, high = header.low, header.high
    if low == high:
        return np.full(unit.shape, low, header.dtype)
    u = unit.astype(np.float64)
    u = np.clip(np.where(np.isnan(u), 0.0, u), 0.0, 1.0)
    with np.errstate(over="ignore"):
        x = low * (1 - u) + high * u
    if header.dtype.kind != "f":
        x = np.rint(x)  # ties to even
    return np.clip(x, low, high).astype(header.dtype)


# TREE section.


@dataclass(frozen=True, kw_only=True)
class Tree:
    shape: tuple[int, ...]
    block: bool
    splits: tuple[int, ...]
    smooth: tuple[int, int] | None  # reach, strength
    widths: tuple[tuple[tuple[int, ...], ...], ...]  # level, layer, node

    def children(self, level: int) -> int:
        return 1 << self.splits[level].bit_count()

    def layers(self) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield for each layer, in the order of parameters, its level and (in, out) of each node.

        A leaf's output layer is the last.
        """
        inputs = [len(self.shape)]
        for level, columns in enumerate(self.widths):
            if level:
                inputs = [n for n in inputs for _ in range(self.children(level - 1))]
            last = [(1,) * len(inputs)] if level == len(self.splits) else []
            for outputs in [*columns, *last]:
                yield level, list(zip(inputs, outputs, strict=True))
                inputs = list(outputs)


def read_tree(data: bytes, shape: tuple[int, ...]) -> Tree:
    fields = Fields(data)
    flags = fields.unsigned(1)
    fields.take(1 if flags & 4 else 0)  # of which low-pass band
    levels = fields.unsigned(1)
    splits = tuple(fields.take(levels - 1))
    smooth = (fields.unsigned(1), fields.unsigned(1)) if flags & 2 else None
    nodes = 1
    widths = []
    for level in range(levels):
        depth = fields.unsigned(1)
        widths.append(tuple(read_widths(fields, nodes) for _ in range(depth)))
        if level < levels - 1:
            nodes <<= splits[level].bit_count()
    assert not fields.rest()
    return Tree(
        shape=shape, block=bool(flags & 1), splits=splits, smooth=smooth, widths=tuple(widths)
    )


def read_widths(fields: Fields, nodes: int) -> tuple[int, ...]:
    code = fields.varint()
    if not code & 1:
        return (code >> 1,) * nodes
    bits = fields.unsigned(1)
    packed = fields.unsigned(math.ceil(nodes * bits / 8))
    return tuple((code >> 1) + (packed >> bits * k & (1 << bits) - 1) for k in range(nodes))


def boxes(tree: Tree) -> list[Box]:
    """Return the leaves' boxes, in order."""
    level: list[Box] = [tuple((0, n) for n in tree.shape)]
    for mask in tree.splits:
        level = [child for box in level for child in halves(box, mask)]
    return level


def halves(box: Box, mask: int) -> Iterator[Box]:
    parts = []
    for axis, (a, b) in enumerate(box):
        m = (a + b + 1) // 2
        parts.append([(a, m), (m, b)] if mask >> axis & 1 else [(a, b)])
    return product(*parts)  # the last axis fastest, so the first has the highest bit


# WEIGHTS section.

M = (8388608, 9147842, 9975792, 10878679, 11863283, 12937002, 14107901, 15384775)
G = (65536, 77936, 92682, 110218)
H = (1073741824, 902905651, 759250125, 638450708)
P = (
    lambda x: math.erfc(x / math.sqrt(2)) / 2,
    lambda x: 1 / (1 + math.exp(x)),
    lambda x: math.exp(-x) / 2,
)
WORD, STATE = 1 << 32, (1 << 64) - 1


def read_weights(data: bytes, sizes: Sequence[int]) -> Array:
    """Return the parameters, as float64 holding binary32 values."""
    fields = Fields(data)
    mode = fields.unsigned(1)
    if mode == 0:
        return np.frombuffer(fields.rest(), "<f4", sum(sizes)).astype(np.float64)
    assert mode == 1
    base = fields.f32()
    codes, models = fields.take(len(sizes)), fields.take(len(sizes))
    groups = decode_groups(fields.rest(), sizes, models)
    values = [
        np.float32(integer) * step_of(base, code)
        for code, group in zip(codes, groups, strict=True)
        for integer in group
    ]
    return np.array(values, np.float64)


def step_of(base: float, code: int) -> np.float32:
    octave, eighth = divmod(code - 128, 8)
    product = np.float32(base * (M[eighth] / 2**23))  # exact in binary64, so rounded once
    return np.float32(float(product) * 2.0**octave)


def cumulative(model: int) -> list[int]:
    """Return C(0) to C(n)."""
    shape, scale = divmod(model, 64)
    o, r = divmod(scale, 4)
    s = [math.floor(2**24 * P[shape](j / 32) + 0.5) for j in range(321)]
    top = min(32767, 2 + (10 * G[r] * 2**o >> 18))

    def tail(k: int) -> int:
        x = (2 * k + 1) * H[r] >> 8 + o
        i, f = x >> 16, x & 0xFFFF
        return 0 if i >= 320 else s[i] - ((s[i] - s[i + 1]) * f >> 16)

    n = 2 * top + 1
    masses = [0, *(tail(top - j) for j in range(1, top + 1))]
    masses += [2**24 - tail(j - top - 1) for j in range(top + 1, n)]
    return [(m * (2**24 - n) >> 24) + j for j, m in enumerate([*masses, 2**24])]


def decode_groups(data: bytes, sizes: Sequence[int], models: Sequence[int]) -> list[list[int]]:
    """Range coder."""
    fields = Fields(data + bytes(8 + 4 * sum(sizes)))  # words beyond the end are 0

    def word() -> int:
        return fields.unsigned(4)

    lower, width = 0, STATE
    point = word() * WORD + word()
    groups = []
    for size, model in zip(sizes, models, strict=True):
        if model == 255:
            groups.append([0] * size)
            continue
        edges = cumulative(model)
        top = (len(edges) - 2) // 2
        group = []
        for _ in range(size):
            scale = width >> 24
            q = (point - lower & STATE) // scale
            assert q < 2**24
            j = bisect_right(edges, q) - 1
            lower = lower + scale * edges[j] & STATE
            width = scale * (edges[j + 1] - edges[j])
            if width < WORD:
                lower, width = lower * WORD & STATE, width * WORD
                point = point * WORD + word() & STATE
            group.append(j - top)
        groups.append(group)
    return groups


# Evaluation.


def evaluate_tree(tree: Tree, weights: bytes) -> Array:
    """Return the normalised values of the box's axes longer than one voxel."""
    layers = list(tree.layers())
    sizes = [
        sum(n) for _, nodes in layers for n in ([i * o for i, o in nodes], [o for _, o in nodes])
    ]
    parameters = Fields(read_weights(weights, sizes).astype("<f8").tobytes())
    table = []  # level, matrix and biases of each node
    for level, nodes in layers:
        matrices = [take_floats(parameters, i * o).reshape(o, i) for i, o in nodes]
        table.append((level, matrices, [take_floats(parameters, o) for _, o in nodes]))
    out = np.empty(tree.shape)
    leaves = boxes(tree)
    for leaf, box in enumerate(leaves):
        grid = np.meshgrid(*(coordinates(tree, k, box) for k in range(len(box))), indexing="ij")
        x = np.stack([axis.ravel() for axis in grid])
        for step, (level, matrices, biases) in enumerate(table):
            node = leaf * count_nodes(tree, level) // len(leaves)
            x = matrices[node] @ x + biases[node][:, None]
            x = np.sin(x) if step < len(table) - 1 else x
        out[tuple(slice(a, b) for a, b in box)] = x.reshape([b - a for a, b in box])
    values = out.astype(np.float32)
    if tree.smooth is not None:
        for axis, n in enumerate(tree.shape):
            cuts = [*sorted({box[axis][0] for box in leaves}), n]
            values = np.apply_along_axis(smoothed, axis, values, cuts, *tree.smooth)
    return values


def smoothed(line: Array, cuts: Sequence[int], reach: int, strength: int) -> Array:
    """Faces, along one line of an axis."""
    out = line.copy()
    for start, p, stop in zip(cuts, cuts[1:], cuts[2:], strict=False):
        if p - start < 2 or stop - p < 2:
            continue
        a, b, c, d = line[p - 2 : p + 2]
        excess = (c - b) - ((b - a) + (d - c)) / np.float32(2)
        for side, length in ((-1, p - start), (1, stop - p)):
            r = min(reach, length // 2)
            for k in range(r):
                g = np.float32(strength * (r - k)) / np.float32(32 * r)
                at = p - 1 - k if side < 0 else p + k
                out[at] = line[at] - np.float32(side) * g * excess
    return out


def take_floats(fields: Fields, count: int) -> Array:
    return np.frombuffer(fields.take(8 * count), "<f8")


def count_nodes(tree: Tree, level: int) -> int:
    return math.prod(tree.children(k) for k in range(level))


def coordinates(tree: Tree, axis: int, box: Box) -> Array:
    a, b = box[axis]
    index = np.arange(a, b, dtype=np.float64)
    if not tree.block:
        return 2 / (tree.shape[axis] - 1) * index - 1
    if b - a == 1:
        return 0 * index
    scale = 2 / (b - a - 1)
    return scale * index + (-1 - scale * a)


# COSINE section.


def evaluate_cosine(data: bytes, shape: tuple[int, ...]) -> Array:
    fields = Fields(data)
    step = fields.f32()
    integers = [int(v) for v in np.frombuffer(fields.take(2), "<i2")]
    integers += np.frombuffer(fields.rest(), "i1").tolist()
    most = min((4096, 512, 64, 24)[len(shape) - 1], len(integers))
    every = list(product(*(range(min(n, most)) for n in shape)))  # row-major order
    every.sort(key=lambda k: order_of(k, shape))
    out = np.zeros(shape)
    for integer, k in zip(integers, every[: len(integers)], strict=True):
        term: Array = np.array(step * integer)
        for n, f in zip(shape, k, strict=True):
            term = term[..., None] * np.cos(np.pi * f * (2 * np.arange(n) + 1) / (2 * n))
        out += term
    return out.astype(np.float32)


def order_of(k: tuple[int, ...], shape: tuple[int, ...]) -> float:
    total = 0.0
    for f, n in zip(k, shape, strict=True):
        total += (f / n) * (f / n)  # sum() would compensate rounding errors
    return total


# CROP and MASK sections.


def read_crop(data: bytes, header: Header) -> tuple[Box, int]:
    fields = Fields(data)
    box = tuple((fields.varint(), fields.varint() + 1) for _ in header.shape)
    fill = fields.unsigned(header.dtype.itemsize)
    assert not fields.rest()
    return box, fill


def read_mask(data: bytes, itemsize: int, shape: tuple[int, ...]) -> Iterator[tuple[int, Array]]:
    """Yield each pattern and where it goes."""
    fields = Fields(data)
    patterns = [fields.unsigned(itemsize) for _ in range(fields.unsigned(1))]
    for pattern in patterns:
        method = fields.unsigned(1)
        packed = zlib.decompress(fields.take(fields.varint()), wbits=-15)
        flat = [packed[k // 8] >> k % 8 & 1 for k in range(math.prod(shape))]
        plane = np.array(flat, bool).reshape(shape)
        if method == 1:
            axis = next((k for k, n in enumerate(shape) if n > 1), 0)
            plane = np.logical_xor.accumulate(plane, axis=axis)
        yield pattern, plane
    assert not fields.rest()


def bits(values: Array) -> Array:
    """Return a view as unsigned integers: a copy through floats may quiet a signalling NaN."""
    return values.view(f"{values.dtype.byteorder}u{values.dtype.itemsize}")


# Decoding.


def decode(payload: bytes) -> Array:
    """Return the array of a payload."""
    parts = sections(payload)
    header = read_array(parts[ARRAY])
    out = np.empty(header.shape, header.dtype, order="F" if header.fortran else "C")
    box: Box = tuple((0, n) for n in header.shape)
    if CROP in parts:
        box, fill = read_crop(parts[CROP], header)
        bits(out)[...] = fill
    shape = tuple(b - a for a, b in box)
    longer = tuple(n for n in shape if n > 1)
    below = None  # a tree of the low-pass band
    unit = np.zeros(longer, np.float32)  # constant, or WAVELET or CORRECTION
    if TREE in parts and parts[TREE][0] & 4:
        tree = read_tree(parts[TREE], low_pass_shape(parts[WAVELET], longer, parts[TREE][1]))
        below = parts[TREE][1], evaluate_tree(tree, parts[WEIGHTS])
    elif TREE in parts:
        unit = evaluate_tree(read_tree(parts[TREE], longer), parts[WEIGHTS])
    elif COSINE in parts:
        unit = evaluate_cosine(parts[COSINE], longer)
    if WAVELET in parts:
        unit = unit + evaluate_wavelet(parts[WAVELET], longer, below)
    if FILTER in parts:
        unit = evaluate_filter(parts[FILTER], unit)
    values = stored_values(unit, header)
    if CORRECTION in parts:
        values = corrected(parts[CORRECTION], values, header.low, header.high)
    values = values.reshape(shape)
    if MASK in parts:
        for pattern, plane in read_mask(parts[MASK], header.dtype.itemsize, shape):
            bits(values)[plane] = pattern
    bits(out)[tuple(slice(a, b) for a, b in box)] = bits(values)
    return out
