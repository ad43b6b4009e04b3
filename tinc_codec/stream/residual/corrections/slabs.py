"""An integer field within a bound, every element of it, on every machine: slab by slab.

Integers only. What is predicted with which weights the header says; fit/prediction.py looks for
these.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Int64Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run, even_parts
from tinc_codec.stream.residual.axes import AXES, Window
from tinc_codec.stream.residual.coder import binary, mixing
from tinc_codec.stream.residual.coder.binary import Coder
from tinc_codec.stream.residual.corrections import differences
from tinc_codec.stream.residual.corrections.differences import COUNTED, Field
from tinc_codec.stream.residual.corrections.header import NAME, Header, from_bytes
from tinc_codec.stream.residual.corrections.lattices import BEFORE, SPARSE, lattices

# Bytes for each element that a slab's buffer starts with.
_BUFFER = 9


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


def _scratch() -> Int64Array:
    return np.zeros((differences.SCRATCH, differences.MOST_NEIGHBOURS), np.int64)


def _code_sparse(coder: Coder, coded: Field, blocks: npt.NDArray[np.uint8]) -> bool:
    """Code a slab of which nothing is predicted; False: the data were too short."""
    near = np.array(BEFORE[:COUNTED], np.int64)
    if not differences.code_blocks(coder, blocks):
        return False
    return bool(differences.code_sparse(coder, coded, _with_neighbours(blocks), near, _scratch()))


def _code_lattices(coder: Coder, coded: Field, header: Header) -> bool:
    """Code a slab lattice by lattice; False: the data were too short."""
    scratch = _scratch()
    for lattice in lattices(header.mode, coded.shape):
        weights = np.zeros(len(lattice.neighbours), np.int64)
        if lattice.fitted >= 0:
            weights[1:] = header.weights[lattice.fitted]
        points = differences.Lattice(
            first=lattice.first, stride=lattice.stride, neighbours=lattice.neighbours,
            weights=weights,
        )  # fmt: skip
        biases = np.zeros(differences.BIASES, np.int64)
        if not differences.code_lattice(coder, coded, points, scratch, biases):
            return False
    return True


def _code(
    header: Header,
    field: Int64Array,
    out: Int64Array,
    data: npt.NDArray[np.uint8],
    *,
    decoding: bool,
) -> int:
    """Code a slab; return its bytes, -1 if the data were too short."""
    coder = binary.started(data, *_new_model(), decoding=decoding)
    depth, height, width = out.shape
    coded = Field(
        shape=(depth, height, width), wanted=field.reshape(-1), known=out.reshape(-1),
        own=np.zeros(out.size, np.int16), bound=header.bound, lowest=header.lowest,
        highest=header.highest,
    )  # fmt: skip
    if header.mode == SPARSE:
        blocks = np.zeros([(n + 3) >> differences.BLOCK_SHIFT for n in out.shape], np.uint8)
        if not decoding:
            blocks = _blocks_of(field, header.bound)
        whole = _code_sparse(coder, coded, blocks)
    else:
        whole = _code_lattices(coder, coded, header)
    if not whole:
        return -1
    return int(coder.state[binary.AT]) if decoding else binary.finish(coder)


def encode(header: Header, field: Int64Array) -> bytes:
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


def decode(
    data: bytes, shape: Sequence[int], *, window: Window | None = None, run: Run = map
) -> Int64Array:
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
    header, coded = from_bytes(data, depth)
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
                f"{NAME}: the {len(part)} bytes of planes {a} to {b - 1} end before the elements do"
            )

    list(run(decode_slab, slabs))
    whole = (slice(0, height), slice(0, width)) == (slice(y0, y1), slice(x0, x1))
    part = out[z0 - top : z1 - top]
    return part if whole else np.ascontiguousarray(part[:, y0:y1, x0:x1])
