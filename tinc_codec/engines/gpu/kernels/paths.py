"""What kernels of a path are made of: its layers on a tile of voxels, forward.

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
def features_of(BLOCKS: tl.constexpr, AT: tl.constexpr, b: tl.constexpr):
    """Return the numbers, in their layer, of the features of a block."""
    size: tl.constexpr = BLOCKS[b]
    first: tl.constexpr = AT[b]
    return first + tl.arange(0, size)


@triton.jit
def width_of(BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, layer: tl.constexpr):
    """Return the width of a sine layer."""
    last: tl.constexpr = FIRST[layer + 1] - 1
    width: tl.constexpr = AT[last] + BLOCKS[last]
    return width


@triton.jit
def item_of(table, layer, column):
    """Return an integer of a layer."""
    return tl.load(table + layer * ROW + column)


@triton.jit
def node_at(table, layer, path, column, size):
    """Return where a node's items begin in the stacked parameters, each node having so many."""
    at = item_of(table, layer, column) + path // item_of(table, layer, 2) * size
    return tl.multiple_of(at, 16)


@triton.jit
def first_sums(
    p, table, path, xs,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Return the first layer's sums (voxels, features), block by block, from the coordinates."""
    end: tl.constexpr = FIRST[1]
    axes: tl.constexpr = len(xs)
    width = width_of(BLOCKS, AT, FIRST, 0)
    weights, biases = node_at(table, 0, path, 0, width * axes), node_at(table, 0, path, 1, width)
    zs = ()
    for b in tl.static_range(end):
        o = features_of(BLOCKS, AT, b)
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
def rough(w, DOT: tl.constexpr):
    """Return a factor of a product of which 11 bits are enough: that of derivatives."""
    return w.to(tl.float16) if DOT == "float16" else w


@triton.jit
def rough_product(x, w, z, DOT: tl.constexpr):
    """Return z + x w, of what :func:`rough` gives."""
    if DOT == "float16":
        return tl.dot(x, w, z)
    else:
        return tl.dot(x, w, z, input_precision=DOT)


@triton.jit
def load_weights(
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
    n_in, n_out = width_of(BLOCKS, AT, FIRST, layer - 1), width_of(BLOCKS, AT, FIRST, layer)
    at, found = p + node_at(table, layer, path, 0, n_out * n_in), ()
    for b in tl.static_range(begin, end):
        row = ()
        for a in tl.static_range(before, begin):
            o, i = features_of(BLOCKS, AT, b), features_of(BLOCKS, AT, a)
            w = tl.load(at + o[None, :] * n_in + i[:, None])
            if WHOLE:
                row = row + ((rough(w * scale, DOT),),)
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
    biases = p + node_at(table, layer, path, 1, width_of(BLOCKS, AT, FIRST, layer))
    return tl.load(biases + features_of(BLOCKS, AT, begin + b))[None, :]


@triton.jit
def layer_sums(
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
def scaled_sums(
    p, table, layer: tl.constexpr, path, halves, weights, step,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Return a sine layer's sums as :func:`layer_sums`, of weights ``step`` times these."""
    zs = ()
    for b in tl.static_range(len(weights)):
        bias = _biases(p, table, layer, path, b, BLOCKS, AT, FIRST)
        z = tl.zeros((halves[0][0].shape[0], bias.shape[1]), tl.float32)
        for a in tl.static_range(len(halves)):
            z = _product(halves[a], weights[b][a], z, DOT)
        zs = zs + (z * step + bias,)
    return zs


@triton.jit
def all_sines(zs, FAST: tl.constexpr):
    """Return the sines of blocks."""
    xs = ()
    for b in tl.static_range(len(zs)):
        xs = xs + (_sine(zs[b], FAST),)
    return xs


@triton.jit
def all_sines_and_cosines(zs, DOT: tl.constexpr, FAST: tl.constexpr):
    """Return the sines of blocks, and their cosines as :func:`rough` factors."""
    xs, cosines = (), ()
    for b in tl.static_range(len(zs)):
        x, cosine = _sine_and_cosine(zs[b], FAST)
        xs, cosines = xs + (x,), cosines + (rough(cosine, DOT),)
    return xs, cosines


@triton.jit
def all_halves(xs, DOT: tl.constexpr):
    """Return blocks as :func:`_halves`."""
    found = ()
    for b in tl.static_range(len(xs)):
        found = found + (_halves(xs[b], DOT),)
    return found


@triton.jit
def output_of(
    p, table, path, xs,
    BLOCKS: tl.constexpr, AT: tl.constexpr, FIRST: tl.constexpr,
):  # fmt: skip
    """Return the network's values (voxels,) from the last sines."""
    sines: tl.constexpr = len(FIRST) - 1
    before: tl.constexpr = FIRST[sines - 1]
    weights = node_at(table, sines, path, 0, width_of(BLOCKS, AT, FIRST, sines - 1))
    value = tl.load(p + item_of(table, sines, 1) + path)
    for b in tl.static_range(len(xs)):
        w = tl.load(p + weights + features_of(BLOCKS, AT, before + b))
        value = value + tl.sum(xs[b] * w[None, :], axis=1)
    return value
