"""What the nodes hold: layer widths, and where each layer's parameters lie.

Every node owns a hyper layer: some fully connected sine layers fed by its parent's hyper layer
(paper sec. 3.3). The root's first layer takes the coordinates; each leaf ends in a linear output
layer of width 1. All parameters lie in one flat float32 vector, group by group: for each level,
for each layer, the weights of all its nodes (out x in, row-major, nodes in order), then their
biases. A leaf's output layer counts as one more layer of the last level.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.tree.faces import Smoothing
from tinc_codec.tree.geometry import Geometry

OUTPUT_WIDTH = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """Structure of a tree network; equal only to itself.

    Attributes
    ----------
    geometry : Geometry
        The boxes.
    widths : tuple of (nodes, depth) int arrays
        For each level, the output width of each sine layer of each node.
    smoothing : Smoothing or None
        How the faces of the leaves are made smooth; not for a tree of one level.
    halvings : int
        Levels of a wavelet transform whose low-pass band has the values; 0: they are of voxels.
    """

    geometry: Geometry
    widths: tuple[Int64Array, ...]
    smoothing: Smoothing | None = None
    halvings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters of one kind in one layer of one level: one quantisation step, one model.

    Attributes
    ----------
    level, layer : int
        Where; layer counts from 0 within the hyper layer.
    is_bias : bool
        Biases or weights.
    start, stop : int
        Slice of the flat parameter vector.
    """

    level: int
    layer: int
    is_bias: bool
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The tree as flat tables, for the engines.

    Attributes
    ----------
    n_in, n_out, weight_at, bias_at : (layers,) int64
        Widths of every layer of every node, and where its parameters start.
    paths : (leaves, path length) int64
        Layer numbers from the root's first layer to the leaf's output layer.
    groups : tuple of Group
        In parameter order, covering the vector.
    size : int
        Number of parameters.
    """

    n_in: Int64Array
    n_out: Int64Array
    weight_at: Int64Array
    bias_at: Int64Array
    paths: Int64Array
    groups: tuple[Group, ...]
    size: int


def input_widths(tree: Tree, level: int) -> Int64Array:
    """Return the width that the hyper layer of each node of a level receives."""
    if level == 0:
        return np.array([len(tree.geometry.shape)], np.int64)
    return np.repeat(tree.widths[level - 1][:, -1], 1 << len(tree.geometry.splits[level - 1]))


def level_layers(tree: Tree, level: int) -> list[tuple[Int64Array, Int64Array]]:
    """Return (n_in, n_out), each (nodes,), of every layer of a level, output layer included."""
    widths = tree.widths[level]
    columns = [input_widths(tree, level), *widths.T]
    if level == tree.geometry.levels - 1:
        columns.append(np.full(len(widths), OUTPUT_WIDTH, np.int64))
    return list(pairwise(columns))


def count_parameters(tree: Tree) -> int:
    """Return the number of weights and biases."""
    return sum(
        int((n_out * (n_in + 1)).sum())
        for level in range(tree.geometry.levels)
        for n_in, n_out in level_layers(tree, level)
    )


@lru_cache(maxsize=64)
def layout(tree: Tree) -> Layout:
    """Return the flat tables of a tree; those of the last trees are kept."""
    n_in: list[Int64Array] = []
    n_out: list[Int64Array] = []
    weight_at: list[Int64Array] = []
    bias_at: list[Int64Array] = []
    groups: list[Group] = []
    columns: list[Int64Array] = []
    at = layers = 0
    counts = tree.geometry.node_counts
    for level, nodes in enumerate(counts):
        ancestor = np.arange(counts[-1]) // (counts[-1] // nodes)
        for layer, (inputs, outputs) in enumerate(level_layers(tree, level)):
            for is_bias, sizes in ((False, inputs * outputs), (True, outputs)):
                starts = at + np.concatenate([[0], np.cumsum(sizes)[:-1]])
                (bias_at if is_bias else weight_at).append(starts)
                stop = at + int(sizes.sum())
                groups.append(Group(level=level, layer=layer, is_bias=is_bias, start=at, stop=stop))
                at = stop
            n_in.append(inputs)
            n_out.append(outputs)
            columns.append(layers + ancestor)
            layers += nodes
    return Layout(
        n_in=np.concatenate(n_in),
        n_out=np.concatenate(n_out),
        weight_at=np.concatenate(weight_at),
        bias_at=np.concatenate(bias_at),
        paths=np.ascontiguousarray(np.stack(columns, axis=1)),
        groups=tuple(groups),
        size=at,
    )


def macs_per_voxel(tree: Tree) -> float:
    """Return multiply-adds per voxel along the path of a voxel, the mean over leaves."""
    table = layout(tree)
    return float((table.n_in * table.n_out)[table.paths].sum(axis=1).mean())
