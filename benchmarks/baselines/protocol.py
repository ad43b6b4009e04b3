"""What every codec of the benchmarks offers, so that one harness runs them all.

A codec is anything with the attributes of :class:`Baseline`; its module's place in the list of
:mod:`benchmarks.baselines.registry` makes it known. Codecs with a knob of quality are built with
:class:`benchmarks.baselines.knob.Knob`, which finds the setting for a ratio by bisection.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

Array = NDArray[Any]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a codec is asked for.

    Attributes
    ----------
    ratio : float
        Raw bytes over the most bytes that may be stored.
    effort : int
        1 to 9: how long a codec that fits or trains may take, 1 being a matter of seconds on a
        tiny volume (the tests), 9 what a paper would run. Codecs without a fit ignore it.
    """

    ratio: float
    effort: int = 5

    def budget(self, volume: Array) -> int:
        """Return the most bytes that may be stored for a volume."""
        return math.floor(volume.nbytes / self.ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A volume as a codec stored it.

    Attributes
    ----------
    payload_bytes : int
        Everything that a decoder needs, range of values included; but for shape and dtype, which
        any container has. Weights shared by all volumes (of a learned codec) do not count.
    decoded : array
        In the volume's shape and dtype; integers rounded and clipped.
    encode_s, decode_s : float
        Wall time of one call, without a search for the knob (a fit is no search).
    knob : str
        The setting that met the ratio.
    decode : callable
        Decodes once more, for repeated timing.
    note : str
        What a reader of the row must know: "trained on 20 sub-volumes", "8 bits".
    """

    payload_bytes: int
    decoded: Array
    encode_s: float
    decode_s: float
    knob: str
    decode: Callable[[], Array]
    note: str = ""


class Baseline(Protocol):
    """A codec.

    Attributes
    ----------
    name : str
        As tables give it.
    library : str
        Distribution that does the work, whose version goes into rows.
    fits : bool
        Whether ``Target.effort`` changes anything.
    """

    @property
    def name(self) -> str: ...
    @property
    def library(self) -> str: ...
    @property
    def fits(self) -> bool: ...

    def encode(self, volume: Array, target: Target) -> Coded | None:
        """Encode and decode a volume.

        Parameters
        ----------
        volume : (z, y, x) integer or float array
            Not constant.
        target : Target
            The most that may be stored, and how long a fit may take.

        Returns
        -------
        Coded or None
            None where no setting meets the ratio.
        """


def timed(function: Callable[[], _Result]) -> tuple[_Result, float]:
    """Return a function's result and the seconds that it took."""
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started
