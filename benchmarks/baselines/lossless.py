"""Blosc: what archives use today. Without loss of its own.

- Blosc2 through imagecodecs, Zstandard at level 5 with bits shuffled; values are first divided by a
  step and rounded (the knob; 1 for integers is without loss), as numcodecs' FixedScaleOffset does
  before a Blosc compressor.
- Blosc-Zstd through numcodecs, level 5 with bits shuffled: no knob.
"""

from __future__ import annotations

import imagecodecs
import numpy as np
from numcodecs import Blosc

from benchmarks.baselines.knob import Knob
from benchmarks.baselines.protocol import Array
from benchmarks.baselines.values import RANGE_BYTES, like


def _blosc2_compress(volume: Array, share: float) -> bytes:
    low, high = float(volume.min()), float(volume.max())
    step = share * (high - low)
    if volume.dtype.kind != "f":
        step = max(1.0, step)
    levels = np.rint((volume - low) / step)
    stored = levels.astype(np.uint8 if levels.max() < 256 else np.uint32)
    if stored.dtype == np.uint32 and levels.max() < 1 << 16:
        stored = stored.astype(np.uint16)
    payload: bytes = imagecodecs.blosc2_encode(
        stored,
        5,
        compressor="zstd",
        shuffle="bitshuffle",
        typesize=stored.itemsize,
        numthreads=1,
    )
    return payload + np.array([low, step]).tobytes()


def _blosc2_decompress(payload: bytes, volume: Array) -> Array:
    low, step = np.frombuffer(payload[-RANGE_BYTES:])
    data = imagecodecs.blosc2_decode(payload[:-RANGE_BYTES], numthreads=1)
    stored = np.frombuffer(data, f"u{len(data) // volume.size}").reshape(volume.shape)
    return like(stored * step + low, volume)


def _zstd_compress(volume: Array, _: float) -> bytes:
    coder = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    return bytes(coder.encode(np.ascontiguousarray(volume)))


def _zstd_decompress(payload: bytes, volume: Array) -> Array:
    values: Array = np.frombuffer(Blosc().decode(payload), volume.dtype)
    return values.reshape(volume.shape)


BASELINES = (
    Knob(
        name="Blosc2",
        library="imagecodecs",
        best=1e-6,
        worst=0.5,
        logarithmic=True,
        compress=_blosc2_compress,
        decompress=_blosc2_decompress,
        note="values in steps, then lossless",
    ),
    Knob(
        name="Blosc-Zstd",
        library="numcodecs",
        best=0,
        worst=0,
        compress=_zstd_compress,
        decompress=_zstd_decompress,
        note="lossless",
    ),
)
