"""The first stage: what the array is (the ARRAY section), and its values mapped to [0, 1].

The mapping is affine, between the lowest and highest value that the encoder kept, and is computed
per voxel in float64: a voxel's result does not depend on which others are computed with it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinc_codec.errors import CorruptPayload, UnsupportedData
from tinc_codec.parallel import Run
from tinc_codec.stream.wire import VARINT_LIMIT, Reader, Writer

MAX_DIMENSIONS = 32
MAX_BYTES = 1 << 31

PSNR_UNKNOWN = 0
PSNR_EXACT = 65535

# Kind and bytes of an item of every dtype that the codec takes.
_ITEM_BYTES = {"u": (1, 2, 4), "i": (1, 2, 4), "f": (2, 4, 8)}
_KIND_CODES = "uif"
_FORTRAN_FLAG = 1
# Voxels worked on at once: the float64 temporaries (1 MiB each) stay in the cache.
_SLAB = 1 << 17

Order = Literal["C", "F"]
Number = int | float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayInfo:
    """What the ARRAY section says: all that is needed to allocate and scale the result.

    Attributes
    ----------
    shape : tuple of int
        1 to 32 axes, each of length 1 or more; at most 2**31 bytes in all.
    dtype : numpy.dtype
        Byte order included.
    order : "C" or "F"
        Memory order of the array that the encoder saw.
    low, high : int or float
        What normalised 0 and 1 stand for; finite, exact values of the dtype, low <= high. When
        they are equal every ordinary voxel has that value.
    psnr_centidb : int
        PSNR that the encoder measured, in hundredths of dB, peak high - low; `PSNR_UNKNOWN` (0)
        or `PSNR_EXACT` (65535) when the array is restored exactly.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: Order
    low: Number
    high: Number
    psnr_centidb: int = PSNR_UNKNOWN

    def __post_init__(self) -> None:
        _check_shape(self.shape, self.dtype)
        for name, value in (("low", self.low), ("high", self.high)):
            if not _is_value_of(value, self.dtype):
                raise CorruptPayload(f"{name}={value} is not a finite value of {self.dtype}")
        if not self.low <= self.high:
            raise CorruptPayload(f"low={self.low} must not exceed high={self.high}")
        if not 0 <= self.psnr_centidb <= PSNR_EXACT:
            raise CorruptPayload(f"psnr_centidb={self.psnr_centidb} must be 0 to {PSNR_EXACT}")

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def to_bytes(self) -> bytes:
        """Return the data of the ARRAY section."""
        out = Writer().u8(_dtype_code(self.dtype)).u8(_FORTRAN_FLAG if self.order == "F" else 0)
        out.u8(len(self.shape))
        for length in self.shape:
            out.varint(length)
        little = self.dtype.newbyteorder("<")
        out.raw(np.array([self.low, self.high], little).tobytes())
        return out.u16(self.psnr_centidb).getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> ArrayInfo:
        """Read the data of an ARRAY section.

        Raises
        ------
        CorruptPayload
            If a field is out of its range, or bytes remain.
        TruncatedPayload
            If the data end early.
        """
        reader = Reader(data, "ARRAY section")
        dtype = _dtype_of(reader.u8())
        flags = reader.u8()
        if flags & ~_FORTRAN_FLAG:
            raise CorruptPayload(f"ARRAY section: flags {flags:#04x} has reserved bits set")
        ndim = reader.u8()
        _check_ndim(ndim)
        shape = tuple(reader.varint() for _ in range(ndim))
        bounds = np.frombuffer(reader.take(2 * dtype.itemsize), dtype.newbyteorder("<")).tolist()
        psnr = reader.u16()
        reader.done()
        return cls(
            shape=shape,
            dtype=dtype,
            order="F" if flags & _FORTRAN_FLAG else "C",
            low=bounds[0],
            high=bounds[1],
            psnr_centidb=psnr,
        )


def _dtype_code(dtype: np.dtype[Any]) -> int:
    big = dtype.byteorder == ">" or (dtype.byteorder == "=" and sys.byteorder == "big")
    log_bytes = dtype.itemsize.bit_length() - 1
    return _KIND_CODES.index(dtype.kind) << 4 | log_bytes << 1 | big


def _dtype_of(code: int) -> np.dtype[Any]:
    kind, item_bytes, big = code >> 4, 1 << (code >> 1 & 7), code & 1
    if kind >= len(_KIND_CODES) or item_bytes not in _ITEM_BYTES[_KIND_CODES[kind]]:
        raise CorruptPayload(f"ARRAY section: dtype code {code:#04x} is reserved")
    if big and item_bytes == 1:
        raise CorruptPayload(f"ARRAY section: dtype code {code:#04x} gives one byte an order")
    return np.dtype(f"{'>' if big else '<'}{_KIND_CODES[kind]}{item_bytes}")


def _check_ndim(ndim: int) -> None:
    if not 1 <= ndim <= MAX_DIMENSIONS:
        raise CorruptPayload(f"ARRAY section: {ndim} axes; 1 to {MAX_DIMENSIONS} are allowed")


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    _check_ndim(len(shape))
    if min(shape) < 1:
        raise CorruptPayload(f"ARRAY section: shape {shape} has an axis shorter than 1")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise CorruptPayload(
            f"ARRAY section: shape {shape} of {dtype} takes more than the limit of {MAX_BYTES} "
            "bytes"
        )


def _is_value_of(value: Number, dtype: np.dtype[Any]) -> bool:
    if not math.isfinite(value):
        return False
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.float64(value).astype(dtype).item() == value)
    limits = np.iinfo(dtype)
    return value == int(value) and limits.min <= value <= limits.max


def check_array(array: np.ndarray) -> None:
    """Refuse, before any work, an array that the codec does not take.

    Parameters
    ----------
    array : numpy.ndarray
        Any strides, byte order and memory order.

    Raises
    ------
    UnsupportedData
        If the dtype is not int8 to int32, uint8 to uint32 or float16 to float64; if the array is
        masked, has no axes, no elements, more than 32 axes, or too many bytes.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise UnsupportedData(
            "array is a masked array, whose mask would be lost; "
            "pass array.filled(value) and preserve=(value,)"
        )
    dtype = array.dtype
    if dtype.itemsize not in _ITEM_BYTES.get(dtype.kind, ()):
        raise UnsupportedData(
            f"dtype {dtype} is not supported (int8 to int32, uint8 to uint32, float16 to float64 "
            f"are); {_dtype_remedy(dtype)}"
        )
    if not 1 <= array.ndim <= MAX_DIMENSIONS:
        raise UnsupportedData(
            f"array of shape {array.shape} has {array.ndim} axes; 1 to {MAX_DIMENSIONS} are "
            "supported, reshape it"
        )
    if array.size == 0:
        raise UnsupportedData(
            f"array of shape {array.shape} has no elements; leave such arrays uncompressed"
        )
    if array.nbytes > MAX_BYTES or max(array.shape) >= VARINT_LIMIT:
        raise UnsupportedData(
            f"array of shape {array.shape} has {array.nbytes} bytes; one chunk may have "
            f"{MAX_BYTES} bytes and axes below {VARINT_LIMIT}, use smaller chunks"
        )


def _dtype_remedy(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "b":
        return "cast it with array.astype('uint8'), or use a lossless codec for masks"
    if dtype.kind in "ui":
        return "cast it to 32 bits if its values fit, or to float64"
    if dtype.kind == "f":
        return "cast it with array.astype('float64')"
    if dtype.kind == "c":
        return "encode array.real and array.imag apart"
    if dtype.kind in "mM":
        return "use a lossless codec for times"
    if dtype.names is not None:
        return f"encode its fields {', '.join(dtype.names)} apart"
    return "use a lossless codec for it"


def memory_order(array: np.ndarray) -> Order:
    """Return "F" if the array is Fortran- but not C-contiguous, else "C"."""
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice | int, ...]]:
    """Yield indices of parts of at most `_SLAB` elements that tile the shape."""
    if not shape:
        yield ()
        return
    row = math.prod(shape[1:])
    if row > _SLAB:
        for index in range(shape[0]):
            for rest in _slabs(shape[1:]):
                yield (index, *rest)
        return
    step = max(1, _SLAB // max(row, 1))
    for start in range(0, shape[0], step):
        yield (slice(start, start + step),)


def value_range(
    values: np.ndarray, valid: NDArray[np.bool_] | None = None
) -> tuple[Number, Number]:
    """Return the lowest and highest of the values that are finite and valid.

    Parameters
    ----------
    values : numpy.ndarray
        Any supported dtype.
    valid : numpy.ndarray of bool, optional
        Same shape; True where a value counts. All do by default.

    Returns
    -------
    tuple of two int or float
        Exact as Python numbers; (0, 0) when no value counts.
    """
    if valid is None:
        with np.errstate(invalid="ignore"):
            low, high = values.min().item(), values.max().item()
        if math.isfinite(low) and math.isfinite(high):
            return low, high
    found: list[Number] = []
    for part in _slabs(values.shape):
        kept = values[part] if valid is None else values[part][valid[part]]
        if values.dtype.kind == "f":
            kept = kept[np.isfinite(kept)]
        if kept.size:
            found += [kept.min().item(), kept.max().item()]
    return (min(found), max(found)) if found else (0, 0)


def normalize(values: np.ndarray, low: Number, high: Number, run: Run = map) -> NDArray[np.float32]:
    """Map values to [0, 1], ``low`` to 0 and ``high`` to 1.

    Parameters
    ----------
    values : numpy.ndarray
        Any supported dtype and strides; not changed. Those outside [low, high] map to the nearer
        end, NaN maps to 0.
    low, high : int or float
        Finite, low <= high. When they are equal every value maps to 0.
    run : callable
        Maps a function over items, on threads perhaps.

    Returns
    -------
    numpy.ndarray of float32
        Same shape, C order.
    """
    if low == high:
        return np.zeros(values.shape, np.float32)
    out = np.empty(values.shape, np.float32)
    scale, base, span = _scaled(low, high)
    if _is_compiled_for(values.dtype) and values.flags.c_contiguous:
        from tinc_codec.stream import rescale

        given, numbers = values.reshape(-1), out.reshape(-1)
        parts = [slice(at, at + _SLAB) for at in range(0, given.size, _SLAB)]
        list(run(lambda p: rescale.fill_unit(given[p], scale, base, span, numbers[p]), parts))
        return out

    def fill(part: tuple[slice | int, ...]) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            unit = np.array(values[part], np.float64)
            unit *= scale
            unit -= base
            unit /= span
            np.fmax(unit, 0.0, out=unit)
            out[part] = np.fmin(unit, 1.0, out=unit)

    list(run(fill, list(_slabs(values.shape))))
    return out


def _scaled(low: Number, high: Number) -> tuple[float, float, float]:
    """Return scale, base and span: a value v is normalised to (scale v - base) / span.

    The scale is 1, or a half where the span of float64's extremes would overflow.
    """
    scale = 1.0 if math.isfinite(float(high) - float(low)) else 0.5
    return scale, low * scale, high * scale - low * scale


def _is_compiled_for(dtype: np.dtype[Any]) -> bool:
    """Tell whether the kernels of ``rescale`` take a dtype: numba knows no float16."""
    return dtype.isnative and dtype != np.float16


def mean_square(
    values: np.ndarray,
    low: Number,
    high: Number,
    unit: NDArray[np.float32],
    weight: NDArray[np.float32] | None = None,
    run: Run = map,
) -> float:
    """Return the weighted mean of the squared errors of values, normalised.

    Parameters
    ----------
    values : numpy.ndarray
        Any supported dtype.
    low, high : int or float
        As for :func:`normalize`; low < high.
    unit : numpy.ndarray of float32
        What they should be, normalised; as many, in the same order.
    weight : numpy.ndarray of float32, optional
        What each squared error weighs, 0 or more and not all 0; 1 by default.
    run : callable
        Maps a function over items, on threads perhaps.

    Returns
    -------
    float
        In squared units of high - low.
    """
    from tinc_codec.stream import rescale

    if not _is_compiled_for(values.dtype):
        with np.errstate(invalid="ignore"):  # signalling NaN
            values = values.astype(np.float64)
    given, scaled = values.reshape(-1), _scaled(low, high)
    kernel: Callable[..., Any] = rescale.squares
    beside, total = [unit.reshape(-1)], float(given.size)
    if weight is not None:
        kernel, total = rescale.weighted_squares, float(weight.sum(dtype=np.float64))
        beside.append(weight.reshape(-1))

    def squares(at: int) -> float:
        part = slice(at, at + _SLAB)
        return float(kernel(given[part], *scaled, *(array[part] for array in beside)))

    return math.fsum(run(squares, list(range(0, given.size, _SLAB)))) / total


def denormalize(
    unit: NDArray[np.floating[Any]],
    low: Number,
    high: Number,
    dtype: np.dtype[Any],
    out: np.ndarray | None = None,
    run: Run = map,
) -> np.ndarray:
    """Map [0, 1] to values: the inverse of :func:`normalize`, rounded to the dtype.

    ``low * (1 - u) + high * u`` in float64, with u clipped to [0, 1] and NaN taken as 0; rounded
    half to even for integers; never outside [low, high].

    Parameters
    ----------
    unit : numpy.ndarray of float32 or float64
        Any shape, also ``()``.
    low, high : int or float
        Exact values of the dtype, low <= high.
    dtype : numpy.dtype
        Of the result, byte order included.
    out : numpy.ndarray, optional
        Where to write it: C-contiguous, of this dtype and the shape of ``unit``.
    run : callable
        Maps a function over items, on threads perhaps.

    Returns
    -------
    numpy.ndarray
        Same shape, C order.
    """
    if out is None:
        out = np.empty(unit.shape, dtype)
    if low == high:
        out[...] = low
        return out
    if _is_compiled_for(dtype):
        from tinc_codec.stream import rescale

        fill = rescale.fill_floats if dtype.kind == "f" else rescale.fill_integers
        numbers, values, ends = np.ravel(unit), out.reshape(-1), (float(low), float(high))
        parts = [slice(at, at + _SLAB) for at in range(0, numbers.size, _SLAB)]
        list(run(lambda part: fill(numbers[part], *ends, values[part]), parts))
        return out
    for part in _slabs(unit.shape):
        upper = np.array(unit[part], np.float64)
        np.fmin(np.fmax(upper, 0.0, out=upper), 1.0, out=upper)
        lower = np.subtract(1.0, upper, out=np.empty_like(upper))
        lower *= low
        upper *= high
        with np.errstate(over="ignore"):  # by an ulp, at the ends of float64; the clip mends it
            upper += lower
        if dtype.kind != "f":
            np.rint(upper, out=upper)
        out[part] = np.clip(upper, low, high, out=upper)
    return out
