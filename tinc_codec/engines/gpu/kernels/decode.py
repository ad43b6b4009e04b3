"""Kernels that decode: tiles of voxels of many chunks, and their values as integers.

Constants are those of :mod:`tinc_codec.engines.gpu.kernels.paths`.
"""

import triton
import triton.language as tl

from tinc_codec.engines.gpu.kernels.paths import (
    all_halves,
    all_sines,
    first_sums,
    load_weights,
    output_of,
    scaled_sums,
)


@triton.jit(do_not_specialize=["leaves", "voxels", "parts", "rounds"])
def decode_tiles(
    p, table, steps, counts, sides, firsts, places, coordinates, strides, out,
    leaves, voxels, parts, rounds,
    POINTS: tl.constexpr, AXES: tl.constexpr,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
    BLOCK: tl.constexpr, DOT: tl.constexpr, FAST: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Evaluate tiles of a leaf's voxels in one chunk, one in each round.

    Programs are parts of leaves of chunks. The tables are those of
    :class:`tinc_codec.engines.gpu.fused.DecodeTables`; ``steps`` (chunks, layers) are what the
    weights are multiples of, or ones, ``WHOLE`` where the multiples are integers of a float16.
    """
    sines: tl.constexpr = len(FIRST) - 1
    path = tl.program_id(0) // parts
    leaf, chunk = path % leaves, path // leaves
    first, count = tl.program_id(0) % parts * rounds * BLOCK, tl.load(counts + leaf)
    steps += chunk * (sines + 1)
    weights = ()
    for layer in tl.static_range(1, sines):
        scale = 1 / tl.load(steps + layer)
        found = load_weights(p, table, layer, path, scale, BLOCKS, AT, FIRST, DOT, WHOLE)
        weights = weights + (found,)
    for start in range(first, tl.minimum(first + rounds * BLOCK, count), BLOCK):
        inside = start + tl.arange(0, BLOCK) < count
        rest = tl.where(inside, start + tl.arange(0, BLOCK), 0)
        place, xs = tl.zeros((BLOCK,), tl.int64), ()
        for turn in tl.static_range(AXES):
            row = (AXES - 1 - turn) * leaves + leaf
            if POINTS:
                at = tl.load(firsts + row) + rest
            else:
                side = tl.load(sides + row)
                at = tl.load(firsts + row) + rest % side
                rest = rest // side
            place += tl.load(places + at) * tl.load(strides + AXES - 1 - turn)
            xs = (tl.load(coordinates + at),) + xs
        xs = all_sines(first_sums(p, table, path, xs, BLOCKS, AT, FIRST), FAST)
        for layer in tl.static_range(1, sines):
            xs, step = all_halves(xs, DOT), tl.load(steps + layer)
            zs = scaled_sums(
                p, table, layer, path, xs, weights[layer - 1], step, BLOCKS, AT, FIRST, DOT
            )
            xs = all_sines(zs, FAST)
        value = output_of(p, table, path, xs, BLOCKS, AT, FIRST)
        tl.store(out + chunk.to(tl.int64) * voxels + place, value, mask=inside)


@triton.jit(do_not_specialize=["low", "high", "size"])
def to_integers(unit, out, low, high, size, BLOCK: tl.constexpr):
    """Map [0, 1] to integers of up to 32 bits, as :mod:`tinc_codec.engines.gpu.values` does.

    In float64, each operation rounded (fusion is off where this is launched).
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    u = tl.load(unit + at, mask=at < size, other=0.0).to(tl.float64)
    u = tl.minimum(tl.maximum(tl.where(u == u, u, 0.0), 0.0), 1.0)
    low, high = low.to(tl.float64), high.to(tl.float64)
    value = (1.0 - u) * low + u * high
    value = (value + 6755399441055744.0) - 6755399441055744.0  # 1.5 * 2**52: rounds to even
    value = tl.minimum(tl.maximum(value, low), high)
    tl.store(out + at, value.to(tl.int64).to(out.dtype.element_ty), mask=at < size)
