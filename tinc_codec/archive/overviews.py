"""An array at a lower resolution, lazily: of each chunk what its payload tells sooner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive.layout import grid_shape
from tinc_codec.archive.payloads import check_plain, payloads
from tinc_codec.decoding.opened import check_is_of
from tinc_codec.decoding.overview import checked_factors, decode_overview
from tinc_codec.runtime import Runtime, given_runtime, using

if TYPE_CHECKING:
    import dask.array as da


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis of voxels, cut in chunks, of each of which every factor-th voxel has a sample."""

    voxels: int
    edge: int
    factor: int

    def places(self, chunk: int) -> NDArray[np.int64]:
        """Return the voxels that the samples of a chunk are at, padding left out."""
        first = chunk * self.edge
        return np.arange(first, min(first + self.edge, self.voxels), self.factor)

    def chunks(self, task: int, count: int) -> range:
        """Return the chunks of a task of so many."""
        return range(task * count, min((task + 1) * count, -(-self.voxels // self.edge)))

    def samples(self, chunks: range) -> int:
        """Return how many samples some chunks have."""
        return sum(len(self.places(chunk)) for chunk in chunks)


def _axes(array: zarr.Array[Any], factors: Sequence[int]) -> list[_Axis]:
    return [_Axis(*side) for side in zip(array.shape, array.chunks, factors, strict=True)]


def places(array: zarr.Array[Any], factor: int | Sequence[int]) -> list[NDArray[np.int64]]:
    """Return the voxels that samples are at along each axis: every factor-th of each chunk."""
    grid = grid_shape(array.shape, array.chunks)
    axes = _axes(array, checked_factors(factor, array.ndim))
    return [
        np.concatenate([np.arange(0), *(axis.places(k) for k in range(n))])
        for axis, n in zip(axes, grid, strict=True)
    ]


def overview(
    array: zarr.Array[Any], factor: int | Sequence[int], task: tuple[int, ...]
) -> da.Array:
    """Return an array of which each chunk is decoded at a lower resolution.

    Parameters
    ----------
    array : zarr.Array
        Of payloads of TINC, sharded or not.
    factor : int or sequence of int
        As for :func:`tinc_codec.decode_overview`.
    task : tuple of int
        Voxels that a task reads, in whole chunks, and in whole shards where there are any.

    Returns
    -------
    dask.array.Array
        Its samples are at the voxels that :func:`places` tells. Computing raises CorruptPayload
        where a payload is damaged, or is not of the array's dtype and shape of chunks.

    Raises
    ------
    InvalidSetting
        If its chunks are not plain payloads, or a factor is not a power of two.
    """
    import dask.array as da

    factors = checked_factors(factor, array.ndim)
    check_plain(array, "overview", "select voxels instead, as in data[::8, ::8, ::8]")
    counts = tuple(n // edge for n, edge in zip(task, array.chunks, strict=True))
    tasks = grid_shape(array.shape, task)
    samples = tuple(
        tuple(axis.samples(axis.chunks(k, count)) for k in range(n)) or (0,)  # dask wants a chunk
        for axis, count, n in zip(_axes(array, factors), counts, tasks, strict=True)
    )
    return da.map_blocks(  # type: ignore[no-untyped-call, no-any-return]
        _read, array, factors, counts, given_runtime(), chunks=samples, dtype=array.dtype,
        meta=np.empty((0,) * array.ndim, array.dtype),
    )  # fmt: skip


def _read(
    array: zarr.Array[Any],
    factors: tuple[int, ...],
    counts: tuple[int, ...],
    settings: Runtime | None,
    block_id: tuple[int, ...] = (),
) -> NDArray[Any]:
    """Return the samples of a task of so many chunks along each axis."""
    axes = _axes(array, factors)
    chunks = [axis.chunks(k, count) for axis, k, count in zip(axes, block_id, counts, strict=True)]
    fill = 0 if array.fill_value is None else array.fill_value
    size = [axis.samples(along) for axis, along in zip(axes, chunks, strict=True)]
    out = np.full(size, fill, array.dtype)
    found = payloads(array, list(product(*chunks)))
    for position, part, payload in zip(product(*chunks), _parts(axes, chunks), found, strict=True):
        if payload is None:
            continue
        check_is_of(payload, array.chunks, array.dtype, f"{array.store_path}: chunk {position}: ")
        with using(settings):
            samples = decode_overview(payload, factors)
        out[part] = samples[tuple(slice(side.stop - side.start) for side in part)]
    return out


def _parts(axes: Sequence[_Axis], chunks: Sequence[range]) -> Iterator[tuple[slice, ...]]:
    """Yield where the samples of each chunk go among those of all of them, in C order."""
    sides = []
    for axis, along in zip(axes, chunks, strict=True):
        ends = np.cumsum([0, *(axis.samples(range(k, k + 1)) for k in along)]).tolist()
        sides.append(list(map(slice, ends[:-1], ends[1:])))
    yield from product(*sides)
