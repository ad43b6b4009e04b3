"""The learned codecs, SSF, SGA+BB and DVC: weights from files, or trained small on the phantom.

Files are those of :mod:`benchmarks.baselines.train` in the folder that ``TINC_WEIGHTS`` names; one
is taken that was trained without the volume at hand. Where there is none, a network is trained on
generated phantoms at once, for as many steps as ``effort`` allows; the note of a row says which.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import fields
from benchmarks.baselines.learned import Decoder, Encoder, padded, padded_shape, search
from benchmarks.baselines.protocol import Array, Coded, Target, timed
from benchmarks.baselines.sga_bb import Intra
from benchmarks.baselines.train import corner, load, train
from tinc_codec.phantom import phantom

_PHANTOMS = ((16, 64, 64), (16, 80, 72))
_HEADER = fields.HEADER + 4


def _phantom_steps(effort: int) -> int:
    return int(4 * 3 ** (effort - 1))


@lru_cache(maxsize=8)
def _trained_on_phantoms(codec: str, steps: int) -> tuple[Any, str]:
    model = train(codec, [phantom(shape, seed=7) for shape in _PHANTOMS], steps)
    return model, f"small-scale training: {steps} steps on generated phantoms"


def model_for(codec: str, volume: Array, effort: int) -> tuple[Any, str]:
    """Return a network that has not seen the volume, and what it was trained on."""
    folder = os.environ.get("TINC_WEIGHTS")
    for path in sorted(Path(folder).glob(f"{codec}_*.pt")) if folder else ():
        model, facts, seen = load(codec, path)
        if corner(volume) not in seen:
            return model, facts
    return _trained_on_phantoms(codec, _phantom_steps(effort))


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned codec of :class:`benchmarks.baselines.protocol.Baseline`."""

    name: str
    library: str = "torch"
    fits: bool = True

    def encode(self, volume: Array, target: Target) -> Coded | None:
        """Search the step of rounding for the bytes; None where even the widest takes more."""
        fields.ready()
        model, note = model_for(self.name, volume, target.effort)
        budget = target.budget(volume)
        q = search(lambda q: len(self.compress(model, volume, q)), budget)
        if q is None:
            return None
        refine: Callable[[float], bytes] = partial(self.compress, model, volume)
        if isinstance(model, Intra):
            steps = round(2 * 1000 ** ((target.effort - 1) / 8))
            refine = partial(self.compress, model, volume, refined=steps)
            note += f"; {steps} steps of annealing, no bits-back"
        payload, encode_s = timed(lambda: refine(q))
        if len(payload) > budget:
            # Annealing may spend more than plain rounding, which fits.
            payload, encode_s = timed(lambda: self.compress(model, volume, q))
            note += " that took too many bytes and were dropped"
        decode = partial(self.decompress, model, payload, volume)
        decoded, decode_s = timed(decode)
        return Coded(
            payload_bytes=len(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob=f"q {q:.4g}",
            decode=decode,
            note=note,
        )

    def compress(self, model: Any, volume: Array, q: float, refined: int = 0) -> bytes:
        """Return the bytes at a step of rounding, the annealing's steps before it."""
        unit, header = fields.standardised(volume)
        frames, coder = padded(unit), Encoder()
        q = float(np.float32(q))
        if isinstance(model, Intra):
            model.refined = None
            if refined:
                torch.manual_seed(0)
                model.refine(frames, q, refined)
        with torch.no_grad():
            model.code(frames, tuple(frames.shape), q, coder)
        if isinstance(model, Intra):
            model.refined = None
        return header + np.float32(q).tobytes() + coder.payload()

    def decompress(self, model: Any, payload: bytes, volume: Array) -> Array:
        """Return the values; of the volume only shape and dtype are used."""
        fields.ready()
        q = float(np.frombuffer(payload[fields.HEADER : _HEADER], np.float32)[0])
        with torch.no_grad():
            frames = model.code(None, padded_shape(volume.shape), q, Decoder(payload[_HEADER:]))
        _, rows, columns = volume.shape
        return fields.destandardised(
            frames[:, :rows, :columns].contiguous().numpy(), payload, volume
        )


BASELINES = (Learned("SSF"), Learned("SGA+BB"), Learned("DVC"))
