"""Triton kernels: a tile of voxels through its leaf's whole path, weights and activations on chip.

The only module that imports triton when it is loaded; it is imported inside functions alone.
So far these kernels have run in Triton's interpreter only, and been compiled for sm_80 and sm_90
(tests/test_triton.py); never on a GPU. :mod:`tinc_codec.engines.gpu.fused` therefore compares
them with torch's products before it trusts them.

A path is a first layer that takes the coordinates, sine layers, and an output layer of width 1.
``table`` has a row of six integers per layer, output included: where the first node's weights
begin in the stacked parameters, where the biases do, outputs, inputs (padded to the level's
widest node, as :mod:`tinc_codec.engines.gpu.stacks` has it), leaves per node, and where the
layer lies in a row of path gradients (weights, then biases). ``WIDTHS`` are the sine layers'
outputs, each the next power of two of at least 16: what is beyond is masked, and zero. Products
are in full float32, sines have their arguments reduced.
"""

import triton
import triton.language as tl

ROW = tl.constexpr(6)


@triton.jit
def _sine(z, OF_COSINE: tl.constexpr):
    """Return the sine of z, or its cosine; errors are below 1e-7 and ``abs(z)`` * 1e-8.

    z less its nearest multiple of pi (for a cosine, odd multiple of pi / 2), pi in three parts
    whose products with the multiple are exact (Cody and Waite); then the Taylor polynomial.
    """
    whole = tl.floor(z * 0.31830988618379067 + (0.0 if OF_COSINE else 0.5))
    turns = whole + (0.5 if OF_COSINE else 0.0)
    r = z - turns * 3.140625
    r = r - turns * 9.67502593994140625e-4
    r = r - turns * 1.509957990978376432e-7
    s = r * r
    q = s * 1.6059043836821613e-10 - 2.505210838544172e-08
    q = s * q + 2.7557319223985893e-06
    q = s * q - 0.0001984126984126984
    q = s * q + 0.008333333333333333
    q = s * q - 0.16666666666666666
    value = r + r * s * q
    odd = whole - 2 * tl.floor(whole * 0.5)
    return value * (2 * odd - 1 if OF_COSINE else 1 - 2 * odd)


@triton.jit
def _item(table, layer, column):
    return tl.load(table + layer * ROW + column)


@triton.jit
def _weights(p, table, layer, leaf, o, i):
    """Return the weights at outputs o and inputs i; zero beyond."""
    n_out, n_in = _item(table, layer, 2), _item(table, layer, 3)
    at = _item(table, layer, 0) + leaf // _item(table, layer, 4) * n_out * n_in
    return tl.load(p + at + o * n_in + i, mask=(o < n_out) & (i < n_in), other=0.0)


@triton.jit
def _biases(p, table, layer, leaf, o):
    """Return the biases at outputs o; zero beyond."""
    n_out = _item(table, layer, 2)
    at = _item(table, layer, 1) + leaf // _item(table, layer, 4) * n_out
    return tl.load(p + at + o, mask=o < n_out, other=0.0)


@triton.jit
def _column(p, table, leaf, o, axis):
    """Return what the first layer multiplies a coordinate by, at outputs o; zero beyond."""
    n_out, n_in = _item(table, 0, 2), _item(table, 0, 3)
    at = _item(table, 0, 0) + leaf // _item(table, 0, 4) * n_out * n_in
    return tl.load(p + at + o * n_in + axis, mask=o < n_out, other=0.0)


@triton.jit
def _sums(p, table, layer, leaf, x, WIDTHS: tl.constexpr):
    """Return a sine layer's sums (voxels, outputs) from the sines before it."""
    o, i = tl.arange(0, WIDTHS[layer]), tl.arange(0, WIDTHS[layer - 1])
    w = _weights(p, table, layer, leaf, o[None, :], i[:, None])
    b = _biases(p, table, layer, leaf, o)
    return tl.dot(x, w, input_precision="ieee") + b[None, :]


@triton.jit
def _output(p, table, leaf, x, WIDTHS: tl.constexpr):
    """Return the network's values (voxels,) from the last sines."""
    last: tl.constexpr = len(WIDTHS)
    i = tl.arange(0, WIDTHS[last - 1])
    w = _weights(p, table, last, leaf, i * 0, i)
    return tl.sum(x * w[None, :], axis=1) + tl.load(p + _item(table, last, 1) + leaf)


@triton.jit(do_not_specialize=["leaves", "voxels"])
def decode_tiles(
    p, table, tile_leaf, tile_first, counts, sides, firsts,
    places, coordinates, strides, out, leaves, voxels,
    POINTS: tl.constexpr, AXES: tl.constexpr, WIDTHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Evaluate a tile of a leaf's voxels in one chunk, program (tile, chunk).

    The tables are those of :func:`tinc_codec.engines.gpu.fused.decode_tables`.
    """
    leaf, chunk = tl.load(tile_leaf + tl.program_id(0)), tl.program_id(1).to(tl.int64)
    j = tl.load(tile_first + tl.program_id(0)) + tl.arange(0, BLOCK)
    inside = j < tl.load(counts + leaf)
    rest = tl.where(inside, j, 0)
    path = chunk * leaves + leaf
    o = tl.arange(0, WIDTHS[0])
    z = _biases(p, table, 0, path, o)[None, :] + tl.zeros((BLOCK, WIDTHS[0]), tl.float32)
    place = tl.zeros((BLOCK,), tl.int64)
    for turn in tl.static_range(AXES):
        row = (AXES - 1 - turn) * leaves + leaf
        if POINTS:
            at = tl.load(firsts + row) + rest
        else:
            side = tl.load(sides + row)
            at = tl.load(firsts + row) + rest % side
            rest = rest // side
        place += tl.load(places + at) * tl.load(strides + AXES - 1 - turn)
        w = _column(p, table, path, o, AXES - 1 - turn)
        z += tl.load(coordinates + at)[:, None] * w[None, :]
    x = _sine(z, False)
    for layer in tl.static_range(1, len(WIDTHS)):
        x = _sine(_sums(p, table, layer, path, x, WIDTHS), False)
    tl.store(out + chunk * voxels + place, _output(p, table, path, x, WIDTHS), mask=inside)


@triton.jit(do_not_specialize=["leaves", "n", "voxels", "tiles", "size"])
def fit_tiles(
    p, table, x, where, targets, weights, shares, partial,
    losses, leaves, n, voxels, tiles, size,
    WEIGHTED: tl.constexpr, AXES: tl.constexpr, WIDTHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Run tiles of a leaf's sample forward and backward, program (leaf of all chunks, part).

    The loss goes to ``losses[leaf, part]``, the gradient of the path to ``partial[leaf, part]``,
    which this program alone writes: sums do not depend on which program runs first.
    """
    sines: tl.constexpr = len(WIDTHS)
    path = tl.program_id(0).to(tl.int64)
    leaf, chunk = path % leaves, path // leaves
    share = tl.load(shares + leaf)
    loss, gradients = tl.zeros((BLOCK,), tl.float32), _no_gradients(AXES, WIDTHS)
    for t in range(tiles):
        j = (tl.program_id(1) * tiles + t) * BLOCK + tl.arange(0, BLOCK)
        inside = j < n
        at = leaf * n + tl.where(inside, j, 0)
        voxel = chunk * voxels + tl.load(where + at)
        zs = _forward(p, table, path, x, at, AXES, WIDTHS)
        last = _sine(zs[sines - 1], False)
        error = _output(p, table, path, last, WIDTHS) - tl.load(targets + voxel)
        factor = tl.where(inside, share, 0.0)
        if WEIGHTED:
            factor = factor * tl.load(weights + voxel)
        loss += factor * error * error
        dz = 2 * factor * error
        gradients = _backward(p, table, path, x, at, zs, dz, gradients, AXES, WIDTHS)
    row = path * tl.num_programs(1) + tl.program_id(1)
    tl.store(losses + row, tl.sum(loss, axis=0))
    _store(partial + row * size, table, gradients, AXES, WIDTHS)


@triton.jit
def _no_gradients(AXES: tl.constexpr, WIDTHS: tl.constexpr):
    """Return zeros for all gradients of a path.

    They are a column per axis, the weights of each sine layer but the first, the biases of each,
    the output layer's weights and its bias.
    """
    sines: tl.constexpr = len(WIDTHS)
    columns, matrices, biases = (), (), ()
    for _ in tl.static_range(AXES):
        columns = columns + (tl.zeros((WIDTHS[0],), tl.float32),)
    for k in tl.static_range(1, sines):
        matrices = matrices + (tl.zeros((WIDTHS[k], WIDTHS[k - 1]), tl.float32),)
    for k in tl.static_range(sines):
        biases = biases + (tl.zeros((WIDTHS[k],), tl.float32),)
    output = tl.zeros((WIDTHS[sines - 1],), tl.float32)
    return columns, matrices, biases, output, 0.0


@triton.jit
def _forward(p, table, path, x, at, AXES: tl.constexpr, WIDTHS: tl.constexpr):
    """Return the sums of all sine layers."""
    o = tl.arange(0, WIDTHS[0])
    z = _biases(p, table, 0, path, o)[None, :]
    for axis in tl.static_range(AXES):
        w = _column(p, table, path, o, axis)
        z = z + tl.load(x + at * AXES + axis)[:, None] * w[None, :]
    zs = (z,)
    for k in tl.static_range(1, len(WIDTHS)):
        zs = zs + (_sums(p, table, k, path, _sine(zs[k - 1], False), WIDTHS),)
    return zs


@triton.jit
def _backward(
    p, table, path, x, at, zs, dy, gradients,
    AXES: tl.constexpr, WIDTHS: tl.constexpr,
):  # fmt: skip
    """Return the gradients with those of a tile added; dy is the loss's by the output."""
    sines: tl.constexpr = len(WIDTHS)
    columns, matrices, biases, output, bias = gradients
    i = tl.arange(0, WIDTHS[sines - 1])
    w = _weights(p, table, sines, path, i * 0, i)
    output += tl.sum(dy[:, None] * _sine(zs[sines - 1], False), axis=0)
    bias += tl.sum(dy, axis=0)
    dz = dy[:, None] * w[None, :] * _sine(zs[sines - 1], True)
    new_matrices, new_biases, new_columns = (), (), ()
    for m in tl.static_range(1, sines):
        new_biases = (biases[sines - m] + tl.sum(dz, axis=0),) + new_biases
        product = tl.dot(tl.trans(dz), _sine(zs[sines - m - 1], False), input_precision="ieee")
        new_matrices = (matrices[sines - m - 1] + product,) + new_matrices
        o, i = tl.arange(0, WIDTHS[sines - m]), tl.arange(0, WIDTHS[sines - m - 1])
        w = _weights(p, table, sines - m, path, o[:, None], i[None, :])
        dz = tl.dot(dz, w, input_precision="ieee") * _sine(zs[sines - m - 1], True)
    new_biases = (biases[0] + tl.sum(dz, axis=0),) + new_biases
    for axis in tl.static_range(AXES):
        product = tl.sum(dz * tl.load(x + at * AXES + axis)[:, None], axis=0)
        new_columns = new_columns + (columns[axis] + product,)
    return new_columns, new_matrices, new_biases, output, bias


@triton.jit
def _store(row, table, gradients, AXES: tl.constexpr, WIDTHS: tl.constexpr):
    """Write a path's gradients, without what is beyond the widths."""
    sines: tl.constexpr = len(WIDTHS)
    columns, matrices, biases, output, bias = gradients
    o = tl.arange(0, WIDTHS[0])
    for axis in tl.static_range(AXES):
        tl.store(row + o * AXES + axis, columns[axis], mask=o < _item(table, 0, 2))
    for k in tl.static_range(1, sines):
        o, i = tl.arange(0, WIDTHS[k])[:, None], tl.arange(0, WIDTHS[k - 1])[None, :]
        n_out, n_in = _item(table, k, 2), _item(table, k, 3)
        at = row + _item(table, k, 5) + o * n_in + i
        tl.store(at, matrices[k - 1], mask=(o < n_out) & (i < n_in))
    for k in tl.static_range(sines):
        o = tl.arange(0, WIDTHS[k])
        n_out = _item(table, k, 2)
        at = row + _item(table, k, 5) + n_out * _item(table, k, 3) + o
        tl.store(at, biases[k], mask=o < n_out)
    i = tl.arange(0, WIDTHS[sines - 1])
    n_in = _item(table, sines, 3)
    tl.store(row + _item(table, sines, 5) + i, output, mask=i < n_in)
    tl.store(row + _item(table, sines, 5) + n_in, bias)
