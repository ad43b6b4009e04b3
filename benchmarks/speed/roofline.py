"""Multiply-adds a second of the CPU kernels, beside the peak of the same processor, in turns.

Multiply-adds are nominal: those along every voxel's path from the root's first layer to the leaf's
output, three times as many for a gradient. Work that a kernel shares among voxels counts in full.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.baselines.protocol import timed
from benchmarks.rows import Row, markdown
from benchmarks.speed.common import Options
from benchmarks.speed.peak import peak_gmacs
from tinc_codec import runtime
from tinc_codec.engines.cpu import engine
from tinc_codec.tree.allocation import geometry_of
from tinc_codec.tree.network import Tree, layout, macs_per_voxel

_WIDTHS = (8, 12, 16, 20, 24, 32)
_THREADS = (1, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All sine layers of a tree of two levels have one width."""

    width: int
    kernel_threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much work a measurement is."""

    side: int
    samples: int
    steps: int
    turns: int
    rounds: int


_FULL = Size(side=128, samples=16_384, steps=40, turns=10_000_000, rounds=5)
_QUICK = Size(side=16, samples=2048, steps=2, turns=10_000, rounds=1)


def tree_of(width: int, side: int) -> Tree:
    """Return a tree of two levels over a cube, of two layers a node."""
    geometry = geometry_of((side,) * 3, 2, "global")
    widths = tuple(np.full((nodes, 2), width) for nodes in geometry.node_counts)
    return Tree(geometry=geometry, widths=widths)


def measure(case: Case, size: Size) -> dict[str, Any]:
    """Return rates of the kernels, medians of rounds that also measure the peak."""
    tree = tree_of(case.width, size.side)
    rng = np.random.default_rng(0)
    parameters = rng.normal(0, 0.3, layout(tree).size).astype(np.float32)
    target = rng.normal(0, 1, (1, *tree.geometry.shape)).astype(np.float32)
    axes = [np.arange(size.side)] * 3
    macs = macs_per_voxel(tree)
    peaks, trained, decoded = [], [], []
    with runtime(device="cpu", threads=case.kernel_threads):
        problem = engine.Problem(tree, target, None, size.samples, 0)
        start = problem.start(parameters[None])

        def train(steps: int) -> None:
            for step in range(steps):
                problem.gradient(start, step)

        train(1)
        engine.evaluate_grid(tree, parameters, axes)
        for _ in range(size.rounds):
            peaks.append(peak_gmacs(case.kernel_threads, size.turns))
            trained.append(size.steps * size.samples / timed(lambda: train(size.steps))[1])
            seconds = timed(lambda: engine.evaluate_grid(tree, parameters, axes))[1]
            decoded.append(size.side**3 / seconds)
    peak, train_rate, decode_rate = map(statistics.median, (peaks, trained, decoded))
    return {
        "macs_per_voxel": macs,
        "samples": size.samples,
        "side": size.side,
        "peak_gmacs": round(peak, 1),
        "train_gmacs": round(3 * macs * train_rate / 1e9, 2),
        "decode_gmacs": round(macs * decode_rate / 1e9, 2),
        "train_mvoxels": round(train_rate / 1e6, 2),
        "decode_mvoxels": round(decode_rate / 1e6, 2),
    }


def line(row: Row) -> list[str]:
    """Return the cells of a row."""
    peak = float(row["peak_gmacs"])

    def rate(name: str) -> str:
        return f"{float(row[name]):.1f} ({float(row[name]) / peak:.0%})"

    return [
        row["width"],
        row["kernel_threads"],
        f"{peak:.0f}",
        rate("train_gmacs"),
        rate("decode_gmacs"),
        row["decode_mvoxels"],
    ]


def run(options: Options) -> str:
    """Measure what is missing; return the table."""
    store = options.store("roofline")
    size, widths = (_QUICK, _WIDTHS[:1]) if options.quick else (_FULL, _WIDTHS)
    cases = [Case(width=width, kernel_threads=threads) for threads in _THREADS for width in widths]
    rows = [store.row(case, lambda case=case: measure(case, size)) for case in cases]
    columns = (
        *("width", "threads", "peak, GMAC/s", "training, GMAC/s", "decoding, GMAC/s"),
        "decoding, Mvoxel/s",
    )
    return markdown(columns, map(line, rows))
