"""FILTER section of the second reader: written from FORMAT.md alone, as second_reader.py is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F = np.float32


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.left = list(data)

    def take(self, n: int) -> list[int]:
        taken, self.left = self.left[:n], self.left[n:]
        assert len(taken) == n
        return taken

    def one(self) -> int:
        return self.take(1)[0]

    def signed(self, n: int) -> list[int]:
        return [b - 256 if b > 127 else b for b in self.take(n)]

    def curve(self, n: int) -> list[np.float32]:
        exponent = self.one()
        return [F(i * 2.0**-exponent) for i in self.signed(n)]

    def term(self, n: int, taps: int) -> tuple[list[np.float32], list[np.float32]]:
        return self.curve(n), [F(i / 64) for i in self.signed(taps)]


def along(x: Array, axis: int, distance: int) -> Array:
    """Return the voxels at a distance along an axis; the ends stand for what is beyond."""
    n = x.shape[axis]
    return x.take([min(max(i + distance, 0), n - 1) for i in range(n)], axis)


def curve_at(x: Array, knots: Sequence[np.float32], h: Sequence[np.float32]) -> Array:
    out = np.full(x.shape, h[0], F)
    for k in range(1, len(knots)):
        y = (x - knots[k - 1]) * (F(1) / (knots[k] - knots[k - 1]))
        part = np.where(y >= 1, F(1), np.where(y > 0, y, F(0)))
        out = out + (h[k] - h[k - 1]) * part
    return out


def evaluate_filter(data: bytes, c: Array) -> Array:
    """Return the normalised values of the box's axes longer than one voxel, filtered."""
    fields = Bytes(data)
    flags = fields.one()
    m = fields.one()
    values = [F(b) / F(255) for b in fields.take(m)]
    tone = fields.curve(m)
    axes = range(c.ndim)[-3:]
    taps = 3 * len(axes)
    k = finest = 0
    if flags & 1:
        k, finest = fields.one(), fields.one()
    by_activity = fields.term(k, taps) if flags & 1 else None
    by_value = fields.term(m, taps) if flags & 2 else None
    assert not fields.left
    pairs = [(along(c, a, -d), along(c, a, d)) for a in axes for d in (1, 2, 3)]
    out = c + curve_at(c, values, tone)
    if by_activity:
        activity = np.zeros(c.shape, F)
        for a, b in pairs[::3]:
            activity = activity + (abs(a - c) + abs(b - c))
        knots = [F(0), *(F(2.0 ** (i - finest)) for i in range(k - 1))]
        out = out + curve_at(activity, knots, by_activity[0]) * total(c, pairs, by_activity[1])
    if by_value:
        out = out + curve_at(c, values, by_value[0]) * total(c, pairs, by_value[1])
    return out


def total(c: Array, pairs: Sequence[tuple[Array, Array]], weights: Sequence[np.float32]) -> Array:
    out = np.zeros(c.shape, F)
    for (a, b), w in zip(pairs, weights, strict=True):
        out = out + w * ((a + b) / F(2) - c)
    return out
