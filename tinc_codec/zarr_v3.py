"""The zarr v3 array-to-bytes codec ``tinc_codec.tinc``: batched, with partial decode."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

try:
    from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
    from zarr.registry import register_codec
except ImportError as error:
    raise ImportError(
        "TINCSerializer needs zarr>=3.1 (pip install 'zarr>=3.1'); "
        "with zarr 2 use tinc_codec.TINC as compressor"
    ) from error

from tinc_codec.configured import Configured, warn_if_not_installed
from tinc_codec.decode import decode_chunk
from tinc_codec.encode import encode_chunks
from tinc_codec.errors import CorruptPayload
from tinc_codec.runtime import current_runtime
from tinc_codec.stream.container import SectionKind, unpack
from tinc_codec.stream.normalize import ArrayInfo, check_array

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

CODEC_NAME = "tinc_codec.tinc"

_Given = TypeVar("_Given")
_Result = TypeVar("_Result")


@dataclass(frozen=True, init=False, repr=False)
class TINCSerializer(Configured, ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Lossy serializer for volumetric chunks: a tree of sine networks within a byte budget.

    Use it as the serializer of a zarr v3 array, and say ``compressors=None``::

        zarr.create_array(store, data=volume, chunks=(64, 64, 64), shards=(256, 256, 256),
                          serializer=tinc_codec.TINCSerializer(ratio=128), compressors=None)

    With ``compressors=None`` a selection decodes only its own voxels, inside shards too. Left
    out, zarr appends zstd, which gains nothing and makes every read decode whole chunks; so do
    filters. Write whole chunks, once: writing a part of a chunk decodes it and fits it again, and
    each time adds error.

    Chunks come one at a time unless ``zarr.config`` holds a ``codec_pipeline.batch_size`` above 1
    when the array is opened. On a GPU (``tinc_codec.runtime(device="cuda")``) open it with a large
    one, 64 or more: the chunks of a batch are fitted together.

    Parameters
    ----------
    ratio : float
        Raw bytes of a chunk / bytes of its payload; 1 to 100 000.
    levels, level_ratio, allocation, effort, seed, preset, preserve, coordinates, iterations, \
milestones
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
            If the codec does not take the dtype, or the array has no axes.
        """
        check_array(np.empty((1,) * len(shape), dtype.to_native_dtype()))

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
        """Decode a batch of chunks in worker threads; None stays None."""
        return await _in_threads(self._decode_sync, chunks_and_specs)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _decode_partial_single(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        payload = await byte_getter.get(prototype=chunk_spec.prototype)
        if payload is None:
            return None
        return await asyncio.to_thread(self._decode_sync, payload, chunk_spec, selection)

    def _decode_partial_sync(
        self, byte_getter: Any, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        payload = byte_getter.get_sync(prototype=chunk_spec.prototype)
        return None if payload is None else self._decode_sync(payload, chunk_spec, selection)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        (payload,) = self._encode_together([(chunk_data, chunk_spec)])
        assert payload is not None
        return payload

    def _encode_together(
        self, batch: Sequence[tuple[NDBuffer | None, ArraySpec]]
    ) -> list[Buffer | None]:
        # zarr does not call validate inside shards; encode_chunks checks the dtype again.
        arrays = [_array(chunk, spec) for chunk, spec in batch if chunk is not None]
        payloads = iter(encode_chunks(arrays, self.settings))
        return [
            None if chunk is None else spec.prototype.buffer.from_bytes(next(payloads))
            for chunk, spec in batch
        ]

    def _decode_sync(
        self, chunk_data: Buffer, chunk_spec: ArraySpec, selection: Any = None
    ) -> NDBuffer:
        payload = chunk_data.to_bytes()
        dtype = chunk_spec.dtype.to_native_dtype()
        _check_payload(payload, chunk_spec.shape, dtype)
        array = decode_chunk(payload, selection)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(array.astype(dtype, copy=False))


def _array(chunk: NDBuffer, spec: ArraySpec) -> np.ndarray[Any, np.dtype[Any]]:
    # C order: the same voxels give the same bytes, whatever the caller's memory order.
    dtype = spec.dtype.to_native_dtype()
    return np.asarray(chunk.as_numpy_array(), dtype=dtype, order="C")


def _read_info(payload: bytes) -> ArrayInfo:
    section = unpack(payload).get(SectionKind.ARRAY)
    if section is None:
        raise CorruptPayload("payload has no ARRAY section: restore this chunk from its source")
    return ArrayInfo.from_bytes(section)


def _check_payload(payload: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse the payload of another array: zarr would scatter its voxels, or read other numbers."""
    found = _read_info(payload)
    if found.dtype.newbyteorder("=") != dtype.newbyteorder("=") or found.shape != shape:
        raise CorruptPayload(
            f"payload holds {found.dtype} {found.shape}, the array's metadata says {dtype} "
            f"{shape}: it belongs to another array, restore this chunk from its source"
        )


async def _in_threads(
    function: Callable[[_Given, ArraySpec], _Result],
    batch: Iterable[tuple[_Given | None, ArraySpec]],
) -> list[_Result | None]:
    async def one(given: _Given | None, spec: ArraySpec) -> _Result | None:
        return None if given is None else await asyncio.to_thread(function, given, spec)

    return await asyncio.gather(*(one(given, spec) for given, spec in batch))


warn_if_not_installed()
register_codec(CODEC_NAME, TINCSerializer)
