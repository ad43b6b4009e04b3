"""Codecs with one knob of quality: the best setting within the bytes, by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.baselines.protocol import Array, Coded, Target, timed

Payload = bytes | list[bytes]
_TRIALS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """A codec of :class:`benchmarks.baselines.protocol.Baseline` that has a knob.

    Attributes
    ----------
    name, library : str
        See there.
    best, worst : float
        Ends of the knob: the highest and lowest quality tried.
    compress : callable
        (volume, knob) to what has to be stored.
    decompress : callable
        (what was stored, volume) to an array; of the volume only shape, dtype and range are used,
        which any container would have.
    logarithmic : bool
        Bisect the knob's logarithm.
    whole : bool
        The knob takes integers only.
    note : str
        Goes into every row.
    """

    name: str
    library: str
    best: float
    worst: float
    compress: Callable[[Array, float], Payload]
    decompress: Callable[[Any, Array], Array]
    logarithmic: bool = False
    whole: bool = False
    note: str = ""

    @property
    def fits(self) -> bool:
        """Nothing is trained."""
        return False

    def encode(self, volume: Array, target: Target) -> Coded | None:
        """Return the volume at the best quality within the bytes; None if out of reach."""
        budget = target.budget(volume)
        knob = self._search(lambda knob: size(self.compress(volume, knob)) <= budget)
        return None if knob is None else self.at(volume, knob)

    def at(self, volume: Array, knob: float) -> Coded:
        """Return the volume at a setting of the knob."""
        payload, encode_s = timed(lambda: self.compress(volume, knob))
        decode = partial(self.decompress, payload, volume)
        decoded, decode_s = timed(decode)
        return Coded(
            payload_bytes=size(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob=f"{knob:.6g}",
            decode=decode,
            note=self.note,
        )

    def _search(self, within: Callable[[float], bool]) -> float | None:
        """Return the knob nearest to the best one that is within the bytes."""
        if not within(self.worst):
            return None
        if within(self.best):
            return self.best
        low, high = self.worst, self.best
        for _ in range(_TRIALS):
            middle = (low * high) ** 0.5 if self.logarithmic else (low + high) / 2
            if self.whole:
                middle = float(round(middle))
                if middle in (low, high):
                    break
            low, high = (middle, high) if within(middle) else (low, middle)
        return low


def size(payload: Payload) -> int:
    """Return the bytes of all parts."""
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
