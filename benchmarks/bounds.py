"""Sizes at guaranteed bounds, against SZ3 and SPERR: python -m benchmarks.bounds [volume ...].

A row per volume and bound, the bounds 1, 0.3 and 0.1 % of the range and 0 (lossless), floored to
integers. (1): the voxels through the CORRECTION coder. (2): a wavelet base of step c times the
bound, and the CORRECTION of what it leaves, the best c of a few. Every rival is given the largest
tolerance that still rounds to within the bound, which is checked on its decoded integers.
Times are of one thread's CPU.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from tinc_codec.stream.residual.corrections import predictive
from tinc_codec.stream.residual.wavelets import section, segments, tiles, wavelet

SIDE = 128
SHARES = (0.01, 0.003, 0.001, 0)
BASES = (2, 3, 6, 12, 20)
SLACKS = (0.499, 0.49, 0.4, 0.25, 0)
_LEAST_AXIS, _LEVELS = 16, 5


def rival(name: str, voxels: NDArray[Any], bound: int) -> int | None:
    """Return the bytes that SZ3 or SPERR takes; None if it never keeps the bound."""
    data = voxels.astype(np.float32)
    for slack in SLACKS:
        if bound + slack <= 0:
            continue
        if name == "sz3":
            coded = imagecodecs.sz3_encode(data, mode="abs", abs=bound + slack)
            decoded = imagecodecs.sz3_decode(coded, data.shape, np.float32)
        else:
            coded = imagecodecs.sperr_encode(data, bound + slack, "pwe")
            decoded = imagecodecs.sperr_decode(coded)
        if np.abs(np.rint(decoded).astype(np.int64) - voxels.astype(np.int64)).max() <= bound:
            return len(coded)
    return None


def plan_of(shape: tuple[int, ...]) -> wavelet.TransformPlan:
    a, b, c = shape
    splits: list[int] = []
    lengths = list(shape)
    while len(splits) < _LEVELS:
        split = sum(1 << k for k, n in enumerate(lengths) if n >= _LEAST_AXIS)
        if not split:
            break
        splits.append(split)
        lengths = [(n + 1) // 2 if split >> k & 1 else n for k, n in enumerate(lengths)]
    return wavelet.transform_plan((a, b, c), splits)


def wavelet_base(voxels: NDArray[Any], step: float) -> tuple[int, NDArray[np.int64]]:
    """Return the bytes of a WAVELET section, and the integers it decodes to."""
    low, high = float(voxels.min()), float(voxels.max())
    unit = ((voxels - low) / (high - low)).astype(np.float32)
    offset = round(float(unit.mean()) * section.OFFSET_UNIT) / section.OFFSET_UNIT
    plan = plan_of(voxels.shape)
    bands = wavelet.forward(unit - np.float32(offset), plan)
    scaled = float(np.float32(step / (high - low)))
    coded = segments.encode(
        bands, segments.ones(plan), step=scaled, price=0.08, cuts=tiles.NO_CUTS,
        most=8 * voxels.size, run=map,
    )  # fmt: skip
    assert coded is not None
    header = section.Header(
        plan=plan, step=scaled, offset=offset, bias=20 / 256, cuts=tiles.NO_CUTS
    )
    data = section.to_bytes(header, coded.segments)
    whole = tuple((0, n) for n in voxels.shape)
    values = section.from_bytes(data, voxels.shape).values(whole, map) + np.float32(offset)  # type: ignore[arg-type]
    return len(data), np.clip(np.rint(low + values * (high - low)), low, high).astype(np.int64)


def two_parts(voxels: NDArray[Any], bound: int) -> tuple[int, int, float]:
    """Return the bytes of the base, those of the correction, and the c they are least for."""
    found = []
    for c in BASES:
        size, base = wavelet_base(voxels, c * bound)
        left = predictive.encode(voxels.astype(np.int64) - base, bound)
        found.append((size, len(left), c))
    return min(found, key=lambda f: f[0] + f[1])


def row(name: str, voxels: NDArray[Any], bound: int) -> str:
    field = voxels.astype(np.int64)
    start = time.thread_time()
    data = predictive.encode(field, bound)
    encoded = time.thread_time()
    restored = predictive.decode(data, field.shape)
    decoded = time.thread_time()
    assert np.abs(restored - field).max() <= bound
    sizes = {rival_name: rival(rival_name, voxels, bound) for rival_name in ("sz3", "sperr")}
    best = min(size for size in sizes.values() if size)
    speeds = [field.size / 1e6 / (b - a) for a, b in ((start, encoded), (encoded, decoded))]
    both = ""
    if bound:
        base, left, c = two_parts(voxels, bound)
        both = f"{base} + {left} (c = {c}), {(base + left) / best:.3f}"
    return (
        f"| {name} | {bound} | {len(data)} | {'spi'[data[0]]} | {len(data) / best:.3f} | {both} "
        f"| {sizes['sz3']} | {sizes['sperr']} | {speeds[0]:.1f} | {speeds[1]:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds", description=__doc__)
    parser.add_argument("volumes", nargs="*", help="names; all by default")
    options = parser.parse_args()
    print("| volume | bound | ours (1) | mode | / best rival | ours (2) base + correction "
          "| SZ3 | SPERR | encode Mvoxel/s | decode |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in datasets.select(options.volumes or None):
        voxels = datasets.first_block(datasets.load(name), SIDE)
        if voxels.dtype.kind not in "ui":
            continue
        span = int(voxels.max()) - int(voxels.min())
        for bound in sorted({int(span * share) for share in SHARES}, reverse=True):
            print(row(name, voxels, bound), flush=True)


if __name__ == "__main__":
    main()
