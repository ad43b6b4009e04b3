"""Kernels of a step of a fit: drawing voxels, a path forward and backward, and sums of gradients.

Constants are those of :mod:`tinc_codec.engines.gpu.kernels.paths`.
"""

import triton
import triton.language as tl

from tinc_codec.engines.gpu.kernels.paths import (
    all_halves,
    all_sines_and_cosines,
    features_of,
    first_sums,
    item_of,
    layer_sums,
    load_weights,
    node_at,
    output_of,
    rough,
    rough_product,
    width_of,
)


@triton.jit(do_not_specialize=["n", "total"])
def draw(
    corners, affine, strides, keys, x, where, n, total, AXES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Draw voxels of a leaf, program (leaf, tile): their coordinates, and their flat indices.

    As :meth:`tinc_codec.engines.gpu.products.Gradient.sample` does, in unsigned 32-bit integers.
    """
    leaf = tl.program_id(0)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside, at = j < n, leaf * n + j
    key = tl.load(keys).to(tl.uint32)
    row, factors = corners + leaf * (1 + 2 * AXES), affine + leaf * 2 * AXES
    flat = tl.zeros((BLOCK,), tl.int64)
    for axis in tl.static_range(AXES):
        bits = ((tl.load(row) + j) * AXES + axis).to(tl.uint32) * 0x9E3779B9 + key
        bits = (bits ^ (bits >> 16)) * 0x7FEB352D
        bits = (bits ^ (bits >> 15)) * 0x846CA68B
        bits = bits ^ (bits >> 16)
        side = tl.load(row + 1 + AXES + axis).to(tl.uint32)
        index = tl.load(row + 1 + axis) + tl.umulhi(bits, side).to(tl.int64)
        flat += index * tl.load(strides + axis)
        scaled = index.to(tl.float64) * tl.load(factors + axis) + tl.load(factors + AXES + axis)
        tl.store(x + axis * total + at, scaled.to(tl.float32), mask=inside)
    tl.store(where + at, flat, mask=inside)


@triton.jit(do_not_specialize=["leaves", "n", "total", "voxels", "size"])
def fit_tiles(
    p, table, x, where, targets, weights, shares, partial, losses,
    leaves, n, total, voxels, size,
    WEIGHTED: tl.constexpr, AXES: tl.constexpr,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
    BLOCK: tl.constexpr, DOT: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Run a tile of a leaf's sample forward and backward, program (leaf of all chunks, tile).

    The loss goes to ``losses[leaf, tile]``, the gradient of the path to ``partial[leaf, tile]``:
    sums do not depend on which program runs first. The derivatives that go through the layers are
    those by the tile's output divided by its largest: what float16 can hold. Products of
    derivatives are of single float16; their errors are far below those of sampling.
    """
    sines: tl.constexpr = len(FIRST) - 1
    path = tl.program_id(0)
    leaf, chunk = path % leaves, path // leaves
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = j < n
    at = leaf * n + tl.where(inside, j, 0)
    coordinates = ()
    for axis in tl.static_range(AXES):
        coordinates = coordinates + (tl.load(x + axis * total + at),)
    zs = first_sums(p, table, path, coordinates, BLOCKS, AT, FIRST)
    xs, found = all_sines_and_cosines(zs, DOT, FAST)
    cosines, halves, ws = (found,), (), ()
    for layer in tl.static_range(1, sines):
        halves = halves + (all_halves(xs, DOT),)
        ws = ws + (load_weights(p, table, layer, path, 1.0, BLOCKS, AT, FIRST, DOT, False),)
        zs = layer_sums(
            p, table, layer, path, halves[layer - 1], ws[layer - 1], BLOCKS, AT, FIRST, DOT
        )
        xs, found = all_sines_and_cosines(zs, DOT, FAST)
        cosines = cosines + (found,)
    voxel = chunk.to(tl.int64) * voxels + tl.load(where + at)
    error = output_of(p, table, path, xs, BLOCKS, AT, FIRST) - tl.load(targets + voxel)
    dy = tl.where(inside, error, 0.0)
    if WEIGHTED:
        dy = dy * tl.load(weights + voxel)
    row, share = path.to(tl.int64) * tl.num_programs(1) + tl.program_id(1), tl.load(shares + leaf)
    tl.store(losses + row, share * tl.sum(dy * error, axis=0))
    largest = tl.max(tl.abs(dy), axis=0)
    largest = tl.where(largest > 0, largest, 1.0)
    dy, scale, out = dy / largest, 2 * share * largest, partial + row * size
    dx = _output_gradients(p, table, path, out, xs, dy, scale, BLOCKS, AT, FIRST, DOT)
    ones = rough(_beside_ones(coordinates, BLOCK), DOT)
    for turn in tl.static_range(1, sines):
        dz = _through_sines(cosines[sines - turn], dx, DOT)
        xs, w = halves[sines - turn - 1], ws[sines - turn - 1]
        dx = _gradients(table, sines - turn, out, xs, ones, dz, w, scale, BLOCKS, AT, FIRST, DOT)
    dz = _through_sines(cosines[0], dx, DOT)
    _first_gradients(table, out, ones, dz, scale, AXES, BLOCKS, AT, FIRST, DOT)


@triton.jit
def _beside_ones(columns, BLOCK: tl.constexpr):
    """Return a matrix of 16 columns: ones, the given ones, and zeros."""
    number = tl.arange(0, 16)[None, :]
    matrix = tl.where(number == 0, 1.0, tl.zeros((BLOCK, 16), tl.float32))
    for k in tl.static_range(len(columns)):
        matrix = tl.where(number == k + 1, columns[k][:, None], matrix)
    return matrix


@triton.jit
def _through_sines(cosines, dx, DOT: tl.constexpr):
    """Return the loss's derivatives by sums from those by their sines."""
    dz = ()
    for b in tl.static_range(len(cosines)):
        dz = dz + (rough(dx[b], DOT) * cosines[b],)
    return dz


@triton.jit
def _output_gradients(
    p, table, path, out, xs, dy, scale,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Store the output layer's gradients, dy being the loss's by it; return those by its inputs."""
    sines: tl.constexpr = len(FIRST) - 1
    before: tl.constexpr = FIRST[sines - 1]
    n_in = width_of(BLOCKS, AT, FIRST, sines - 1)
    weights, at = node_at(table, sines, path, 0, n_in), item_of(table, sines, 3)
    tl.store(out + at + n_in, scale * tl.sum(dy, axis=0))
    first = tl.arange(0, 16)[:, None] == 0
    dys = rough(tl.where(first, dy[None, :], 0.0), DOT)
    dx = ()
    for b in tl.static_range(len(xs)):
        i = features_of(BLOCKS, AT, before + b)
        product = tl.zeros((16, i.shape[0]), tl.float32)
        product = rough_product(dys, rough(xs[b], DOT), product, DOT)
        places = tl.broadcast_to(i[None, :], product.shape)
        tl.store(out + at + places, scale * product, mask=first)
        dx = dx + (dy[:, None] * tl.load(p + weights + i)[None, :],)
    return dx


@triton.jit
def _gradients(
    table, layer: tl.constexpr, out, xs, ones, dz, weights, scale,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Store a sine layer's gradients, dz being the loss's by its sums; return those by its inputs.

    ``xs`` and ``weights`` are halves, ``ones`` a matrix whose first column are ones.
    """
    begin: tl.constexpr = FIRST[layer]
    before: tl.constexpr = FIRST[layer - 1]
    n_in, n_out = width_of(BLOCKS, AT, FIRST, layer - 1), width_of(BLOCKS, AT, FIRST, layer)
    at = tl.multiple_of(item_of(table, layer, 3), 16)
    first = tl.arange(0, 16)[None, :] == 0
    for b in tl.static_range(len(dz)):
        o = features_of(BLOCKS, AT, begin + b)
        product = tl.zeros((o.shape[0], 16), tl.float32)
        product = rough_product(tl.trans(dz[b]), ones, product, DOT)
        places = tl.broadcast_to(n_out * n_in + o[:, None], product.shape)
        tl.store(out + at + places, scale * product, mask=first)
    dx = ()
    for a in tl.static_range(len(xs)):
        i = features_of(BLOCKS, AT, before + a)
        total = tl.zeros(xs[a][0].shape, tl.float32)
        for b in tl.static_range(len(dz)):
            o = features_of(BLOCKS, AT, begin + b)
            product = tl.zeros((o.shape[0], i.shape[0]), tl.float32)
            product = rough_product(tl.trans(dz[b]), xs[a][0], product, DOT)
            tl.store(out + at + o[:, None] * n_in + i[None, :], scale * product)
            total = rough_product(dz[b], tl.trans(weights[b][a][0]), total, DOT)
        dx = dx + (total,)
    return dx


@triton.jit
def _first_gradients(
    table, out, ones, dz, scale,
    AXES: tl.constexpr, BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
    DOT: tl.constexpr,
):  # fmt: skip
    """Store the first layer's gradients, dz being the loss's by its sums.

    Beside the first column of ``ones`` are the coordinates.
    """
    n_out = width_of(BLOCKS, AT, FIRST, 0)
    at, column = tl.multiple_of(item_of(table, 0, 3), 16), tl.arange(0, 16)[None, :]
    for b in tl.static_range(len(dz)):
        o = features_of(BLOCKS, AT, b)[:, None]
        product = tl.zeros((o.shape[0], 16), tl.float32)
        product = rough_product(tl.trans(dz[b]), ones, product, DOT)
        places = tl.where(column == 0, n_out * AXES + o, o * AXES + column - 1)
        tl.store(out + at + places, scale * product, mask=column <= AXES)


@triton.jit(do_not_specialize=["size"])
def add_up(partial, jobs, out, size, ITEMS: tl.constexpr, ROWS: tl.constexpr):
    """Add up some columns of the rows of partial gradients that belong to a node.

    A row of ``jobs`` holds for a program: where its items begin in the stacked gradient, how many
    they are, their first column, and the first row and the number of rows.
    """
    job = jobs + tl.program_id(0) * 5
    items = tl.arange(0, ITEMS)
    inside = items < tl.load(job + 1)
    at = partial + tl.load(job + 3) * size + tl.load(job + 2) + items
    rows, total = tl.load(job + 4), tl.zeros((ITEMS,), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        there = (row < rows)[:, None] & inside[None, :]
        found = tl.load(at[None, :] + row[:, None].to(tl.int64) * size, mask=there, other=0.0)
        total += tl.sum(found, axis=0)
    tl.store(out + tl.load(job) + items, total, mask=inside)
