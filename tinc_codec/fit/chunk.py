"""Fit trees to chunks within their bytes: structure, training, quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinc_codec.array_types import Float32Array
from tinc_codec.engines.gpu.memory import in_batches, most_chunks
from tinc_codec.fit.gradual import quantize_gradually
from tinc_codec.fit.rate import quantize_to_size
from tinc_codec.fit.recipe import recipe_for
from tinc_codec.fit.train import fit, moments
from tinc_codec.forks import Lock
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings
from tinc_codec.stream.container import section_overhead
from tinc_codec.threads import each
from tinc_codec.tree import section, weights
from tinc_codec.tree.allocation import (
    Structure,
    allocate,
    geometry_of,
    importance,
    rule_level_ratio,
)
from tinc_codec.tree.geometry import MAX_LEVELS
from tinc_codec.tree.network import Tree, layout, macs_per_voxel

# Bits that a quantised parameter is expected to take; step sizes are then tuned to fit the bytes.
# With rounding made up for layer by layer, 5 to 5.5 was best; 4.5 and 6.5 lose up to 0.3 dB.
_BITS = 5.4
# What training changes between two roundings may take a little more room: one part in so many.
_SPARE = 200
# One network is best below this many parameters; above, two levels or more. For the paper's
# recipe, whose leaves have wide layers (r_l = 1), a tree pays later.
_TREE_FROM, _PAPER_TREE_FROM = 1500, 2500
# More levels are taken until a voxel costs no more multiply-adds than this.
_MOST_MACS = 6500
# But every leaf takes a whole tile of voxels at each step: more leaves than this make steps slow.
_MOST_LEAVES = 64
# And leaves narrower than this waste bytes on rounding, and say little.
_LEAST_LEAF = 4
# r_l of the rule's middle case. Small trees do best with nearly everything shared, wider leaves
# pay from about 6,000 parameters on.
_SMALL_TREE, _SMALL_RATIO, _LARGE_RATIO = 6000, 0.15, 0.4


_gpu = Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTree:
    """The two sections of a fitted tree, whose faces are not smooth yet."""

    tree: bytes
    weights: bytes


def fit_trees(
    units: Sequence[Float32Array],
    voxel_weights: Sequence[Float32Array | None],
    settings: Settings,
    rooms: Sequence[int],
    share: float = 1.0,
) -> list[FittedTree | None]:
    """Fit trees whose sections take at most so many bytes each, overheads included.

    Where there are faces, bytes are left for a smoothing.

    Chunks that get the same structure are fitted together where the engine gains by it.

    Parameters
    ----------
    units : sequence of float32 arrays, 1 to 4 axes each
        Normalised voxels.
    voxel_weights : sequence of float32 arrays of the same shapes, or None
        What each voxel's squared error weighs; None: 1.
    settings : Settings
        As the user gave them.
    rooms : sequence of int
        Bytes at hand for each chunk.
    share : float
        Part of the effort's work to be done.

    Returns
    -------
    list of FittedTree or None
        None where not even the smallest tree fits.
    """
    alike: dict[tuple[bytes, tuple[int, ...], bool], list[int]] = {}
    given = list(zip(units, voxel_weights, rooms, strict=True))
    trees = each(lambda chunk: _structure(*chunk, settings), given)
    for k, tree in enumerate(trees):
        if tree is not None:
            key = section.to_bytes(tree), units[k].shape, voxel_weights[k] is None
            alike.setdefault(key, []).append(k)
    found: list[FittedTree | None] = [None] * len(units)
    for chosen in alike.values():
        tree = trees[chosen[0]]
        assert tree is not None

        def run(some: Sequence[int], tree: Tree = tree) -> None:
            fitted = _fit_alike(
                tree, [units[k] for k in some], [voxel_weights[k] for k in some], settings,
                [rooms[k] for k in some], share,
            )  # fmt: skip
            for k, result in zip(some, fitted, strict=True):
                found[k] = result

        recipe = recipe_for(settings, tree.geometry.shape, macs_per_voxel(tree), share)
        weighted = voxel_weights[chosen[0]] is not None
        with _turn():
            in_batches(run, chosen, _chunks_at_once(tree, recipe.samples, weighted=weighted))
    return found


def _fit_alike(
    tree: Tree,
    units: Sequence[Float32Array],
    voxel_weights: Sequence[Float32Array | None],
    settings: Settings,
    rooms: Sequence[int],
    share: float,
) -> list[FittedTree | None]:
    """Fit one structure to chunks of one shape, all of them with weights or none."""
    head, table = section.to_bytes(tree), layout(tree)
    recipe = recipe_for(settings, units[0].shape, macs_per_voxel(tree), share)
    problem_of = _problem()
    given = [weight for weight in voxel_weights if weight is not None]
    all_units, all_weights = _together(units), _together(given) if given else None
    parameters, sensitivity = fit(problem_of, tree, all_units, all_weights, recipe, settings.seed)
    if settings.preset == "paper":
        return [FittedTree(tree=head, weights=weights.pack_raw(values)) for values in parameters]
    first = len(head) + (section.SMOOTHING_BYTES if tree.geometry.splits else 0)
    lefts = [room - first - section_overhead(first) for room in rooms]
    sizes = [left - section_overhead(left) for left in lefts]
    # One after the other: it is Python's own work for the most part, which threads only slow down.
    plain = [
        quantize_to_size(table, values, squares, size - size // _SPARE)
        for values, squares, size in zip(parameters, sensitivity, sizes, strict=True)
    ]
    # Chunks that could not be rounded to their bytes are left out of the gradual rounding.
    kept = [k for k, coded in enumerate(plain) if coded is not None]
    found: list[FittedTree | None] = [None] * len(units)
    if not kept:
        return found
    some = None if all_weights is None else all_weights[kept]
    problem = problem_of(tree, all_units[kept], some, recipe.samples, settings.seed)
    scales = [moments(units[k], voxel_weights[k])[1] for k in kept]
    coded = quantize_gradually(
        problem, table, recipe, parameters[kept], scales,
        [c for c in plain if c is not None], [sizes[k] for k in kept],
    )  # fmt: skip
    for k, weights_section in zip(kept, coded, strict=True):
        found[k] = FittedTree(tree=head, weights=weights_section)
    return found


def _together(arrays: Sequence[Float32Array]) -> Float32Array:
    """Return arrays along a first axis; a single one is not copied."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def _turn() -> AbstractContextManager[Any]:
    """Return a context in which this thread alone fits on the GPU, whose memory batches fill."""
    return _gpu if current_runtime().uses_torch else nullcontext()


def _chunks_at_once(tree: Tree, samples: int, *, weighted: bool) -> int:
    """Return how many chunks the engine should fit together."""
    if not current_runtime().uses_torch:
        return 1
    return most_chunks(tree, samples, weighted=weighted)


def _problem() -> Any:
    """Return the ``Problem`` of the engine that the run-time settings name."""
    if not current_runtime().uses_torch:
        from tinc_codec.engines.cpu.engine import Problem

        return Problem
    from tinc_codec.engines.gpu.engine import Problem as TorchProblem

    return TorchProblem


def _depths(levels: int) -> tuple[int, ...]:
    """Return the sine layers per node of each level."""
    return (4,) if levels == 1 else (2,) * levels


def _structure(
    unit: Float32Array, weight: Float32Array | None, room: int, settings: Settings
) -> Tree | None:
    """Choose levels, depths and widths for the bytes at hand; None where no tree fits."""
    paper = settings.preset == "paper"
    expected = room * 8 / (32 if paper else _BITS)
    ratio = settings.level_ratio
    if ratio == "auto":
        middle = _SMALL_RATIO if expected < _SMALL_TREE else _LARGE_RATIO
        ratio = rule_level_ratio(unit, 1.0 if paper else middle)
    if settings.levels != "auto":
        for levels in range(settings.levels, 0, -1):
            tree = _tree_of_levels(unit, weight, settings, room, levels, ratio)
            if tree is not None:
                return tree
        return None
    single = expected < (_PAPER_TREE_FROM if paper else _TREE_FROM)
    best = None
    for levels in range(1 if single else 2, MAX_LEVELS + 1):
        tree = _tree_of_levels(unit, weight, settings, room, levels, ratio)
        if tree is None or (best is not None and tree.geometry == best.geometry):
            break
        leaves = tree.geometry.node_counts[-1]
        if best is not None and (leaves > _MOST_LEAVES or tree.widths[-1].min() < _LEAST_LEAF):
            break
        best = tree
        if single or macs_per_voxel(tree) <= _MOST_MACS:
            break
    return best


def _tree_of_levels(
    unit: Float32Array, weight: Float32Array | None, settings: Settings, room: int, levels: int,
    ratio: float,
) -> Tree | None:  # fmt: skip
    """Return the largest tree of up to so many levels; None where none fits."""
    block = settings.coordinates == "block"
    geometry = geometry_of(unit.shape, levels, "block" if block else "global")
    allocation = settings.allocation
    if allocation == "auto":
        allocation = "even" if weight is None else "weight"
    structure = Structure(
        geometry=geometry,
        depths=_depths(geometry.levels),
        level_ratio=ratio,
        shares=importance(unit, geometry, allocation, weight),
    )
    return _largest(structure, room, settings.preset == "paper")


def _largest(structure: Structure, room: int, paper: bool) -> Tree | None:
    """Return the largest tree whose sections are expected to take at most ``room`` bytes.

    Its widths take bytes, which leave fewer for weights: tried until they take no more.
    """
    groups = 2 * (sum(structure.depths) + 1)
    head, wanted = 0, None
    for _ in range(4):
        left = room - head - section_overhead(head) - section_overhead(room)
        if paper:
            parameters = (left - 1) // 4
        else:
            parameters = math.floor((left - 5 - 2 * groups) * 8 / _BITS)
        if parameters < 1:
            return None
        wanted = allocate(structure, parameters, exactly=paper)
        if wanted is None:
            return None
        size = len(section.to_bytes(wanted))
        if size <= head:
            return wanted
        head = size
    return wanted
