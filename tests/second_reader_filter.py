"""FILTER section of the second reader: written from FORMAT.md alone, as second_reader.py is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
F = np.float32


class Bits:
    """Packed numbers; the same methods as Bytes has, where fields have the same meaning."""

    def __init__(self, data: bytes) -> None:
        self.left, self.count = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, n: int) -> int:
        assert n <= self.count
        taken = self.left & (1 << n) - 1
        self.left, self.count = self.left >> n, self.count - n
        return taken

    def knots(self) -> list[int]:
        m, values = self.take(7), [self.take(8)]
        g = self.take(4)
        while len(values) < m:
            values.append(values[-1] + 1 + self.take(g))
        return values

    def activities(self) -> tuple[int, int]:
        return self.take(5), self.take(5)

    def integers(self, n: int) -> list[int]:
        b = self.take(3) + 1
        found = [self.take(b) for _ in range(n)]
        return [i - 2**b if i >= 2 ** (b - 1) else i for i in found]

    def curve(self, n: int) -> list[np.float32]:
        exponent = self.take(5)
        return [F(i * 2.0**-exponent) for i in self.integers(n)]

    def term(self, n: int, taps: int) -> tuple[list[np.float32], list[np.float32]]:
        strengths = self.curve(n)
        shift = self.take(3)
        return strengths, [F(i * 2**shift / 64) for i in self.integers(taps)]

    def is_over(self) -> bool:
        return self.count < 8 and not self.left


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.left = list(data)

    def knots(self) -> list[int]:
        return self.take(self.one())

    def activities(self) -> tuple[int, int]:
        return self.one(), self.one()

    def is_over(self) -> bool:
        return not self.left

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
    flags = data[0]
    fields = Bits(data[1:]) if flags & 4 else Bytes(data[1:])
    values = [F(b) / F(255) for b in fields.knots()]
    m = len(values)
    tone = fields.curve(m)
    axes = range(c.ndim)[-3:]
    taps = 3 * len(axes)
    k = finest = 0
    if flags & 1:
        k, finest = fields.activities()
    by_activity = fields.term(k, taps) if flags & 1 else None
    by_value = fields.term(m, taps) if flags & 2 else None
    assert fields.is_over()
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
