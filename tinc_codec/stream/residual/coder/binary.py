"""Adaptive binary arithmetic coding with mixed models, in integers only (numba).

One function serves encoder and decoder. A bit is coded under a probability that several adaptive
ones are mixed to (mixing.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import types

from tinc_codec.compiled import compiled
from tinc_codec.stream.residual.coder import mixing
from tinc_codec.stream.residual.coder.mixing import STRETCH, UNIT

# numba keeps compiled code until this file changes, whatever becomes of the code it builds on:
# tests/test_kernels.py holds this to the checksum of that.
BUILT_ON = "78ff66c1"

# Fields of the coder's state.
LOW, HIGH, AT, CODE, DECODING, STATE_SIZE = 0, 1, 2, 3, 4, 5

_BITS = 48
# Bytes beyond the end of its data that a decoder looks at, at most.
SLACK = _BITS // 8
_TOP = (1 << _BITS) - 1
_SHIFT = _BITS - 8

# The logistic domain, clipped to 11.
_CLIP = 11 * UNIT
_X = np.arange(-_CLIP, _CLIP + 1) / UNIT
SQUASH = np.clip(np.rint(65536 / (1 + np.exp(-_X))), 24, 65536 - 24).astype(np.uint16)
BITS = -np.log2((np.arange(4096) + 0.5) / 4096).astype(np.float32)
# Binary digits after the point of a weight.
_WEIGHT_BITS = 16


class Coder(NamedTuple):
    """A coder with its model, as kernels hand it on.

    Attributes
    ----------
    state : (STATE_SIZE,) int64
        Changed with every bit.
    data : uint8
        What is decoded; or room for what is encoded.
    words : uint32
        Adaptive probabilities and how often they have learnt; see mixing.py. Changed.
    weights : (rows, mixing.INPUTS) int32
        Of each kind of decision, for mixing. Changed.
    """

    state: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]
    words: npt.NDArray[np.uint32]
    weights: npt.NDArray[np.int32]


# What signatures of kernels call it.
CODER = types.NamedTuple(  # type: ignore[no-untyped-call]
    [types.int64[::1], types.uint8[::1], types.uint32[::1], types.int32[:, ::1]], Coder
)

_Function = TypeVar("_Function", bound=Callable[..., Any])


def kernel(signature: Any = None, *, inlined: bool = False) -> Callable[[_Function], _Function]:
    """Compile without counting references to arrays, for functions that make no arrays.

    In innermost loops counting takes longer than the work itself.
    """
    return compiled(signature, forceinline=inlined, _nrt=False)


@kernel(inlined=True)
def mix(coder: Any, slots: Any, row: Any) -> Any:
    """Return the probability of a 1 in 1/65536, from the adaptive ones in the given slots.

    And what :func:`learn` takes of them.
    """
    total, inputs, taken = mixing.take(coder.words, slots, STRETCH, coder.weights, row)
    x = min(max(total >> _WEIGHT_BITS, np.int64(-_CLIP)), np.int64(_CLIP))
    return np.int64(SQUASH[np.uint32(x + _CLIP)]), inputs, taken


@kernel(inlined=True)
def learn(
    coder: Any, slots: Any, row: Any, inputs: Any, taken: Any, p: int, bit: int, limit: int,
    rate: int,
) -> None:  # fmt: skip
    """Move the adaptive probabilities and the weights towards the bit that came."""
    error = ((bit << 16) - p) * rate
    mixing.give(coder.words, slots, coder.weights, row, inputs, taken, error, bit, limit)


@kernel(inlined=True)
def code(coder: Any, p: Any, bit: int) -> Any:
    """Code a bit, of which a 1 has probability p / 65536; return it."""
    state, data = coder.state, coder.data
    low, high = state[LOW], state[HIGH]
    middle = low + ((high - low) >> 16) * p + ((((high - low) & 0xFFFF) * p) >> 16)
    if state[DECODING]:
        bit = 1 if state[CODE] <= middle else 0
    if bit:
        high = middle
    else:
        low = middle + 1
    while (low ^ high) >> _SHIFT == 0:
        at = state[AT]
        if state[DECODING]:
            byte = np.int64(data[at]) if at < len(data) else np.int64(0)
            state[CODE] = ((state[CODE] << 8) & _TOP) | byte
        elif at < len(data):
            data[at] = high >> _SHIFT
        state[AT] = at + 1
        low = (low << 8) & _TOP
        high = ((high << 8) & _TOP) | 255
    state[LOW], state[HIGH] = low, high
    return bit


@kernel(inlined=True)
def ran_out(coder: Any) -> bool:
    """Tell whether a decoder looks further beyond its data than the last bits make it."""
    return bool(coder.state[AT] > len(coder.data) + SLACK)


def started(
    data: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint32],
    weights: npt.NDArray[np.int32],
    *,
    decoding: bool,
) -> Coder:
    """Return a coder at its first bit; arguments as of :class:`Coder`."""
    coder = Coder(state=np.zeros(STATE_SIZE, np.int64), data=data, words=words, weights=weights)
    _start(coder.state, data, decoding)
    return coder


@kernel()
def _start(state: Any, data: Any, decoding: bool) -> None:
    state[LOW], state[HIGH], state[AT], state[CODE] = 0, _TOP, 0, 0
    state[DECODING] = decoding
    if decoding:
        for _ in range(_BITS // 8):
            at = state[AT]
            byte = np.int64(data[at]) if at < len(data) else np.int64(0)
            state[CODE] = (state[CODE] << 8) | byte
            state[AT] = at + 1


def finish(coder: Coder) -> int:
    """Write what the decoder needs, zero bytes beyond the end; return the bytes in all."""
    return int(_finish(coder.state, coder.data))


@kernel()
def _finish(state: Any, data: Any) -> Any:
    at = state[AT]
    low, high = state[LOW], state[HIGH]
    kept = 1
    while kept < _BITS // 8:
        mask = (np.int64(1) << (_BITS - 8 * kept)) - 1
        value = (low + mask) & ~mask
        if low <= value <= high:
            break
        kept += 1
    mask = (np.int64(1) << (_BITS - 8 * kept)) - 1
    value = (low + mask) & ~mask if kept < _BITS // 8 else low
    for k in range(kept):
        if at < len(data):
            data[at] = (value >> (_SHIFT - 8 * k)) & 255
        at += 1
    state[AT] = at
    return at
