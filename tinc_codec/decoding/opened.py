"""A payload taken apart: what its sections say, checked; nothing evaluated yet."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.errors import CorruptPayload
from tinc_codec.forks import in_children
from tinc_codec.freed_memory import keep_freed_memory
from tinc_codec.stream import container, cosine, normalize, special_values
from tinc_codec.stream.container import SectionKind
from tinc_codec.threads import each
from tinc_codec.tree import network, section, weights

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tinc_codec.stream.residual.filters.postfilter import PostFilter
    from tinc_codec.stream.residual.wavelets.section import Coefficients

# A payload of n coded bytes may claim this many parameters (the coder never spends less than
# 1/64 byte on one) and this many raw bytes per payload byte (ten times the largest ratio).
PARAMETERS_PER_BYTE = 64
SPARE_PARAMETERS = 1024
LARGEST_RATIO = 1_000_000
_MOST_AXES = 4  # longer than one voxel
# Of the chunks opened last, at most; one of 128 x 128 x 128 wavelet coefficients takes 8 MiB. One
# that takes more is kept alone, up to the other limit.
_KEPT_BYTES, _LARGEST_KEPT = 64 << 20, 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A payload taken apart, nothing evaluated yet.

    Attributes
    ----------
    info : normalize.ArrayInfo
        Shape, dtype, order, range.
    crop : special_values.Crop or None
        The box that holds data, where that is not the whole chunk.
    mask : special_values.Mask or None
        Voxels restored exactly.
    tree : network.Tree or None
        Structure, where the form is a tree.
    parameters : (size,) float32 or None
        Its weights and biases.
    steps : (groups,) float32 or None
        What those of each group are multiples of; None where they are not quantised.
    coefficients : float64 array or None
        Of the cosines, one axis per axis of the box, where the form is the low-order one.
    wavelet : Coefficients or None
        Of what the tree leaves, or of the volume where there is no tree.
    postfilter : PostFilter or None
        What the sum of these is filtered by.
    correction : bytes or None
        What is still to be added to the values, coded.
    sections : dict of str to int
        Bytes of each section's data.
    """

    info: normalize.ArrayInfo
    crop: special_values.Crop | None
    mask: special_values.Mask | None
    tree: network.Tree | None
    parameters: Float32Array | None
    steps: Float32Array | None
    coefficients: npt.NDArray[np.float64] | None
    wavelet: Coefficients | None
    postfilter: PostFilter | None
    correction: bytes | None
    sections: dict[str, int]

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box along each axis of the chunk."""
        return self.crop.shape if self.crop else self.info.shape

    @property
    def nbytes(self) -> int:
        """Memory of the arrays that it holds, about."""
        held = [self.parameters, self.coefficients, self.mask.labels if self.mask else None]
        tables = 2 * (self.parameters.nbytes if self.parameters is not None else 0)
        tables += self.wavelet.nbytes if self.wavelet is not None else 0
        return tables + sum(array.nbytes for array in held if array is not None)

    @property
    def form(self) -> str:
        """How values are held: what is added up, as in "tree+wavelet"; else "constant"."""
        parts = {
            "tree": self.tree,
            "wavelet": self.wavelet,
            "cosine": self.coefficients,
            "correction": self.correction,
        }
        return "+".join(name for name, part in parts.items() if part is not None) or "constant"


class _RecentChunks:
    """The chunks opened last: reading plane after plane of a chunk parses it once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: OrderedDict[bytes, tuple[Chunk, int]] = OrderedDict()
        self._size = 0

    def get(self, payload: bytes) -> Chunk | None:
        with self._lock:
            if payload not in self._chunks:
                return None
            self._chunks.move_to_end(payload)
            return self._chunks[payload][0]

    def put(self, payload: bytes, chunk: Chunk) -> None:
        size = len(payload) + chunk.nbytes
        if size > _LARGEST_KEPT:
            return
        with self._lock:
            if payload not in self._chunks:
                self._chunks[payload] = chunk, size
                self._size += size
            while self._size > _KEPT_BYTES and len(self._chunks) > 1:
                self._size -= self._chunks.popitem(last=False)[1][1]


_recent = _RecentChunks()


@in_children
def forget_chunks() -> None:
    """Start afresh in a forked child: a thread that it lacks may hold the lock."""
    global _recent
    _recent = _RecentChunks()


def open_chunk(payload: Buffer) -> Chunk:
    """Parse and check a payload; evaluates nothing.

    The chunks opened last are kept for the next reading of the same bytes: in at most 64 MiB, or
    one alone that takes up to 256 MiB.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    """
    keep_freed_memory()
    data = _as_bytes(payload)
    chunk = _recent.get(data)
    if chunk is None:
        chunk = _parse(data)
        _recent.put(data, chunk)
    return chunk


def _as_bytes(payload: Buffer) -> bytes:
    return payload if isinstance(payload, bytes) else memoryview(payload).tobytes()


def open_chunks(payloads: Sequence[Buffer]) -> list[Chunk]:
    """Return what :func:`open_chunk` does of each, those to be parsed on several threads."""
    found = [_recent.get(_as_bytes(payload)) for payload in payloads]
    missing = [k for k, chunk in enumerate(found) if chunk is None]
    for k, chunk in zip(missing, each(lambda k: open_chunk(payloads[k]), missing), strict=True):
        found[k] = chunk
    return [chunk for chunk in found if chunk is not None]


def check_is_of(
    payload: Buffer, shape: tuple[int, ...], dtype: np.dtype[Any], where: str = ""
) -> None:
    """Refuse the payload of another array: its voxels would be scattered, or read as other numbers.

    Parameters
    ----------
    payload : bytes-like
        A chunk as it is stored.
    shape, dtype : tuple of int and numpy.dtype
        Of the array's chunks; the byte order does not matter.
    where : str
        What the message begins with.

    Raises
    ------
    CorruptPayload
        If it is of another shape or dtype, or see :func:`open_chunk`.
    """
    found = open_chunk(payload).info
    if found.dtype.newbyteorder("=") != dtype.newbyteorder("=") or found.shape != shape:
        raise CorruptPayload(
            f"{where}payload holds {found.dtype} {found.shape}, the array's metadata says {dtype} "
            f"{shape}: it belongs to another array, restore this chunk from its source"
        )


def _parse(payload: bytes) -> Chunk:
    parts = container.unpack(payload)
    if SectionKind.ARRAY not in parts:
        raise CorruptPayload("payload: the ARRAY section is missing; restore it from its source")
    info = normalize.ArrayInfo.from_bytes(parts[SectionKind.ARRAY])
    crop = mask = tree = parameters = steps = coefficients = transformed = postfilter = None
    if SectionKind.CROP in parts:
        crop = special_values.Crop.from_bytes(parts[SectionKind.CROP], info.dtype, info.shape)
    box_shape = crop.shape if crop else info.shape
    _check_forms(parts, info, box_shape)
    if SectionKind.MASK in parts:
        mask = special_values.Mask.from_bytes(parts[SectionKind.MASK], info.dtype, box_shape)
    if SectionKind.COSINE in parts:
        coefficients = cosine.read(parts[SectionKind.COSINE], long_axes(box_shape))
    bands: list[tuple[int, ...]] = []
    if SectionKind.WAVELET in parts:
        from tinc_codec.stream.residual.wavelets import section as wavelet

        transformed = wavelet.from_bytes(parts[SectionKind.WAVELET], long_axes(box_shape))
        bands = [long_axes(low) for low in transformed.header.plan.shapes[1:]]
    if SectionKind.TREE in parts:
        coded = parts[SectionKind.WEIGHTS]
        most = most_parameters(coded)
        shape = long_axes(box_shape)
        tree = section.from_bytes(parts[SectionKind.TREE], shape, most, bands)
        parameters = weights.unpack(coded, network.layout(tree))
        steps = weights.step_sizes(coded, network.layout(tree))
    if SectionKind.FILTER in parts:
        from tinc_codec.stream.residual.filters import postfilter as filters

        postfilter = filters.from_bytes(parts[SectionKind.FILTER], len(long_axes(box_shape)))
    if SectionKind.CORRECTION in parts:
        from tinc_codec.stream.residual.corrections import correction

        correction.check(parts[SectionKind.CORRECTION], info.dtype, long_axes(box_shape))
    return Chunk(
        info=info,
        crop=crop,
        mask=mask,
        tree=tree,
        parameters=parameters,
        steps=steps,
        coefficients=coefficients,
        wavelet=transformed,
        postfilter=postfilter,
        correction=parts.get(SectionKind.CORRECTION),
        sections={kind.name.lower(): len(data) for kind, data in parts.items()},
    )


def _check_forms(
    parts: dict[SectionKind, bytes], info: normalize.ArrayInfo, box_shape: tuple[int, ...]
) -> None:
    """Refuse contradictory forms, and sizes that no encoder reaches."""
    has_tree = SectionKind.TREE in parts
    has_cosine = SectionKind.COSINE in parts
    fitted = has_tree or SectionKind.WAVELET in parts or SectionKind.CORRECTION in parts
    contradictions = (
        has_tree != (SectionKind.WEIGHTS in parts),
        fitted and has_cosine,
        SectionKind.FILTER in parts and SectionKind.WAVELET not in parts,
        # Engines may differ on trees; what is bounded is to be the same everywhere.
        has_tree and SectionKind.CORRECTION in parts,
    )
    if any(contradictions):
        raise CorruptPayload("payload: its sections contradict each other; restore it")
    if (fitted or has_cosine) != (info.low != info.high):
        raise CorruptPayload(
            "payload: TREE, WAVELET, COSINE or CORRECTION is there if and only if low and high "
            f"differ, which are {info.low} and {info.high}; restore it from its source"
        )
    if info.low == info.high:
        return
    axes = len(long_axes(box_shape))
    if not 1 <= axes <= _MOST_AXES:
        raise CorruptPayload(
            f"payload: a box of shape {box_shape} has {axes} axes longer than one voxel, not 1 to "
            f"{_MOST_AXES}; restore it from its source"
        )
    size = sum(len(data) for data in parts.values())
    raw = math.prod(box_shape) * info.dtype.itemsize
    if raw > LARGEST_RATIO * size:
        raise CorruptPayload(
            f"payload: {size} bytes claim a box of {raw} raw bytes, beyond the largest ratio of "
            f"{LARGEST_RATIO}"
        )


def most_parameters(coded: bytes) -> int:
    """Return how many parameters and nodes a tree with such weights may have."""
    return PARAMETERS_PER_BYTE * len(coded) + SPARE_PARAMETERS


def long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the lengths of the axes longer than one voxel: those that a tree sees."""
    return tuple(n for n in shape if n > 1)
