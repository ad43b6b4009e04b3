"""The coefficients of a transform as one or more independent segments of bits.

The first segment holds the coarse levels. The finest levels, most of the coefficients, may be cut
into tiles that are segments of their own: they start from the statistics that the first segment
ends with, are coded on several threads, and a part of the volume needs only the tiles it touches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from tinc_codec.array_types import Float32Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run
from tinc_codec.stream.residual.coder import binary
from tinc_codec.stream.residual.coder.binary import Coder
from tinc_codec.stream.residual.wavelets import coefficients, prior
from tinc_codec.stream.residual.wavelets.band_table import BandTable, coarse_table, tile_table
from tinc_codec.stream.residual.wavelets.prior import Model
from tinc_codec.stream.residual.wavelets.tiles import Cuts, Tile
from tinc_codec.stream.residual.wavelets.wavelet import Bands, TransformPlan

Segment = npt.NDArray[np.uint8]
# Magnitudes, contexts and flags of blocks of all bands of a segment.
Contexts = tuple[npt.NDArray[np.int8], npt.NDArray[np.int16], npt.NDArray[np.uint8]]

_NO_REAL = np.zeros(0, np.float32)


def ones(plan: TransformPlan) -> Bands:
    """Return bands of float32 ones, which take memory once; not to be written to."""
    one = np.ones(1, np.float32)
    return Bands(plan=plan, room=as_strided(one, (math.prod(plan.shapes[0]),), (0,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Coded:
    """Bands that have been coded: contexts for others.

    Attributes
    ----------
    table : BandTable
        Which.
    contexts : Contexts
        Of all of them.
    """

    table: BandTable
    contexts: Contexts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantizer:
    """What an encoder chooses integers by; see :func:`coefficients.code_bands`."""

    real: Float32Array
    worth: Float32Array
    scale: float
    price: float


_DECODED = _Quantizer(real=_NO_REAL, worth=_NO_REAL, scale=1.0, price=0.0)


def _code(
    table: BandTable, data: Segment, model: Model, q: npt.NDArray[np.int32], by: _Quantizer,
    far: _Coded | None = None,
) -> tuple[_Coded, Coder, bool]:  # fmt: skip
    """Code a segment out of its data, or into it.

    Return contexts, the coder, and whether the data were long enough.

    Parameters
    ----------
    table : BandTable
        The bands of the segment.
    data : uint8 array
        What is decoded; or room for the segment.
    model : Model
        Statistics to start from; changed.
    q : int32 array
        Zeros of all bands of the transform; takes the integers.
    by : _Quantizer
        Of an encoder; ``_DECODED`` for a decoder.
    far : _Coded, optional
        The first segment, of one of a tile.
    """
    coder = binary.started(data, *model, decoding=by is _DECODED)
    contexts = table.contexts()
    above = far or _Coded(table=table, contexts=contexts)
    whole = coefficients.code_bands(
        coder, by.real, by.worth, np.float32(by.scale), np.float32(by.price), q, table.rows,
        contexts, above.table.rows, above.contexts, table.work(),
    )  # fmt: skip
    return _Coded(table=table, contexts=contexts), coder, whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """Integers of a transform, the cuts into tiles, and the segments they are coded in."""

    bands: Bands
    cuts: Cuts
    segments: tuple[bytes, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        return sum(map(len, self.segments))


def encode(
    real: Bands, worth: Bands, model: Model, *, step: float, price: float, cuts: Cuts, most: int,
    run: Run,
) -> Quantized | None:  # fmt: skip
    """Quantise and code a transform; None where it takes more than ``most`` bytes.

    Parameters
    ----------
    real : Bands of float32
        As :func:`wavelet.forward` gives them.
    worth : Bands of float32
        Weight of each coefficient's squared error.
    model : Model
        Statistics to start from; changed to those that tiles start from.
    step : float
        Quantisation step.
    price : float
        Squared steps that a bit is worth: larger, and more coefficients become 0.
    cuts : Cuts
        Into tiles.
    most : int
        Bytes at hand for each segment; the sum is the caller's matter.
    run : callable
        Maps a function over items, on threads perhaps.
    """
    plan = real.plan
    q = np.zeros(len(real.room), np.int32)
    by = _Quantizer(real=real.room, worth=worth.room, scale=1 / step, price=price)

    def code(table: BandTable, model: Model, far: _Coded | None = None) -> tuple[Any, bytes | None]:
        data = np.zeros(most, np.uint8)
        coded, coder, whole = _code(table, data, model, q, by, far)
        size = binary.finish(coder)
        return coded, data[:size].tobytes() if whole and size <= most else None

    first, segment = code(coarse_table(plan, cuts.levels), model)
    if segment is None:
        return None

    def code_tile(tile: Tile) -> bytes | None:
        return code(tile_table(plan, tile), prior.copy(model), first)[1]

    found = [segment, *run(code_tile, cuts.tiles(plan))]
    segments = tuple(segment for segment in found if segment is not None)
    if len(segments) < len(found):
        return None
    return Quantized(bands=Bands(plan=plan, room=q), cuts=cuts, segments=segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """The first segment, decoded: what tiles begin with.

    Attributes
    ----------
    bands : Bands of int32
        The integers; those of tiles not yet decoded are 0, levels left out are not there.
    model : Model
        Statistics after the segment.
    coded : _Coded
        Contexts of its bands.
    """

    bands: Bands
    model: Model
    coded: _Coded


def decode_coarse(
    plan: TransformPlan, cuts: Cuts, data: Segment, model: Model, run: Run, finest: int = 0
) -> Coarse:
    """Decode the first segment; no level finer than ``finest`` will be wanted.

    ``model`` has the statistics to start from; changed.

    Raises
    ------
    CorruptPayload
        If the data end before the coefficients do.
    """
    table = coarse_table(plan, max(finest, cuts.levels))
    room = np.empty(math.prod(plan.shapes[finest]), np.int32)
    own = math.prod(plan.shapes[max(finest, cuts.levels)])

    def first() -> _Coded:
        room[:own] = 0
        coded, _, whole = _code(table, data, model, room, _DECODED)
        _check(whole)
        return coded

    # Room for tiles is made while the first segment, which they need, is decoded.
    coded, _ = run(lambda make: make(), [first, partial(room[own:].fill, 0)])
    return Coarse(bands=Bands(plan=plan, room=room), model=model, coded=coded)


def decode_tile(coarse: Coarse, tile: Tile, data: Segment, finest: int = 0) -> None:
    """Decode a tile into ``coarse.bands``; of it no level finer than ``finest``.

    Raises
    ------
    CorruptPayload
        If the data end before the coefficients do.
    """
    table, bands = tile_table(coarse.bands.plan, tile, finest), coarse.bands
    _check(_code(table, data, prior.copy(coarse.model), bands.room, _DECODED, coarse.coded)[2])


def _check(whole: bool) -> None:
    if not whole:
        raise CorruptPayload("WAVELET section: the coefficients end early")
