"""The WAVELET section: its header, and the coefficients in segments (segments.py)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.parallel import Run
from tinc_codec.stream.residual.axes import AXES, Window, three_axes
from tinc_codec.stream.residual.wavelets import prior, tiles, wavelet
from tinc_codec.stream.residual.wavelets.segments import Coarse, decode_coarse, decode_tile
from tinc_codec.stream.residual.wavelets.tiles import Cuts
from tinc_codec.stream.residual.wavelets.wavelet import Added, Bands, TransformPlan
from tinc_codec.stream.wire import BitReader, BitWriter, Reader, Writer

# The low-pass band after so many levels, and what lets other threads begin a window of what is to
# be added to it, and yields what gives that.
Below = tuple[int, Callable[[Window], AbstractContextManager[Callable[[], Float32Array]]]]

# Bit of the byte of cuts: the compact header, and statistics that start from the prior.
_COMPACT = 1 << 7
# Bit of the byte of levels: axes are closed.
_CLOSED = 1 << 7
BIAS_UNIT = 256
OFFSET_UNIT = 65535
# A step of the compact header is (1 + low bits / _STEP_UNIT) * 2**(_STEP_FROM + high bits).
_STEP_UNIT, _STEP_FROM = 1 << 10, -47


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """How the coefficients are to be understood.

    Attributes
    ----------
    plan : TransformPlan
        Levels and shapes.
    step : float
        Quantisation step in normalised units, a binary32 value; of a compact header a value that
        :func:`stored_step` returns.
    offset : float
        Added to every voxel: a multiple of 1/65535.
    bias : float
        How far magnitudes are moved towards zero, in steps: a multiple of 1/256.
    cuts : Cuts
        Into the tiles that are segments of their own.
    compact : bool
        Whether statistics start from the prior, as they do in all that is written; False: even
        ones, as before 0.12.0.
    """

    plan: TransformPlan
    step: float
    offset: float
    bias: float
    cuts: Cuts
    compact: bool = True


class Coefficients:
    """The coefficients of a section: parsed at once, decoded when they are asked for.

    Parameters
    ----------
    header : Header
        How to understand them.
    segments : sequence of bytes
        The coarse levels, then each tile of the finest ones.
    """

    def __init__(self, header: Header, segments: Sequence[bytes]) -> None:
        self.header = header
        self._segments = [np.frombuffer(s, np.uint8).copy() for s in segments]
        self._lock = threading.Lock()
        self._coarse: Coarse | None = None
        self._missing = header.cuts.tiles(header.plan)
        self._tile_segments = dict(zip(self._missing, self._segments[1:], strict=True))

    @property
    def nbytes(self) -> int:
        """Memory that they take once they are all decoded, about."""
        return 4 * math.prod(self.header.plan.shapes[0])

    def values(self, window: Window, run: Run, below: Below | None = None) -> Float32Array:
        """Return a window of the volume, in normalised units, without the header's offset.

        ``below`` is what is added to a low-pass band.

        Raises
        ------
        CorruptPayload
            If the data end before the coefficients do.
        """
        needed = wavelet.windows(self.header.plan, window)
        with _begun(below, needed) as added:
            with self._lock:
                bands = self._decoded(needed, run)
            return wavelet.inverse(bands, window, self._scale, run, added)

    def low_pass(self, level: int, run: Run, below: Below | None = None) -> Float32Array:
        """Return the low-pass band after so many levels; finer ones are not decoded.

        ``below`` is what is added to a low-pass band, of this level or another one.

        Raises
        ------
        CorruptPayload
            If the data end before the coefficients do.
        """
        plan = wavelet.coarser(self.header.plan, level)
        window = wavelet.whole(plan.shapes[0])
        if below is None or below[0] > level:
            own = None if below is None else (below[0] - level, below[1])
            with _begun(own, wavelet.windows(plan, window)) as added:
                bands = self._decoded_from(level, run)
                return wavelet.inverse(bands, window, self._scale, run, added)
        between = wavelet.finer(wavelet.coarser(self.header.plan, below[0]), level - below[0])
        with below[1](wavelet.whole(between.shapes[0])) as finish:
            bands = self._decoded_from(level, run)
            x = wavelet.inverse(bands, window, self._scale, run)
            said: Float32Array = wavelet.forward(finish(), between, run).low
        return x + said

    @property
    def _scale(self) -> wavelet.Scale:
        return np.float32(self.header.step), np.float32(self.header.bias)

    def _first_segment(self, run: Run, level: int = 0) -> Coarse:
        model = prior.learnt() if self.header.compact else prior.even()
        return decode_coarse(
            self.header.plan, self.header.cuts, self._segments[0], model, run, level
        )

    def _decoded_from(self, level: int, run: Run) -> Bands:
        """Return the integers of the low-pass band and the levels from one on; none are kept."""
        cuts, data = self.header.cuts, self._tile_segments
        with self._lock:
            coarse = self._coarse or self._first_segment(run, level)
            wanted = self._missing if level < cuts.levels else []
            list(run(lambda tile: decode_tile(coarse, tile, data[tile], level), wanted))
        return Bands(plan=wavelet.coarser(self.header.plan, level), room=coarse.bands.room)

    def _decoded(self, needed: Sequence[Window], run: Run) -> Bands:
        """Return the integers, with all tiles of the finest levels that are needed."""
        cuts = self.header.cuts
        if self._coarse is None:
            self._coarse = self._first_segment(run)
        coarse = self._coarse
        # Of the coarsest level that is cut the widest window is needed.
        wanted = [tile for tile in self._missing if _overlap(tile[-1], needed[cuts.levels])]
        data = self._tile_segments
        list(run(lambda tile: decode_tile(coarse, tile, data[tile]), wanted))
        self._missing = [tile for tile in self._missing if tile not in wanted]
        return coarse.bands


@contextmanager
def _begun(below: Below | None, needed: Sequence[Window]) -> Iterator[Added | None]:
    """Let other threads begin what is added to a low-pass band, if anything is."""
    if below is None:
        yield None
        return
    level, begin = below
    with begin(needed[level]) as finish:
        yield level, finish


def _overlap(tile: Window, wanted: Window) -> bool:
    return all(a < d and c < b for (a, b), (c, d) in zip(tile, wanted, strict=True))


def stored_step(step: float) -> float:
    """Return the step nearest to a positive one that a compact header holds: within 0.05 %."""
    return _step_of(_step_code(step))


def _step_code(step: float) -> int:
    mantissa, exponent = math.frexp(step)
    low = round(2 * mantissa * _STEP_UNIT) - _STEP_UNIT  # up to _STEP_UNIT: carried
    return min(max((exponent - 1 - _STEP_FROM) * _STEP_UNIT + low, 0), (1 << 16) - 1)


def _step_of(code: int) -> float:
    high, low = divmod(code, _STEP_UNIT)
    return math.ldexp(1 + low / _STEP_UNIT, _STEP_FROM + high)


def to_bytes(header: Header, segments: Sequence[bytes]) -> bytes:
    """Return the data of a WAVELET section, its header compact."""
    assert header.compact
    cuts = tiles.to_byte(header.cuts, header.plan)
    splits = BitWriter()
    for split in header.plan.splits:
        splits.put(split, AXES)
    out = Writer().u8(cuts | _COMPACT)
    out.u8(len(header.plan.splits) | header.plan.closed * _CLOSED).raw(splits.getvalue())
    out.u16(_step_code(header.step)).u16(round(header.offset * OFFSET_UNIT))
    out.u8(round(header.bias * BIAS_UNIT))
    if cuts & tiles.PLACES_GIVEN:
        for block in filter(None, header.cuts.at):
            out.varint(block)
    for segment in segments[:-1]:
        out.varint(len(segment))
    for segment in segments:
        out.raw(segment)
    return out.getvalue()


def _read_splits(reader: Reader, count: int, *, compact: bool) -> list[int]:
    if not compact:
        return list(reader.take(count))
    packed = BitReader(reader.take(-(-AXES * count // 8)), "WAVELET section")
    splits = packed.several(count, AXES)
    packed.done()
    return splits


def _read_step(reader: Reader, *, compact: bool) -> float:
    step = _step_of(reader.u16()) if compact else reader.f32()
    if not 0 < step < math.inf:
        raise CorruptPayload(f"WAVELET section: step {step} is not a positive number")
    return step


def from_bytes(data: bytes, shape: Sequence[int]) -> Coefficients:
    """Read the data of a WAVELET section.

    Parameters
    ----------
    data : bytes
        Of the section.
    shape : sequence of int
        Lengths of the axes of the box that are longer than one voxel, 1 to 4.

    Raises
    ------
    CorruptPayload
        If a field is out of its range.
    TruncatedPayload
        If the data end early.
    """
    reader = Reader(data, "WAVELET section")
    cut, levels = reader.u8(), reader.u8()
    compact, cut = bool(cut & _COMPACT), cut & ~_COMPACT
    closed, count = divmod(levels, _CLOSED)
    if count > wavelet.MOST_LEVELS:
        raise CorruptPayload(f"WAVELET section: {count} levels; at most {wavelet.MOST_LEVELS}")
    splits = _read_splits(reader, count, compact=compact)
    try:
        plan = wavelet.transform_plan(three_axes(shape), splits, closed=bool(closed))
    except ValueError as error:
        raise CorruptPayload(f"WAVELET section: {error}") from error
    step = _read_step(reader, compact=compact)
    offset, bias = reader.u16() / OFFSET_UNIT, reader.u8() / BIAS_UNIT
    cuts = tiles.from_byte(cut, plan, reader)
    header = Header(plan=plan, step=step, offset=offset, bias=bias, cuts=cuts, compact=compact)
    sizes = [reader.varint() for _ in cuts.tiles(plan)]
    segments = [reader.take(size) for size in sizes]
    return Coefficients(header, [*segments, reader.take(reader.remaining)])
