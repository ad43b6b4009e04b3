"""From payload to array: the way back, whole or a selection.

Everything comes from the payload: shape, widths, steps, boxes. Settings are not consulted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec import weights
from tinc_codec.engines import current_engine
from tinc_codec.errors import CorruptPayload
from tinc_codec.selection import Selection, resolve
from tinc_codec.stream import container, cosine, exceptions, normalize
from tinc_codec.stream.container import SectionKind
from tinc_codec.tree import network, section
from tinc_codec.tree.geometry import IntArray

if TYPE_CHECKING:
    from typing_extensions import Buffer

Float32Array = npt.NDArray[np.float32]

# A payload of n coded bytes may claim this many parameters (the coder never spends less than
# 1/64 byte on one) and this many raw bytes per payload byte (ten times the largest ratio).
PARAMETERS_PER_BYTE = 64
SPARE_PARAMETERS = 1024
LARGEST_RATIO = 1_000_000


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
    coefficients : bytes or None
        The COSINE section, where the form is the low-order one.
    sections : dict of str to int
        Bytes of each section's data.
    """

    info: normalize.ArrayInfo
    crop: exceptions.Crop | None
    mask: exceptions.Mask | None
    tree: network.Tree | None
    parameters: Float32Array | None
    coefficients: bytes | None
    sections: dict[str, int]

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Voxels of the box along each axis of the chunk."""
        return self.crop.shape if self.crop else self.info.shape

    @property
    def form(self) -> str:
        """How values are held: "tree", "cosine" or "constant"."""
        if self.tree is not None:
            return "tree"
        return "cosine" if self.coefficients is not None else "constant"


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
        "tree"; "cosine" where the budget held no better tree; "constant".
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


def open_chunk(payload: Buffer) -> Chunk:
    """Parse and check a payload; evaluates nothing.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion
        If the bytes are not a sound payload that this version reads.
    """
    parts = container.unpack(payload)
    if SectionKind.ARRAY not in parts:
        raise CorruptPayload("payload: the ARRAY section is missing; restore it from its source")
    info = normalize.ArrayInfo.from_bytes(parts[SectionKind.ARRAY])
    crop = mask = tree = parameters = None
    if SectionKind.CROP in parts:
        crop = exceptions.Crop.from_bytes(parts[SectionKind.CROP], info.dtype, info.shape)
    box_shape = crop.shape if crop else info.shape
    if SectionKind.MASK in parts:
        mask = exceptions.Mask.from_bytes(parts[SectionKind.MASK], info.dtype, box_shape)
    coefficients = parts.get(SectionKind.COSINE)
    _check_forms(parts, info, box_shape)
    if SectionKind.TREE in parts:
        coded = parts[SectionKind.WEIGHTS]
        most = PARAMETERS_PER_BYTE * len(coded) + SPARE_PARAMETERS
        tree = section.from_bytes(parts[SectionKind.TREE], long_axes(box_shape), most)
        parameters = weights.unpack(coded, network.layout(tree))
    return Chunk(
        info=info,
        crop=crop,
        mask=mask,
        tree=tree,
        parameters=parameters,
        coefficients=coefficients,
        sections={kind.name.lower(): len(data) for kind, data in parts.items()},
    )


def _check_forms(
    parts: dict[SectionKind, bytes], info: normalize.ArrayInfo, box_shape: tuple[int, ...]
) -> None:
    """Refuse contradictory forms, and sizes that no encoder reaches."""
    has_tree = SectionKind.TREE in parts
    has_cosine = SectionKind.COSINE in parts
    if has_tree != (SectionKind.WEIGHTS in parts) or (has_tree and has_cosine):
        raise CorruptPayload("payload: its sections contradict each other; restore it")
    if not (has_tree or has_cosine):
        if info.low != info.high:
            raise CorruptPayload("payload: it has neither a TREE nor a COSINE section; restore it")
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


def unit_values(chunk: Chunk, axes: Sequence[IntArray], *, pointwise: bool) -> Float32Array:
    """Evaluate the tree or the low-order form on voxels of the box.

    Parameters
    ----------
    chunk : Chunk
        With a tree or coefficients.
    axes : one int64 array per axis of the box
        Voxel indices.
    pointwise : bool
        As in :class:`tinc_codec.selection.Selection`.

    Returns
    -------
    float32 array
        (n,) pointwise, else one axis per axis of the box; nominally in [0, 1].
    """
    shape = chunk.box_shape
    kept = [index for index, n in zip(axes, shape, strict=True) if n > 1]
    if chunk.tree is not None and chunk.parameters is not None:
        engine = current_engine()
        evaluate = engine.evaluate_points if pointwise else engine.evaluate_grid
        values = evaluate(chunk.tree, chunk.parameters, kept)
    else:
        assert chunk.coefficients is not None
        form = cosine.evaluate_points if pointwise else cosine.evaluate_grid
        values = form(chunk.coefficients, long_axes(shape), kept)
    if pointwise:
        return values
    spread = tuple(len(a) if n > 1 else 1 for a, n in zip(axes, shape, strict=True))
    return np.broadcast_to(values.reshape(spread), [len(a) for a in axes])


def _box_values(chunk: Chunk, axes: Sequence[IntArray], *, pointwise: bool) -> npt.NDArray[Any]:
    """Return voxels of the box in the chunk's dtype, exceptions restored."""
    info = chunk.info
    size = (len(axes[0]),) if pointwise else tuple(len(a) for a in axes)
    if chunk.form == "constant":
        values = np.full(size, info.low, info.dtype)
    else:
        unit = unit_values(chunk, axes, pointwise=pointwise)
        values = normalize.denormalize(unit, info.low, info.high, info.dtype)
    if chunk.mask is not None:
        at = tuple(axes) if pointwise else np.ix_(*axes)
        exceptions.restore(values, chunk.mask.labels[at], chunk.mask.patterns)
    return values


def _selected_values(chunk: Chunk, selection: Selection) -> npt.NDArray[Any]:
    """Return the selected voxels, in the chunk's dtype and the selection's shape."""
    crop = chunk.crop
    if crop is None:
        values = _box_values(chunk, selection.axes, pointwise=selection.pointwise)
        return values.reshape(selection.shape)
    bounds = list(zip(selection.axes, crop.start, crop.stop, strict=True))
    inside = [(a >= lo) & (a < hi) for a, lo, hi in bounds]
    out: npt.NDArray[Any]
    if selection.pointwise:
        together = np.logical_and.reduce(inside)
        axes = [a[together] - lo for a, lo, _ in bounds]
        out = np.empty(len(together), chunk.info.dtype)
        where: Any = together
    else:
        axes = [a[keep] - lo for (a, lo, _), keep in zip(bounds, inside, strict=True)]
        out = np.empty([len(a) for a in selection.axes], chunk.info.dtype)
        where = np.ix_(*inside)
    exceptions.fill_with(out, crop.fill)
    if all(len(a) for a in axes):
        out[where] = _box_values(chunk, axes, pointwise=selection.pointwise)
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
    if selection is not None:
        return _selected_values(chunk, resolve(selection, chunk.info.shape))
    whole = Selection(
        axes=tuple(np.arange(n) for n in chunk.info.shape), pointwise=False, shape=chunk.info.shape
    )
    return np.asarray(_selected_values(chunk, whole), order=chunk.info.order)


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
            tuple(round(float(w)) for w in level.mean(axis=0)) for level in (tree.widths if tree else ())
        ),
        parameters=network.count_parameters(tree) if tree else 0,
        coordinates=tree.geometry.coordinates if tree else "",
        macs_per_voxel=network.macs_per_voxel(tree) if tree else 0.0,
        section_sizes=chunk.sections,
        payload_bytes=size,
        ratio=chunk.info.nbytes / size,
        psnr_db=psnr,
    )
