"""Many payloads at once: on a torch device, chunks with equal trees are one evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Int64Array
from tinc_codec.decoding.arrays import array_of
from tinc_codec.decoding.opened import Chunk, open_chunk, open_chunks
from tinc_codec.decoding.selection import Selection, index_of, resolve
from tinc_codec.engines.gpu import values
from tinc_codec.engines.gpu.memory import in_batches, most_decoded
from tinc_codec.runtime import current_runtime
from tinc_codec.threads import each
from tinc_codec.tree import section

if TYPE_CHECKING:
    import torch
    from typing_extensions import Buffer

    from tinc_codec.engines.gpu.faces import Axis


def decode_chunks(
    payloads: Sequence[Buffer], selections: Sequence[Any] | None = None
) -> list[npt.NDArray[Any]]:
    """Decode payloads, whole or in part, on a GPU many of them at once.

    Parameters
    ----------
    payloads : sequence of bytes-like
        What :func:`tinc_codec.encode` gave.
    selections : sequence, optional
        For each payload what numpy takes between brackets, or None.

    Returns
    -------
    list of numpy.ndarray
        As :func:`tinc_codec.decode` gives them, whose errors this raises too.
    """
    chosen = [None] * len(payloads) if selections is None else selections
    pairs = list(zip(payloads, chosen, strict=True))
    if not current_runtime().uses_torch:
        return _decoded_each(pairs)
    resident = decode_resident(payloads, chosen)
    here = _decoded_here(pairs, resident)
    out = []
    for (payload, selection), bits in zip(pairs, resident, strict=True):
        if bits is None:
            out.append(next(here))
            continue
        info = open_chunk(payload).info
        order = info.order if selection is None else "C"
        out.append(np.asarray(values.to_numpy(bits, info.dtype), order=order))
    return out


def _decoded_here(
    pairs: Sequence[tuple[Buffer, Any]], resident: Sequence[torch.Tensor | None]
) -> Iterator[npt.NDArray[Any]]:
    """Return what the host decodes, on several threads: payloads that are not on the device."""
    left = [pair for pair, bits in zip(pairs, resident, strict=True) if bits is None]
    return iter(_decoded_each(left))


def _decoded_each(pairs: Sequence[tuple[Buffer, Any]]) -> list[npt.NDArray[Any]]:
    """Return what the host decodes of payloads and selections, on several threads."""
    return each(lambda pair: array_of(open_chunk(pair[0]), pair[1]), pairs)


def decode_for_gpu(payloads: Sequence[Buffer], selections: Sequence[Any]) -> list[Any]:
    """Decode payloads, whole or in part, into arrays of cupy; values never leave the GPU.

    Only chunks that :func:`decode_resident` leaves to the host come as numpy's.

    Parameters
    ----------
    payloads, selections
        See :func:`decode_chunks`. Values come in native byte order.

    Returns
    -------
    list of cupy.ndarray or numpy.ndarray
        In C order.
    """
    resident = decode_resident(payloads, selections)
    here = _decoded_here(list(zip(payloads, selections, strict=True)), resident)
    return [
        next(here)
        if bits is None
        else values.to_cupy(bits, open_chunk(payload).info.dtype.newbyteorder("="))
        for payload, bits in zip(payloads, resident, strict=True)
    ]


def decode_resident(
    payloads: Sequence[Buffer], selections: Sequence[Any]
) -> list[torch.Tensor | None]:
    """Decode payloads into tensors that stay on the device of the run-time settings.

    Memory on the device: see :func:`tinc_codec.engines.gpu.memory.most_decoded`.

    Parameters
    ----------
    payloads, selections
        See :func:`decode_chunks`.

    Returns
    -------
    list of tensors of signed integers, or None
        Of the selection's shape, in C order: the bits of the values; see
        :mod:`tinc_codec.engines.gpu.values`. None where there is more or less to evaluate than a
        tree, or padding around it, or single voxels are asked for of a tree whose faces are made
        smooth: such chunks are for :func:`tinc_codec.decode.decode`.

    Raises
    ------
    CorruptPayload, TruncatedPayload, UnsupportedVersion, IndexError
        As :func:`tinc_codec.decode`.
    InvalidSetting
        If torch or the device is not there.
    """
    chunks = open_chunks(payloads)
    chosen = [
        _whole(chunk.info.shape) if selection is None else resolve(selection, chunk.info.shape)
        for chunk, selection in zip(chunks, selections, strict=True)
    ]
    alike: dict[Any, list[int]] = {}
    for k, (chunk, selection) in enumerate(zip(chunks, chosen, strict=True)):
        if _stays(chunk, selection):
            alike.setdefault(_key(chunk, selection), []).append(k)
    found: list[torch.Tensor | None] = [None] * len(chunks)
    for group in alike.values():

        def run(some: Sequence[int], selection: Selection = chosen[group[0]]) -> None:
            decoded = _decode_alike([chunks[k] for k in some], selection)
            for k, bits in zip(some, decoded, strict=True):
                found[k] = bits

        in_batches(run, group, _at_once(chunks[group[0]], chosen[group[0]], len(group)))
    return found


@lru_cache(maxsize=8)
def _whole(shape: tuple[int, ...]) -> Selection:
    """Return the selection of all voxels."""
    return resolve(..., shape)


def _at_once(chunk: Chunk, selection: Selection, count: int) -> int:
    """Return how many of some chunks alike to decode together."""
    if count == 1:  # to ask for the memory takes as long as to decode a small one
        return 1
    voxels = math.prod(selection.shape)
    if not selection.pointwise:  # with the stencils of faces
        voxels = max(voxels, math.prod(len(axis.index) for axis in _along(chunk, selection)))
    return most_decoded(voxels, chunk.info.dtype.itemsize)


def _stays(chunk: Chunk, selection: Selection) -> bool:
    """Tell whether all that is to be done for a chunk is done on the device."""
    if chunk.form != "tree" or chunk.tree is None or chunk.crop is not None:
        return False
    return chunk.tree.smoothing is None or not selection.pointwise


def _along(chunk: Chunk, selection: Selection) -> tuple[Axis, ...]:
    """Return what is evaluated along each axis of a tree, and corrected near faces."""
    from tinc_codec.engines.gpu.device import current_device
    from tinc_codec.engines.gpu.faces import axes_of

    assert chunk.tree is not None
    indices = tuple(np.asarray(a, np.int64).tobytes() for a in _kept(chunk, selection))
    return axes_of(chunk.tree.geometry, chunk.tree.smoothing, indices, current_device())


def _kept(chunk: Chunk, selection: Selection) -> list[Int64Array]:
    """Return the voxels selected along the axes that a tree sees."""
    return [a for a, n in zip(selection.axes, chunk.info.shape, strict=True) if n > 1]


def _key(chunk: Chunk, selection: Selection) -> Any:
    """Return what chunks that are evaluated together have in common."""
    assert chunk.tree is not None
    axes = tuple(axis.tobytes() for axis in selection.axes)
    tree = _structure(chunk.tree), chunk.steps is None
    return tree, chunk.info.shape, chunk.info.dtype, selection.shape, axes


# Of the trees opened last: their sections.
_structure = lru_cache(maxsize=256)(section.to_bytes)


def _decode_alike(chunks: Sequence[Chunk], selection: Selection) -> list[torch.Tensor]:
    """Return the bits of the selected voxels of chunks with one structure."""
    from tinc_codec.engines.gpu.engine import evaluate
    from tinc_codec.engines.gpu.faces import smooth

    tree, info = chunks[0].tree, chunks[0].info
    assert tree is not None
    axes, pointwise = selection.axes, selection.pointwise
    parameters = np.stack([chunk.parameters for chunk in chunks if chunk.parameters is not None])
    steps = [chunk.steps for chunk in chunks if chunk.steps is not None]  # of all, or of none
    along = None if pointwise else _along(chunks[0], selection)
    index = _kept(chunks[0], selection) if along is None else [axis.index for axis in along]
    counted = np.stack(steps) if steps else None
    units = evaluate(tree, parameters, index, counted, pointwise=pointwise)
    if along is not None:
        units = smooth(units, along)
    spread = [len(a) if n > 1 else 1 for a, n in zip(axes, info.shape, strict=True)]
    out = []
    for chunk, unit in zip(chunks, units, strict=True):
        if along is not None:
            unit = unit.view(spread).expand([len(a) for a in axes])
        bits = values.denormalize(unit, chunk.info.low, chunk.info.high, chunk.info.dtype)
        if chunk.mask is not None:
            labels = chunk.mask.labels[index_of(axes, pointwise=pointwise)]
            bits = values.restore(bits, labels, chunk.mask.patterns)
        out.append(bits.reshape(selection.shape))
    return out
