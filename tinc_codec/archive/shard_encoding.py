"""From the voxels of a shard to its bytes and back: chunk by chunk, without loss where need be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.buffer import default_buffer_prototype

from tinc_codec.archive import shards
from tinc_codec.archive.arrays import Documents, Level, new_array, new_stack
from tinc_codec.archive.layout import Region, slices_text, within
from tinc_codec.archive.plan import Plan, Task
from tinc_codec.decode import decode
from tinc_codec.encode import encode_chunk
from tinc_codec.errors import InvalidSetting, TincError

# A class of torch's is told by its name: reading and writing archives needs no torch.
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError", "_ArrayMemoryError")
_FIT_FAILED = (TincError, ArithmeticError, np.linalg.LinAlgError)


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard in work: its chunks that hold voxels of the array, in C order.

    Attributes
    ----------
    plan : Plan
        The plan.
    level : Level
        Its level.
    task : Task
        The task.
    box : ndarray
        Voxels of the task's region.
    regions : tuple of slices, of each chunk
        Voxels of the level.
    places : of each chunk
        Its number among all chunks of a whole shard.
    """

    plan: Plan
    level: Level
    task: Task
    box: NDArray[Any]
    regions: tuple[Region, ...]
    places: tuple[int, ...]

    @property
    def key(self) -> str:
        """Of the shard within the archive."""
        name = _codec_array(self.plan, self.level, {}).metadata.encode_chunk_key(self.task.position)
        return f"{self.level.path}/{name}"

    def original(self, k: int) -> NDArray[Any]:
        """Return the voxels of a chunk."""
        return self.box[within(self.regions[k], self.task.region)]

    def padded(self, k: int) -> NDArray[Any]:
        """Return the voxels of a chunk, padded to a whole one with the fill value."""
        voxels = self.original(k)
        if voxels.shape == self.level.chunks:
            return voxels
        whole = np.zeros(self.level.chunks, voxels.dtype)
        whole[tuple(map(slice, voxels.shape))] = voxels
        return whole


def encode_shard(shard: Shard) -> tuple[list[bytes | None], dict[int, str]]:
    """Return the payload of each chunk, None where zarr leaves it out, and why some are lossless.

    All are encoded in one batch. Where that fails halves are tried, down to the chunks that are to
    blame, or until the memory is enough.

    Raises
    ------
    InvalidSetting
        If a chunk can be stored neither by the plan's settings nor losslessly.
    """
    payloads: list[bytes | None] = [None] * len(shard.regions)
    lossless: dict[int, str] = {}
    batches = [range(len(payloads))]
    while batches:
        batch = batches.pop()
        try:
            payloads[batch.start : batch.stop] = _encode_batch(shard, batch)
        except Exception as error:
            failed = isinstance(error, _FIT_FAILED) and not shard.level.lossless
            if not failed and type(error).__name__ not in _OUT_OF_MEMORY:
                raise
            if len(batch) > 1:
                middle = len(batch) // 2
                batches += [batch[:middle], batch[middle:]]
            elif failed:
                (k,) = batch
                lossless[k] = str(error)
                payloads[k] = lossless_chunk(shard, k, lossless[k])
            else:
                raise
    return payloads, lossless


def _encode_batch(shard: Shard, batch: Sequence[int]) -> list[bytes | None]:
    plan, written = shard.plan, Documents()
    array = new_stack(written, len(batch), shard.level, plan.settings, plan.zarr_format)
    array[:] = np.concatenate([shard.padded(k) for k in batch])
    rest = (0,) * (array.ndim - 1)
    found = (written.get(array.metadata.encode_chunk_key((k, *rest))) for k in range(len(batch)))
    return [None if payload is None else payload.to_bytes() for payload in found]


def pack_shard(shard: Shard, payloads: Sequence[bytes | None]) -> bytes | None:
    """Return the bytes to store; None where all chunks hold only the fill value."""
    if not shard.level.sharded:
        return payloads[0]
    whole: list[bytes | None] = [None] * shards.chunks_in_a_shard(
        shard.level.shards, shard.level.chunks
    )
    for place, payload in zip(shard.places, payloads, strict=True):
        whole[place] = payload
    return shards.pack(whole)


def decode_shard(shard: Shard, data: bytes | None) -> NDArray[Any]:
    """Return the voxels of the shard as zarr reads them from the bytes to store."""
    documents = Documents()
    array = _codec_array(shard.plan, shard.level, documents)
    if data is not None:
        documents[shard.key] = default_buffer_prototype().buffer.from_bytes(data)
    return np.asarray(array[shard.task.region])


def _codec_array(plan: Plan, level: Level, documents: Documents) -> zarr.Array[Any]:
    return new_array(documents, level, plan.settings, plan.zarr_format)


def lossless_chunk(shard: Shard, k: int, why: str) -> bytes:
    """Return a payload that restores a chunk exactly, in an array whose codec is lossy.

    Raises
    ------
    InvalidSetting
        If the encoder has no exact form for such voxels. The message names the chunk, why it was
        to be stored so, and why it cannot be.
    """
    chunk, plan = shard.padded(k), shard.plan
    exact = replace(
        plan.settings,
        ratio=None,
        psnr=None,
        rmse=None,
        ssim=None,
        max_error=0,
        importance=None,
        form="auto",
        preset="default",
        milestones="auto",
    )
    try:
        payload = encode_chunk(chunk, exact)
        same = np.array_equal(decode(payload), chunk, equal_nan=chunk.dtype.kind == "f")
        hindrance = "" if same else "its decoded bytes differ"
    except TincError as error:
        hindrance = str(error)
    if hindrance:
        where = slices_text(shard.regions[k])
        raise InvalidSetting(
            f"the chunk {where} of {shard.level.path!r} is not fitted well enough by these "
            f"settings ({why}), and cannot be stored losslessly either ({hindrance}): take "
            f"{_remedy(plan)}"
        )
    return payload


def _remedy(plan: Plan) -> str:
    if plan.settings.max_error is not None:
        return "a larger max_error"
    return "a lower ratio" if plan.min_psnr is None else "a lower ratio, or a lower --min-psnr"
