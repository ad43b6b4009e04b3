"""Image codecs through imagecodecs: slices along axis 0 are single images, one knob for all.

Values are scaled linearly from the range of the volume to the bits of the format.

- JPEG (libjpeg-turbo): 8 bits, as everybody and the paper (OpenCV) use it; and 12 bits. Knob the
  quality, 1 to 100; optimised Huffman tables.
- JPEG 2000 (OpenJPEG): 16 bits, irreversible; knob the library's own PSNR; raw codestreams.
- HTJ2K (OpenJPH): 16 bits, irreversible; knob the base step of quantisation.
- JPEG XL (libjxl): 16 bits, which it gains 1 dB by on CT of 11 bits; knob the distance.
- AVIF (libavif with libaom, speed 6): 12 bits, knob the quality. imagecodecs codes grey images
  without loss only, so that slices are coded as three equal channels in 4:2:0, whose chroma takes
  next to nothing. Its container is around each slice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np

from benchmarks.baselines.knob import Knob
from benchmarks.baselines.protocol import Array
from benchmarks.baselines.values import on_threads, range_bytes, restored, scaled

_Code = Callable[[Array, float], bytes]


def _compress(code: _Code, bits: int, volume: Array, knob: float) -> list[bytes]:
    slices = scaled(volume, (1 << bits) - 1)
    return [*on_threads(lambda image: code(image, knob), slices), range_bytes(volume)]


def _decompress(decode: Callable[[bytes], Array], bits: int, payload: Any, volume: Array) -> Array:
    slices = on_threads(decode, payload[:-1])
    return restored(np.stack(slices), payload[-1], (1 << bits) - 1, volume)


def _jpeg(bits: int, image: Array, quality: float) -> bytes:
    values = image.astype(np.uint8) if bits == 8 else image
    payload: bytes = imagecodecs.jpeg8_encode(
        values, round(quality), bitspersample=bits, optimize=True
    )
    return payload


def _jpeg2000(image: Array, psnr: float) -> bytes:
    payload: bytes = imagecodecs.jpeg2k_encode(image, psnr, codecformat="j2k", numthreads=1)
    return payload


def _htj2k(image: Array, step: float) -> bytes:
    payload: bytes = imagecodecs.htj2k_encode(image, step, reversible=False)
    return payload


def _jpegxl(image: Array, distance: float) -> bytes:
    payload: bytes = imagecodecs.jpegxl_encode(image, distance=distance, numthreads=1)
    return payload


def _avif(image: Array, quality: float) -> bytes:
    equal = np.repeat(image[..., None], 3, axis=2)
    payload: bytes = imagecodecs.avif_encode(
        equal, round(quality), speed=6, bitspersample=12, pixelformat="420", numthreads=1
    )
    return payload


def _avif_decode(payload: bytes) -> Array:
    grey: Array = imagecodecs.avif_decode(payload, numthreads=1)[..., 1]
    return grey


def _codec(
    name: str,
    code: _Code,
    decode: Callable[[bytes], Array],
    knob: tuple[float, float],
    *,
    bits: int = 16,
    whole: bool = False,
    note: str = "16 bits",
) -> Knob:
    best, worst = knob
    return Knob(
        name=name,
        library="imagecodecs",
        best=best,
        worst=worst,
        logarithmic=not whole and name != "JPEG 2000",
        whole=whole,
        compress=partial(_compress, code, bits),
        decompress=partial(_decompress, decode, bits),
        note=note,
    )


BASELINES = (
    *(
        _codec(
            name,
            partial(_jpeg, bits),
            imagecodecs.jpeg8_decode,
            (100, 1),
            bits=bits,
            whole=True,
            note=f"{bits} bits",
        )
        for name, bits in (("JPEG", 8), ("JPEG 12 bit", 12))
    ),
    _codec("JPEG 2000", _jpeg2000, partial(imagecodecs.jpeg2k_decode, numthreads=1), (90, 10)),
    _codec("HTJ2K", _htj2k, imagecodecs.htj2k_decode, (1e-5, 1)),
    _codec("JPEG XL", _jpegxl, partial(imagecodecs.jpegxl_decode, numthreads=1), (0.1, 25)),
    _codec(
        "AVIF",
        _avif,
        _avif_decode,
        (100, 0),
        bits=12,
        whole=True,
        note="12 bits, grey as three equal channels in 4:2:0",
    ),
)
