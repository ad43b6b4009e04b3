"""Register-blocked vector kernels of one layer, as LLVM code inside numba functions.

A tile is a set of rows of ``LANES`` float32, one row per feature, ``STRIDE`` apart. A kernel
keeps a block of outputs, ``ROWS`` features by ``COLUMNS`` vectors, in registers while it walks
over the inputs, and finishes it (sine, product with a cosine) before it is stored. numba's own
loops reach less than half of that: they store and load every sum again for each four inputs.

All lanes of all blocks run the same operations in the same order, so a voxel's value depends
neither on its place in a tile nor on the block sizes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from tinc_codec.llvm import (
    BITS,
    VECTOR,
    WIDTH,
    call,
    i64,
    load,
    load_broadcast,
    loop,
    splat,
    store,
)  # fmt: skip

LANES = 256
# Rows a power of two apart would fall into a few sets of the first-level cache.
STRIDE = LANES + 16

# Of 32 vector registers 24 hold sums; of 16, eight do.
ROWS, COLUMNS = (6, 4) if WIDTH == 16 else (4, 2)

Epilogue = Literal["none", "sine", "sine_cosine", "times", "add"]

_ARRAY = types.Array(types.float32, 1, "C")

# Adding 1.5 * 2^23 rounds to an integer, whose parity is then the lowest bit.
_ROUNDER = 12582912.0
# pi in three parts (Cody and Waite): the product of the first with a small integer is exact.
_PI_PARTS = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)
# Polynomials on [-pi/2, pi/2], highest power first: sine over r is 1 + q * (...), q = r^2.
# Measured errors: 1e-7 (sine), 3e-7 (cosine).
_SINE = (2.60831598097865930e-6, -1.98106907191686332e-4, 8.33307858556509018e-3,
         -1.66666597127914429e-1)  # fmt: skip
_COSINE = (-2.7239899e-7, 2.4800552e-5, -1.38888787478209e-3, 4.16666641831398e-2, -0.5, 1.0)


def _multiply_add(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z, in one rounding where the machine can."""
    return call(b, f"llvm.fmuladd.v{WIDTH}f32", VECTOR, [x, y, z])


def _reduce(b: Any, z: Any) -> tuple[Any, Any]:
    """Return z less its nearest multiple k of pi, and the sign bit of (-1)^k."""
    rounded = _multiply_add(b, z, splat(1 / np.pi), splat(_ROUNDER))
    k = b.fsub(rounded, splat(_ROUNDER))
    for part in _PI_PARTS:
        z = _multiply_add(b, k, splat(-part), z)
    return z, b.shl(b.bitcast(rounded, BITS), ir.Constant(BITS, [31] * WIDTH))


def _with_sign(b: Any, value: Any, sign: Any) -> Any:
    return b.bitcast(b.xor(b.bitcast(value, BITS), sign), VECTOR)


def _polynomial(b: Any, q: Any, coefficients: tuple[float, ...]) -> Any:
    sum_ = splat(coefficients[0])
    for coefficient in coefficients[1:]:
        sum_ = _multiply_add(b, sum_, q, splat(coefficient))
    return sum_


def _finish(b: Any, epilogue: Epilogue, z: Any, y: Any, c: Any, at: Any) -> None:
    """Store what the epilogue makes of sums z to y (and c)."""
    if epilogue in ("sine", "sine_cosine"):
        r, sign = _reduce(b, z)
        q = b.fmul(r, r)
        r = _with_sign(b, r, sign)
        z = _multiply_add(b, b.fmul(r, q), _polynomial(b, q, _SINE), r)
        if epilogue == "sine_cosine":
            store(b, _with_sign(b, _polynomial(b, q, _COSINE), sign), c, at)
    elif epilogue == "times":
        z = b.fmul(z, load(b, c, at))
    elif epilogue == "add":
        z = b.fadd(z, load(b, y, at))
    store(b, z, y, at)


def _block(b: Any, rows: int, epilogue: Epilogue, a: Any, n_in: Any, x: Any, y: Any, c: Any) -> Any:
    """Emit one block of ``rows`` outputs over all lanes. ``a`` gives a weight and a bias."""
    columns = COLUMNS * (2 if rows == 1 else 1)

    def lanes(v: Any, _: list[Any]) -> list[Any]:
        start = [bias for r in range(rows) for bias in [a.bias(b, r)] * columns]

        def inputs(i: Any, sums: list[Any]) -> list[Any]:
            at = b.add(b.mul(i, i64(STRIDE)), v)
            xs = [load(b, x, b.add(at, i64(k * WIDTH))) for k in range(columns)]
            out = []
            for r in range(rows):
                w = a.weight(b, r, i)
                out += [_multiply_add(b, w, xs[k], sums[r * columns + k]) for k in range(columns)]
            return out

        sums = loop(b, n_in, 1, start, inputs)
        for r in range(rows):
            for k in range(columns):
                at = b.add(v, i64(r * STRIDE + k * WIDTH))
                _finish(b, epilogue, sums[r * columns + k], y, c, at)
        return []

    loop(b, i64(LANES), columns * WIDTH, [], lanes)


class _Matrix:
    """Weights p[at + r step_o + i step_i] from output o on, and biases if there are any."""

    def __init__(self, p: Any, at: Any, step_o: Any, step_i: Any, bias_at: Any | None) -> None:
        self.p, self.at, self.step_o, self.step_i, self.bias_at = p, at, step_o, step_i, bias_at

    def from_output(self, b: Any, o: Any) -> _Matrix:
        at = b.add(self.at, b.mul(o, self.step_o))
        bias_at = None if self.bias_at is None else b.add(self.bias_at, o)
        return _Matrix(self.p, at, self.step_o, self.step_i, bias_at)

    def weight(self, b: Any, r: int, i: Any) -> Any:
        at = b.add(self.at, b.mul(self.step_o, i64(r)))
        return load_broadcast(b, self.p, b.add(at, b.mul(i, self.step_i)))

    def bias(self, b: Any, r: int) -> Any:
        if self.bias_at is None:
            return splat(0)
        return load_broadcast(b, self.p, b.add(self.bias_at, i64(r)))


def _product(
    b: Any, epilogue: Epilogue, matrix: _Matrix, n_in: Any, n_out: Any, x: Any, y: Any, c: Any
) -> None:
    """Emit the outputs in blocks of up to ROWS, as even as they go."""
    blocks = b.sdiv(b.add(n_out, i64(ROWS - 1)), i64(ROWS))

    def outputs(k: Any, carried: list[Any]) -> list[Any]:
        (o,) = carried
        left = b.sub(blocks, k)
        rows = b.sdiv(b.add(b.sub(n_out, o), b.sub(left, i64(1))), left)
        row = b.mul(o, i64(STRIDE))
        y_o, c_o = b.gep(y, [row]), b.gep(c, [row])
        here = matrix.from_output(b, o)
        done = b.append_basic_block("done")
        choices = [b.append_basic_block(f"rows_{r}") for r in range(1, ROWS + 1)]
        switch = b.switch(rows, choices[-1])
        for r, choice in enumerate(choices[:-1], 1):
            switch.add_case(i64(r), choice)
        for r, choice in enumerate(choices, 1):
            b.position_at_end(choice)
            _block(b, r, epilogue, here, n_in, x, y_o, c_o)
            b.branch(done)
        b.position_at_end(done)
        return [b.add(o, rows)]

    loop(b, blocks, 1, [i64(0)], outputs)


def layer_kernel(epilogue: Epilogue, *, transposed: bool) -> Any:
    """Return an intrinsic ``f(p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, c, c_at)``.

    It sets the rows of y, from y_at on, to W x + b, for the rows of x from x_at on; transposed, to
    the transpose of W times x, without b, n_in and n_out being the product's own. Then:

    - ``"none"``: nothing more; ``"sine"``: the sine; ``"sine_cosine"``: the sine, and c takes the
      cosine; ``"times"``: times c; ``"add"``: y is added to, not set.

    The arrays must be flat float32 and at least one input and one output there.
    """

    @intrinsic
    def kernel(  # type: ignore[no-untyped-def]
        typing_context, p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, c, c_at
    ):
        n = types.int64
        signature = types.void(_ARRAY, n, n, n, n, _ARRAY, n, _ARRAY, n, _ARRAY, n)

        def generate(context: Any, b: Any, sig: Any, arguments: Any) -> Any:
            p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, c, c_at = arguments

            def data(array: Any, at: Any) -> Any:
                return b.gep(context.make_array(_ARRAY)(context, b, array).data, [at])

            steps = (i64(1), n_out) if transposed else (n_in, i64(1))
            matrix = _Matrix(data(p, i64(0)), w_at, *steps, None if transposed else b_at)
            _product(b, epilogue, matrix, n_in, n_out, data(x, x_at), data(y, y_at), data(c, c_at))
            return context.get_dummy_value()

        return signature, generate

    return kernel


def _sums(b: Any, vectors: list[Any]) -> Any:
    """Return one vector whose lane k is the sum over the lanes of vector k; WIDTH vectors."""
    part = WIDTH // 2
    while part:
        lower = [k for k in range(2 * WIDTH) if k % (2 * part) < part]
        upper = [k + part for k in lower]
        vectors = [
            b.fadd(
                b.shuffle_vector(one, other, ir.Constant(BITS, lower)),
                b.shuffle_vector(one, other, ir.Constant(BITS, upper)),
            )
            for one, other in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        part //= 2
    return vectors[0]


# Outer products are summed over the lanes in blocks of so many rows of dz and of x.
OUTER_ROWS, OUTER_COLUMNS = WIDTH // 4, 4


def outer_kernel() -> Any:
    """Return an intrinsic ``f(dz, dz_at, dz_last, x, x_at, x_last, sums)``.

    It sets sums[OUTER_COLUMNS r + q] to the sum over the lanes of dz row r times x row q. The
    rows start at dz_at and x_at; those beyond dz_last and x_last repeat the last ones.
    """

    @intrinsic
    def kernel(  # type: ignore[no-untyped-def]
        typing_context, dz, dz_at, dz_last, x, x_at, x_last, sums
    ):
        n = types.int64
        signature = types.void(_ARRAY, n, n, _ARRAY, n, n, _ARRAY)

        def generate(context: Any, b: Any, sig: Any, arguments: Any) -> Any:
            dz, dz_at, dz_last, x, x_at, x_last, sums = arguments

            def data(array: Any) -> Any:
                return context.make_array(_ARRAY)(context, b, array).data

            def rows(count: int, at: Any, last: Any) -> list[Any]:
                places = [b.add(at, i64(r * STRIDE)) for r in range(count)]
                return [b.select(b.icmp_signed("<", p, last), p, last) for p in places]

            dz_rows, x_rows = rows(OUTER_ROWS, dz_at, dz_last), rows(OUTER_COLUMNS, x_at, x_last)

            def lanes(v: Any, carried: list[Any]) -> list[Any]:
                ds = [load(b, data(dz), b.add(row, v)) for row in dz_rows]
                xs = [load(b, data(x), b.add(row, v)) for row in x_rows]
                products = [(d, u) for d in ds for u in xs]
                return [
                    _multiply_add(b, *pair, s) for pair, s in zip(products, carried, strict=True)
                ]

            start = [splat(0)] * (OUTER_ROWS * OUTER_COLUMNS)
            store(b, _sums(b, loop(b, i64(LANES), WIDTH, start, lanes)), data(sums), i64(0))
            return context.get_dummy_value()

        return signature, generate

    return kernel
