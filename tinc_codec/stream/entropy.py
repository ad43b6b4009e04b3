"""Integers <-> bytes by range coding under models that are exact in integers.

Steps:

1. A model is one byte: a shape (Gaussian, logistic, Laplace) and a scale on a grid of quarter
   octaves. Both sides turn it into integer cumulative frequencies that sum to 2**24, every symbol
   having at least 1, from a table of tail probabilities and integer arithmetic only.
2. The encoder picks, for every group of integers, the model with the shortest code.
3. The groups are range coded one after another (Martin 1979), 32-bit words, 64-bit state, by
   constriction, whose float interface is given integers that float32 holds exactly.

Decoding therefore never depends on floating-point rounding. FORMAT.md gives the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tinc_codec.array_types import Float64Array, Int32Array, Int64Array
from tinc_codec.errors import CorruptPayload

PRECISION = 24
SHAPES = ("gaussian", "logistic", "laplace")
ALL_ZERO = 0xFF
SCALES = 64
MAX_MAGNITUDE = 32767

# The bits of integers up to this are kept for all models that may be the best, together.
_LARGEST_KEPT = 511

_TABLE_STEP = 32
_TABLE_END = 10
# 2**(r/4) in 16 and 2**(-r/4) in 30 fractional bits.
_GROW = (65536, 77936, 92682, 110218)
_SHRINK = (1073741824, 902905651, 759250125, 638450708)


def _tail(shape: str, x: float) -> float:
    if shape == "gaussian":
        return 0.5 * math.erfc(x / math.sqrt(2))
    if shape == "logistic":
        return 1 / (1 + math.exp(x))
    return 0.5 * math.exp(-x)


@cache
def _tail_table(shape: int) -> Int64Array:
    """Return P(X > j / 32) in units of 2**-24 for j = 0..320, X of unit scale.

    No entry lies within 1e-6 of a rounding boundary, so any double-precision libm gives these
    integers (a test holds their checksum, FORMAT.md states it).
    """
    steps = range(_TABLE_STEP * _TABLE_END + 1)
    values = [_tail(SHAPES[shape], j / _TABLE_STEP) * 2**PRECISION for j in steps]
    return np.array([math.floor(v + 0.5) for v in values], np.int64)


@cache
def largest_symbol(scale: int) -> int:
    """Return the largest magnitude that a model of this scale code can hold."""
    grown = (10 * _GROW[scale % 4] << (scale // 4)) >> 18
    return min(2 + grown, MAX_MAGNITUDE)


@cache
def cumulative(model: int) -> Int64Array:
    """Return the cumulative frequencies of a model's symbols, (2 T + 2,) from 0 to 2**24.

    Parameters
    ----------
    model : int
        ``shape * 64 + scale``; the scale is ``2**(scale / 4 - 2)``. Symbol j stands for j - T,
        where T is :func:`largest_symbol` of the scale.

    Raises
    ------
    CorruptPayload
        If there is no such model.
    """
    shape, scale = divmod(model, SCALES)
    if shape >= len(SHAPES):
        raise CorruptPayload(f"entropy model {model} is unknown; models run to {3 * SCALES - 1}")
    top = largest_symbol(scale)
    odd = 2 * np.arange(top, dtype=np.int64) + 1
    x = (odd * _SHRINK[scale % 4]) >> (8 + scale // 4)
    table = _tail_table(shape)
    at = np.minimum(x >> 16, len(table) - 2)
    inside = table[at] - (((table[at] - table[at + 1]) * (x & 0xFFFF)) >> 16)
    tail = np.where(x >> 16 >= len(table) - 1, 0, inside)
    total = 1 << PRECISION
    mass = np.concatenate([[0], tail[::-1], total - tail, [total]])
    symbols = 2 * top + 1
    return ((mass * (total - symbols)) >> PRECISION) + np.arange(symbols + 1)


@cache
def _bits(model: int) -> Float64Array:
    return PRECISION - np.log2(np.diff(cumulative(model)))


@cache
def _bits_of(models: tuple[int, ...]) -> Float64Array:
    """Return the bits (models, 2 T + 1) of the integers -T to T that all of some models hold."""
    tops = [largest_symbol(model % SCALES) for model in models]
    least = min(*tops, _LARGEST_KEPT)
    return np.stack(
        [_bits(m)[t - least : t + least + 1] for m, t in zip(models, tops, strict=True)]
    )


def _histogram(values: Int32Array) -> tuple[Int64Array, Float64Array, int]:
    """Return the distinct integers, how often each occurs, and the largest magnitude."""
    top = int(np.abs(values).max(initial=0))
    counts = np.bincount(values.astype(np.int64) + top, minlength=2 * top + 1)
    found = np.flatnonzero(counts)
    return found - top, counts[found].astype(np.float64), top


def _length(symbols: Int64Array, counts: Float64Array, largest: int, model: int) -> float:
    """Return the bits that integers of a histogram take; infinite where they do not fit."""
    top = largest_symbol(model % SCALES)
    return math.inf if largest > top else float(counts @ _bits(model)[symbols + top])


def choose_model(values: Int32Array) -> tuple[int, float]:
    """Return the model with the shortest code for integers up to 32767, and the bits that it takes.

    The bits are infinite where no model holds the values.
    """
    if not values.any():
        return ALL_ZERO, 0.0
    symbols, counts, largest = _histogram(values)
    spread = float(np.abs(values).mean())
    centre = round(4 * (math.log2(spread) + 2))
    lowest = max(0, min(centre - 5, SCALES - 1))
    # A few far outliers may need a wider model than the spread suggests.
    while lowest + 8 < SCALES - 1 and largest_symbol(lowest + 8) < largest:
        lowest += 1
    near = [scale for scale in range(lowest, SCALES)[:9] if largest <= largest_symbol(scale)]
    models = _models(tuple(near) or (lowest,))
    if largest > _LARGEST_KEPT:
        lengths = np.array([_length(symbols, counts, largest, model) for model in models])
    else:
        bits = _bits_of(models)
        lengths = bits[:, symbols + bits.shape[1] // 2] @ counts
    best = int(lengths.argmin())
    return models[best], float(lengths[best])


@cache
def _models(scales: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape * SCALES + scale for shape in range(len(SHAPES)) for scale in scales)


@cache
def _categorical(model: int) -> Any:
    import constriction

    # constriction adds 1 to every symbol and scales the rest to 2**24: hand over that rest.
    rest = (np.diff(cumulative(model)) - 1).astype(np.float32)
    return constriction.stream.model.Categorical(rest, perfect=False)


def encode(groups: Sequence[Int32Array], models: Sequence[int]) -> bytes:
    """Range code groups of integers, each under its model; trailing zero bytes are dropped."""
    import constriction

    coder = constriction.stream.queue.RangeEncoder()
    for values, model in zip(groups, models, strict=True):
        if model != ALL_ZERO and len(values):
            symbols = (values + largest_symbol(model % SCALES)).astype(np.int32)
            coder.encode(symbols, _categorical(model))
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return words.rstrip(b"\0")


def decode(data: bytes, sizes: Sequence[int], models: Sequence[int]) -> list[Int32Array]:
    """Undo :func:`encode`, given the number of integers in each group.

    Raises
    ------
    CorruptPayload
        If a model is unknown or the bytes are no code under the models.
    """
    import constriction

    words = np.frombuffer(data + bytes(-len(data) % 4), "<u4").astype(np.uint32)
    coder = constriction.stream.queue.RangeDecoder(words)
    out: list[Int32Array] = []
    for size, model in zip(sizes, models, strict=True):
        if model == ALL_ZERO or size == 0:
            out.append(np.zeros(size, np.int32))
            continue
        top = largest_symbol(model % SCALES) if model // SCALES < len(SHAPES) else 0
        categorical = _categorical(model)
        try:
            symbols = coder.decode(categorical, size)
        except AssertionError as error:
            raise CorruptPayload("weights: the bytes are no code under their models") from error
        out.append(symbols.astype(np.int32) - np.int32(top))
    return out
