"""The numcodecs codec ``tinc``, a compressor of zarr v2 arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray_like, ndarray_copy
from numcodecs.registry import register_codec

from tinc_codec.configured import Configured, warn_if_not_installed
from tinc_codec.decoding.cache import decode_remembered
from tinc_codec.encode import encode_chunk
from tinc_codec.errors import UnsupportedData


class TINC(Configured, Codec):  # type: ignore[misc]  # numcodecs has no types
    """Lossy codec for volumetric chunks: a tree of sine networks, wavelets or both.

    Use it as the compressor of a zarr v2 array, without filters::

        zarr.create_array(store, data=volume, chunks=(64, 64, 64), zarr_format=2,
                          compressors=tinc_codec.TINC(ratio=128))

    Behind filters no target holds: what is lost of Delta's differences adds up, to any error.

    Write whole chunks, once: writing a part of a chunk decodes it and fits it again, and each
    time adds error. Reading any voxel decodes its whole chunk; zarr v3 with
    :class:`tinc_codec.TINCSerializer` decodes only what the region takes.

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

    codec_id: ClassVar[str] = "tinc"

    def encode(self, buf: Any) -> bytes:
        """Return the payload of a chunk.

        Parameters
        ----------
        buf : array or bytes-like
            The chunk, any strides and byte order, never changed. Bytes count as 1-D uint8.

        Raises
        ------
        UnsupportedData
            If the dtype or size is not one that the codec takes.
        InvalidSetting
            If the chunk is too small for the ratio.
        """
        array = ensure_ndarray_like(buf)
        if not isinstance(array, np.ndarray):
            array = array.get()  # zarr with GPU buffers passes cupy arrays
        return encode_chunk(array, self.settings)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the chunk of a payload, in the dtype and memory order that was encoded.

        Parameters
        ----------
        buf : bytes-like
            The payload.
        out : array or writable bytes-like, optional
            Filled, and returned in place of a new array.

        Raises
        ------
        CorruptPayload, TruncatedPayload, UnsupportedVersion
            If the bytes are not a sound payload that this version reads.
        InvalidSetting
            If a run-time setting in the environment is out of range.
        """
        (array,) = decode_remembered([ensure_bytes(buf)], [None])
        return array if out is None else _fill(out, array)

    def get_config(self) -> dict[str, Any]:
        """Return the codec's id and settings as plain JSON values."""
        return {"id": self.codec_id, **self.settings.to_json()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build the codec from what :meth:`get_config` gave, the id left out.

        Raises
        ------
        InvalidSetting
            If a name is unknown or a value out of range.
        """
        return cls.from_json({name: value for name, value in config.items() if name != "id"})


def _fill(out: Any, array: npt.NDArray[Any]) -> Any:
    target = ensure_ndarray_like(out)
    if target.dtype == object:
        raise UnsupportedData("out has dtype object; give an array of the chunk's dtype")
    if target.shape == array.shape and target.dtype == array.dtype:
        np.copyto(target, array)  # right for any memory order of out; ndarray_copy is not
        return out
    return ndarray_copy(array, out)


warn_if_not_installed()
register_codec(TINC)
