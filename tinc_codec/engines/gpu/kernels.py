"""Triton kernels: a tile of voxels through its leaf's whole path, weights and activations on chip.

The only module of the engine that imports triton when it is loaded; it is imported inside functions
alone. :mod:`tinc_codec.engines.gpu.fused` compares the kernels with torch's products before it
trusts them.

A path is a first layer that takes the coordinates, sine layers, and an output layer of width 1.
Features of a sine layer come in blocks of 16 or a larger power of two, which add up to its width in
the stacks: ``BLOCKS`` are the sizes of all layers' blocks, ``AT`` where each begins in its layer,
``FIRST`` the first block of each layer, and behind the last one their number. ``table`` has a row
of four integers per layer, output included: where the first node's weights begin in the stacked
parameters, where the biases do, leaves per node, and where the layer lies in a row of path
gradients (weights, then biases). No access is masked by a width: what pads a layer is zero.

Constants of a tuple are taken out of it by assignments with a type: without, some versions of
Triton take them for numbers of the kernel's.
"""

import triton
import triton.language as tl

ROW = tl.constexpr(4)


@triton.jit
def _sine(z, FAST: tl.constexpr):
    """Return the sine of z; errors are below 1e-7, or 5e-7 where the GPU's own sine is used.

    And ``abs(z)`` * 1e-8. z less its nearest multiple of pi (of 2 pi), pi in parts whose products
    with the multiple are exact (Cody and Waite); then a polynomial, or the GPU's.
    """
    if FAST:
        return _sine_near_0(_less_turns(z))
    else:
        near = z * 0.31830988618379067 + 12582912.0  # 1.5 * 2**23: rounds; the last bit is its own
        return _odd_sine(z, near, near - 12582912.0)


@triton.jit
def _sine_and_cosine(z, FAST: tl.constexpr):
    """Return sine and cosine of z; as :func:`_sine`, the cosine's of z less odd halves of pi."""
    if FAST:
        r = _less_turns(z)
        return _sine_near_0(r), _cosine_near_0(r)
    else:
        near = (z * 0.31830988618379067 - 0.5) + 12582912.0
        return _sine(z, FAST), -_odd_sine(z, near, (near - 12582912.0) + 0.5)


@triton.jit
def _sine_near_0(r):
    # Said to have effects: else the compiler does it several times.
    return tl.inline_asm_elementwise(
        "sin.approx.ftz.f32 $0, $1;", "=f,f", [r], tl.float32, False, 1
    )


@triton.jit
def _cosine_near_0(r):
    return tl.inline_asm_elementwise(
        "cos.approx.ftz.f32 $0, $1;", "=f,f", [r], tl.float32, False, 1
    )


@triton.jit
def _less_turns(z):
    """Return z less its nearest multiple of 2 pi."""
    turns = (z * 0.15915494309189535 + 12582912.0) - 12582912.0
    r = z - turns * 6.28125
    return r - turns * 1.9353071795864769e-3


@triton.jit
def _odd_sine(z, near, halves):
    """Return the sine of z - pi * halves, its sign changed if the last bit of ``near`` is set."""
    r = z - halves * 3.140625
    r = r - halves * 9.67502593994140625e-4
    r = r - halves * 1.509957990978376432e-7
    s = r * r
    q = s * 2.60005322e-06 - 1.98066144e-04
    q = s * q + 8.33301728e-03
    q = s * q - 0.166666571
    value = r + r * s * q
    sign = near.to(tl.int32, bitcast=True) << 31
    return (value.to(tl.int32, bitcast=True) ^ sign).to(tl.float32, bitcast=True)


@triton.jit
def _features(BLOCKS: tl.constexpr, AT: tl.constexpr, b: tl.constexpr):
    """Return the numbers, in their layer, of the features of a block."""
    size: tl.constexpr = BLOCKS[b]
    first: tl.constexpr = AT[b]
    return first + tl.arange(0, size)


@triton.jit
def _width(BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, layer: tl.constexpr):
    """Return the width of a sine layer."""
    last: tl.constexpr = FIRST[layer + 1] - 1
    width: tl.constexpr = AT[last] + BLOCKS[last]
    return width


@triton.jit
def _item(table, layer, column):
    return tl.load(table + layer * ROW + column)


@triton.jit
def _node(table, layer, path, column, size):
    """Return where a node's items begin in the stacked parameters, each node having so many."""
    at = _item(table, layer, column) + path // _item(table, layer, 2) * size
    return tl.multiple_of(at, 16)


@triton.jit
def _first_sums(
    p, table, path, xs,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Return the first layer's sums (voxels, features), block by block, from the coordinates."""
    end: tl.constexpr = FIRST[1]
    axes: tl.constexpr = len(xs)
    width = _width(BLOCKS, AT, FIRST, 0)
    weights, biases = _node(table, 0, path, 0, width * axes), _node(table, 0, path, 1, width)
    zs = ()
    for b in tl.static_range(end):
        o = _features(BLOCKS, AT, b)
        z = tl.load(p + biases + o)[None, :]
        for axis in tl.static_range(axes):
            w = tl.load(p + weights + o * axes + axis)
            z = z + xs[axis][:, None] * w[None, :]
        zs = zs + (z,)
    return zs


@triton.jit
def _halves(w, DOT: tl.constexpr):
    """Return a product's factor as it takes it: itself, or two float16 whose sum it is."""
    if DOT == "float16":
        high = w.to(tl.float16)
        return high, (w - high.to(tl.float32)).to(tl.float16)
    else:
        return (w,)


@triton.jit
def _product(x, w, z, DOT: tl.constexpr):
    """Return z + x w, of what :func:`_halves` gives; ``w`` may be a single float16.

    The product of the lesser float16 is left out: errors of 2**-22 where factors are below 2**15,
    and of 2**-25 where they are small.
    """
    if DOT == "float16":
        z = tl.dot(x[1], w[0], z)
        if len(w) == 2:
            z = tl.dot(x[0], w[1], z)
        return tl.dot(x[0], w[0], z)
    else:
        return tl.dot(x[0], w[0], z, input_precision=DOT)


@triton.jit
def _rough(w, DOT: tl.constexpr):
    """Return a factor of a product of which 11 bits are enough: that of derivatives."""
    return w.to(tl.float16) if DOT == "float16" else w


@triton.jit
def _rough_product(x, w, z, DOT: tl.constexpr):
    """Return z + x w, of what :func:`_rough` gives."""
    if DOT == "float16":
        return tl.dot(x, w, z)
    else:
        return tl.dot(x, w, z, input_precision=DOT)


@triton.jit
def _weights(
    p, table, layer: tl.constexpr, path, scale,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Return a sine layer's weights, (inputs, outputs) for each block of outputs and of inputs.

    ``WHOLE``: times ``scale``, which makes them integers that a float16 holds.
    """
    begin: tl.constexpr = FIRST[layer]
    end: tl.constexpr = FIRST[layer + 1]
    before: tl.constexpr = FIRST[layer - 1]
    n_in, n_out = _width(BLOCKS, AT, FIRST, layer - 1), _width(BLOCKS, AT, FIRST, layer)
    at, found = p + _node(table, layer, path, 0, n_out * n_in), ()
    for b in tl.static_range(begin, end):
        row = ()
        for a in tl.static_range(before, begin):
            o, i = _features(BLOCKS, AT, b), _features(BLOCKS, AT, a)
            w = tl.load(at + o[None, :] * n_in + i[:, None])
            if WHOLE:
                row = row + ((_rough(w * scale, DOT),),)
            else:
                row = row + (_halves(w, DOT),)
        found = found + (row,)
    return found


@triton.jit
def _biases(
    p, table, layer: tl.constexpr, path, b: tl.constexpr,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Return the biases (1, features) of a sine layer's block."""
    begin: tl.constexpr = FIRST[layer]
    biases = p + _node(table, layer, path, 1, _width(BLOCKS, AT, FIRST, layer))
    return tl.load(biases + _features(BLOCKS, AT, begin + b))[None, :]


@triton.jit
def _sums(
    p, table, layer: tl.constexpr, path, halves, weights,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Return a sine layer's sums (voxels, features), block by block, from the sines before it."""
    zs = ()
    for b in tl.static_range(len(weights)):
        bias = _biases(p, table, layer, path, b, BLOCKS, AT, FIRST)
        z = tl.broadcast_to(bias, (halves[0][0].shape[0], bias.shape[1]))
        for a in tl.static_range(len(halves)):
            z = _product(halves[a], weights[b][a], z, DOT)
        zs = zs + (z,)
    return zs


@triton.jit
def _scaled_sums(
    p, table, layer: tl.constexpr, path, halves, weights, step,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Return a sine layer's sums as :func:`_sums`, of weights that are ``step`` times these."""
    zs = ()
    for b in tl.static_range(len(weights)):
        bias = _biases(p, table, layer, path, b, BLOCKS, AT, FIRST)
        z = tl.zeros((halves[0][0].shape[0], bias.shape[1]), tl.float32)
        for a in tl.static_range(len(halves)):
            z = _product(halves[a], weights[b][a], z, DOT)
        zs = zs + (z * step + bias,)
    return zs


@triton.jit
def _sines(zs, FAST: tl.constexpr):
    xs = ()
    for b in tl.static_range(len(zs)):
        xs = xs + (_sine(zs[b], FAST),)
    return xs


@triton.jit
def _sines_and_cosines(zs, DOT: tl.constexpr, FAST: tl.constexpr):
    """Return the sines of blocks, and their cosines as :func:`_rough` factors."""
    xs, cosines = (), ()
    for b in tl.static_range(len(zs)):
        x, cosine = _sine_and_cosine(zs[b], FAST)
        xs, cosines = xs + (x,), cosines + (_rough(cosine, DOT),)
    return xs, cosines


@triton.jit
def _all_halves(xs, DOT: tl.constexpr):
    found = ()
    for b in tl.static_range(len(xs)):
        found = found + (_halves(xs[b], DOT),)
    return found


@triton.jit
def _output(
    p, table, path, xs,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Return the network's values (voxels,) from the last sines."""
    sines: tl.constexpr = len(FIRST) - 1
    before: tl.constexpr = FIRST[sines - 1]
    weights = _node(table, sines, path, 0, _width(BLOCKS, AT, FIRST, sines - 1))
    value = tl.load(p + _item(table, sines, 1) + path)
    for b in tl.static_range(len(xs)):
        w = tl.load(p + weights + _features(BLOCKS, AT, before + b))
        value = value + tl.sum(xs[b] * w[None, :], axis=1)
    return value


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
        found = _weights(p, table, layer, path, scale, BLOCKS, AT, FIRST, DOT, WHOLE)
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
        xs = _sines(_first_sums(p, table, path, xs, BLOCKS, AT, FIRST), FAST)
        for layer in tl.static_range(1, sines):
            xs, step = _all_halves(xs, DOT), tl.load(steps + layer)
            zs = _scaled_sums(
                p, table, layer, path, xs, weights[layer - 1], step, BLOCKS, AT, FIRST, DOT
            )
            xs = _sines(zs, FAST)
        value = _output(p, table, path, xs, BLOCKS, AT, FIRST)
        tl.store(out + chunk.to(tl.int64) * voxels + place, value, mask=inside)


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
    zs = _first_sums(p, table, path, coordinates, BLOCKS, AT, FIRST)
    xs, found = _sines_and_cosines(zs, DOT, FAST)
    cosines, halves, ws = (found,), (), ()
    for layer in tl.static_range(1, sines):
        halves = halves + (_all_halves(xs, DOT),)
        ws = ws + (_weights(p, table, layer, path, 1.0, BLOCKS, AT, FIRST, DOT, False),)
        zs = _sums(p, table, layer, path, halves[layer - 1], ws[layer - 1], BLOCKS, AT, FIRST, DOT)
        xs, found = _sines_and_cosines(zs, DOT, FAST)
        cosines = cosines + (found,)
    voxel = chunk.to(tl.int64) * voxels + tl.load(where + at)
    error = _output(p, table, path, xs, BLOCKS, AT, FIRST) - tl.load(targets + voxel)
    dy = tl.where(inside, error, 0.0)
    if WEIGHTED:
        dy = dy * tl.load(weights + voxel)
    row, share = path.to(tl.int64) * tl.num_programs(1) + tl.program_id(1), tl.load(shares + leaf)
    tl.store(losses + row, share * tl.sum(dy * error, axis=0))
    largest = tl.max(tl.abs(dy), axis=0)
    largest = tl.where(largest > 0, largest, 1.0)
    dy, scale, out = dy / largest, 2 * share * largest, partial + row * size
    dx = _output_gradients(p, table, path, out, xs, dy, scale, BLOCKS, AT, FIRST, DOT)
    ones = _rough(_beside_ones(coordinates, BLOCK), DOT)
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
        dz = dz + (_rough(dx[b], DOT) * cosines[b],)
    return dz


@triton.jit
def _output_gradients(
    p, table, path, out, xs, dy, scale,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Store the output layer's gradients, dy being the loss's by it; return those by its inputs."""
    sines: tl.constexpr = len(FIRST) - 1
    before: tl.constexpr = FIRST[sines - 1]
    n_in = _width(BLOCKS, AT, FIRST, sines - 1)
    weights, at = _node(table, sines, path, 0, n_in), _item(table, sines, 3)
    tl.store(out + at + n_in, scale * tl.sum(dy, axis=0))
    first = tl.arange(0, 16)[:, None] == 0
    dys = _rough(tl.where(first, dy[None, :], 0.0), DOT)
    dx = ()
    for b in tl.static_range(len(xs)):
        i = _features(BLOCKS, AT, before + b)
        product = tl.zeros((16, i.shape[0]), tl.float32)
        product = _rough_product(dys, _rough(xs[b], DOT), product, DOT)
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
    n_in, n_out = _width(BLOCKS, AT, FIRST, layer - 1), _width(BLOCKS, AT, FIRST, layer)
    at = tl.multiple_of(_item(table, layer, 3), 16)
    first = tl.arange(0, 16)[None, :] == 0
    for b in tl.static_range(len(dz)):
        o = _features(BLOCKS, AT, begin + b)
        product = tl.zeros((o.shape[0], 16), tl.float32)
        product = _rough_product(tl.trans(dz[b]), ones, product, DOT)
        places = tl.broadcast_to(n_out * n_in + o[:, None], product.shape)
        tl.store(out + at + places, scale * product, mask=first)
    dx = ()
    for a in tl.static_range(len(xs)):
        i = _features(BLOCKS, AT, before + a)
        total = tl.zeros(xs[a][0].shape, tl.float32)
        for b in tl.static_range(len(dz)):
            o = _features(BLOCKS, AT, begin + b)
            product = tl.zeros((o.shape[0], i.shape[0]), tl.float32)
            product = _rough_product(tl.trans(dz[b]), xs[a][0], product, DOT)
            tl.store(out + at + o[:, None] * n_in + i[None, :], scale * product)
            total = _rough_product(dz[b], tl.trans(weights[b][a][0]), total, DOT)
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
    n_out = _width(BLOCKS, AT, FIRST, 0)
    at, column = tl.multiple_of(_item(table, 0, 3), 16), tl.arange(0, 16)[None, :]
    for b in tl.static_range(len(dz)):
        o = _features(BLOCKS, AT, b)[:, None]
        product = tl.zeros((o.shape[0], 16), tl.float32)
        product = _rough_product(tl.trans(dz[b]), ones, product, DOT)
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
