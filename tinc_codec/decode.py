"""From payload to array: the way back, whole or a selection.

Everything comes from the payload: shape, widths, steps, boxes. Settings are not consulted.
"""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import weights
from tinc_codec.engines import current_engine
from tinc_codec.errors import CorruptPayload
from tinc_codec.filtered import filtered_values
from tinc_codec.selection import Selection, resolve
from tinc_codec.smoothed import tree_values
from tinc_codec.stream import container, cosine, exceptions, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.tree import network, section
from tinc_codec.tree.geometry import IntArray
from tinc_codec.windowed import field_values, wavelet_values

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tinc_codec.engines import Engine
    from tinc_codec.stream.residual.postfilter import PostFilter
    from tinc_codec.stream.residual.section import Coefficients

Float32Array = npt.NDArray[np.float32]

# A payload of n coded bytes may claim this many parameters (the coder never spends less than
# 1/64 byte on one) and this many raw bytes per payload byte (ten times the largest ratio).
PARAMETERS_PER_BYTE = 64
SPARE_PARAMETERS = 1024
LARGEST_RATIO = 1_000_000
# Voxels evaluated at once: working memory does not grow with the array.
_PART = 1 << 21
# Of the chunks opened last, at most; one of 128 x 128 x 128 wavelet coefficients takes 8 MiB.
_KEPT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A payload taken apart, nothing evaluated yet.

    Attributes
    ----------
    info : normalize.ArrayInfo
        Shape, dtype, order, range.
    crop : exceptions.Crop or None
        The box that holds data, where that is not the whole chunk.
    mask : exceptions.Mask or None
        Voxels restored exactly.
    tree : network.Tree or None
        Structure, where the form is a tree.
    parameters : (size,) float32 or None
        Its weights and biases.
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
    crop: exceptions.Crop | None
    mask: exceptions.Mask | None
    tree: network.Tree | None
    parameters: Float32Array | None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a payload says of itself.

    Attributes
    ----------
    shape : tuple of int
        Of the chunk.
    dtype : numpy.dtype
        Byte order included.
    order : str
        Memory order, "C" or "F".
    form : str
        "tree", "wavelet", "tree+wavelet"; "cosine" where the budget held nothing better;
        "correction", "wavelet+correction" where errors are bounded; "constant".
    levels : int
        Levels of the tree; 0 without one.
    widths : tuple of tuple of int
        For each level, the mean width of each sine layer, rounded.
    parameters : int
        Weights and biases of the tree.
    coordinates : str
        "global" or "block"; "" without a tree.
    macs_per_voxel : float
        Multiply-adds to evaluate one voxel.
    section_sizes : dict of str to int
        Bytes of each section's data.
    payload_bytes : int
        All bytes.
    ratio : float
        Raw bytes / payload bytes.
    psnr_db : float
        Measured by the encoder from decoded bytes over the fitted voxels, against the chunk's
        own range; inf when exact, nan when unknown.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str
    form: str
    levels: int
    widths: tuple[tuple[int, ...], ...]
    parameters: int
    coordinates: str
    macs_per_voxel: float
    section_sizes: dict[str, int]
    payload_bytes: int
    ratio: float
    psnr_db: float


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
        if size > _KEPT_BYTES // 2:
            return
        with self._lock:
            if payload not in self._chunks:
                self._chunks[payload] = chunk, size
                self._size += size
            while self._size > _KEPT_BYTES:
                self._size -= self._chunks.popitem(last=False)[1][1]


_recent = _RecentChunks()

# The GNU C library gives freed memory back to the system beyond twice the size of the largest
# block freed so far, and each page taken anew costs more than the work on it: a third of the time
# of decoding. After this block, which is never touched, it keeps up to 62 MiB.
np.empty(31 << 20, np.uint8)


def _forget_chunks() -> None:
    """Start afresh in a forked child: a thread that it lacks may hold the lock."""
    global _recent
    _recent = _RecentChunks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_chunks)


def open_chunk(payload: Buffer) -> Chunk:
    """Parse and check a payload; evaluates nothing.

    The chunks opened last are kept, in at most 64 MiB, for the next reading of the same bytes.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    """
    data = bytes(payload)
    chunk = _recent.get(data)
    if chunk is None:
        chunk = _parse(data)
        _recent.put(data, chunk)
    return chunk


def _parse(payload: bytes) -> Chunk:
    parts = container.unpack(payload)
    if SectionKind.ARRAY not in parts:
        raise CorruptPayload("payload: the ARRAY section is missing; restore it from its source")
    info = normalize.ArrayInfo.from_bytes(parts[SectionKind.ARRAY])
    crop = mask = tree = parameters = coefficients = transformed = postfilter = None
    if SectionKind.CROP in parts:
        crop = exceptions.Crop.from_bytes(parts[SectionKind.CROP], info.dtype, info.shape)
    box_shape = crop.shape if crop else info.shape
    if SectionKind.MASK in parts:
        mask = exceptions.Mask.from_bytes(parts[SectionKind.MASK], info.dtype, box_shape)
    _check_forms(parts, info, box_shape)
    if SectionKind.TREE in parts:
        coded = parts[SectionKind.WEIGHTS]
        most = PARAMETERS_PER_BYTE * len(coded) + SPARE_PARAMETERS
        tree = section.from_bytes(parts[SectionKind.TREE], long_axes(box_shape), most)
        parameters = weights.unpack(coded, network.layout(tree))
    if SectionKind.COSINE in parts:
        coefficients = cosine.read(parts[SectionKind.COSINE], long_axes(box_shape))
    if SectionKind.WAVELET in parts:
        from tinc_codec.stream.residual import section as wavelet

        transformed = wavelet.from_bytes(parts[SectionKind.WAVELET], long_axes(box_shape))
    if SectionKind.FILTER in parts:
        from tinc_codec.stream.residual import postfilter as filters

        postfilter = filters.from_bytes(parts[SectionKind.FILTER], len(long_axes(box_shape)))
    return Chunk(
        info=info,
        crop=crop,
        mask=mask,
        tree=tree,
        parameters=parameters,
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
    size = sum(len(data) for data in parts.values())
    raw = math.prod(box_shape) * info.dtype.itemsize
    if raw > LARGEST_RATIO * size:
        raise CorruptPayload(
            f"payload: {size} bytes claim a box of {raw} raw bytes, beyond the largest ratio of "
            f"{LARGEST_RATIO}"
        )


def long_axes(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the lengths of the axes longer than one voxel: those that a tree sees."""
    return tuple(n for n in shape if n > 1)


def unit_values(
    chunk: Chunk, axes: Sequence[IntArray], *, pointwise: bool, engine: Engine | None = None
) -> Float32Array:
    """Evaluate the tree, the wavelet or the low-order form on voxels of the box, and filter them.

    Parameters
    ----------
    chunk : Chunk
        Not a constant one.
    axes : one int64 array per axis of the box
        Voxel indices.
    pointwise : bool
        As in :class:`tinc_codec.selection.Selection`.
    engine : Engine, optional
        Evaluates the tree; by default that of the run-time settings.

    Returns
    -------
    float32 array
        (n,) pointwise, else one axis per axis of the box; nominally in [0, 1].
    """
    shape = chunk.box_shape
    kept = [index for index, n in zip(axes, shape, strict=True) if n > 1]
    evaluate = partial(_sum_of_forms, chunk, pointwise=pointwise, engine=engine)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that no encoder writes
        if chunk.postfilter is None:
            values = evaluate(kept)
        else:
            values = filtered_values(
                chunk.postfilter, long_axes(shape), kept, evaluate, pointwise=pointwise
            )
    if pointwise:
        return values
    spread = tuple(len(a) if n > 1 else 1 for a, n in zip(axes, shape, strict=True))
    return np.broadcast_to(values.reshape(spread), [len(a) for a in axes])


def _sum_of_forms(
    chunk: Chunk, axes: Sequence[IntArray], *, pointwise: bool, engine: Engine | None
) -> Float32Array:
    """Return voxels of the axes longer than one voxel, not yet filtered; any shape in C order."""
    values = None
    if chunk.tree is not None and chunk.parameters is not None:
        found = engine or current_engine()
        form = found.evaluate_points if pointwise else found.evaluate_grid
        evaluate = partial(form, chunk.tree, chunk.parameters)
        values = tree_values(chunk.tree, axes, evaluate, pointwise=pointwise)
    if chunk.wavelet is not None:
        rest = wavelet_values(chunk.wavelet, long_axes(chunk.box_shape), axes, pointwise=pointwise)
        values = rest if values is None else values + rest.reshape(values.shape)
    if values is None:
        assert chunk.coefficients is not None
        cosines = cosine.evaluate_points if pointwise else cosine.evaluate_grid
        values = cosines(chunk.coefficients, long_axes(chunk.box_shape), axes)
    return values


def box_values(
    chunk: Chunk,
    axes: Sequence[IntArray],
    *,
    pointwise: bool,
    added: npt.NDArray[np.int64] | None = None,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return voxels of the box in the chunk's dtype, exceptions restored.

    ``added`` is the field of the CORRECTION section at these voxels, where it is known already;
    ``out``, C-contiguous, is where to put them if nothing is added.
    """
    info = chunk.info
    size = (len(axes[0]),) if pointwise else tuple(len(a) for a in axes)
    if chunk.form in ("constant", "correction"):
        values = np.full(size, info.low, info.dtype)
    else:
        unit = unit_values(chunk, axes, pointwise=pointwise)
        values = normalize.denormalize(unit, info.low, info.high, info.dtype, out)
    if chunk.correction is not None:
        from tinc_codec.stream.residual import correction

        if added is None:
            added = _field(chunk, axes, pointwise=pointwise)
        added = added.reshape(values.shape)
        values = correction.add(values, added, chunk.correction, info.low, info.high)
    if chunk.mask is not None:
        at = tuple(axes) if pointwise else np.ix_(*axes)
        exceptions.restore(values, chunk.mask.labels[at], chunk.mask.patterns)
    return values


def _field(chunk: Chunk, axes: Sequence[IntArray], *, pointwise: bool) -> npt.NDArray[np.int64]:
    """Return the field of the CORRECTION section at voxels of the box."""
    assert chunk.correction is not None
    kept = [index for index, n in zip(axes, chunk.box_shape, strict=True) if n > 1]
    shape = long_axes(chunk.box_shape)
    return field_values(chunk.correction, chunk.info.dtype, shape, kept, pointwise=pointwise)


def _parts(shape: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield slices of at most _PART voxels that tile an array, in C order."""
    steps: list[int] = []
    room = _PART
    for n in reversed(shape):
        steps.insert(0, max(1, min(n, room)))
        room //= max(n, 1)
    starts = [range(0, n, step) for n, step in zip(shape, steps, strict=True)]
    for corner in product(*starts):
        yield tuple(slice(at, at + step) for at, step in zip(corner, steps, strict=True))


def _fill_box(
    chunk: Chunk, out: npt.NDArray[Any], axes: Sequence[IntArray | range], *, pointwise: bool
) -> None:
    """Write voxels of the box to ``out``, which has one axis per axis of the box or is a list."""
    added = None
    if chunk.correction is not None and out.size:  # once for all parts: 8 bytes for each voxel
        whole = [np.arange(a.start, a.stop) if isinstance(a, range) else a for a in axes]
        added = _field(chunk, whole, pointwise=pointwise).reshape(out.shape)
    for part in _parts(out.shape):
        cuts = part * len(axes) if pointwise else part
        some = [axis[cut] for axis, cut in zip(axes, cuts, strict=True)]
        index = [np.arange(a.start, a.stop) if isinstance(a, range) else a for a in some]
        given = None if added is None else added[part]
        room = out[part]
        direct = room if room.flags.c_contiguous else None
        values = box_values(chunk, index, pointwise=pointwise, added=given, out=direct)
        if values is not room:
            room[...] = values


def _whole(chunk: Chunk) -> npt.NDArray[Any]:
    """Return the whole array, in the memory order that the encoder saw."""
    out: npt.NDArray[Any] = np.empty(chunk.info.shape, chunk.info.dtype, order=chunk.info.order)
    box = out
    if chunk.crop is not None:
        exceptions.fill_with(out, chunk.crop.fill)
        box = out[chunk.crop.slices]
    # Ranges, since an index of 8 bytes may be more than its voxel.
    _fill_box(chunk, box, [range(n) for n in box.shape], pointwise=False)
    return out


def _selected(chunk: Chunk, selection: Selection) -> npt.NDArray[Any]:
    """Return the selected voxels, in the chunk's dtype and the selection's shape."""
    pointwise = selection.pointwise
    size = [len(a) for a in selection.axes]
    out: npt.NDArray[Any] = np.empty(size[:1] if pointwise else size, chunk.info.dtype)
    if chunk.crop is None:
        _fill_box(chunk, out, selection.axes, pointwise=pointwise)
        return out.reshape(selection.shape)
    exceptions.fill_with(out, chunk.crop.fill)
    bounds = list(zip(selection.axes, chunk.crop.start, chunk.crop.stop, strict=True))
    inside = [(a >= lo) & (a < hi) for a, lo, hi in bounds]
    if pointwise:
        inside = [np.logical_and.reduce(inside)] * len(inside)
    axes = [a[keep] - lo for (a, lo, _), keep in zip(bounds, inside, strict=True)]
    if all(len(a) for a in axes):
        box = np.empty([len(a) for a in axes][: out.ndim], out.dtype)
        _fill_box(chunk, box, axes, pointwise=pointwise)
        out[inside[0] if pointwise else np.ix_(*inside)] = box
    return out.reshape(selection.shape)


def decode_chunk(payload: Buffer, selection: Any = None) -> npt.NDArray[Any]:
    """Decode a payload, whole or in part.

    Parameters
    ----------
    payload : bytes-like
        What :func:`tinc_codec.encode` gave.
    selection : optional
        Anything that numpy takes between brackets. Only these voxels are evaluated, and they
        equal the same part of the whole bit for bit.

    Returns
    -------
    numpy.ndarray
        The dtype, byte order included, of the array encoded; without a selection its shape and
        memory order too.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    IndexError
        If the selection does not fit the chunk.
    """
    chunk = open_chunk(payload)
    if selection is None:
        return _whole(chunk)
    return _selected(chunk, resolve(selection, chunk.info.shape))


decode = decode_chunk


def inspect(payload: Buffer) -> Inspection:
    """Return what a payload says of itself, without evaluating it.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    """
    chunk = open_chunk(payload)
    tree = chunk.tree
    code = chunk.info.psnr_centidb
    psnr = {normalize.PSNR_UNKNOWN: math.nan, normalize.PSNR_EXACT: math.inf}.get(code, code / 100)
    size = memoryview(payload).nbytes
    return Inspection(
        shape=chunk.info.shape,
        dtype=chunk.info.dtype,
        order=chunk.info.order,
        form=chunk.form,
        levels=tree.geometry.levels if tree else 0,
        widths=tuple(
            tuple(round(float(w)) for w in level.mean(axis=0))
            for level in (tree.widths if tree else ())
        ),
        parameters=network.count_parameters(tree) if tree else 0,
        coordinates=tree.geometry.coordinates if tree else "",
        macs_per_voxel=network.macs_per_voxel(tree) if tree else 0.0,
        section_sizes=chunk.sections,
        payload_bytes=size,
        ratio=chunk.info.nbytes / size,
        psnr_db=psnr,
    )
