"""What a payload says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinc_codec.decoding.opened import Chunk, open_chunk
from tinc_codec.stream import normalize
from tinc_codec.tree import network

if TYPE_CHECKING:
    from typing_extensions import Buffer


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
