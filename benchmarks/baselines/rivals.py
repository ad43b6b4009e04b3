"""Other codecs at the ratio asked for: HEVC, H.264, SPERR, SZ3, ZFP, JPEG XL, JPEG 2000, zstd.

Each has one knob of quality, and :func:`encode` bisects it to the best quality that the ratio
allows. Values are restored in the volume's dtype and rounded to integers where it has them.

- HEVC (x265, 12 bits) and H.264 (x264, 10 bits) through PyAV: slices along axis 0 are grey frames,
  values scaled linearly from the range of the volume; preset slow, knob CRF, raw bitstream.
- SPERR, SZ3 and ZFP through imagecodecs: the volume as float32; knobs bits per voxel, absolute
  error and absolute error.
- JPEG XL and JPEG 2000 through imagecodecs: slices as single images, values scaled linearly to 16
  bits (which JPEG XL gains 1 dB by on CT of 11 bits); knobs distance and the library's own PSNR.
- Blosc with Zstandard through numcodecs: without loss, so that it has no knob.

Where a library has threads, it gets those of :func:`tinc_codec.runtime.current_runtime`; slices
that are images of their own are shared among as many. SZ3 and ZFP decode on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, TypeVar

import av
import imagecodecs
import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from tinc_codec.runtime import current_runtime

Array = NDArray[Any]
Payload = bytes | list[bytes]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# The range of values in a header, which a codec of frames needs to get back to the data.
_RANGE_BYTES = 16
_TRIALS = 10
# x265 writes beyond its buffers on frames narrower than a coding tree unit.
_LEAST_SIDE = 64
_PEAK_16 = (1 << 16) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A codec.

    Attributes
    ----------
    name : str
        As tables give it.
    library : str
        Distribution that does the work.
    best, worst : float
        Ends of the knob: the highest and lowest quality tried.
    logarithmic : bool
        Bisect the knob's logarithm.
    compress : callable
        (volume, knob) to what has to be stored.
    decompress : callable
        (what was stored, volume) to an array; of the volume only shape, dtype and range are used,
        which any container would have.
    """

    name: str
    library: str
    best: float
    worst: float
    compress: Callable[[Array, float], Payload]
    decompress: Callable[[Any, Array], Array]
    logarithmic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Coded:
    """A volume at a ratio.

    Attributes
    ----------
    payload_bytes : int
        Everything stored, but for shape and dtype.
    decoded : array
        In the volume's shape and dtype.
    encode_s, decode_s : float
        Wall time of one call at the knob found, without the search for it.
    knob : float
        Its setting.
    decode : callable
        Decodes once more, for repeated timing.
    """

    payload_bytes: int
    decoded: Array
    encode_s: float
    decode_s: float
    knob: float
    decode: Callable[[], Array]


def encode(rival: Rival, volume: Array, ratio: float) -> Coded | None:
    """Return a volume at the best quality within its bytes / ratio; None if out of reach.

    Parameters
    ----------
    rival : Rival
        The codec.
    volume : (z, y, x) integer or float array
        Not constant.
    ratio : float
        Raw bytes over stored bytes.
    """
    budget = int(volume.nbytes / ratio)
    knob = _search(lambda knob: _size(rival.compress(volume, knob)) <= budget, rival)
    if knob is None:
        return None
    payload, encode_s = _timed(lambda: rival.compress(volume, knob))
    decode = partial(rival.decompress, payload, volume)
    decoded, decode_s = _timed(decode)
    return Coded(
        payload_bytes=_size(payload),
        decoded=decoded,
        encode_s=encode_s,
        decode_s=decode_s,
        knob=knob,
        decode=decode,
    )


def _search(fits: Callable[[float], bool], rival: Rival) -> float | None:
    """Return the knob nearest to the best one that fits, to 1/1000 of its range."""
    if not fits(rival.worst):
        return None
    if fits(rival.best):
        return rival.best
    low, high = rival.worst, rival.best
    for _ in range(_TRIALS):
        middle = (low * high) ** 0.5 if rival.logarithmic else (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _size(payload: Payload) -> int:
    return len(payload) if isinstance(payload, bytes) else sum(map(len, payload))


def _timed(function: Callable[[], _Result]) -> tuple[_Result, float]:
    started = time.perf_counter()
    result = function()
    return result, time.perf_counter() - started


def _like(values: Array, volume: Array) -> Array:
    """Return values in a volume's dtype, rounded and clipped where that is of integers."""
    if volume.dtype.kind == "f":
        return values.astype(volume.dtype)
    limits = np.iinfo(volume.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(volume.dtype)


def _scaled(volume: Array, peak: int) -> Array:
    low, high = float(volume.min()), float(volume.max())
    return np.rint((volume - low) * (peak / (high - low))).astype(np.uint16)


def _restored(values: Array, value_range: bytes, peak: int, volume: Array) -> Array:
    low, high = np.frombuffer(value_range)
    return _like(values * np.float32((high - low) / peak) + np.float32(low), volume)


def _range(volume: Array) -> bytes:
    return np.array([volume.min(), volume.max()], np.float64).tobytes()


# Frames of a video.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Video:
    encoder: str
    decoder: str
    bits: int
    options: dict[str, str]

    @property
    def peak(self) -> int:
        return (1 << self.bits) - 1

    def compress(self, volume: Array, crf: float) -> bytes:
        spare = [(0, 0), *((0, max(0, _LEAST_SIDE - n)) for n in volume.shape[1:])]
        values = np.pad(_scaled(volume, self.peak), spare, "edge")
        coder = av.CodecContext.create(self.encoder, "w")
        coder.height, coder.width = values.shape[1:]
        coder.pix_fmt = f"gray{self.bits}le"
        coder.time_base, coder.framerate = Fraction(1, 25), Fraction(25)
        threads = current_runtime().thread_count()
        coder.thread_count = threads
        options = {key: text.format(threads=threads) for key, text in self.options.items()}
        coder.options = {"preset": "slow", "crf": f"{crf:.3f}", **options}
        packets = []
        for number, grey in enumerate(values):
            frame = av.VideoFrame.from_ndarray(grey, format=coder.pix_fmt)
            frame.pts = number
            packets += coder.encode(frame)
        packets += coder.encode(None)
        return b"".join(map(bytes, packets)) + _range(volume)

    def decompress(self, payload: bytes, volume: Array) -> Array:
        coder = av.CodecContext.create(self.decoder, "r")
        coder.thread_count = current_runtime().thread_count()
        coder.thread_type = "AUTO"
        frames = []
        for packet in [*coder.parse(payload[:-_RANGE_BYTES]), *coder.parse(b""), None]:
            frames += coder.decode(packet)
        # H.264 comes back with planes of colour below the grey one.
        _, height, width = volume.shape
        values = np.stack([frame.to_ndarray()[:height, :width] for frame in frames])
        return _restored(values, payload[-_RANGE_BYTES:], self.peak, volume)


_HEVC = _Video(
    encoder="libx265",
    decoder="hevc",
    bits=12,
    options={"x265-params": "log-level=error:info=0:pools={threads}"},
)
_H264 = _Video(encoder="libx264", decoder="h264", bits=10, options={})


# The volume as float32.


def _sperr_compress(volume: Array, bits_per_voxel: float) -> bytes:
    threads = current_runtime().thread_count()
    payload: bytes = imagecodecs.sperr_encode(
        volume.astype(np.float32), bits_per_voxel, "bpp", numthreads=threads
    )
    return payload


def _sperr_decompress(payload: bytes, volume: Array) -> Array:
    threads = current_runtime().thread_count()
    return _like(imagecodecs.sperr_decode(payload, numthreads=threads), volume)


def _sz3_compress(volume: Array, share: float) -> bytes:
    payload: bytes = imagecodecs.sz3_encode(
        volume.astype(np.float32), "abs", share * float(np.ptp(volume))
    )
    return payload


def _sz3_decompress(payload: bytes, volume: Array) -> Array:
    return _like(imagecodecs.sz3_decode(payload, volume.shape, np.float32), volume)


def _zfp_compress(volume: Array, share: float) -> bytes:
    tolerance = share * float(np.ptp(volume))
    payload: bytes = imagecodecs.zfp_encode(
        volume.astype(np.float32), tolerance, mode="a", numthreads=current_runtime().thread_count()
    )
    return payload


def _zfp_decompress(payload: bytes, volume: Array) -> Array:
    return _like(imagecodecs.zfp_decode(payload), volume)


# Slices as images.


def _on_threads(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
    threads = current_runtime().thread_count()
    if threads == 1:
        return list(map(function, items))
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, items))


def _jpegxl_compress(volume: Array, distance: float) -> list[bytes]:
    code = partial(imagecodecs.jpegxl_encode, distance=distance, numthreads=1)
    return [*_on_threads(code, _scaled(volume, _PEAK_16)), _range(volume)]


def _jpegxl_decompress(payload: list[bytes], volume: Array) -> Array:
    slices = _on_threads(partial(imagecodecs.jpegxl_decode, numthreads=1), payload[:-1])
    return _restored(np.stack(slices), payload[-1], _PEAK_16, volume)


def _jpeg2000_compress(volume: Array, psnr: float) -> list[bytes]:
    code = partial(imagecodecs.jpeg2k_encode, level=psnr, codecformat="j2k", numthreads=1)
    return [*_on_threads(code, _scaled(volume, _PEAK_16)), _range(volume)]


def _jpeg2000_decompress(payload: list[bytes], volume: Array) -> Array:
    slices = _on_threads(partial(imagecodecs.jpeg2k_decode, numthreads=1), payload[:-1])
    return _restored(np.stack(slices), payload[-1], _PEAK_16, volume)


# Without loss.


def _zstd_compress(volume: Array, _: float) -> bytes:
    coder = Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
    return bytes(coder.encode(np.ascontiguousarray(volume)))


def _zstd_decompress(payload: bytes, volume: Array) -> Array:
    values: Array = np.frombuffer(Blosc().decode(payload), volume.dtype)
    return values.reshape(volume.shape)


RIVALS = {
    rival.name: rival
    for rival in (
        Rival(
            name="HEVC",
            library="av",
            best=0,
            worst=51,
            compress=_HEVC.compress,
            decompress=_HEVC.decompress,
        ),
        Rival(
            name="H.264",
            library="av",
            best=0,
            worst=51,
            compress=_H264.compress,
            decompress=_H264.decompress,
        ),
        Rival(
            name="SPERR",
            library="imagecodecs",
            best=8,
            worst=1e-3,
            logarithmic=True,
            compress=_sperr_compress,
            decompress=_sperr_decompress,
        ),
        Rival(
            name="SZ3",
            library="imagecodecs",
            best=1e-5,
            worst=0.5,
            logarithmic=True,
            compress=_sz3_compress,
            decompress=_sz3_decompress,
        ),
        Rival(
            name="ZFP",
            library="imagecodecs",
            best=1e-5,
            worst=4,
            logarithmic=True,
            compress=_zfp_compress,
            decompress=_zfp_decompress,
        ),
        Rival(
            name="JPEG XL",
            library="imagecodecs",
            best=0.1,
            worst=25,
            logarithmic=True,
            compress=_jpegxl_compress,
            decompress=_jpegxl_decompress,
        ),
        Rival(
            name="JPEG 2000",
            library="imagecodecs",
            best=90,
            worst=10,
            compress=_jpeg2000_compress,
            decompress=_jpeg2000_decompress,
        ),
        Rival(
            name="Blosc-Zstd",
            library="numcodecs",
            best=0,
            worst=0,
            compress=_zstd_compress,
            decompress=_zstd_decompress,
        ),
    )
}
