"""The GPU: a fit against the per-node loop on the same device, many chunks at once, decoding.

- fit: the table of :mod:`benchmarks.speed.fit` for a phantom of 256³ at 512 times, everything on
  the device.
- batch: 64 chunks of 64³ encoded together at effort 5, against one of them.
- decode: the 256³ payload into memory of the device, beside the float32 products of square matrices
  (TF32 off) there. Multiply-adds are nominal, as in the roofline.

"batch" and "decode" are measured with torch's kernels and with Triton's.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from numpy.typing import NDArray

from benchmarks.rows import Store, markdown
from benchmarks.speed import fit
from benchmarks.speed.common import Options, interleaved
from tinc_codec import Settings, runtime
from tinc_codec.encode import encode_chunk, encode_chunks
from tinc_codec.opened import open_chunk
from tinc_codec.phantom import phantom
from tinc_codec.tree.network import macs_per_voxel

Array = NDArray[Any]

_NO_DEVICE = "no CUDA device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured: "batch" or "decode", with whose kernels, and on what volume."""

    what: str
    triton: bool
    side: int
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured: a chunk's side and its part's, matrices, rounds; and of the fit."""

    side: int
    part: int
    ratio: float
    effort: int
    matrix: int
    rounds: int
    fit: fit.Size


_FULL = Size(
    side=256,
    part=64,
    ratio=512,
    effort=5,
    matrix=8192,
    rounds=5,
    fit=fit.Size(blocks=(256,), ratios=(512,), iterations=10_000, timed=200, timed_released=20),
)
_QUICK = Size(
    side=24,
    part=12,
    ratio=16,
    effort=1,
    matrix=64,
    rounds=1,
    fit=fit.Size(blocks=(24,), ratios=(16,), iterations=20, timed=4, timed_released=4),
)


def measure_batch(volume: Array, size: Size) -> dict[str, Any]:
    """Encode all parts of a volume together, and one alone."""
    starts = product(*(range(0, n, size.part) for n in volume.shape))
    parts = [volume[tuple(slice(a, a + size.part) for a in corner)] for corner in starts]
    settings = Settings(ratio=size.ratio, effort=size.effort, form="tree")

    def encoded(count: int) -> Any:
        return encode_chunks(parts[:count], settings)

    encoded(1), encoded(len(parts))  # compiled, and memory taken
    seconds = interleaved({n: lambda n=n: encoded(n) for n in (1, len(parts))}, size.rounds)
    one, many = seconds.values()
    return _columns(chunks=len(parts), one_s=one, many_s=many, many_over_one=many / one)


def measure_decode(volume: Array, size: Size, device: str) -> dict[str, Any]:
    """Evaluate the whole volume from its payload; and multiply matrices, in turns."""
    import torch

    from tinc_codec.decode_together import decode_resident
    from tinc_codec.engines.gpu.device import exact_products

    payload = encode_chunk(volume, Settings(ratio=size.ratio, effort=1, form="tree"))
    tree = open_chunk(payload).tree
    assert tree is not None
    target = torch.device("cpu" if device == "torch" else device)
    matrix = torch.rand((size.matrix, size.matrix), device=target)

    def wait() -> None:
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    def multiply() -> None:
        with exact_products(target):
            matrix @ matrix
        wait()

    def evaluate() -> None:
        (found,) = decode_resident([payload], [None])
        assert found is not None
        wait()

    multiply(), evaluate()
    seconds = interleaved({"product": multiply, "decode": evaluate}, size.rounds)
    rate = volume.size / seconds["decode"] / 1e9
    return _columns(
        decode_s=seconds["decode"],
        gvoxels=rate,
        macs_per_voxel=macs_per_voxel(tree),
        gmacs=rate * macs_per_voxel(tree),
        peak_gmacs=size.matrix**3 / seconds["product"] / 1e9,
    )


_FIGURES = (
    *("chunks", "one_s", "many_s", "many_over_one"),
    *("decode_s", "gvoxels", "macs_per_voxel", "gmacs", "peak_gmacs"),
)


def _columns(**figures: float) -> dict[str, Any]:
    return {name: f"{figures[name]:.6g}" if name in figures else "" for name in _FIGURES}


def tables(options: Options, device: str) -> str:
    """Measure what is missing on a device; return the tables."""
    size = _QUICK if options.quick else _FULL
    volume = phantom((size.side,) * 3)
    rows, fits = options.store("gpu"), options.store("gpu_fit")
    measures = {
        "batch": lambda: measure_batch(volume, size),
        "decode": lambda: measure_decode(volume, size, device),
    }
    found = []
    for triton in (False, True) if device == "cuda" else (False,):
        with runtime(device=device, triton=triton):
            for what, measure in measures.items():
                case = Case(what=what, triton=triton, side=size.side, ratio=size.ratio)
                found.append(rows.row(case, measure))
    with runtime(device=device):
        fitted = _fit_lines(fits, size.fit, volume)
    figures = [
        [name, "Triton" if row["triton"] == "True" else "torch", row[name]]
        for row in found
        for name in _FIGURES
        if row[name]
    ]
    head = ("figure", "kernels", "value")
    return f"{markdown(fit.COLUMNS, fitted)}\n\n{markdown(head, figures)}"


def _fit_lines(store: Store, size: fit.Size, volume: Array) -> list[list[str]]:
    (block,), (ratio,) = size.blocks, size.ratios
    subject = fit.Subject(
        store=store, size=size, volume="phantom", block=block, ratio=ratio, array=volume
    )
    return fit.lines(fit.measure(subject))


def run(options: Options) -> str:
    """Measure what is missing; return the tables, or say that there is no device."""
    try:
        import torch
    except ImportError:
        return _NO_DEVICE
    return tables(options, "cuda") if torch.cuda.is_available() else _NO_DEVICE
