"""SPERR through imagecodecs: the volume as float32, in each of the library's three modes.

"SPERR" is the best of the three at the ratio: bits per voxel, PSNR and absolute tolerance are
three ways to say when the same wavelet coder stops, and a user after quality at a size is free to
take any. The tolerance mode alone also stores corrections of outliers. ``knob`` says which won.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import imagecodecs
import numpy as np

from benchmarks.baselines.knob import Knob
from benchmarks.baselines.protocol import Array, Coded, Target
from benchmarks.baselines.values import like
from tinc_codec.metrics import psnr
from tinc_codec.runtime import current_runtime


def _compress(mode: str, volume: Array, knob: float) -> bytes:
    level = knob * float(np.ptp(volume)) if mode == "pwe" else knob
    payload: bytes = imagecodecs.sperr_encode(
        volume.astype(np.float32), level, mode, numthreads=current_runtime().thread_count()
    )
    return payload


def _decompress(payload: bytes, volume: Array) -> Array:
    threads = current_runtime().thread_count()
    return like(imagecodecs.sperr_decode(payload, numthreads=threads), volume)


def _mode(name: str, mode: str, best: float, worst: float, *, logarithmic: bool) -> Knob:
    return Knob(
        name=f"SPERR {name}",
        library="imagecodecs",
        best=best,
        worst=worst,
        logarithmic=logarithmic,
        compress=partial(_compress, mode),
        decompress=_decompress,
    )


_MODES = (
    _mode("bpp", "bpp", 8, 1e-3, logarithmic=True),
    _mode("tolerance", "pwe", 1e-5, 2, logarithmic=True),
    _mode("PSNR", "psnr", 110, 5, logarithmic=False),
)


@dataclass(frozen=True, slots=True)
class _BestMode:
    name: str = "SPERR"
    library: str = "imagecodecs"
    fits: bool = False

    def encode(self, volume: Array, target: Target) -> Coded | None:
        found = [(mode.name, mode.encode(volume, target)) for mode in _MODES]
        reached = [
            (psnr(volume, coded.decoded), replace(coded, knob=f"{name[6:]} {coded.knob}"))
            for name, coded in found
            if coded is not None
        ]
        return max(reached, key=lambda pair: pair[0])[1] if reached else None


BASELINES = (_BestMode(), *_MODES)
