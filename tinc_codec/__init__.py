"""TINC: trees of small sine networks and wavelets for zarr chunks, as numcodecs and zarr codecs.

``import tinc_codec`` pulls in no torch, dask, xarray, numba or zarr: the codecs are loaded on
first use, and the functions below import their engines when they are called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tinc_codec.decode import decode
from tinc_codec.encode import encode, encode_chunks
from tinc_codec.errors import (
    CorruptPayload,
    InvalidSetting,
    TincError,
    TruncatedPayload,
    UnsupportedData,
    UnsupportedVersion,
)
from tinc_codec.inspection import inspect
from tinc_codec.runtime import runtime
from tinc_codec.settings import Settings

if TYPE_CHECKING:
    from tinc_codec.archive.reading import open_archive as open
    from tinc_codec.decoding.overview import decode_overview
    from tinc_codec.decoding.together import decode_chunks
    from tinc_codec.zarr_v2 import TINC
    from tinc_codec.zarr_v3 import TINCSerializer

__version__ = "0.15.0"

__all__ = [
    "TINC",
    "CorruptPayload",
    "InvalidSetting",
    "Settings",
    "TINCSerializer",
    "TincError",
    "TruncatedPayload",
    "UnsupportedData",
    "UnsupportedVersion",
    "__version__",
    "decode",
    "decode_chunks",
    "decode_overview",
    "encode",
    "encode_chunks",
    "inspect",
    "open",
    "runtime",
]

_LAZY = {
    "TINC": ("tinc_codec.zarr_v2", "TINC"),
    "TINCSerializer": ("tinc_codec.zarr_v3", "TINCSerializer"),
    "decode_chunks": ("tinc_codec.decoding.together", "decode_chunks"),
    "decode_overview": ("tinc_codec.decoding.overview", "decode_overview"),
    "open": ("tinc_codec.archive.reading", "open_archive"),
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    home = _LAZY.get(name)
    if home is None:
        raise AttributeError(f"module 'tinc_codec' has no attribute {name!r}")
    module, attribute = home
    return getattr(import_module(module), attribute)
