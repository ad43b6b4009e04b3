"""What the two coded sections share, in the second reader: written from FORMAT.md alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import numpy.typing as npt

Array = npt.NDArray[Any]
Place = tuple[int, ...]


class NotASection(ValueError):
    """The section is not as FORMAT.md has it."""


# Fields and shapes.


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at


def three(shape: Place) -> Place:
    """The axes made three."""
    if len(shape) == 4:
        return (shape[0] * shape[1], *shape[2:])
    return (1,) * (3 - len(shape)) + shape


def sgn(value: int) -> int:
    return (value > 0) - (value < 0)


# Binary coder.

TOP = (1 << 48) - 1
EVEN = 32768


class Coder:
    def __init__(self, segment: bytes) -> None:
        self.segment, self.at = segment, 0
        self.low, self.high, self.code = 0, TOP, 0
        for _ in range(6):
            self.code = self.code << 8 | self.byte()

    def byte(self) -> int:
        self.at += 1
        if self.at > len(self.segment) + 6:
            raise NotASection("a segment ends early")
        return self.segment[self.at - 1] if self.at <= len(self.segment) else 0

    def bit(self, p: int) -> int:
        width = self.high - self.low
        middle = self.low + (width >> 16) * p + ((width & 0xFFFF) * p >> 16)
        one = self.code <= middle
        if one:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 40 == self.high >> 40:
            self.low = self.low << 8 & TOP
            self.high = self.high << 8 & TOP | 255
            self.code = self.code << 8 & TOP | self.byte()
        return int(one)


# Mixing.

STRETCH = [round(256 * math.log((2 * i + 1) / (8192 - (2 * i + 1)))) for i in range(4096)]
SQUASH = [
    min(max(round(65536 / (1 + math.exp((2816 - i) / 256))), 24), 65512)
    for i in range(2 * 2816 + 1)
]


class Mixer:
    """Adaptive probabilities, their counts, and the rows of weights."""

    def __init__(self, slots: int, rows: Sequence[Sequence[int]], gain: int) -> None:
        self.p, self.count = [EVEN] * slots, [0] * slots
        self.rows = [list(row) for row in rows]
        self.gain = gain

    def copy(self) -> Self:
        return deepcopy(self)

    def decide(self, coder: Coder, slots: Sequence[int], row: int, most: int) -> int:
        weights = self.rows[row]
        t = [STRETCH[self.p[slot] >> 4] for slot in slots]
        x = sum(a * b for a, b in zip(t, weights, strict=False)) >> 16
        p = SQUASH[min(max(x, -2816), 2816) + 2816]
        bit = coder.bit(p)
        for j, slot in enumerate(slots):
            weights[j] += t[j] * (65536 * bit - p) * self.gain + 2**17 >> 18
            self.adapt(slot, bit, most)
        return bit

    def adapt(self, slot: int, bit: int, most: int) -> None:
        p, c = self.p[slot], self.count[slot]
        p += (65535 * bit - p) * (655360 // (10 * c + 16)) >> 16
        self.p[slot] = min(max(p, 16), 65519)
        if c < most:
            self.count[slot] += 1
