"""The zarr v3 array-to-bytes codec ``tinc_codec.tinc``: batched, with partial decode."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

try:
    from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
    from zarr.buffer import cpu, gpu
    from zarr.dtype import ZDType  # noqa: F401  # of 3.1, whose data types are read below
    from zarr.registry import register_codec
    from zarr.storage import StorePath
except ImportError as error:
    raise ImportError(
        "TINCSerializer needs zarr>=3.1 (pip install 'zarr>=3.1'); "
        "with an older zarr use tinc_codec.TINC as compressor, with zarr format 2"
    ) from error

from tinc_codec.configured import Configured, warn_if_not_installed
from tinc_codec.decoding.cache import decode_remembered
from tinc_codec.decoding.opened import check_is_of, open_chunks
from tinc_codec.decoding.selection import is_whole
from tinc_codec.decoding.together import decode_for_gpu
from tinc_codec.encode import check_axes, encode_chunks
from tinc_codec.engines.gpu import device
from tinc_codec.errors import UnsupportedData
from tinc_codec.runtime import Runtime, current_runtime, runtime
from tinc_codec.stream.normalize import check_array

if TYPE_CHECKING:
    from zarr.abc.buffer import Buffer, BufferPrototype, NDBuffer
    from zarr.core.array_spec import ArraySpec

CODEC_NAME = "tinc_codec.tinc"

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


@dataclass(frozen=True, init=False, repr=False)
class TINCSerializer(Configured, ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Lossy serializer for volumetric chunks: a tree of sine networks, wavelets or both.

    Use it as the serializer of a zarr v3 array, and say ``compressors=None``::

        zarr.create_array(store, data=volume, chunks=(64, 64, 64), shards=(256, 256, 256),
                          serializer=tinc_codec.TINCSerializer(ratio=128), compressors=None)

    With ``compressors=None`` a selection decodes only what its voxels take, inside shards too. Left
    out, zarr appends zstd, which gains nothing and makes every read decode whole chunks. Filters do
    that too, and no target holds behind them: what is lost of Delta's differences adds up.

    Write whole chunks, once: writing a part of a chunk decodes it and fits it again, and each time
    adds error.

    Chunks come one at a time unless ``zarr.config`` holds a ``codec_pipeline.batch_size`` above 1
    when the array is opened. On a GPU (``tinc_codec.runtime(device="cuda")``) open it with a large
    one, 64 or more: the chunks of a batch are fitted together, and read together. After
    ``zarr.config.enable_gpu()`` what is read there stays there, as arrays of cupy.

    Parameters
    ----------
    ratio, psnr, rmse, ssim, max_error : float, optional
        The target of every chunk, one of the five; ratio=64 where none is given.
    importance, levels, level_ratio, allocation, effort, seed, preset, preserve, coordinates, \
form, iterations, milestones
        See :class:`tinc_codec.Settings`.

    Raises
    ------
    InvalidSetting
        If a setting is out of range.
    """

    is_fixed_size: ClassVar[bool] = False  # type: ignore[misc]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Build the codec from its zarr metadata.

        Raises
        ------
        InvalidSetting
            If the configuration has an unknown name or a value out of range.
        """
        return cls.from_json(data.get("configuration") or {})

    def to_dict(self) -> dict[str, Any]:
        """Return the zarr metadata: name and configuration, plain JSON values."""
        return {"name": CODEC_NAME, "configuration": self.settings.to_json()}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Check the array when the array is created or opened.

        Raises
        ------
        UnsupportedData
            If the codec does not take the dtype, the array has no axes, or chunks are too large.
        InvalidSetting
            If chunks have more than four axes longer than one voxel.
        """
        # Grids of chunks of several shapes have no one shape.
        chunk: tuple[int, ...] = getattr(chunk_grid, "chunk_shape", (1,) * len(shape))
        check_array(np.broadcast_to(np.empty((), dtype.to_native_dtype()), chunk))
        check_axes(chunk)

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Check the dtype inside of shards, where zarr does not call :meth:`validate`.

        Raises
        ------
        UnsupportedData
            If the codec does not take it.
        """
        dtype = array_spec.dtype.to_native_dtype()
        check_array(np.empty((1,) * len(array_spec.shape), dtype))
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Raise, as zarr asks of codecs whose chunks differ in size."""
        raise NotImplementedError("the payloads of tinc_codec differ in size")

    async def encode(
        self, chunks_and_specs: Iterable[tuple[NDBuffer | None, ArraySpec]]
    ) -> list[Buffer | None]:
        """Encode a batch of chunks in worker threads, or at once by torch; None stays None."""
        if current_runtime().uses_torch:
            return await asyncio.to_thread(self._encode_together, list(chunks_and_specs))
        return await _in_threads(self._encode_sync, chunks_and_specs)

    async def decode(
        self, chunks_and_specs: Iterable[tuple[Buffer | None, ArraySpec]]
    ) -> list[NDBuffer | None]:
        """Decode a batch of chunks in worker threads, or at once by torch; None stays None."""
        batch = list(chunks_and_specs)
        with _where_buffers_are(spec for _, spec in batch) as settings:
            if not settings.uses_torch:
                return await _in_threads(self._decode_sync, batch)
            parts = [(payload, spec, None) for payload, spec in batch]
            return await asyncio.to_thread(self._decode_together, parts)

    async def decode_partial(
        self, batch_info: Iterable[tuple[Any, Any, ArraySpec]]
    ) -> Iterable[NDBuffer | None]:
        """Decode parts of a batch of chunks, by torch at once; None for chunks not there."""
        batch = list(batch_info)
        with _where_buffers_are(spec for *_, spec in batch) as settings:
            if not settings.uses_torch:
                return await super().decode_partial(batch)
            payloads = await asyncio.gather(
                *(getter.get(prototype=_prototype(getter, spec)) for getter, _, spec in batch)
            )
            parts = [(p, spec, part) for p, (_, part, spec) in zip(payloads, batch, strict=True)]
            return await asyncio.to_thread(self._decode_together, parts)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        payload = await byte_getter.get(prototype=_prototype(byte_getter, chunk_spec))
        if payload is None:
            return None
        return await asyncio.to_thread(self._decode_sync, payload, chunk_spec, selection)

    def _decode_partial_sync(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        payload = byte_getter.get_sync(prototype=_prototype(byte_getter, chunk_spec))
        return None if payload is None else self._decode_sync(payload, chunk_spec, selection)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        (payload,) = self._encode_together([(chunk_data, chunk_spec)])
        assert payload is not None
        return payload

    def _encode_together(
        self, batch: Sequence[tuple[NDBuffer | None, ArraySpec]]
    ) -> list[Buffer | None]:
        arrays = [_array(chunk, spec) for chunk, spec in batch if chunk is not None]
        payloads = iter(encode_chunks(arrays, self.settings))
        return [
            None if chunk is None else spec.prototype.buffer.from_bytes(next(payloads))
            for chunk, spec in batch
        ]

    def _decode_sync(
        self, chunk_data: Buffer, chunk_spec: ArraySpec, selection: Any = None
    ) -> NDBuffer:
        (array,) = self._decode_together([(chunk_data, chunk_spec, selection)])
        assert array is not None
        return array

    def _decode_together(
        self, batch: Sequence[tuple[Buffer | None, ArraySpec, Any]]
    ) -> list[NDBuffer | None]:
        """Decode parts of chunks; where zarr's buffers are on the GPU, they never leave it."""
        given = [(data.to_bytes(), spec, part) for data, spec, part in batch if data is not None]
        payloads = [payload for payload, _, _ in given]
        # zarr says "all of it" in slices.
        parts = [None if is_whole(part, spec.shape) else part for _, spec, part in given]
        open_chunks(payloads)  # on several threads
        for payload, spec, _ in given:
            check_is_of(payload, spec.shape, spec.dtype.to_native_dtype())
        resident = bool(given) and _on_gpu(given[0][1]) and "cuda" in current_runtime().device
        arrays = iter((decode_for_gpu if resident else decode_remembered)(payloads, parts))
        return [None if data is None else _buffer(next(arrays), spec) for data, spec, _ in batch]


def _prototype(getter: Any, spec: ArraySpec) -> BufferPrototype:
    """Return the buffers to read a payload into: it is read on the host, whatever holds the values.

    Within shards zarr gives no others than its own, of the GPU too.
    """
    return cpu.buffer_prototype if isinstance(getter, StorePath) else spec.prototype


def _array(chunk: NDBuffer, spec: ArraySpec) -> np.ndarray[Any, np.dtype[Any]]:
    dtype, found = spec.dtype.to_native_dtype(), chunk.as_numpy_array()
    if found.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        # Filters of numcodecs give the bits of floats as integers, and chunks as one axis.
        if found.dtype.itemsize != dtype.itemsize:
            raise UnsupportedData(
                f"a filter made {found.dtype} of a chunk that it announced as {dtype}; leave that "
                "filter out, or give it the dtype"
            )
        found = np.ascontiguousarray(found).view(dtype.newbyteorder("="))
    if found.size != math.prod(spec.shape):
        raise UnsupportedData(
            f"a filter made {found.shape} of a chunk of shape {spec.shape}; leave that filter out"
        )
    # C order: the same voxels give the same bytes, whatever the caller's memory order.
    return np.asarray(found.reshape(spec.shape), dtype=dtype, order="C")


def _on_gpu(spec: ArraySpec) -> bool:
    """Return whether zarr wants arrays of cupy: after ``zarr.config.enable_gpu()``."""
    return issubclass(spec.prototype.nd_buffer, gpu.NDBuffer)


def _where_buffers_are(specs: Iterable[ArraySpec]) -> AbstractContextManager[Runtime]:
    """Return a context that decodes on the GPU where zarr's buffers are and nothing else is set."""
    settings = current_runtime()
    if settings.device == "auto" and any(map(_on_gpu, specs)) and device.is_there():
        return runtime(device="cuda")
    return nullcontext(settings)


def _buffer(array: Any, spec: ArraySpec) -> NDBuffer:
    """Return an array of numpy or cupy as zarr wants it."""
    dtype, kind = spec.dtype.to_native_dtype(), spec.prototype.nd_buffer
    if isinstance(array, np.ndarray):
        return kind.from_numpy_array(array.astype(dtype, copy=False))
    return kind.from_ndarray_like(array)


async def _in_threads(
    function: Callable[[_Given, ArraySpec], _Result],
    batch: Iterable[tuple[_Given | None, ArraySpec]],
) -> list[_Result | None]:
    async def one(given: _Given | None, spec: ArraySpec) -> _Result | None:
        return None if given is None else await asyncio.to_thread(function, given, spec)

    return await asyncio.gather(*(one(given, spec) for given, spec in batch))


warn_if_not_installed()
register_codec(CODEC_NAME, TINCSerializer)
