"""One network of coordinates for the whole volume: a SIREN, and NeRF's with encoded positions.

``SIREN`` (Sitzmann et al., NeurIPS 2020). Follows the paper: sin(30 (W x + b)) in five layers, the
initialisation of its section 3.2, coordinates in [-1, 1], squared error, Adam.

``NeRF`` (Mildenhall et al., ECCV 2020). Follows the paper: positions encoded as sin and cos of
2^k pi x for k below 10 (the frequency that TINC's comparison names), rectifiers. Follows the
released code of SCI, which is by TINC's authors and has this rival: the coordinates themselves
beside their encoding, five layers, values as output. Left out, as it is for rendering: view
directions, density, the eight layers of 256 units with a skip.

Of both, neither paper: the width follows from the bytes, float32 weights; values are standardised
(the released code of SCI scales them to 0 … 100, which needs its 80,000 steps of Adamax at 0.001);
8,192 voxels a step; a higher rate that falls as a cosine, since steps are fewer (``effort``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.baselines import fields
from benchmarks.baselines.protocol import Array, Coded, Target, timed

_HIDDEN = 4
_FREQUENCIES = 10


def _plain(coordinates: torch.Tensor) -> torch.Tensor:
    return coordinates


def _encoded(coordinates: torch.Tensor) -> torch.Tensor:
    """Return (n, 3) coordinates with their encoding, (n, 63)."""
    powers = math.pi * 2.0 ** torch.arange(_FREQUENCIES)
    angles = (coordinates[:, None] * powers[:, None]).flatten(1)
    return torch.cat([coordinates, angles.sin(), angles.cos()], dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A codec of :class:`benchmarks.baselines.protocol.Baseline`.

    Attributes
    ----------
    name : str
        As tables give it.
    inputs : int
        Of the network.
    encoding : callable
        (n, 3) coordinates to (n, inputs).
    frequency : float or None
        Of :class:`benchmarks.baselines.fields.Stack`.
    rate : float
        First rate of Adam.
    """

    name: str
    inputs: int
    encoding: Callable[[torch.Tensor], torch.Tensor]
    frequency: float | None
    rate: float
    library: str = "torch"
    fits: bool = True

    def encode(self, volume: Array, target: Target) -> Coded | None:
        """Fit the widest network within the bytes; None if none is."""
        budget = (target.budget(volume) - fields.HEADER) // 4
        widths = fields.widths_within(budget, self.inputs, _HIDDEN)
        if widths is None:
            return None
        steps = fields.steps_of(target)
        payload, encode_s = timed(lambda: self._compress(volume, widths, steps))
        decode = partial(self.decompress, payload, volume)
        decoded, decode_s = timed(decode)
        return Coded(
            payload_bytes=len(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob="widths " + "-".join(map(str, widths[1:-1])),
            decode=decode,
            note=f"{steps} steps, float32 weights",
        )

    def _compress(self, volume: Array, widths: tuple[int, ...], steps: int) -> bytes:
        generator = fields.ready()
        unit, header = fields.standardised(volume)
        stack = fields.Stack(1, widths, self.frequency, generator)
        sample = fields.sampler(unit, self.encoding)
        fields.fit([stack], [sample], steps, self.rate, generator)
        return header + fields.to_bytes([stack])

    def decompress(self, payload: bytes, volume: Array) -> Array:
        """Return the values; of the volume only shape and dtype are used."""
        parameters = (len(payload) - fields.HEADER) // 4
        widths = fields.widths_within(parameters, self.inputs, _HIDDEN)
        assert widths is not None
        stack = fields.Stack(1, widths, self.frequency, fields.ready())
        fields.load([stack], payload[fields.HEADER :])
        places = fields.grid(volume.shape)
        unit = fields.evaluate(
            stack, lambda tile: self.encoding(places[tile])[None], places.shape[0]
        )
        return fields.destandardised(unit, payload, volume)


BASELINES = (
    Field(name="SIREN", inputs=3, encoding=_plain, frequency=30, rate=3e-3),
    Field(
        name="NeRF",
        inputs=3 + 6 * _FREQUENCIES,
        encoding=_encoded,
        frequency=None,
        rate=5e-3,
    ),
)
