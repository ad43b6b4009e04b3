"""Voxels restored exactly: constant padding around a box (CROP), and special values (MASK).

Both compare and restore bit patterns, so that every NaN and -0.0 comes back as it was. Patterns
are unsigned integers of the size of the dtype's items.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.errors import CorruptPayload, UnsupportedData
from tinc_codec.stream.wire import Reader, Writer

MAX_PATTERNS = 255

# Values of which all but one may be told by masks alone: each is a bit plane to code and decode.
# Above so many only where runs are long, since planes of scattered voxels cost more than values.
_FEW, _FEW_SCATTERED, _EQUAL_NEIGHBOURS = 64, 16, 0.9
_LOOKED_AT = 8  # voxels along an axis, about, before all are

# Elements compared at once while looking for padding: bounds the temporary to 1 MiB.
_STRIP = 1 << 20
_PLAIN, _CHANGES = 0, 1

UIntArray = NDArray[np.unsignedinteger[Any]]


def bit_view(values: np.ndarray) -> UIntArray:
    """Return a view of the array as unsigned integers of the same size and byte order."""
    return values.view(f"{values.dtype.byteorder}u{values.dtype.itemsize}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """The box of an array outside of which every element is the same.

    Attributes
    ----------
    start, stop : tuple of int
        The box, ``start[k] <= index < stop[k]`` on axis k.
    fill : int
        Bit pattern of every element outside.
    """

    start: tuple[int, ...]
    stop: tuple[int, ...]
    fill: int

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index."""
        return tuple(map(slice, self.start, self.stop))

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the box."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    def holds(self, axes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.bool_]]:
        """Return, for the indices along each axis, whether they lie in the box."""
        ends = zip(axes, self.start, self.stop, strict=True)
        return [(index >= start) & (index < stop) for index, start, stop in ends]

    def places(
        self, axes: Sequence[NDArray[np.int64]], inside: Sequence[NDArray[np.bool_]]
    ) -> list[NDArray[np.int64]]:
        """Return, of the indices along each axis, those inside, counted from the box's start."""
        kept = zip(axes, self.start, inside, strict=True)
        return [index[keep] - start for index, start, keep in kept]

    def to_bytes(self, itemsize: int) -> bytes:
        """Return the data of the CROP section, for a dtype of ``itemsize`` bytes."""
        out = Writer()
        for start, stop in zip(self.start, self.stop, strict=True):
            out.varint(start).varint(stop - 1)
        return out.raw(self.fill.to_bytes(itemsize, "little")).getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Crop:
        """Read the data of a CROP section.

        Parameters
        ----------
        data : bytes
            Of the section.
        dtype : numpy.dtype
            Of the array.
        shape : tuple of int
            Of the array.

        Raises
        ------
        CorruptPayload
            If the box is empty, does not lie in the array or is all of it, or bytes remain.
        TruncatedPayload
            If the data end early.
        """
        reader = Reader(data, "CROP section")
        bounds = [(reader.varint(), reader.varint() + 1) for _ in shape]
        fill = int.from_bytes(reader.take(dtype.itemsize), "little")
        reader.done()
        crop = cls(start=tuple(a for a, _ in bounds), stop=tuple(b for _, b in bounds), fill=fill)
        inside = all(0 <= a < b <= n for (a, b), n in zip(bounds, shape, strict=True))
        if not inside or crop.shape == tuple(shape):
            raise CorruptPayload(
                f"CROP section: box {crop.start} to {crop.stop} is not a part of an array of "
                f"shape {tuple(shape)}"
            )
        return crop


def constant_value(array: np.ndarray) -> int | float | None:
    """Return the value of an array whose elements all have the same bits, if it is finite.

    Such an array needs no crop and no mask: ``low == high`` says all of it. For any other array,
    a constant one of NaN or infinities included, use :func:`find_crop`.
    """
    bits = bit_view(array)
    if _leading_equal(bits, 0, bits[(-1,) * bits.ndim]) < array.shape[0]:
        return None
    value: int | float = array[(0,) * array.ndim].item()
    return value if math.isfinite(value) else None


def find_crop(array: np.ndarray) -> Crop | None:
    """Return the smallest box that holds every element that differs from the last one.

    Zarr pads edge chunks with the fill value at the end of each axis; the box is searched from
    both ends all the same.

    Parameters
    ----------
    array : numpy.ndarray
        At least one axis and one element; any strides and byte order. Compared by bits.

    Returns
    -------
    Crop or None
        None when the box is the whole array. When all elements are the same, the box is the first
        voxel: ask :func:`constant_value` first.
    """
    bits = bit_view(array)
    fill = bits[(-1,) * bits.ndim]
    box, start, stop = bits, list[int](), list[int]()
    for axis, length in enumerate(array.shape):
        before = _leading_equal(box, axis, fill)
        if before == length:  # only ever at the first axis: nothing differs anywhere
            start, stop = [0] * array.ndim, [1] * array.ndim
            break
        after = _leading_equal(np.flip(box, axis), axis, fill)
        start.append(before)
        stop.append(length - after)
        box = np.moveaxis(np.moveaxis(box, axis, 0)[before : length - after], 0, axis)
    crop = Crop(start=tuple(start), stop=tuple(stop), fill=int(fill))
    return None if crop.shape == array.shape else crop


def _leading_equal(bits: UIntArray, axis: int, fill: np.unsignedinteger[Any]) -> int:
    """Return how many leading faces along an axis hold nothing but ``fill``."""
    faces = np.moveaxis(bits, axis, 0)
    largest = max(1, _STRIP * len(faces) // faces.size)
    done, step = 0, 1
    while done < len(faces):
        strip = faces[done : done + step]
        differs = (strip != fill).reshape(len(strip), -1).any(axis=1)
        if differs.any():
            return done + int(differs.argmax())
        done += len(strip)
        step = min(2 * step, largest)  # most chunks have no padding: look at one face first
    return done


def fill_with(values: np.ndarray, fill: int) -> None:
    """Set every element of the array to a bit pattern, in place."""
    bit_view(values)[...] = fill


def value_of(bits: int, dtype: np.dtype[Any]) -> float:
    """Return the value that a bit pattern is."""
    one = np.empty(1, dtype)
    fill_with(one, bits)
    return float(one[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """Which voxels of the box have special values, and the values.

    Attributes
    ----------
    labels : numpy.ndarray of uint8
        Shape of the box, C order: 0 for an ordinary voxel, k for ``patterns[k - 1]``.
    patterns : numpy.ndarray of unsigned integers
        Distinct bit patterns in increasing order, native byte order; 1 to 255 of them.
    """

    labels: NDArray[np.uint8]
    patterns: UIntArray

    def to_bytes(self) -> bytes:
        """Return the data of the MASK section."""
        out = Writer().u8(len(self.patterns))
        out.raw(self.patterns.astype(self.patterns.dtype.newbyteorder("<")).tobytes())
        for label in range(1, len(self.patterns) + 1):
            method, coded = _pack_plane((self.labels == label).view(np.uint8))
            out.u8(method).varint(len(coded)).raw(coded)
        return out.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Mask:
        """Read the data of a MASK section.

        Takes up to three bytes of memory a voxel of the box, and only once the data of a bit
        plane have proved to be of that size.

        Parameters
        ----------
        data : bytes
            Of the section.
        dtype : numpy.dtype
            Of the array.
        shape : tuple of int
            Of the box: the array's, or the crop's where there is one.

        Raises
        ------
        CorruptPayload
            If a field is out of its range, a plane has another size than the box, two planes
            overlap, or bytes remain.
        TruncatedPayload
            If the data end early.
        """
        reader = Reader(data, "MASK section")
        count = reader.u8()
        if count == 0:
            raise CorruptPayload("MASK section: it has no patterns; 1 to 255 are allowed")
        stored = np.frombuffer(reader.take(count * dtype.itemsize), f"<u{dtype.itemsize}")
        patterns = stored.astype(stored.dtype.newbyteorder("="))
        if not (patterns[:-1] < patterns[1:]).all():
            raise CorruptPayload("MASK section: its patterns do not increase")
        labels: NDArray[np.uint8] | None = None
        for label in range(1, count + 1):
            plane = _unpack_plane(reader.u8(), reader.take(reader.varint()), shape)
            labels = plane if labels is None else _merge(labels, plane, label)
        reader.done()
        assert labels is not None
        return cls(labels=labels, patterns=patterns)


def _merge(labels: NDArray[np.uint8], plane: NDArray[np.uint8], label: int) -> NDArray[np.uint8]:
    chosen = plane.view(np.bool_)
    if np.logical_and(labels, chosen).any():
        raise CorruptPayload(f"MASK section: a voxel has pattern {label} and another one")
    np.copyto(labels, label, where=chosen)
    return labels


def find_mask(values: np.ndarray, preserve: Iterable[int | float] = ()) -> Mask | None:
    """Return the mask of the NaN, infinite and preserved values; None when there are none.

    Parameters
    ----------
    values : numpy.ndarray
        The array, or its box; any strides and byte order.
    preserve : iterable of numbers
        Values restored exactly. For floats, each is first rounded to the dtype; 0 stands for both
        0.0 and -0.0. Those that the dtype cannot hold are ignored.

    Raises
    ------
    UnsupportedData
        If there are more than 255 distinct bit patterns.
    """
    special = np.zeros(values.shape, np.bool_)
    if values.dtype.kind == "f":
        np.logical_not(np.isfinite(values), out=special)
    for value in preserve:
        cast = in_dtype(value, values.dtype)
        if cast is not None:
            with np.errstate(invalid="ignore"):  # signalling NaN
                special |= values == cast
    if not special.any():
        return None
    chosen = bit_view(values)[special]
    patterns = np.unique(chosen).astype(chosen.dtype.newbyteorder("="))
    if len(patterns) > MAX_PATTERNS:
        raise UnsupportedData(
            f"the chunk has {len(patterns)} distinct bit patterns of NaN, infinities and preserved "
            f"values; at most {MAX_PATTERNS} can be restored exactly. Make its NaN alike with "
            "array[np.isnan(array)] = np.nan, or preserve fewer values"
        )
    labels = np.zeros(values.shape, np.uint8)
    labels[special] = np.searchsorted(patterns, chosen) + 1
    return Mask(labels=labels, patterns=patterns)


def few_values(values: np.ndarray) -> tuple[int | float, Mask] | None:
    """Return the commonest value of an array of few, and the mask of all others.

    Together they are the array exactly: binary masks and segmentations take a fraction of what
    coefficients or corrections of them would.

    Parameters
    ----------
    values : numpy.ndarray
        Any strides and byte order; compared by bits.

    Returns
    -------
    value : int or float
        Finite.
    mask : Mask
        Of the voxels that hold another one.

    None where there are many values, one alone, or no finite one.
    """
    bits = bit_view(values)
    some = bits[tuple(slice(None, None, max(1, n // _LOOKED_AT)) for n in bits.shape)]
    if len(np.unique(some)) > _FEW:
        return None
    patterns, counts = np.unique(bits, return_counts=True)
    if not 1 < len(patterns) <= _FEW:
        return None
    if len(patterns) > _FEW_SCATTERED and _equal_neighbours(bits) < _EQUAL_NEIGHBOURS:
        return None
    patterns = patterns.astype(patterns.dtype.newbyteorder("="))
    known = patterns.view(values.dtype.newbyteorder("="))
    finite = np.isfinite(known)
    if not finite.any():
        return None
    commonest = int(np.where(finite, counts, 0).argmax())
    labels = np.searchsorted(patterns, bits).astype(np.uint8)
    labels += labels < commonest
    labels[bits == patterns[commonest]] = 0
    value: int | float = known[commonest].item()
    return value, Mask(labels=labels, patterns=np.delete(patterns, commonest))


def _equal_neighbours(bits: UIntArray) -> float:
    """Return the share of voxels that are as the one before, along the last axis longer than 1."""
    axis = max((k for k, n in enumerate(bits.shape) if n > 1), default=0)
    lines = np.moveaxis(bits, axis, 0)
    return float(np.mean(lines[1:] == lines[:-1]))


def in_dtype(value: int | float, dtype: np.dtype[Any]) -> np.generic | None:
    """Return the value in the dtype, None if it cannot occur there."""
    if not math.isfinite(value):
        return None
    if dtype.kind != "f":
        limits = np.iinfo(dtype)
        held = value == int(value) and limits.min <= value <= limits.max
        return dtype.type(int(value)) if held else None
    with np.errstate(over="ignore"):
        cast: np.generic = dtype.type(float(value))
    return cast if np.isfinite(cast) else None


def restore(values: np.ndarray, labels: NDArray[np.uint8], patterns: UIntArray) -> None:
    """Put the special values in their places, in place.

    Parameters
    ----------
    values : numpy.ndarray
        Of the array's dtype, writable.
    labels : numpy.ndarray of uint8
        Same shape: a selection of :attr:`Mask.labels`.
    patterns : numpy.ndarray of unsigned integers
        :attr:`Mask.patterns`.
    """
    labels, bits = np.asarray(labels), bit_view(values)
    chosen = labels != 0
    if len(patterns) == 1:  # as most have, and sooner than picking
        np.copyto(bits, patterns[0], where=chosen)
    else:
        bits[chosen] = patterns[labels[chosen] - 1]


def _main_axis(shape: tuple[int, ...]) -> int:
    """Return the first axis longer than 1, or 0."""
    return next((axis for axis, length in enumerate(shape) if length > 1), 0)


def _pack_plane(plane: NDArray[np.uint8]) -> tuple[int, bytes]:
    """Return the method and bytes of a bit plane, the shorter of plain and changes.

    Coding the changes along the first axis halves masks that are alike from slice to slice, such
    as the outside of a scanner's field of view; it lengthens most others.
    """
    plain = _deflate(plane)
    faces = np.moveaxis(plane, _main_axis(plane.shape), 0)
    changes = faces.copy()
    changes[1:] ^= faces[:-1]
    coded = _deflate(np.moveaxis(changes, 0, _main_axis(plane.shape)))
    return (_CHANGES, coded) if len(coded) < len(plain) else (_PLAIN, plain)


def _deflate(plane: NDArray[np.uint8]) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(np.packbits(plane.ravel(), bitorder="little").tobytes()) + coder.flush()


def _unpack_plane(method: int, coded: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a bit plane as zeros and ones."""
    if method not in (_PLAIN, _CHANGES):
        raise CorruptPayload(f"MASK section: method {method} is reserved")
    voxels = math.prod(shape)
    packed = np.frombuffer(_inflate(coded, -(-voxels // 8)), np.uint8)
    if voxels % 8 and packed[-1] >> voxels % 8:
        raise CorruptPayload("MASK section: bits after the last voxel are not zero")
    plane = np.unpackbits(packed, count=voxels, bitorder="little").reshape(shape)
    if method == _CHANGES:
        faces = np.moveaxis(plane, _main_axis(shape), 0)
        if len(faces) > faces[0].size:
            np.bitwise_xor.accumulate(faces, axis=0, out=faces)
        else:  # ten times as quick
            for before, face in pairwise(faces):
                face ^= before
    return plane


def _inflate(coded: bytes, size: int) -> bytes:
    """Inflate to exactly ``size`` bytes; a bomb is stopped one byte later."""
    decoder = zlib.decompressobj(-15)
    try:
        data = decoder.decompress(coded, size + 1)
    except zlib.error as error:
        raise CorruptPayload(f"MASK section: deflate data are damaged ({error})") from error
    if len(data) != size or not decoder.eof or decoder.unused_data:
        raise CorruptPayload(
            f"MASK section: deflate data do not end at the {size} bytes of the box"
        )
    return data
