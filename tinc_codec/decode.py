"""From payload to array: the way back, whole or a selection.

Everything comes from the payload: shape, widths, steps, boxes. Settings are not consulted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from tinc_codec.decoding.arrays import array_of
from tinc_codec.decoding.opened import open_chunk

if TYPE_CHECKING:
    from typing_extensions import Buffer


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
    return array_of(open_chunk(payload), selection)
