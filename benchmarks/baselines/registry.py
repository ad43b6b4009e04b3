"""All codecs by name. A module is imported when one of its codecs is asked for, not before."""

from __future__ import annotations

from importlib import import_module

from benchmarks.baselines.protocol import Baseline

# Module of this package: the names of the codecs in its tuple BASELINES.
_MODULES: dict[str, tuple[str, ...]] = {
    "own": ("TINC", "TINC wavelet", "TINC tree", "TINC paper"),
    "video": ("HEVC", "HEVC 10 bit", "H.264", "AV1"),
    "images": ("JPEG", "JPEG 12 bit", "JPEG 2000", "HTJ2K", "JPEG XL", "AVIF"),
    "sperr": ("SPERR", "SPERR bpp", "SPERR tolerance", "SPERR PSNR"),
    "scientific": ("SZ3", "ZFP"),
    "lossless": ("Blosc2", "Blosc-Zstd"),
    "coordinates": ("SIREN", "NeRF"),
    "sci": ("SCI",),
    "nerv": ("NeRV",),
    "data_driven": ("SSF", "SGA+BB", "DVC"),
}

NAMES = tuple(name for names in _MODULES.values() for name in names)
OWN = _MODULES["own"]
# Single modes of a codec whose best is there, and what has no knob, are run only when named.
_ON_REQUEST = ("SPERR bpp", "SPERR tolerance", "SPERR PSNR", "Blosc-Zstd")
DEFAULT = tuple(name for name in NAMES if name not in _ON_REQUEST)
_CLASSICAL_MODULES = ("video", "images", "sperr", "scientific", "lossless")
CLASSICAL = tuple(n for m in _CLASSICAL_MODULES for n in _MODULES[m] if n in DEFAULT)


def get(name: str) -> Baseline:
    """Return a codec.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    for module, names in _MODULES.items():
        if name in names:
            found: tuple[Baseline, ...] = import_module(f"{__package__}.{module}").BASELINES
            return next(codec for codec in found if codec.name == name)
    raise ValueError(f"no codec {name!r}; there are {', '.join(NAMES)}")
