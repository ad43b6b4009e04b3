"""SZ3 and ZFP through imagecodecs: the volume as float32, knob the absolute error.

Both decode on one thread. SZ3's size and error jump up and down with the tolerance (it chooses
among predictors), so that a plain bisection may miss settings better by 3 dB: see ``Knob.uneven``.
"""

from __future__ import annotations

import imagecodecs
import numpy as np

from benchmarks.baselines.knob import Knob
from benchmarks.baselines.protocol import Array
from benchmarks.baselines.values import like
from tinc_codec.runtime import current_runtime


def _sz3_compress(volume: Array, share: float) -> bytes:
    payload: bytes = imagecodecs.sz3_encode(
        volume.astype(np.float32), "abs", share * float(np.ptp(volume))
    )
    return payload


def _sz3_decompress(payload: bytes, volume: Array) -> Array:
    return like(imagecodecs.sz3_decode(payload, volume.shape, np.float32), volume)


def _zfp_compress(volume: Array, share: float) -> bytes:
    tolerance = share * float(np.ptp(volume))
    payload: bytes = imagecodecs.zfp_encode(
        volume.astype(np.float32),
        tolerance,
        mode=imagecodecs.ZFP.MODE.FIXED_ACCURACY,
        numthreads=current_runtime().thread_count(),
    )
    return payload


def _zfp_decompress(payload: bytes, volume: Array) -> Array:
    return like(imagecodecs.zfp_decode(payload), volume)


BASELINES = (
    Knob(
        name="SZ3",
        library="imagecodecs",
        best=1e-5,
        worst=0.5,
        logarithmic=True,
        uneven=True,
        compress=_sz3_compress,
        decompress=_sz3_decompress,
    ),
    Knob(
        name="ZFP",
        library="imagecodecs",
        best=1e-5,
        worst=4,
        logarithmic=True,
        compress=_zfp_compress,
        decompress=_zfp_decompress,
    ),
)
