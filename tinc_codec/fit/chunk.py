"""Fit a tree to one chunk within its bytes: structure, training, quantisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec import weights
from tinc_codec.fit.gradual import quantize_gradually
from tinc_codec.fit.rate import quantize_to_size
from tinc_codec.fit.recipe import recipe_for
from tinc_codec.fit.train import fit, moments
from tinc_codec.runtime import current_runtime
from tinc_codec.settings import Settings
from tinc_codec.stream.container import section_overhead
from tinc_codec.tree import section
from tinc_codec.tree.allocation import (
    Structure,
    allocate,
    geometry_of,
    importance,
    rule_level_ratio,
)
from tinc_codec.tree.geometry import MAX_LEVELS
from tinc_codec.tree.network import Tree, layout, macs_per_voxel

Float32Array = npt.NDArray[np.float32]

# Bits that a quantised parameter is expected to take; the steps then take up the difference.
# With rounding made up for layer by layer, 5 to 5.5 was best; 4.5 and 6.5 lose up to 0.3 dB.
_BITS = 5.4
_SPARE = 200
# One network is best below this many parameters; above, two levels or more. For the paper's
# recipe, whose leaves have wide layers (r_l = 1), a tree pays later.
_TREE_FROM, _PAPER_TREE_FROM = 1500, 2500
# More levels are taken until a voxel costs no more multiply-adds than this.
_MOST_MACS = 6500
# But leaves narrower than this waste bytes on rounding, and say little.
_LEAST_LEAF = 4
# r_l of the rule's middle case. Small trees do best with nearly everything shared, wider leaves
# pay from about 6,000 parameters on.
_SMALL_TREE, _SMALL_RATIO, _LARGE_RATIO = 6000, 0.15, 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedTree:
    """The two sections of a fitted tree."""

    tree: bytes
    weights: bytes


def fit_tree(
    unit: Float32Array, weight: Float32Array | None, settings: Settings, room: int
) -> FittedTree | None:
    """Fit a tree whose sections take at most ``room`` bytes, overheads included.

    Parameters
    ----------
    unit : float32 array, 1 to 4 axes
        Normalised voxels.
    weight : float32 array of the same shape, or None
        1 where a voxel counts, 0 where not.
    settings : Settings
        As the user gave them.
    room : int
        Bytes at hand.

    Returns
    -------
    FittedTree or None
        None where not even the smallest tree fits.
    """
    tree = _structure(unit, settings, room)
    if tree is None:
        return None
    head = section.to_bytes(tree)
    left = room - len(head) - section_overhead(len(head))
    size = left - section_overhead(left)
    recipe = recipe_for(settings, unit.shape, macs_per_voxel(tree))
    problem_of, table = _problem(), layout(tree)
    parameters, sensitivity = fit(problem_of, tree, unit, weight, recipe, settings.seed)
    if settings.preset == "paper":
        return FittedTree(tree=head, weights=weights.pack_raw(parameters))
    # What training changes between two roundings may take a little more room.
    coded = quantize_to_size(table, parameters, sensitivity, size - size // _SPARE)
    if coded is None:
        return None
    problem = problem_of(tree, unit, weight, recipe.samples, settings.seed)
    scale = moments(unit, weight)[1]
    coded = quantize_gradually(problem, table, recipe, parameters, scale, coded, size)
    return FittedTree(tree=head, weights=coded)


def _problem() -> Any:
    """Return the ``Problem`` of the engine that the run-time settings name."""
    device = current_runtime().device
    if device in ("auto", "cpu", "reference"):
        from tinc_codec.engines.cpu.engine import Problem

        return Problem
    from tinc_codec.engines.gpu.engine import Problem as TorchProblem

    return TorchProblem


def _depths(levels: int) -> tuple[int, ...]:
    """Return the sine layers per node of each level."""
    return (4,) if levels == 1 else (2,) * levels


def _structure(unit: Float32Array, settings: Settings, room: int) -> Tree | None:
    """Choose levels, depths and widths for the bytes at hand; None where no tree fits."""
    paper = settings.preset == "paper"
    expected = room * 8 / (32 if paper else _BITS)
    if settings.levels != "auto":
        for levels in range(settings.levels, 0, -1):
            tree = _tree_of_levels(unit, settings, room, levels, expected)
            if tree is not None:
                return tree
        return None
    single = expected < (_PAPER_TREE_FROM if paper else _TREE_FROM)
    best = None
    for levels in range(1 if single else 2, MAX_LEVELS + 1):
        tree = _tree_of_levels(unit, settings, room, levels, expected)
        if tree is None or (best is not None and tree.geometry == best.geometry):
            break
        if best is not None and tree.widths[-1].min() < _LEAST_LEAF:
            break
        best = tree
        if single or macs_per_voxel(tree) <= _MOST_MACS:
            break
    return best


def _tree_of_levels(
    unit: Float32Array, settings: Settings, room: int, levels: int, expected: float
) -> Tree | None:
    """Return the largest tree of up to so many levels; None where none fits."""
    paper = settings.preset == "paper"
    block = settings.coordinates == "block"
    geometry = geometry_of(unit.shape, levels, "block" if block else "global")
    ratio = settings.level_ratio
    if ratio == "auto":
        middle = _SMALL_RATIO if expected < _SMALL_TREE else _LARGE_RATIO
        ratio = rule_level_ratio(unit, 1.0 if paper else middle)
    allocation = "even" if settings.allocation == "auto" else settings.allocation
    structure = Structure(
        geometry=geometry,
        depths=_depths(geometry.levels),
        level_ratio=ratio,
        shares=importance(unit, geometry, allocation),
    )
    return _largest(structure, room, paper)


def _largest(structure: Structure, room: int, paper: bool) -> Tree | None:
    """Return the largest tree whose sections are expected to take at most ``room`` bytes."""
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
