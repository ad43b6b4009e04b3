"""From budget to structure: levels, and the layer widths of every node (paper sec. 4).

Steps:

1. Levels and their depths are the caller's (:func:`tinc_codec.fit.chunk.fit_trees`).
2. Parameters of each level: a node gets r_l times the parameters of a node one level up.
3. Parameters of each node of a level: even, or by its share of signal or variance.
4. Widths: the largest that fit, found from the root down; what rounding leaves over goes to
   single nodes, one unit of width at a time, until nothing more fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tinc_codec.array_types import Float32Array, Float64Array, Int64Array
from tinc_codec.tree.geometry import Geometry, boxes, choose_splits
from tinc_codec.tree.network import OUTPUT_WIDTH, Tree, count_parameters

# Share of a level spread evenly whatever the importance, so that no node starves.
_EVEN_SHARE = 0.25
SIMILAR, DISSIMILAR = 0.7, 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """What :func:`allocate` needs beside the number of parameters.

    Attributes
    ----------
    geometry : Geometry
        The boxes.
    depths : tuple of int
        Sine layers of a node at each level.
    level_ratio : float
        Parameters of a node over those of a node one level up.
    shares : tuple of (nodes,) float arrays
        Share of each node in its level's parameters, the mean being 1.
    """

    geometry: Geometry
    depths: tuple[int, ...]
    level_ratio: float
    shares: tuple[Float64Array, ...]


def background_level(unit: Float32Array) -> float:
    """Estimate the intensity below which voxels are background, in normalised units.

    The mode of the histogram plus its spread below the mode, mirrored, three times over: the
    dark side of the mode is noise alone, whatever the signal on its bright side.
    """
    counts, edges = np.histogram(unit, bins=1024, range=(0.0, 1.0))
    smooth = np.convolve(counts, np.ones(5), mode="same")
    peak = int(np.argmax(smooth))
    mode = float(edges[peak] + edges[peak + 1]) / 2
    below = unit[unit <= mode]
    spread = float(np.sqrt(np.mean((below - mode) ** 2))) if below.size else 0.0
    return mode + 3 * max(spread, 1 / 1024)


def importance(
    unit: Float32Array, geometry: Geometry, allocation: str, weight: Float32Array | None = None
) -> tuple[Float64Array, ...]:
    """Return the share of each node in its level's parameters, mean 1 per level.

    Parameters
    ----------
    unit : float32 array
        Normalised voxels.
    geometry : Geometry
        The boxes.
    allocation : "even", "weight", "signal" or "variance"
        "weight" adds up the weights; "signal" those above :func:`background_level` (paper sec. 5.3,
        valid signals); "variance" takes the weighted sum of squared deviations within the node.
    weight : float32 array of the same shape, optional
        What each voxel's squared error weighs; 1 without.
    """
    if allocation == "even":
        return tuple(np.ones(n) for n in geometry.node_counts)
    threshold = background_level(unit) if allocation == "signal" else 0.0

    def measure(block: Float32Array, weights: Float32Array) -> float:
        if allocation == "weight" or not weights.any():
            return float(weights.sum(dtype=np.float64))
        if allocation == "signal":
            return float(weights[block > threshold].sum(dtype=np.float64))
        mean = np.float32(np.average(block, weights=weights))
        return float(np.sum(weights * (block - mean) ** 2, dtype=np.float64))

    weights = np.broadcast_to(np.float32(1), unit.shape) if weight is None else weight
    shares = []
    for start, stop in boxes(geometry):
        places = [
            tuple(map(slice, a, b)) for a, b in zip(start.tolist(), stop.tolist(), strict=True)
        ]
        values = np.array([measure(unit[place], weights[place]) for place in places])
        mean = values.mean()
        share = values / mean if mean > 0 else np.ones(len(values))
        shares.append(_EVEN_SHARE + (1 - _EVEN_SHARE) * share)
    return tuple(shares)


def consistency(unit: Float32Array) -> float:
    """Return the global consistency: the mean structural similarity between sub-regions.

    The box is cut into up to 64 equal sub-regions (paper sec. 5.3); each pair is compared by
    SSIM with one window over the whole region, peak 1. 1 means that all regions are alike.
    """
    cuts = [min(4, n) for n in unit.shape]
    sides = [n // c for n, c in zip(unit.shape, cuts, strict=True)]
    whole = unit[tuple(slice(0, c * s) for c, s in zip(cuts, sides, strict=True))]
    interleaved = whole.reshape([x for pair in zip(cuts, sides, strict=True) for x in pair])
    order = [*range(0, 2 * unit.ndim, 2), *range(1, 2 * unit.ndim, 2)]
    regions = interleaved.transpose(order).reshape(int(np.prod(cuts)), -1).astype(np.float64)
    if len(regions) < 2:
        return 1.0
    mean = regions.mean(axis=1)
    centred = regions - mean[:, None]
    covariance = centred @ centred.T / regions.shape[1]
    variance = np.diag(covariance)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * np.outer(mean, mean) + c1) / (np.add.outer(mean**2, mean**2) + c1)
    structure = (2 * covariance + c2) / (np.add.outer(variance, variance) + c2)
    similarity = luminance * structure
    return float(similarity[~np.eye(len(regions), dtype=bool)].mean())


def rule_level_ratio(unit: Float32Array, even: float) -> float:
    """Return r_l by the paper's rule (sec. 5.3) around the value ``even``.

    More to the shallow levels where the sub-regions are alike (above 0.7), more to the deep
    ones where they are not (below 0.6).
    """
    alike = consistency(unit)
    if alike > SIMILAR:
        return 0.8 * even
    return 1.2 * even if alike < DISSIMILAR else even


def _widest(budget: Float64Array, n_in: Int64Array, depth: int, leaf: bool) -> Int64Array:
    """Return the largest width w of each node with all its layers within its budget.

    A node has ``n_in w + (depth - 1) w^2 + depth w`` parameters, a leaf ``w + 1`` more.
    """
    a = float(depth - 1)
    b = n_in + depth + (OUTPUT_WIDTH if leaf else 0.0)
    c = np.maximum(budget - (OUTPUT_WIDTH if leaf else 0), 0.0)
    width = c / b if depth == 1 else (np.sqrt(b * b + 4 * a * c) - b) / (2 * a)
    whole: Int64Array = np.maximum(np.floor(width + 1e-9), 1).astype(np.int64)
    return whole


def _tree_of(structure: Structure, root_budget: float) -> Tree:
    """Return the tree whose root has about ``root_budget`` parameters, the rest in proportion."""
    geometry = structure.geometry
    n_in = np.array([len(geometry.shape)], np.int64)
    widths = []
    for level, share in enumerate(structure.shares):
        budget = root_budget * structure.level_ratio**level * share
        leaf = level == geometry.levels - 1
        width = _widest(budget, n_in, structure.depths[level], leaf)
        widths.append(np.repeat(width[:, None], structure.depths[level], axis=1))
        if not leaf:
            n_in = np.repeat(width, 1 << len(geometry.splits[level]))
    return Tree(geometry=geometry, widths=tuple(widths))


def allocate(structure: Structure, parameters: int, *, exactly: bool) -> Tree | None:
    """Return the largest tree of a structure with at most ``parameters`` parameters.

    Parameters
    ----------
    structure : Structure
        What to build.
    parameters : int
        The most it may have.
    exactly : bool
        Spend what rounding left over on single nodes. For raw float32 weights, whose bytes
        nothing else can fill up; widths then differ within a level.

    Returns
    -------
    Tree or None
        None where even widths of 1 do not fit.
    """
    low, high = 0.0, float(parameters)
    best = _tree_of(structure, low)
    if count_parameters(best) > parameters:
        return None
    while high - low > 0.25:
        middle = (low + high) / 2
        tree = _tree_of(structure, middle)
        if count_parameters(tree) <= parameters:
            low, best = middle, tree
        else:
            high = middle
    return _spend_rest(best, parameters) if exactly else best


def _spend_rest(tree: Tree, parameters: int) -> Tree:
    """Widen single layers, narrowest node first and deepest level first, while anything fits."""
    widths = [w.copy() for w in tree.widths]
    rest = parameters - count_parameters(tree)
    grown = True
    while grown:
        grown = False
        for level in reversed(range(len(widths))):
            for node in np.argsort(widths[level].sum(axis=1), kind="stable"):
                for layer in range(widths[level].shape[1]):
                    cost = _cost_of_widening(tree.geometry, widths, level, int(node), layer)
                    if cost <= rest:
                        widths[level][node, layer] += 1
                        rest -= cost
                        grown = True
    return Tree(geometry=tree.geometry, widths=tuple(widths))


def _cost_of_widening(
    geometry: Geometry, widths: Sequence[Int64Array], level: int, node: int, layer: int
) -> int:
    """Return the parameters that one more output of a layer takes, its readers' included."""
    own = widths[level][node]
    if layer > 0:
        n_in = int(own[layer - 1])
    elif level > 0:
        n_in = int(widths[level - 1][node >> len(geometry.splits[level - 1]), -1])
    else:
        n_in = len(geometry.shape)
    if layer + 1 < len(own):
        read = int(own[layer + 1])
    elif level + 1 < geometry.levels:
        children = 1 << len(geometry.splits[level])
        read = int(widths[level + 1][node * children : (node + 1) * children, 0].sum())
    else:
        read = OUTPUT_WIDTH
    return n_in + 1 + read


def geometry_of(
    shape: Sequence[int], levels: int, coordinates: Literal["global", "block"]
) -> Geometry:
    """Return the geometry of a tree of up to ``levels`` levels over a box."""
    return Geometry(
        shape=tuple(shape), splits=choose_splits(shape, levels), coordinates=coordinates
    )
