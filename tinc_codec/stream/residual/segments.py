"""The coefficients of a transform as one or more independent segments of bits.

The first segment holds the coarse levels. The finest levels, most of the coefficients, may be cut
into tiles that are segments of their own: they start from the statistics that the first segment
ends with, are coded on several threads, and a part of the volume needs only the tiles it touches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from operator import rshift
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run
from tinc_codec.stream.residual import binary, coefficients, mixing
from tinc_codec.stream.residual.coefficients import PAD
from tinc_codec.stream.residual.tiles import Cuts, Tile
from tinc_codec.stream.residual.wavelet import (
    AXES,
    LOW_PASS,
    Float32Array,
    IntArray,
    Layout,
    Window,
)

Model = tuple[npt.NDArray[np.uint32], npt.NDArray[np.int32]]
Segment = npt.NDArray[np.uint8]
Pads = tuple[int, ...]

_NO_REAL = np.zeros((0,) * AXES, np.float32)
_FAR = (40, 40, 40)
_ORIGIN = (0, 0, 0)
_NOTHING = np.zeros(0, np.int16)
_LOW_KIND = coefficients.CLASSES - 8
_LEVEL_CLASSES = 7
_FIRST_WEIGHT, _SIZE_WEIGHT = 19661, 26214


@dataclass(frozen=True, slots=True, kw_only=True)
class _Band:
    """A band that has been coded: contexts for those that follow.

    Attributes
    ----------
    clipped : int8 array, padded
        Its integers.
    around : int16 array, padded
        What contexts of the next finer level take of it; empty where there is none.
    blocks : (z, y, x) uint8
        Flags of its blocks, as for :func:`coefficients.code_band`.
    """

    clipped: npt.NDArray[np.int8]
    around: npt.NDArray[np.int16]
    blocks: npt.NDArray[np.uint8]

    @classmethod
    def zeros(
        cls, shape: Sequence[int], pads: Pads, *, with_finer: bool, count: int = 1
    ) -> list[_Band]:
        """Return bands of which nothing has been coded yet."""
        clipped, blocks = _padded(shape, pads, np.int8, count), _no_blocks(shape, count)
        around = _padded(shape, pads, np.int16, count) if with_finer else [_NOTHING] * count
        return [
            cls(clipped=c, around=a, blocks=b)
            for c, a, b in zip(clipped, around, blocks, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Beside:
    """The bands of a level that have been coded: contexts for the others.

    Attributes
    ----------
    sums : uint8 array, padded
        Sums of their magnitudes.
    around : int16 array, padded
        As of a :class:`_Band`.
    blocks : (z, y, x) uint8
        Flags of blocks, as of a :class:`_Band`.
    """

    sums: npt.NDArray[np.uint8]
    around: npt.NDArray[np.int16]
    blocks: npt.NDArray[np.uint8]

    @classmethod
    def nothing(cls, shape: Sequence[int], pads: Pads) -> _Beside:
        """Return what no band adds up to, in the longest shape of the level's bands."""
        (sums,), (around,) = _padded(shape, pads, np.uint8), _padded(shape, pads, np.int16)
        return cls(sums=sums, around=around, blocks=_no_blocks(shape)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Level:
    """A level that has been coded: contexts for the next finer one.

    Attributes
    ----------
    bands : dict of direction to _Band
        All of it.
    shift : (3,) tuple of int
        1 for each axis that halves from the finer level to this one.
    """

    bands: dict[int, _Band]
    shift: tuple[int, ...]


def _new_model() -> Model:
    weights = np.full((coefficients.ROWS, mixing.INPUTS), _SIZE_WEIGHT, np.int32)
    weights[: coefficients.LEVELS] = _FIRST_WEIGHT
    return np.full(coefficients.SLOTS, mixing.EVEN, np.uint32), weights


def _pads(plan: Layout) -> Pads:
    """Return the zeros on either side of bands: none along the axes that a volume of fewer lacks.

    Around a single line they would take 24 times its memory.
    """
    depth, height, _ = plan.shapes[0]
    return PAD * (depth > 1), PAD * (depth > 1 or height > 1), PAD


def _padded(shape: Sequence[int], pads: Pads, dtype: Any, count: int = 1) -> npt.NDArray[Any]:
    return np.zeros([count, *(n + 2 * pad for n, pad in zip(shape, pads, strict=True))], dtype)


def _no_blocks(shape: Sequence[int], count: int = 1) -> npt.NDArray[np.uint8]:
    """Return flags of the blocks of bands, and of one more at either end of each axis, all 0."""
    return np.zeros([count, *(2 + -(-n // coefficients.BLOCK) for n in shape)], np.uint8)


@lru_cache(maxsize=4096)
def _places(padded: tuple[int, ...], origin: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Return where in a padded array, as one axis, a place is, and rows and planes apart.

    These are 0 where there is one, not padded. Not to be written to; nor what :func:`_vector`
    returns.
    """
    depth, height, width = padded
    row, plane = width * (height > 1), height * width * (depth > 1)
    z, y, x = origin
    return np.array((z * plane + y * row + x + PAD * (plane + row + 1), row, plane), np.int64)


@lru_cache(maxsize=4096)
def _vector(numbers: tuple[int, ...]) -> npt.NDArray[np.int64]:
    return np.array(numbers, np.int64)


_NO_LEVEL = _Level(bands={}, shift=_FAR)
(_NO_BAND,) = _Band.zeros((1, 1, 1), (PAD,) * AXES, with_finer=True)


class _Coder:
    """Codes bands into one segment, or out of it."""

    def __init__(self, data: Segment, model: Model, plan: Layout, *, decoding: bool) -> None:
        self.data, self.model, self.pads = data, model, _pads(plan)
        self.state = np.zeros(binary.STATE_SIZE, np.int64)
        self.whole = True
        self._room = {kind: np.zeros(0, kind) for kind in (np.int16, np.uint8)}
        binary.start(self.state, data, decoding)

    def _zeros(self, size: int, kind: type[Any]) -> npt.NDArray[Any]:
        """Return zeros in memory that is used again."""
        if len(self._room[kind]) < size:
            self._room[kind] = np.zeros(size, kind)
        else:
            self._room[kind][:size] = 0
        return self._room[kind][:size]

    def low_pass(
        self, real: Float32Array, worth: Float32Array, q: IntArray, scale: float, price: float
    ) -> None:
        """Code the low-pass band."""
        (band,) = _Band.zeros(q.shape, self.pads, with_finer=False)
        self._band(
            real, scale, worth, q, band, _NO_LEVEL, _ORIGIN, _FAR,
            _Beside.nothing(q.shape, self.pads), _LOW_KIND, LOW_PASS, price,
        )  # fmt: skip

    def level(
        self, level: int, real: dict[int, Float32Array], worth: dict[int, Float32Array],
        q: dict[int, IntArray], scale: float, price: float, parent: _Level, origin: Sequence[int],
    ) -> dict[int, _Band]:  # fmt: skip
        """Code the bands of a level, or a tile of them; return what later ones need of them."""
        largest = [max(band.shape[k] for band in q.values()) for k in range(AXES)]
        beside = _Beside.nothing(largest, self.pads)
        kind = 8 * min(level, _LEVEL_CLASSES - 1)
        bands = _Band.zeros(largest, self.pads, with_finer=level > 0, count=len(q))
        found = dict(zip(q, bands, strict=True))
        for direction, integers in q.items():
            shift = parent.shift if direction in parent.bands else _FAR
            self._band(
                real.get(direction, _NO_REAL), scale, worth.get(direction, _NO_REAL), integers,
                found[direction], parent, origin, shift, beside, kind + direction, direction, price,
            )  # fmt: skip
        return found

    def _band(
        self, real: Float32Array, scale: float, worth: Float32Array, q: IntArray, band: _Band,
        parent: _Level, origin: Sequence[int], shift: tuple[int, ...], beside: _Beside, kind: int,
        direction: int, price: float,
    ) -> None:  # fmt: skip
        if not self.whole:
            return
        above = parent.bands.get(direction, _NO_BAND)
        corner = tuple(map(rshift, origin, shift))
        size = band.clipped.size
        self.whole = coefficients.code_band(
            self.state, self.data, *self.model, real, np.float32(scale), worth, q,
            band.clipped.reshape(-1), self._zeros(size, np.int16), self._zeros(size, np.uint8),
            band.around.reshape(-1), band.blocks, _places(band.clipped.shape, _ORIGIN),
            above.clipped.reshape(-1), above.around.reshape(-1), above.blocks, _vector(corner),
            _vector(shift), _places(above.clipped.shape, corner), beside.sums.reshape(-1),
            beside.around.reshape(-1), beside.blocks, kind, direction, np.float32(price),
        )  # fmt: skip

    def finished(self) -> bytes | None:
        """Return the segment; None if it did not fit."""
        size = binary.finish(self.state, self.data)
        return self.data[:size].tobytes() if self.whole and size <= len(self.data) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bands:
    """The low-pass band, and the others of each level, finest first, by direction."""

    low: Any
    levels: Sequence[dict[int, Any]]

    def tile(self, plan: Layout, tile: Tile) -> Bands:
        """Return a tile of the finest levels, as views."""
        levels = [
            {d: band[_clipped(window, plan.band_shape(level, d))] for d, band in bands.items()}
            for level, (window, bands) in enumerate(zip(tile, self.levels, strict=False))
        ]
        return Bands(low=self.low[:0], levels=levels)


def _code_coarse(
    coder: _Coder, plan: Layout, real: Bands, worth: Bands, q: Bands, scale: float, price: float,
    levels: range,
) -> _Level:  # fmt: skip
    """Code the first segment: the low-pass band, and the levels that are not cut."""
    coder.low_pass(real.low, worth.low, q.low, scale, price)
    return _code_levels(coder, plan, real, worth, q, scale, price, levels, _NO_LEVEL, _ORIGIN)


def _code_tile(
    coder: _Coder, plan: Layout, real: Bands, worth: Bands, q: Bands, scale: float, price: float,
    tile: Tile, parent: _Level, finest: int = 0,
) -> None:  # fmt: skip
    """Code the segment of a tile, whose coarsest level has a parent in the first segment."""
    real, worth, q = (bands.tile(plan, tile) for bands in (real, worth, q))
    origin = [a for a, _ in tile[-1]]
    levels = range(finest, len(tile))
    _code_levels(coder, plan, real, worth, q, scale, price, levels, parent, origin)


def _code_levels(
    coder: _Coder, plan: Layout, real: Bands, worth: Bands, q: Bands, scale: float, price: float,
    levels: range, parent: _Level, origin: Sequence[int],
) -> _Level:  # fmt: skip
    """Code levels, the coarsest first; ``origin`` is where that one starts in its own bands."""
    for level in reversed(levels):
        above = coder.level(
            level, real.levels[level], worth.levels[level], q.levels[level], scale, price, parent,
            origin,
        )  # fmt: skip
        halved = tuple(plan.splits[level] >> k & 1 for k in range(AXES))
        parent, origin = _Level(bands=above, shift=halved), _ORIGIN
    return parent


def _clipped(window: Window, shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(a, min(b, n)) for (a, b), n in zip(window, shape, strict=True))


def ones(plan: Layout) -> Bands:
    """Return bands of float32 ones, which take memory once; not to be written to."""
    one = np.ones(1, np.float32)

    def band(shape: Sequence[int]) -> Float32Array:
        return as_strided(one, shape, (0,) * AXES)

    levels = [
        {d: band(plan.band_shape(k, d)) for d in plan.directions(k)}
        for k in range(len(plan.splits))
    ]
    return Bands(low=band(plan.shapes[-1]), levels=levels)


def _nothing(plan: Layout) -> Bands:
    """Return what stands for real bands where there are none."""
    return Bands(low=_NO_REAL, levels=[{} for _ in plan.splits])


def _zeros(plan: Layout, levels: range) -> list[dict[int, IntArray]]:
    """Return int32 zeros for the bands of levels, in one piece of memory: small ones cost more."""
    shapes = [(k, d, plan.band_shape(k, d)) for k in levels for d in plan.directions(k)]
    ends = np.cumsum([0] + [math.prod(shape) for _, _, shape in shapes]).tolist()
    room = np.zeros(ends[-1], np.int32)
    found: dict[int, dict[int, IntArray]] = {k: {} for k in levels}
    for (k, d, shape), (first, last) in zip(shapes, pairwise(ends), strict=True):
        found[k][d] = room[first:last].reshape(shape)
    return list(found.values())


def _with_coarse_zeros(plan: Layout, coarse: range, finest: list[dict[int, IntArray]]) -> Bands:
    """Return zeros for the low-pass band and coarse levels, beside bands of the finer ones."""
    low = np.zeros(plan.shapes[-1], np.int32)
    return Bands(low=low, levels=finest + _zeros(plan, coarse))


def _copy(model: Model) -> Model:
    words, weights = model
    return words.copy(), weights.copy()


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
    plan: Layout, real: Bands, worth: Bands, *, step: float, price: float, cuts: Cuts, most: int,
    run: Run,
) -> Quantized | None:  # fmt: skip
    """Quantise and code a transform; None where it takes more than ``most`` bytes.

    Parameters
    ----------
    plan : Layout
        Of the transform.
    real : Bands of float32
        As :func:`wavelet.forward` gives them.
    worth : Bands of float32
        Weight of each coefficient's squared error.
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
    coarse = range(cuts.levels, len(plan.splits))
    q = _with_coarse_zeros(plan, coarse, _zeros(plan, range(cuts.levels)))
    scale = 1 / step
    first = _Coder(np.zeros(most, np.uint8), _new_model(), plan, decoding=False)
    parent = _code_coarse(first, plan, real, worth, q, scale, price, coarse)
    found = [first.finished()]
    if found[0] is None:
        return None

    def code_tile(tile: Tile) -> bytes | None:
        coder = _Coder(np.zeros(most, np.uint8), _copy(first.model), plan, decoding=False)
        _code_tile(coder, plan, real, worth, q, scale, price, tile, parent)
        return coder.finished()

    found += run(code_tile, cuts.tiles(plan))
    segments = tuple(segment for segment in found if segment is not None)
    if len(segments) < len(found):
        return None
    return Quantized(bands=q, cuts=cuts, segments=segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """The first segment, decoded: what tiles begin with.

    Attributes
    ----------
    bands : Bands of int32
        The integers; those of tiles not yet decoded are 0, levels left out are empty.
    model : Model
        Statistics after the segment.
    level : _Level
        The finest level that is not cut.
    """

    bands: Bands
    model: Model
    level: _Level


def decode_coarse(plan: Layout, cuts: Cuts, data: Segment, run: Run, finest: int = 0) -> Coarse:
    """Decode the first segment; no level finer than ``finest`` will be wanted.

    Raises
    ------
    CorruptPayload
        If the data end before the coefficients do.
    """
    levels = range(max(finest, cuts.levels), len(plan.splits))

    def first() -> tuple[Bands, Model, _Level]:
        none, bands = _nothing(plan), _with_coarse_zeros(plan, levels, [{}] * levels.start)
        coder = _Coder(data, _new_model(), plan, decoding=True)
        parent = _code_coarse(coder, plan, none, none, bands, 1.0, 0.0, levels)
        _check_whole(coder)
        return bands, coder.model, parent

    def others() -> list[dict[int, IntArray]]:
        return [{}] * finest + _zeros(plan, range(finest, cuts.levels))

    # Room for tiles is made while the first segment, which they need, is decoded.
    (bands, model, level), room = run(lambda make: make(), [first, others])
    bands = Bands(low=bands.low, levels=[*room, *bands.levels[len(room) :]])
    return Coarse(bands=bands, model=model, level=level)


def decode_tile(coarse: Coarse, plan: Layout, tile: Tile, data: Segment, finest: int = 0) -> None:
    """Decode a tile into the bands; of it no level finer than ``finest``.

    Raises
    ------
    CorruptPayload
        If the data end before the coefficients do.
    """
    none, coder = _nothing(plan), _Coder(data, _copy(coarse.model), plan, decoding=True)
    _code_tile(coder, plan, none, none, coarse.bands, 1.0, 0.0, tile, coarse.level, finest)
    _check_whole(coder)


def _check_whole(coder: _Coder) -> None:
    if not coder.whole:
        raise CorruptPayload("WAVELET section: the coefficients end early; restore it")
