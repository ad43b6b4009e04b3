"""Video codecs through PyAV: slices along axis 0 are frames; knob CRF; raw bitstreams.

Values are scaled linearly from the range of the volume to the bits of the format.

- HEVC (x265): grey, 12 or 10 bits, preset slow.
- H.264 (x264): grey, 10 bits, preset slow.
- AV1 (SVT-AV1, the one AV1 encoder in PyAV's wheels; it has no grey and no 12 bits): 4:2:0 of 10
  bits with flat chroma, preset 4, one key frame; CRF in whole numbers. Decoded by dav1d.

Encoders get as many threads as the runtime gives; their bytes may then differ a little each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from benchmarks.baselines.knob import Knob
from benchmarks.baselines.protocol import Array
from benchmarks.baselines.values import RANGE_BYTES, range_bytes, restored, scaled
from tinc_codec.runtime import current_runtime

os.environ.setdefault("SVT_LOG", "1")  # errors only; read once, when the encoder is first made
# Encoders want frames of at least a coding tree unit; x265 writes beyond its buffers below that.
_LEAST_SIDE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Video:
    encoder: str
    decoder: str
    bits: int
    options: dict[str, str]
    pixels: str
    whole: bool = False

    @property
    def peak(self) -> int:
        return (1 << self.bits) - 1

    def compress(self, volume: Array, crf: float) -> bytes:
        sides = [max(_LEAST_SIDE, n + n % 2) for n in volume.shape[1:]]
        spare = [(0, 0), *((0, side - n) for side, n in zip(sides, volume.shape[1:], strict=True))]
        values = np.pad(scaled(volume, self.peak), spare, "edge")
        coder = av.CodecContext.create(self.encoder, "w")
        coder.height, coder.width = values.shape[1:]
        coder.pix_fmt = self.pixels
        coder.time_base, coder.framerate = Fraction(1, 25), Fraction(25)
        threads = current_runtime().thread_count()
        coder.thread_count = threads
        options = {key: text.format(threads=threads) for key, text in self.options.items()}
        coder.options = {"crf": f"{crf:.0f}" if self.whole else f"{crf:.3f}", **options}
        packets = []
        for number, grey in enumerate(values):
            frame = self._frame(grey)
            frame.pts = number
            packets += coder.encode(frame)
        packets += coder.encode(None)
        return b"".join(map(bytes, packets)) + range_bytes(volume)

    def _frame(self, grey: Array) -> Any:
        if self.pixels.startswith("gray"):
            return av.VideoFrame.from_ndarray(grey, format=self.pixels)
        height, width = grey.shape
        frame = av.VideoFrame(width, height, self.pixels)
        flat = np.full((height // 2, width // 2), 1 << (self.bits - 1), np.uint16)
        for plane, values in zip(frame.planes, (grey, flat, flat), strict=True):
            padded = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            padded[:, : plane.width] = values
            plane.update(padded.tobytes())
        return frame

    def decompress(self, payload: bytes, volume: Array) -> Array:
        coder = av.CodecContext.create(self.decoder, "r")
        coder.thread_count = current_runtime().thread_count()
        coder.thread_type = "AUTO"
        frames = []
        for packet in [*coder.parse(payload[:-RANGE_BYTES]), *coder.parse(b""), None]:
            frames += coder.decode(packet)
        _, height, width = volume.shape
        values = np.stack([_luma(frame)[:height, :width] for frame in frames])
        return restored(values, payload[-RANGE_BYTES:], self.peak, volume)


def _luma(frame: Any) -> Array:
    plane = frame.planes[0]
    return np.frombuffer(plane, np.uint16).reshape(plane.height, -1)[:, : plane.width]


def _x265(bits: int) -> _Video:
    return _Video(
        encoder="libx265",
        decoder="hevc",
        bits=bits,
        pixels=f"gray{bits}le",
        options={"preset": "slow", "x265-params": "log-level=error:info=0:pools={threads}"},
    )


_AV1 = _Video(
    encoder="libsvtav1",
    decoder="libdav1d",
    bits=10,
    pixels="yuv420p10le",
    options={"preset": "4", "g": "9999", "svtav1-params": "lp={threads}"},
    whole=True,
)
_H264 = _Video(
    encoder="libx264", decoder="h264", bits=10, pixels="gray10le", options={"preset": "slow"}
)


def _codec(name: str, video: _Video, best: float, worst: float, note: str) -> Knob:
    return Knob(
        name=name,
        library="av",
        best=best,
        worst=worst,
        compress=video.compress,
        decompress=video.decompress,
        whole=video.whole,
        note=note,
    )


BASELINES = (
    _codec("HEVC", _x265(12), 0, 51, "x265, 12 bits"),
    _codec("HEVC 10 bit", _x265(10), 0, 51, "x265, 10 bits"),
    _codec("H.264", _H264, 0, 51, "x264, 10 bits"),
    _codec("AV1", _AV1, 1, 63, "SVT-AV1, 10 bits, 4:2:0 with flat chroma"),
)
