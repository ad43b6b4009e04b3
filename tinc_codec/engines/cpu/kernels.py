"""The layer operations of a tile (numba, serial, free of the GIL).

Tiles are always full (idle lanes repeat a voxel), so a partial decode equals the same part of a
whole one bit for bit; see :mod:`tinc_codec.engines.cpu.vector` for the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.compiled import compiled
from tinc_codec.engines.cpu.vector import (
    LANES,
    OUTER_COLUMNS,
    OUTER_ROWS,
    STRIDE,
    layer_kernel,
    outer_kernel,
)

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "1ad64b52"

# Sums over lanes may be reordered: only gradients are made so.
_REORDERED = {"contract", "nsz", "reassoc"}

_affine = layer_kernel("none", transposed=False)
_affine_sine = layer_kernel("sine", transposed=False)
_affine_sine_cosine = layer_kernel("sine_cosine", transposed=False)
_transposed_times = layer_kernel("times", transposed=True)
_transposed_add = layer_kernel("add", transposed=True)
_outer_block = outer_kernel()


@compiled()
def affine(
    p: Any, w_at: int, b_at: int, n_in: int, n_out: int, x: Any, x_at: int, y: Any, y_at: int
) -> None:
    """Set the rows of y to W x + b."""
    _affine(p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, y, y_at)


@compiled()
def affine_sine(
    p: Any, w_at: int, b_at: int, n_in: int, n_out: int, x: Any, x_at: int, y: Any, y_at: int
) -> None:
    """Set the rows of y to sin(W x + b)."""
    _affine_sine(p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, y, y_at)


@compiled()
def affine_sine_cosine(
    p: Any, w_at: int, b_at: int, n_in: int, n_out: int, x: Any, x_at: int, y: Any, y_at: int,
    c: Any,
) -> None:  # fmt: skip
    """Set the rows of y to sin(W x + b) and those of c, at the same place, to the cosine."""
    _affine_sine_cosine(p, w_at, b_at, n_in, n_out, x, x_at, y, y_at, c, y_at)


@compiled()
def backward_times(
    p: Any, w_at: int, n_in: int, n_out: int, dz: Any, dz_at: int, c: Any, at: int
) -> None:
    """Set the n_in rows of dz at ``at`` to W^T dz times c, from the n_out rows at dz_at."""
    _transposed_times(p, w_at, 0, n_out, n_in, dz, dz_at, dz, at, c, at)


@compiled()
def backward_add(p: Any, w_at: int, n_in: int, n_out: int, dz: Any, dz_at: int, at: int) -> None:
    """Add W^T dz to the n_in rows of dz at ``at``, from the n_out rows at dz_at."""
    _transposed_add(p, w_at, 0, n_out, n_in, dz, dz_at, dz, at, dz, at)


@compiled(fastmath=_REORDERED)
def _add_row_sums(rows: int, dz: Any, dz_at: int, g: Any, at: int) -> None:
    for o in range(rows):
        row = dz[dz_at + o * STRIDE : dz_at + o * STRIDE + LANES]
        total = np.float32(0)
        for v in range(LANES):
            total += row[v]
        g[at + o] += total


@compiled()
def add_outer(
    n_in: int, n_out: int, dz: Any, dz_at: int, x: Any, x_at: int,
    g: Any, w_at: int, b_at: int, sums: Any,
) -> None:  # fmt: skip
    """Add sum_v dz[o, v] x[i, v] to the weight gradient, sum_v dz[o, v] to the bias gradient."""
    _add_row_sums(n_out, dz, dz_at, g, b_at)
    dz_last, x_last = dz_at + (n_out - 1) * STRIDE, x_at + (n_in - 1) * STRIDE
    for o in range(0, n_out, OUTER_ROWS):
        for i in range(0, n_in, OUTER_COLUMNS):
            _outer_block(dz, dz_at + o * STRIDE, dz_last, x, x_at + i * STRIDE, x_last, sums)
            for r in range(min(OUTER_ROWS, n_out - o)):
                at = w_at + (o + r) * n_in + i
                for q in range(min(OUTER_COLUMNS, n_in - i)):
                    g[at + q] += sums[OUTER_COLUMNS * r + q]
