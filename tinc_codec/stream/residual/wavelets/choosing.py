"""Which integer an encoder takes for a coefficient: squared error against bits. For encoders only.

Bits are estimated from the adaptive probabilities as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.stream.residual.coder.binary import BITS, kernel
from tinc_codec.stream.residual.coder.mixing import PROBABILITY
from tinc_codec.stream.residual.wavelets.contexts import LEVELS, MOST_UNARY, START

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "55de4a60"

# Bits that a lone coefficient, and a block for its zeros, are guessed to take.
_BLOCK_BITS = 6


@kernel()
def _size_bits(words: Any, size: int, every: int) -> Any:
    """Estimate the bits of a magnitude of 1 or more."""
    bits = np.float32(0.0)
    for k in range(1, min(size + 1, MOST_UNARY)):
        p = (words[START[6] + k * LEVELS + every] & PROBABILITY) >> 4
        bits += BITS[p] if size > k else BITS[4095 - p]
    return bits


@kernel()
def choose(words: Any, real: Any, worth: Any, p: Any, every: Any, price: Any) -> int:
    """Return the magnitude with the least squared error times worth plus price times bits.

    ``p`` is the probability, in 1 / 65536, of any but 0.
    """
    size = int(real + 0.5)
    if size == 0:
        return 0
    best = worth * (real * real) + price * BITS[4095 - (p >> 4)]
    chosen = 0
    for m in range(size, max(size - 2, 0), -1):
        bits = BITS[p >> 4] + 1 + _size_bits(words, m, every)
        cost = worth * (real - m) ** 2 + price * bits
        if cost < best:
            best, chosen = cost, m
    return chosen


@kernel()
def gain_of_block(by: Any, in_room: Any, first: Any, last: Any) -> Any:
    """Return what the large coefficients of a block gain, in squared steps times worth."""
    gain = np.float32(0.0)
    for z in range(first[0], last[0]):
        for y in range(first[1], last[1]):
            line = in_room[0] + z * in_room[2] + y * in_room[1]
            for x in range(first[2], last[2]):
                i = np.uint32(line + x)
                r = abs(by.real[i]) * by.scale
                if r > 0.5:
                    gain += max(by.worth[i] * (2 * r - 1) - _BLOCK_BITS * by.price, np.float32(0.0))
    return gain


@kernel(inlined=True)
def pays(gain: Any, p: Any, price: Any) -> bool:
    """Tell whether a block gains more than coding it costs, p / 65536 being its probability."""
    needed = price * (BITS[p >> 4] - BITS[4095 - (p >> 4)] + _BLOCK_BITS)
    return bool(gain > 0 and gain > needed)
