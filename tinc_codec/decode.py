"""From payload to array: the way back, whole or a selection.

Everything comes from the payload: shape, widths, steps, boxes. Settings are not consulted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.decoding.filtered import filtered_values
from tinc_codec.decoding.opened import Chunk, long_axes, open_chunk
from tinc_codec.decoding.selection import Selection, resolve
from tinc_codec.decoding.smoothed import begin_grid, begin_low_pass, point_values
from tinc_codec.decoding.windowed import field_values, wavelet_values
from tinc_codec.engines import current_engine
from tinc_codec.freed_memory import keep_freed_memory
from tinc_codec.stream import cosine, exceptions, normalize
from tinc_codec.threads import each
from tinc_codec.tree import network

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from tinc_codec.engines import Engine
    from tinc_codec.stream.residual.wavelets.section import Below

_Item = TypeVar("_Item", bound=np.generic)

# Voxels evaluated at once: working memory does not grow with the array.
_PART = 1 << 21

keep_freed_memory()


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


def unit_values(
    chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool, engine: Engine | None = None
) -> Float32Array:
    """Evaluate the tree, the wavelet or the low-order form on voxels of the box, and filter them.

    Parameters
    ----------
    chunk : Chunk
        Not a constant one.
    axes : one int64 array per axis of the box
        Voxel indices.
    pointwise : bool
        As in :class:`tinc_codec.decoding.selection.Selection`.
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
    return values if pointwise else _along_all_axes(values, shape, axes)


def _along_all_axes(
    values: npt.NDArray[_Item], shape: Sequence[int], axes: Sequence[Int64Array]
) -> npt.NDArray[_Item]:
    """Return values of the axes longer than one voxel along all: the others may be asked for often.

    Read-only where they are.
    """
    spread = tuple(len(a) if n > 1 else 1 for a, n in zip(axes, shape, strict=True))
    return np.broadcast_to(values.reshape(spread), [len(a) for a in axes])


def _sum_of_forms(
    chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool, engine: Engine | None
) -> Float32Array:
    """Return voxels of the axes longer than one voxel, not yet filtered; any shape in C order."""
    shape = long_axes(chunk.box_shape)
    if chunk.coefficients is not None:
        cosines = cosine.evaluate_points if pointwise else cosine.evaluate_grid
        return cosines(chunk.coefficients, shape, axes)
    if chunk.tree is None or chunk.tree.halvings:
        assert chunk.wavelet is not None
        below = None if chunk.tree is None else tree_below(chunk, engine or current_engine())
        return wavelet_values(chunk.wavelet, shape, axes, pointwise=pointwise, below=below)
    with _tree_begun(chunk, axes, engine or current_engine(), pointwise=pointwise) as finish:
        if chunk.wavelet is None:
            return finish()
        rest = wavelet_values(chunk.wavelet, shape, axes, pointwise=pointwise)
        values = finish()
    return values + rest.reshape(values.shape)


@contextmanager
def _tree_begun(
    chunk: Chunk, axes: Sequence[Int64Array], engine: Engine, *, pointwise: bool
) -> Iterator[Callable[[], Float32Array]]:
    """Let other threads begin voxels of a tree of the box; yields what gives them."""
    assert chunk.tree is not None
    assert chunk.parameters is not None
    if pointwise:
        evaluate = partial(engine.evaluate_points, chunk.tree, chunk.parameters, steps=chunk.steps)
        yield partial(point_values, chunk.tree, axes, evaluate)
        return
    begin = partial(engine.begin_grid, chunk.tree, chunk.parameters, steps=chunk.steps)
    with begin_grid(chunk.tree, axes, begin) as finish:
        yield finish


def tree_below(chunk: Chunk, engine: Engine) -> Below:
    """Return the level whose low-pass band a chunk's tree describes, and what begins a window."""
    assert chunk.tree is not None
    assert chunk.parameters is not None
    assert chunk.wavelet is not None
    begin = partial(engine.begin_grid, chunk.tree, chunk.parameters, steps=chunk.steps)
    depth = chunk.tree.halvings
    shape = chunk.wavelet.header.plan.shapes[depth]
    return depth, partial(begin_low_pass, chunk.tree, begin, shape)


def box_values(
    chunk: Chunk,
    axes: Sequence[Int64Array],
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
        values = normalize.denormalize(unit, info.low, info.high, info.dtype, out, each)
    if chunk.correction is not None:
        from tinc_codec.stream.residual.corrections import correction

        if added is None:
            added = _field(chunk, axes, pointwise=pointwise)
        values = correction.add(values, added, chunk.correction, info.low, info.high)
    if chunk.mask is not None:
        at = tuple(axes) if pointwise else np.ix_(*axes)
        exceptions.restore(values, chunk.mask.labels[at], chunk.mask.patterns)
    return values


def _field(chunk: Chunk, axes: Sequence[Int64Array], *, pointwise: bool) -> npt.NDArray[np.int64]:
    """Return the field of the CORRECTION section at voxels of the box."""
    assert chunk.correction is not None
    kept = [index for index, n in zip(axes, chunk.box_shape, strict=True) if n > 1]
    shape = long_axes(chunk.box_shape)
    field = field_values(chunk.correction, chunk.info.dtype, shape, kept, pointwise=pointwise)
    return field if pointwise else _along_all_axes(field, chunk.box_shape, axes)


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
    chunk: Chunk, out: npt.NDArray[Any], axes: Sequence[Int64Array | range], *, pointwise: bool
) -> None:
    """Write voxels of the box to ``out``, which has one axis per axis of the box or is a list."""
    added = None
    if chunk.correction is not None and out.size:  # once for all parts: 8 bytes for each voxel
        whole = [np.arange(a.start, a.stop) if isinstance(a, range) else a for a in axes]
        added = _field(chunk, whole, pointwise=pointwise)
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
    inside = chunk.crop.holds(selection.axes)
    if pointwise:
        inside = [np.logical_and.reduce(inside)] * len(inside)
    kept = zip(selection.axes, chunk.crop.start, inside, strict=True)
    axes = [index[keep] - start for index, start, keep in kept]
    if all(len(a) for a in axes):
        box = np.empty([len(a) for a in axes][: out.ndim], out.dtype)
        _fill_box(chunk, box, axes, pointwise=pointwise)
        out[inside[0] if pointwise else np.ix_(*inside)] = box
    return out.reshape(selection.shape)


def decode(payload: Buffer, selection: Any = None) -> npt.NDArray[Any]:
    """Decode a payload, whole or in part.

    Parameters
    ----------
    payload : bytes-like
        What :func:`tinc_codec.encode` gave.
    selection : optional
        Anything that numpy takes between brackets. Trees are evaluated at these voxels alone;
        wavelet coefficients are read whole, but for tiles of finer levels that are not touched.
        The voxels equal the same part of the whole bit for bit.

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


def _macs_per_voxel(chunk: Chunk) -> float:
    if chunk.tree is None:
        return 0.0
    places, voxels = math.prod(chunk.tree.geometry.shape), math.prod(chunk.box_shape)
    return network.macs_per_voxel(chunk.tree) * places / voxels


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
        macs_per_voxel=_macs_per_voxel(chunk),
        section_sizes=chunk.sections,
        payload_bytes=size,
        ratio=chunk.info.nbytes / size,
        psnr_db=psnr,
    )
