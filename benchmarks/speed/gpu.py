"""The GPU: a fit against the per-node loop on the same device, many chunks at once, decoding.

On the first of the volumes whose axes are all nearly 256 voxels long, or else on a phantom of 256³;
with torch's kernels and Triton's (a batch with these alone); in turns where times are compared.

- fit: the per-node loop of :mod:`benchmarks.baselines.per_node_loop` on the device, timed over some
  iterations and the rest extrapolated, its PSNR that of ``preset="paper"`` after 10,000; against
  trees (``form="tree"``) with 125, 250, ... iterations until they have that PSNR. "descents, s" is
  what the loop's seconds are, steps alone, those of pilots and between roundings among them;
  "fit, s" is that with structure and entropy coding; "encode, s" all up to the payload, decoded and
  scored.
- batch: 64 chunks of 64³ encoded together, and descending together, against one of them.
- decode: payloads into memory of the device, one that was never decoded, one again, and many at
  once; beside the float32 products of square matrices (TF32 off) there. Multiply-adds are nominal,
  as in the roofline.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import datasets
from benchmarks.baselines.protocol import timed
from benchmarks.rows import Row, Store, markdown
from benchmarks.speed import fit
from benchmarks.speed.common import Options, interleaved
from tinc_codec import Settings, decode, runtime
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.encode import encode_chunk, encode_chunks
from tinc_codec.fit import chunk, gradual, train
from tinc_codec.metrics import psnr
from tinc_codec.phantom import phantom
from tinc_codec.tree.network import macs_per_voxel

Array = NDArray[Any]

_NO_DEVICE = "no CUDA device"
# A volume is taken if its axes are this share of the side.
_NEARLY = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured ("tree", "batch" or "decode"), on what, with whose kernels."""

    what: str
    volume: str
    side: int
    ratio: float
    triton: bool
    iterations: int | str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes
    ----------
    side, part : int
        Of the volume, and of each of the chunks of a batch.
    ratio : float
        Raw bytes over budget.
    decoded : tuple of (int, float)
        Sides and ratios of what is decoded.
    effort : int
        Of a batch.
    most_iterations : int
        Of a tree, in search of the loop's PSNR.
    matrix, rounds, many : int
        Side of the matrices, repetitions, voxels decoded at once.
    fit : fit.Size
        Of the loop.
    """

    side: int
    part: int
    ratio: float
    decoded: tuple[tuple[int, float], ...]
    effort: int
    most_iterations: int
    matrix: int
    rounds: int
    many: int
    fit: fit.Size


_FULL = Size(
    side=256,
    part=64,
    ratio=512,
    decoded=((256, 512), (128, 512), (128, 128)),
    effort=5,
    most_iterations=8000,
    matrix=8192,
    rounds=3,
    many=1 << 26,
    fit=fit.Size(blocks=(256,), ratios=(512,), iterations=10_000, timed=200, timed_released=20),
)
_QUICK = Size(
    side=24,
    part=12,
    ratio=16,
    decoded=((24, 16),),
    effort=1,
    most_iterations=250,
    matrix=64,
    rounds=1,
    many=1 << 15,
    fit=fit.Size(blocks=(24,), ratios=(16,), iterations=20, timed=4, timed_released=4),
)


@contextmanager
def _seconds_of(name: str, *modules: Any) -> Iterator[list[float]]:
    """Give a list of the seconds of each call, from here on, of a function that modules share."""
    seconds: list[float] = []
    plain = getattr(modules[0], name)

    def called(*args: Any) -> Any:
        found, spent = timed(lambda: plain(*args))
        seconds.append(spent)
        return found

    for module in modules:
        setattr(module, name, called)
    try:
        yield seconds
    finally:
        for module in modules:
            setattr(module, name, plain)


def measure_tree(case: Case, volume: Array) -> dict[str, Any]:
    """Encode once, timed in parts, after a time that is not."""
    iterations: Any = case.iterations
    settings = Settings(ratio=case.ratio, form="tree", iterations=iterations)
    encode_chunk(volume, settings)
    descents, fits = _seconds_of("descend", train, gradual), _seconds_of("fit_trees", chunk)
    with descents as of_descents, fits as of_fits:
        payload, seconds = timed(lambda: encode_chunk(volume, settings))
    return {
        "payload_bytes": len(payload),
        "psnr_db": f"{psnr(volume, decode(payload)):.3f}",
        "descent_s": f"{sum(of_descents):.4f}",
        "fit_s": f"{sum(of_fits):.4f}",
        "encode_s": f"{seconds:.4f}",
    }


def measure_batch(case: Case, volume: Array, size: Size) -> dict[str, Any]:
    """Encode many parts of a volume together, and one alone."""
    starts = [
        np.linspace(0, n - size.part, size.side // size.part).astype(int) for n in volume.shape
    ]
    parts = [volume[tuple(slice(a, a + size.part) for a in corner)] for corner in product(*starts)]
    settings = Settings(ratio=case.ratio, effort=size.effort, form="tree")
    descents: dict[int, list[float]] = {1: [], len(parts): []}

    def encoded(count: int) -> None:
        with _seconds_of("descend", train, gradual) as seconds:
            encode_chunks(parts[:count], settings)
        descents[count].append(sum(seconds))

    encoded(1), encoded(len(parts))  # compiled, and memory taken
    found = interleaved({n: lambda n=n: encoded(n) for n in descents}, size.rounds)
    one, many = found.values()
    descent, descents_of_many = (statistics.median(times[1:]) for times in descents.values())
    return {
        "chunks": len(parts),
        "one_s": f"{one:.4f}",
        "many_s": f"{many:.4f}",
        "many_over_one": f"{many / one:.3f}",
        "one_descent_s": f"{descent:.4f}",
        "many_descent_s": f"{descents_of_many:.4f}",
        "descents_over_one": f"{descents_of_many / descent:.3f}",
    }


def measure_decode(case: Case, volume: Array, size: Size, device: str) -> dict[str, Any]:
    """Evaluate payloads: new, again, many at once; and multiply matrices, in turns."""
    import torch

    from tinc_codec.decoding.together import decode_resident
    from tinc_codec.engines.gpu.device import exact_products

    def settings(seed: int) -> Settings:
        return Settings(ratio=case.ratio, iterations=50, form="tree", seed=seed)

    first, *others = (encode_chunk(volume, settings(seed)) for seed in range(3))
    tree = open_chunk(first).tree
    assert tree is not None
    target = torch.device("cpu" if device == "torch" else device)
    matrix = torch.rand((size.matrix, size.matrix), device=target)
    count = max(1, size.many // volume.size)

    def wait() -> None:
        if target.type == "cuda":
            torch.cuda.synchronize(target)

    def multiply() -> None:
        with exact_products(target):
            matrix @ matrix
        wait()

    def evaluate(*payloads: bytes) -> None:
        assert all(found is not None for found in decode_resident(payloads, [None] * len(payloads)))
        wait()

    multiply(), evaluate(first), evaluate(*[first] * count)
    new = [timed(lambda p=p: evaluate(p))[1] for p in others]
    ways = {"product": multiply, "again": lambda: evaluate(first)}
    seconds = interleaved(ways | {"many": lambda: evaluate(*[first] * count)}, size.rounds)
    rate = count * volume.size / seconds["many"] / 1e9
    return {
        "macs_per_voxel": f"{macs_per_voxel(tree):.0f}",
        "new_gvoxels": f"{volume.size / statistics.median(new) / 1e9:.3g}",
        "again_gvoxels": f"{volume.size / seconds['again'] / 1e9:.3g}",
        "at_once": count,
        "many_gvoxels": f"{rate:.3g}",
        "many_gmacs": f"{rate * macs_per_voxel(tree):.0f}",
        "peak_gmacs": f"{size.matrix**3 / seconds['product'] / 1e9:.0f}",
    }


def _volume(options: Options, side: int) -> tuple[str, Array]:
    """Return the volume that all is measured on, and its name."""
    for name in options.volumes:
        if name != datasets.PHANTOM:
            found = datasets.first_block(datasets.load(name), side)
            if min(found.shape) >= _NEARLY * side:
                return name, found
    return datasets.PHANTOM, phantom((side,) * 3)


def tables(options: Options, device: str) -> str:
    """Measure what is missing on a device; return the tables."""
    size = _QUICK if options.quick else _FULL
    name, volume = _volume(options, size.side)
    rows, loops = (options.store(table, {"gpu": _name(device)}) for table in ("gpu", "gpu_loop"))
    with runtime(device=device):
        subject = fit.Subject(
            store=loops, size=size.fit, volume=name, block=size.side, ratio=size.ratio, array=volume
        )
        against = fit.loops(subject)
    fitted, batches, decoded = [], [], []
    for triton in (False, True) if device == "cuda" else (False,):
        given = {"volume": name, "triton": triton}
        with runtime(device=device, triton=triton):
            fitted += _trees(rows, size, volume, against, given)
            if triton or device != "cuda":  # by torch's kernels minutes
                case = Case(what="batch", side=size.part, ratio=size.ratio, **given)
                batches.append(rows.row(case, lambda c=case: measure_batch(c, volume, size)))
            for side, ratio in size.decoded:
                case = Case(what="decode", side=side, ratio=ratio, **given)
                part = datasets.first_block(volume, side)
                decoded.append(
                    rows.row(case, lambda c=case, p=part: measure_decode(c, p, size, device))
                )
    return "\n\n".join([_fit_table(against, fitted), _table(batches), _table(decoded)])


def _name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else ""


def _trees(
    rows: Store, size: Size, volume: Array, against: list[Row], given: dict[str, Any]
) -> list[Row]:
    """Return the rows of trees until they have the PSNR of all loops."""
    wanted, found, iterations = max(float(row["psnr_db"]) for row in against), [], 125
    while iterations <= size.most_iterations:
        case = Case(what="tree", side=size.side, ratio=size.ratio, iterations=iterations, **given)
        found.append(rows.row(case, lambda c=case: measure_tree(c, volume)))
        if float(found[-1]["psnr_db"]) >= wanted:
            break
        iterations *= 2
    return found


def _fit_table(against: list[Row], fitted: list[Row]) -> str:
    """Return the table of fits; beside those that have a loop's PSNR, its seconds over theirs."""
    columns = ("kernels", "iterations", "PSNR", "descents, s", "fit, s", "encode, s")
    ways = [f"loop of {row['tree_levels']} levels / descents, fit, encode" for row in against]
    lines = []
    for row in fitted:
        cells = [_kernels(row), row["iterations"], row["psnr_db"]]
        times = [float(row[name]) for name in ("descent_s", "fit_s", "encode_s")]
        cells += [f"{t:.3g}" for t in times]
        for loop in against:
            there = float(row["psnr_db"]) >= float(loop["psnr_db"])
            ratios = ", ".join(f"{float(loop['seconds']) / t:.0f}" for t in times)
            cells.append(ratios if there else "")
        lines.append(cells)
    known = [
        f"The per-node loop on trees of {row['tree_levels']} levels: {float(row['seconds']):.0f} s "
        f"(extrapolated), {float(row['psnr_db']):.2f} dB."
        for row in against
    ]
    return "\n\n".join([markdown((*columns, *ways), lines), *known])


def _kernels(row: Row) -> str:
    return "Triton" if row["triton"] == "True" else "torch"


def _table(found: list[Row]) -> str:
    """Return a table of all that is measured in rows."""
    names = [name for name in _FIGURES if found[0].get(name)]
    lines = [[_kernels(row), *(row[name] for name in names)] for row in found]
    return markdown(("kernels", *names), lines)


_FIGURES = (
    *("side", "ratio", "chunks", "one_s", "many_s", "many_over_one"),
    *("one_descent_s", "many_descent_s", "descents_over_one"),
    *("macs_per_voxel", "new_gvoxels", "again_gvoxels", "at_once", "many_gvoxels", "many_gmacs"),
    "peak_gmacs",
)


def run(options: Options) -> str:
    """Measure what is missing; return the tables, or say that there is no device."""
    try:
        import torch
    except ImportError:
        return _NO_DEVICE
    return tables(options, "cuda") if torch.cuda.is_available() else _NO_DEVICE
