"""The TREE section: structure of a tree <-> bytes. Widths are stored, never derived.

Layout: flags u8 (bit 0: coordinates per block; bit 1: faces are made smooth; bit 2: of a low-pass
band; others zero), for a low-pass band its number u8, levels u8, one split mask u8 per level below
the root (bit k: axis k halved), where faces are made smooth the reach u8 and the strength u8, then
for each level its depth u8 and for each of its sine layers the widths: a varint ``lowest << 1``
when all nodes agree, else ``lowest << 1 | 1``, the bits per node u8, and the excesses over
``lowest``, packed from the least significant bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.stream.wire import Reader, Writer
from tinc_codec.tree.faces import MAX_REACH, MAX_STRENGTH, Smoothing
from tinc_codec.tree.geometry import MAX_AXES, MAX_LEVELS, Geometry
from tinc_codec.tree.network import Tree, count_parameters

MAX_DEPTH = 16
MAX_WIDTH = 4096
# Bytes that a smoothing of faces takes.
SMOOTHING_BYTES = 2
_BLOCK, _SMOOTH, _LOW_PASS = 1, 2, 4


def to_bytes(tree: Tree) -> bytes:
    """Return the TREE section of a tree."""
    geometry = tree.geometry
    flags = _BLOCK * (geometry.coordinates == "block") | _SMOOTH * (tree.smoothing is not None)
    flags |= _LOW_PASS * (tree.halvings > 0)
    out = Writer().u8(flags)
    if tree.halvings:
        out.u8(tree.halvings)
    out.u8(geometry.levels)
    for axes in geometry.splits:
        out.u8(sum(1 << axis for axis in axes))
    if tree.smoothing is not None:
        out.u8(tree.smoothing.reach).u8(tree.smoothing.strength)
    for widths in tree.widths:
        out.u8(widths.shape[1])
        for column in widths.T:
            _write_widths(out, column)
    return out.getvalue()


def _write_widths(out: Writer, column: Int64Array) -> None:
    lowest = int(column.min())
    bits = int(column.max() - lowest).bit_length()
    out.varint(lowest << 1 | (bits > 0))
    if bits:
        excess = (column - lowest)[:, None] >> np.arange(bits) & 1
        out.u8(bits).raw(np.packbits(excess.astype(np.uint8), bitorder="little").tobytes())


def from_bytes(
    data: bytes,
    shape: tuple[int, ...],
    most_parameters: int,
    bands: Sequence[tuple[int, ...]] = (),
) -> Tree:
    """Read a TREE section.

    Parameters
    ----------
    data : bytes
        The section.
    shape : tuple of int
        Voxels of the fitted box, singleton axes dropped.
    most_parameters : int
        Refuse structures with more parameters or nodes, before they take memory.
    bands : sequence of tuple of int
        The same as ``shape`` of the low-pass bands that there are, finest first.

    Raises
    ------
    TruncatedPayload, CorruptPayload
        If the section is malformed or exceeds the limit.
    """
    reader = Reader(data, "TREE")
    flags = reader.u8()
    if flags > (_BLOCK | _SMOOTH | _LOW_PASS):
        raise CorruptPayload(f"tree: reserved flag bits are set in {flags:#04x}")
    halvings = reader.u8() if flags & _LOW_PASS else 0
    if flags & _LOW_PASS:
        if not 1 <= halvings <= len(bands):
            raise CorruptPayload(f"tree: low-pass band {halvings} is not in 1..{len(bands)}")
        shape = bands[halvings - 1]
    geometry = _read_geometry(reader, shape, "block" if flags & _BLOCK else "global")
    smoothing = _read_smoothing(reader, geometry) if flags & _SMOOTH else None
    if sum(geometry.node_counts) > most_parameters:
        raise CorruptPayload(
            f"tree: {sum(geometry.node_counts)} nodes exceed {most_parameters}, "
            "the most that the coded weights can fill"
        )
    widths = []
    for nodes in geometry.node_counts:
        depth = reader.u8()
        if not 1 <= depth <= MAX_DEPTH:
            raise CorruptPayload(f"tree: depth {depth} of a hyper layer is not in 1..{MAX_DEPTH}")
        widths.append(np.stack([_read_widths(reader, nodes) for _ in range(depth)], axis=1))
    reader.done()
    tree = Tree(geometry=geometry, widths=tuple(widths), smoothing=smoothing, halvings=halvings)
    if count_parameters(tree) > most_parameters:
        raise CorruptPayload(
            f"tree: {count_parameters(tree)} parameters exceed {most_parameters}, "
            "the most that the coded weights can fill"
        )
    return tree


def _read_geometry(
    reader: Reader, shape: tuple[int, ...], coordinates: Literal["global", "block"]
) -> Geometry:
    levels = reader.u8()
    if not 1 <= levels <= MAX_LEVELS:
        raise CorruptPayload(f"tree: {levels} levels are not in 1..{MAX_LEVELS}")
    if not 1 <= len(shape) <= MAX_AXES:
        raise CorruptPayload(f"tree: {len(shape)} axes longer than 1 are not in 1..{MAX_AXES}")
    splits = []
    sides = list(shape)
    for _ in range(levels - 1):
        mask = reader.u8()
        axes = tuple(axis for axis in range(len(shape)) if mask >> axis & 1)
        if mask == 0 or mask >> len(shape):
            raise CorruptPayload(f"tree: split mask {mask:#04x} does not fit {len(shape)} axes")
        for axis in axes:
            if sides[axis] < 2:
                raise CorruptPayload(f"tree: axis {axis} is split below one voxel")
            sides[axis] //= 2
        splits.append(axes)
    return Geometry(shape=shape, splits=tuple(splits), coordinates=coordinates)


def _read_smoothing(reader: Reader, geometry: Geometry) -> Smoothing:
    reach, strength = reader.u8(), reader.u8()
    if not geometry.splits:
        raise CorruptPayload("tree: faces are to be made smooth, but one level has none")
    if not 1 <= reach <= MAX_REACH:
        raise CorruptPayload(f"tree: reach {reach} at faces is not in 1..{MAX_REACH}")
    if not 1 <= strength <= MAX_STRENGTH:
        raise CorruptPayload(f"tree: strength {strength} at faces is not in 1..{MAX_STRENGTH}")
    return Smoothing(reach=reach, strength=strength)


def _read_widths(reader: Reader, nodes: int) -> Int64Array:
    code = reader.varint()
    column = np.full(nodes, code >> 1, np.int64)
    if code & 1:
        bits = reader.u8()
        if not 1 <= bits <= 16:
            raise CorruptPayload(f"tree: {bits} bits per width are not in 1..16")
        packed = np.frombuffer(reader.take(-(-nodes * bits // 8)), np.uint8)
        unpacked = np.unpackbits(packed, bitorder="little").astype(np.int64)
        if unpacked[nodes * bits :].any():
            raise CorruptPayload("tree: padding bits of widths are not zero")
        column += unpacked[: nodes * bits].reshape(nodes, bits) @ (1 << np.arange(bits))
    if not 1 <= column.min() <= column.max() <= MAX_WIDTH:
        raise CorruptPayload(f"tree: a layer width is not in 1..{MAX_WIDTH}")
    return column
