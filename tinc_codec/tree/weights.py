"""The WEIGHTS section: parameters of a tree <-> bytes.

Byte 0 is the mode. Mode 0 is raw little-endian float32. Mode 1 is: base step (float32), one step
code per group, one entropy model per group, and the range-coded integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinc_codec.array_types import Float32Array, Int32Array
from tinc_codec.errors import CorruptPayload, UnsupportedVersion
from tinc_codec.forks import cached_value
from tinc_codec.stream import entropy, quantize
from tinc_codec.stream.wire import Reader
from tinc_codec.tree.network import Layout

RAW, QUANTIZED = 0, 1


@dataclass(frozen=True, kw_only=True)
class QuantizedWeights:
    """Parameters as integers.

    Attributes
    ----------
    base : float
        Base step, a float32 value.
    codes : tuple of int
        Step code of each group.
    groups : tuple of (n,) int32
        Integers of each group.
    """

    base: float
    codes: tuple[int, ...]
    groups: tuple[Int32Array, ...]

    def models(self) -> tuple[int, ...]:
        """Return the entropy model with the shortest code for each group."""
        return tuple(model for model, _ in self._coded)

    def bits(self) -> float:
        """Return the length of the groups' code under these models."""
        return sum(bits for _, bits in self._coded)

    @cached_value
    def _coded(self) -> list[tuple[int, float]]:
        """Model and bits of each group."""
        return [entropy.choose_model(values) for values in self.groups]

    def values(self) -> Float32Array:
        """Return the parameters that a decoder gets."""
        steps = quantize.step_sizes(self.base, self.codes)
        pairs = zip(self.groups, steps, strict=True)
        return np.concatenate([quantize.dequantize(integers, step) for integers, step in pairs])


def pack_raw(parameters: Float32Array) -> bytes:
    """Return the section of unquantised float32 parameters."""
    return bytes([RAW]) + parameters.astype("<f4").tobytes()


def pack_quantized(weights: QuantizedWeights) -> bytes:
    """Return the section of quantised parameters."""
    models = weights.models()
    head = bytes([QUANTIZED]) + np.array(weights.base, "<f4").tobytes()
    return head + bytes(weights.codes) + bytes(models) + entropy.encode(weights.groups, models)


def quantized_size(weights: QuantizedWeights) -> int:
    """Return the bytes of :func:`pack_quantized` within a few, without coding."""
    return 5 + 2 * len(weights.groups) + math.ceil(weights.bits() / 8)


def steps_of(data: bytes, table: Layout) -> tuple[float, tuple[int, ...]]:
    """Return base step and step codes of a quantised section."""
    reader = Reader(data[1:], "WEIGHTS")
    return reader.f32(), tuple(reader.take(len(table.groups)))


def step_sizes(data: bytes, table: Layout) -> Float32Array | None:
    """Return the step of each group of a sound section; None where parameters are raw."""
    if data[0] == RAW:
        return None
    base, codes = steps_of(data, table)
    with np.errstate(over="ignore"):  # numbers that no encoder writes
        return quantize.step_sizes(base, codes)


def unpack(data: bytes, table: Layout) -> Float32Array:
    """Return the parameters held by a WEIGHTS section.

    Raises
    ------
    TruncatedPayload, CorruptPayload
        If the section does not hold exactly the parameters of this tree, or they are not finite.
    UnsupportedVersion
        If its mode is unknown.
    """
    reader = Reader(data, "WEIGHTS")
    mode = reader.u8()
    if mode == RAW:
        parameters = np.frombuffer(reader.take(4 * table.size), "<f4").astype(np.float32)
        reader.done()
    elif mode == QUANTIZED:
        parameters = _unpack_quantized(reader, data, table)
    else:
        raise UnsupportedVersion(
            f"weights: mode {mode} is unknown, {RAW} and {QUANTIZED} are known; "
            "a newer tinc_codec wrote it, upgrade"
        )
    if not np.isfinite(parameters).all():
        raise CorruptPayload("weights: a parameter is not finite")
    return parameters


def _unpack_quantized(reader: Reader, data: bytes, table: Layout) -> Float32Array:
    base = reader.f32()
    if not 0 < base < np.inf:
        raise CorruptPayload(f"weights: the base step is {base}, it must be positive and finite")
    codes = reader.take(len(table.groups))
    models = reader.take(len(table.groups))
    sizes = [group.stop - group.start for group in table.groups]
    coded = data[5 + 2 * len(table.groups) :]
    integers = entropy.decode(coded, sizes, list(models))
    weights = QuantizedWeights(base=base, codes=tuple(codes), groups=tuple(integers))
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
        return weights.values()
