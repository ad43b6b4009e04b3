"""Layer kernels over tiles of ``LANES`` voxels (numba, serial, free of the GIL).

A tile holds one row of ``LANES`` float32 per feature; rows lie one after another in flat arrays.
``LANES`` is a compile-time constant and tiles are always full (idle lanes repeat a voxel), so
every lane runs the same vector code: a voxel's value does not depend on its place in a tile, and
a partial decode equals the same part of a whole one bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LANES = 256

# Contraction to fused multiply-add, but no reassociation: all lanes round alike.
STRICT = {"contract", "nsz", "nnan", "ninf"}
# Sums over lanes may be reordered: only gradients are made so.
FAST = {"contract", "nsz", "nnan", "ninf", "reassoc"}

_INV_PI = np.float32(1 / np.pi)
# pi in three parts (Cody-Waite): the product of the first with a small integer is exact.
_PI_1 = np.float32(3.140625)
_PI_2 = np.float32(9.67502593994140625e-4)
_PI_3 = np.float32(1.509957990978376432e-7)
# Polynomials on [-pi/2, pi/2]; measured errors below 1e-7 (sine) and 3e-7 (cosine).
_S3 = np.float32(-1.66666597127914428710938e-1)
_S5 = np.float32(8.33307858556509017944336e-3)
_S7 = np.float32(-1.98106907191686332225800e-4)
_S9 = np.float32(2.60831598097865930000e-6)
_C4 = np.float32(4.16666641831398e-2)
_C6 = np.float32(-1.38888787478209e-3)
_C8 = np.float32(2.4800552e-5)
_C10 = np.float32(-2.7239899e-7)
_HALF = np.float32(0.5)
_ONE = np.float32(1)
_TWO = np.float32(2)


@njit(nogil=True, fastmath=STRICT, cache=True)
def multiply(
    p: Any, at: int, step_o: int, step_i: int, n_in: int, n_out: int, x: Any, y: Any
) -> None:
    """Add A x to the rows of y, where A[o, i] = p[at + o * step_o + i * step_i].

    Blocks of 4 x 4 weights keep the loads and stores of rows below one per multiply-add.
    """
    o = 0
    while o + 4 <= n_out:
        y0 = y[o * LANES : (o + 1) * LANES]
        y1 = y[(o + 1) * LANES : (o + 2) * LANES]
        y2 = y[(o + 2) * LANES : (o + 3) * LANES]
        y3 = y[(o + 3) * LANES : (o + 4) * LANES]
        i = 0
        while i + 4 <= n_in:
            a = at + o * step_o + i * step_i
            b, c, d = a + step_o, a + 2 * step_o, a + 3 * step_o
            a0, a1, a2, a3 = p[a], p[a + step_i], p[a + 2 * step_i], p[a + 3 * step_i]
            b0, b1, b2, b3 = p[b], p[b + step_i], p[b + 2 * step_i], p[b + 3 * step_i]
            c0, c1, c2, c3 = p[c], p[c + step_i], p[c + 2 * step_i], p[c + 3 * step_i]
            d0, d1, d2, d3 = p[d], p[d + step_i], p[d + 2 * step_i], p[d + 3 * step_i]
            x0 = x[i * LANES : (i + 1) * LANES]
            x1 = x[(i + 1) * LANES : (i + 2) * LANES]
            x2 = x[(i + 2) * LANES : (i + 3) * LANES]
            x3 = x[(i + 3) * LANES : (i + 4) * LANES]
            for v in range(LANES):
                s0, s1, s2, s3 = x0[v], x1[v], x2[v], x3[v]
                y0[v] += a0 * s0 + a1 * s1 + a2 * s2 + a3 * s3
                y1[v] += b0 * s0 + b1 * s1 + b2 * s2 + b3 * s3
                y2[v] += c0 * s0 + c1 * s1 + c2 * s2 + c3 * s3
                y3[v] += d0 * s0 + d1 * s1 + d2 * s2 + d3 * s3
            i += 4
        while i < n_in:
            a = at + o * step_o + i * step_i
            a0, b0, c0, d0 = p[a], p[a + step_o], p[a + 2 * step_o], p[a + 3 * step_o]
            x0 = x[i * LANES : (i + 1) * LANES]
            for v in range(LANES):
                s0 = x0[v]
                y0[v] += a0 * s0
                y1[v] += b0 * s0
                y2[v] += c0 * s0
                y3[v] += d0 * s0
            i += 1
        o += 4
    while o < n_out:
        _multiply_row(p, at + o * step_o, step_i, n_in, x, y[o * LANES : (o + 1) * LANES])
        o += 1


@njit(nogil=True, fastmath=STRICT, cache=True)
def _multiply_row(p: Any, at: int, step_i: int, n_in: int, x: Any, y0: Any) -> None:
    i = 0
    while i + 4 <= n_in:
        a = at + i * step_i
        a0, a1, a2, a3 = p[a], p[a + step_i], p[a + 2 * step_i], p[a + 3 * step_i]
        x0 = x[i * LANES : (i + 1) * LANES]
        x1 = x[(i + 1) * LANES : (i + 2) * LANES]
        x2 = x[(i + 2) * LANES : (i + 3) * LANES]
        x3 = x[(i + 3) * LANES : (i + 4) * LANES]
        for v in range(LANES):
            y0[v] += a0 * x0[v] + a1 * x1[v] + a2 * x2[v] + a3 * x3[v]
        i += 4
    while i < n_in:
        a0 = p[at + i * step_i]
        x0 = x[i * LANES : (i + 1) * LANES]
        for v in range(LANES):
            y0[v] += a0 * x0[v]
        i += 1


@njit(nogil=True, fastmath=STRICT, cache=True)
def affine(p: Any, weight_at: int, bias_at: int, n_in: int, n_out: int, x: Any, y: Any) -> None:
    """Set the rows of y to W x + b."""
    for o in range(n_out):
        b = p[bias_at + o]
        y0 = y[o * LANES : (o + 1) * LANES]
        for v in range(LANES):
            y0[v] = b
    multiply(p, weight_at, n_in, 1, n_in, n_out, x, y)


@njit(nogil=True, fastmath=STRICT, cache=True)
def sine(rows: int, z: Any) -> None:
    """Replace rows of z by their sine."""
    for v in range(rows * LANES):
        k = np.floor(z[v] * _INV_PI + _HALF)
        r = ((z[v] - k * _PI_1) - k * _PI_2) - k * _PI_3
        sign = _ONE - _TWO * (k - _TWO * np.floor(k * _HALF))
        q = r * r
        z[v] = sign * (r + r * q * (_S3 + q * (_S5 + q * (_S7 + q * _S9))))


@njit(nogil=True, fastmath=STRICT, cache=True)
def sine_cosine(rows: int, z: Any, c: Any) -> None:
    """Replace rows of z by their sine, and fill c with their cosine."""
    for v in range(rows * LANES):
        k = np.floor(z[v] * _INV_PI + _HALF)
        r = ((z[v] - k * _PI_1) - k * _PI_2) - k * _PI_3
        sign = _ONE - _TWO * (k - _TWO * np.floor(k * _HALF))
        q = r * r
        z[v] = sign * (r + r * q * (_S3 + q * (_S5 + q * (_S7 + q * _S9))))
        c[v] = sign * (_ONE + q * (-_HALF + q * (_C4 + q * (_C6 + q * (_C8 + q * _C10)))))


@njit(nogil=True, fastmath=FAST, cache=True)
def add_outer(n_in: int, n_out: int, dz: Any, x: Any, g: Any, weight_at: int, bias_at: int) -> None:
    """Add sum_v dz[o, v] x[i, v] to the weight gradient, sum_v dz[o, v] to the bias gradient."""
    for o in range(n_out):
        d0 = dz[o * LANES : (o + 1) * LANES]
        total = np.float32(0)
        for v in range(LANES):
            total += d0[v]
        g[bias_at + o] += total
    o = 0
    while o + 4 <= n_out:
        d0 = dz[o * LANES : (o + 1) * LANES]
        d1 = dz[(o + 1) * LANES : (o + 2) * LANES]
        d2 = dz[(o + 2) * LANES : (o + 3) * LANES]
        d3 = dz[(o + 3) * LANES : (o + 4) * LANES]
        at = weight_at + o * n_in
        i = 0
        while i + 2 <= n_in:
            x0 = x[i * LANES : (i + 1) * LANES]
            x1 = x[(i + 1) * LANES : (i + 2) * LANES]
            s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = np.float32(0)
            for v in range(LANES):
                u0, u1 = x0[v], x1[v]
                e0, e1, e2, e3 = d0[v], d1[v], d2[v], d3[v]
                s00 += e0 * u0
                s01 += e0 * u1
                s10 += e1 * u0
                s11 += e1 * u1
                s20 += e2 * u0
                s21 += e2 * u1
                s30 += e3 * u0
                s31 += e3 * u1
            g[at + i] += s00
            g[at + i + 1] += s01
            g[at + n_in + i] += s10
            g[at + n_in + i + 1] += s11
            g[at + 2 * n_in + i] += s20
            g[at + 2 * n_in + i + 1] += s21
            g[at + 3 * n_in + i] += s30
            g[at + 3 * n_in + i + 1] += s31
            i += 2
        while i < n_in:
            x0 = x[i * LANES : (i + 1) * LANES]
            s00 = s10 = s20 = s30 = np.float32(0)
            for v in range(LANES):
                u0 = x0[v]
                s00 += d0[v] * u0
                s10 += d1[v] * u0
                s20 += d2[v] * u0
                s30 += d3[v] * u0
            g[at + i] += s00
            g[at + n_in + i] += s10
            g[at + 2 * n_in + i] += s20
            g[at + 3 * n_in + i] += s30
            i += 1
        o += 4
    while o < n_out:
        d0 = dz[o * LANES : (o + 1) * LANES]
        for i in range(n_in):
            x0 = x[i * LANES : (i + 1) * LANES]
            s00 = np.float32(0)
            for v in range(LANES):
                s00 += d0[v] * x0[v]
            g[weight_at + o * n_in + i] += s00
        o += 1
