"""Kernels that make faces of leaves smooth."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["faces", "n", "inner", "size"])
def jumps(
    values, firsts, excess, faces, n, inner, size, FACES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Find what faces along an axis jump by beyond what is expected, (faces, lines).

    ``values`` are (outer, n, inner); outer * inner lines run along the axis. Each operation is
    rounded (fusion is off where this is launched); see :mod:`tinc_codec.engines.gpu.faces`.
    """
    face = tl.program_id(1) * FACES + tl.arange(0, FACES)
    line = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = (face < faces)[None, :] & (line < size)[:, None]
    first = tl.load(firsts + face, mask=face < faces, other=0)
    at = values + (line // inner * n * inner + line % inner)[:, None] + first[None, :] * inner
    a = tl.load(at, mask=there, other=0.0)
    b = tl.load(at + inner, mask=there, other=0.0)
    c = tl.load(at + 2 * inner, mask=there, other=0.0)
    d = tl.load(at + 3 * inner, mask=there, other=0.0)
    value = (c - b) - ((b - a) + (d - c)) * 0.5
    tl.store(excess + face.to(tl.int64)[None, :] * size + line[:, None], value, mask=there)


@triton.jit(do_not_specialize=["count", "n", "inner", "size"])
def correct(
    values, excess, rows, faces, factors, count, n, inner, size,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add to rows of an axis their factors of what faces jump by; see :func:`jumps`."""
    number = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    line = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = number < count
    there = inside[None, :] & (line < size)[:, None]
    row = tl.load(rows + number, mask=inside, other=0)
    face = tl.load(faces + number, mask=inside, other=0)
    factor = tl.load(factors + number, mask=inside, other=0.0)
    at = values + (line // inner * n * inner + line % inner)[:, None] + row[None, :] * inner
    jump = tl.load(excess + face[None, :] * size + line[:, None], mask=there, other=0.0)
    value = tl.load(at, mask=there, other=0.0) + jump * factor[None, :]
    tl.store(at, value, mask=there)
