"""Codecs with one knob of quality: the best setting within the bytes, by bracketing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.baselines.protocol import Array, Coded, Target, timed

Payload = bytes | list[bytes]
_TRIALS = 12
# The search ends with this share of the bytes; below, a whole percent of rate is 0.05 dB.
_ENOUGH = 0.995
_MARGIN = 0.15
# Where sizes are not monotone: settings tried per factor of two, from half of the one found to
# twice.
_SCANNED = 24


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
    uneven : bool
        Neither sizes nor errors are monotone in the knob: settings around the one found, a factor
        of two to either side, are tried too, and the one that decodes best is taken.
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
    uneven: bool = False
    note: str = ""

    @property
    def fits(self) -> bool:
        """Nothing is trained."""
        return False

    def encode(self, volume: Array, target: Target) -> Coded | None:
        """Return the volume at the best quality within the bytes; None if out of reach."""
        budget = target.budget(volume)

        within: dict[float, tuple[Payload, float]] = {}

        def size_at(knob: float) -> int:
            payload, seconds = timed(lambda: self.compress(volume, knob))
            if size(payload) <= budget:
                within[knob] = payload, seconds
            return size(payload)

        knob = self._search(size_at, budget)
        if knob is not None and self.uneven:
            for n in range(-_SCANNED, _SCANNED + 1):
                size_at(knob * 2 ** (n / _SCANNED))
            knob = min(within, key=lambda k: self._error(volume, within[k][0]))
        # The very bytes that fitted: encoders with threads do not give the same each time.
        return None if knob is None else self._coded(volume, knob, *within[knob])

    def at(self, volume: Array, knob: float) -> Coded:
        """Return the volume at a setting of the knob."""
        return self._coded(volume, knob, *timed(lambda: self.compress(volume, knob)))

    def _coded(self, volume: Array, knob: float, payload: Payload, encode_s: float) -> Coded:
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

    def _error(self, volume: Array, payload: Payload) -> float:
        """Return the mean squared error of what was stored."""
        apart = self.decompress(payload, volume).astype(np.float64) - volume
        return float(np.square(apart).mean())

    def _search(self, size_at: Callable[[float], int], budget: int) -> float | None:
        """Return the knob of the most bytes within the budget, or one of almost as many.

        Between a setting that fits and one that does not, the next is where the logarithm of the
        size, taken as linear, meets the budget; in the middle while none is known that does not.
        """
        smallest = size_at(self.worst)
        if smallest > budget or self.best == self.worst:
            return self.worst if smallest <= budget else None
        low, high = (self.worst, smallest), (self.best, 0)
        for _ in range(_TRIALS):
            knob = self._between(low[0], high[0], _place(low[1], high[1], budget))
            if knob in (low[0], high[0]):
                break
            bytes_there = size_at(knob)
            if bytes_there <= budget:
                low = (knob, bytes_there)
            else:
                high = (knob, bytes_there)
            if low[1] >= _ENOUGH * budget:
                break
        nothing_above = high[1] == 0 and size_at(self.best) <= budget
        return self.best if nothing_above else low[0]

    def _between(self, low: float, high: float, place: float) -> float:
        if self.logarithmic:
            return float(low ** (1 - place) * high**place)
        knob = low + place * (high - low)
        return float(round(knob)) if self.whole else knob


def _place(low: int, high: int, budget: int) -> float:
    """Return where between two sizes the budget is; not too near to either."""
    if high <= budget or low <= 0:
        return 0.5
    share = math.log(budget / low) / math.log(high / low)
    return min(max(share, _MARGIN), 1 - _MARGIN)


def size(payload: Payload) -> int:
    """Return the bytes of all parts."""
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))
