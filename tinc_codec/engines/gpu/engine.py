"""The torch engine behind the engine signatures.

Voxels come in tiles of ``LANES``, each within one leaf. A slab of tiles runs through the tree by
one batched product per layer, each tile with the weights of its own ancestor; the tiles may lie
in any leaves, so nothing is evaluated but the voxels asked for, up to the end of a tile. Lanes
run along the fastest axis, where every lane of a product goes through the same vector code (not
so along the other axis): a voxel's value does not depend on its place in a tile.

The trees of many chunks are to a slab the branches of one. On a GPU, Triton's kernels do the same
where :mod:`tinc_codec.engines.gpu.fused` says so.

Memory on the device: 4 bytes per voxel of the output, and per voxel of a slab (131072 on a GPU)
12 bytes per feature of the widest layer and about 100 more for indices and coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinc_codec.array_types import Float32Array, Int64Array
from tinc_codec.engines.gpu import fused, trust
from tinc_codec.engines.gpu.device import current_device, exact_products
from tinc_codec.engines.gpu.memory import LANES
from tinc_codec.engines.gpu.problem import Problem
from tinc_codec.engines.gpu.stacks import Stacked
from tinc_codec.tree.geometry import Geometry, boxes, leaf_affine, leaf_of
from tinc_codec.tree.network import Tree, layout

if TYPE_CHECKING:
    import torch

__all__ = ["Problem", "begin_grid", "evaluate_grid", "evaluate_points"]

# Given (tiles, 1) leaves and (tiles, LANES) numbers of voxels in them: the coordinates
# (tiles, axes, LANES) and the places in the flat output (tiles, LANES).
Locate: TypeAlias = "Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]"

# A slab's activations should fit the CPU's cache; a GPU wants many voxels at once.
CPU_SLAB_TILES = 64
CUDA_SLAB_TILES = 512
# Step of the weights on which kernels are compared.
_PROBED_STEP = 0.01


def evaluate_points(
    tree: Tree,
    parameters: Float32Array,
    points: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree at single voxels; as :func:`tinc_codec.engines.reference`'s.

    Raises
    ------
    InvalidSetting
        If torch or the device of the run-time settings is not there.
    """
    return _on_host(evaluate_alone(tree, parameters, points, steps, pointwise=True))


def evaluate_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Float32Array:
    """Evaluate the tree on an outer product; as :func:`tinc_codec.engines.reference`'s.

    Raises
    ------
    InvalidSetting
        If torch or the device of the run-time settings is not there.
    """
    return _on_host(evaluate_alone(tree, parameters, axes, steps, pointwise=False))


@contextmanager
def begin_grid(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
) -> Iterator[Callable[[], Float32Array]]:
    """Let a GPU begin that, which works beside the host; yields what gives the values."""
    values = evaluate_alone(tree, parameters, axes, steps, pointwise=False)
    yield lambda: _on_host(values)


def _on_host(values: torch.Tensor) -> Float32Array:
    found: Float32Array = values.cpu().numpy()
    return found


def evaluate_alone(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None,
    *,
    pointwise: bool,
) -> torch.Tensor:
    """Evaluate one chunk's tree; as :func:`evaluate`, without its axis of chunks."""
    given = None if steps is None else steps[None]
    return evaluate(tree, parameters[None], axes, given, pointwise=pointwise)[0]


def evaluate(
    tree: Tree,
    parameters: Float32Array,
    axes: Sequence[Int64Array],
    steps: Float32Array | None = None,
    *,
    pointwise: bool,
) -> torch.Tensor:
    """Evaluate many chunks' trees, all of one structure, at the same voxels.

    Parameters
    ----------
    tree : Tree
        Their structure.
    parameters : (chunks, size) float32
        Weights and biases of each.
    axes : sequence of int arrays
        Voxel indices, one array per axis of the tree.
    steps : (chunks, groups) float32, optional
        What the parameters of each group are multiples of, where they are.
    pointwise : bool
        Whether they are parallel lists; else their outer product is meant.

    Returns
    -------
    (chunks, n) or (chunks, n_0, n_1, ...) float32 tensor
        On the device.

    Raises
    ------
    InvalidSetting
        If torch or the device of the run-time settings is not there.
    """
    device = current_device()
    import torch

    small = fused.are_small(parameters)
    whole = fused.are_whole(layout(tree), parameters, steps)
    if len(np.unique(2 * small + whole)) > 1:  # other kernels, or none: each chunk as it is alone
        given = [None] * len(parameters) if steps is None else list(steps)
        parts = [
            evaluate_alone(tree, chunk, axes, its, pointwise=pointwise)
            for chunk, its in zip(parameters, given, strict=True)
        ]
        return torch.stack(parts)
    of_weights = steps[:, ::2] if steps is not None and whole.all() else None
    index = [np.asarray(a, np.int64) for a in axes]
    lengths = [len(index[0])] if pointwise else [len(a) for a in index]
    stacks, paths = fused.stacks_of(tree, len(parameters), device)
    with exact_products(device):
        stacked = stacks.stack(torch.tensor(parameters, device=device))
        if pointwise:
            voxels = _points(tree.geometry, index, device)
        else:
            voxels = _grid(tree.geometry, tuple(a.tobytes() for a in index), device)
        if (
            paths is not None
            and small.all()
            and _kernels_agree(paths, tree, voxels, device, counted=of_weights is not None)
        ):
            counted = None if of_weights is None else torch.tensor(of_weights, device=device)
            out = fused.decode(paths, stacked, counted, voxels.tables, voxels.counts)
            return out.view(len(parameters), *lengths)
        layers = stacks.views(stacked)
        out = _evaluate(layers, voxels.counts, voxels.locate, len(parameters), device)
    return out.view(len(parameters), *lengths)


def _kernels_agree(
    paths: fused.Paths, tree: Tree, voxels: Voxels, device: torch.device, *, counted: bool
) -> bool:
    """Tell whether Triton's kernel gives what the products give, at the first voxels it meets.

    They are compared on one chunk, however many have these paths; of weights that are integers
    times steps, if these are ``counted``.
    """

    def compare() -> tuple[torch.Tensor, torch.Tensor]:
        stacks, alone = fused.stacks_of(tree, 1, device)
        assert alone is not None
        stacked = trust.probe(stacks, device)
        layers, steps = stacks.views(stacked), None
        if counted:
            steps = torch.full((1, len(layers)), _PROBED_STEP, device=device)
            for weight, _ in layers:
                weight.div_(_PROBED_STEP).round_().mul_(_PROBED_STEP)
        found = fused.decode(alone, stacked, steps, voxels.tables, voxels.counts)
        return found, _evaluate(layers, voxels.counts, voxels.locate, 1, device)

    import torch

    what = "decode", voxels.tables.points, counted, paths.widths, paths.axes
    return not voxels.counts.any() or trust.agreed(what, device, compare)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voxels:
    """The voxels asked for: how many in each leaf, and where they are found, in two ways."""

    counts: Int64Array
    locate: Locate
    tables: fused.DecodeTables


def _points(geometry: Geometry, points: Sequence[Int64Array], device: torch.device) -> Voxels:
    """Return how many of the voxels lie in each leaf, and where they are found."""
    import torch

    index = np.stack(points)
    leaf = leaf_of(geometry, index)
    order = np.argsort(leaf, kind="stable")
    counts = np.bincount(leaf, minlength=geometry.node_counts[-1])
    scale, offset = leaf_affine(geometry)
    coordinates = (index.T * scale[leaf] + offset[leaf]).astype(np.float32)[order]
    x = torch.tensor(coordinates, device=device)
    place = torch.tensor(order, device=device)
    first = torch.tensor(np.cumsum(counts) - counts, device=device)

    def locate(leaf: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = first[leaf] + j
        return x[at].transpose(1, 2).contiguous(), place[at]

    n_axes = len(points)
    firsts = first + len(order) * torch.arange(n_axes, device=device)[:, None]
    tables = fused.DecodeTables(
        counts=torch.tensor(counts.astype(np.int32), device=device),
        sides=firsts.int(),
        firsts=firsts,
        places=torch.cat([place] + [torch.zeros_like(place)] * (n_axes - 1)),
        coordinates=x.T.contiguous(),
        strides=torch.ones(n_axes, dtype=torch.int64, device=device),
        points=True,
    )
    return Voxels(counts=counts, locate=locate, tables=tables)


@lru_cache(maxsize=8)
def _grid(geometry: Geometry, indices: tuple[bytes, ...], device: torch.device) -> Voxels:
    """Return how many voxels of the outer product lie in each leaf, and where they are found.

    Those of the last outer products are kept: readers ask for the same of one chunk after another.
    The indices are the bytes of an int64 array for each axis.
    """
    import torch

    axes = [np.frombuffer(index, np.int64) for index in indices]
    lengths = [len(a) for a in axes]
    tables = [_axis_table(geometry, axis, index) for axis, index in enumerate(axes)]
    counts = np.stack([table[0] for table in tables])
    count, first, place, coordinate = (
        [torch.tensor(column, device=device) for column in columns]
        for columns in zip(*tables, strict=True)
    )
    strides = [int(np.prod(lengths[k + 1 :], dtype=np.int64)) for k in range(len(axes))]

    def locate(leaf: torch.Tensor, j: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x: list[torch.Tensor] = []
        where = torch.zeros_like(j)
        for axis in reversed(range(len(axes))):
            side = count[axis][leaf]
            at = first[axis][leaf] + j % side
            j = j // side
            x.insert(0, coordinate[axis][at])
            where += place[axis][at] * strides[axis]
        return torch.stack(x, dim=1), where

    lengths_before = np.cumsum([0, *lengths[:-1]]).tolist()
    in_leaf = counts.prod(axis=0)
    given = fused.DecodeTables(
        counts=torch.tensor(in_leaf.astype(np.int32), device=device),
        sides=torch.stack(count).int(),
        firsts=torch.stack([f + n for f, n in zip(first, lengths_before, strict=True)]),
        places=torch.cat(place),
        coordinates=torch.cat(coordinate),
        strides=torch.tensor(strides, device=device),
        points=False,
    )
    return Voxels(counts=in_leaf, locate=locate, tables=given)


def _axis_table(
    geometry: Geometry, axis: int, index: Int64Array
) -> tuple[Int64Array, Int64Array, Int64Array, Float32Array]:
    """Return one axis of the outer product, cut up by leaf.

    Returns
    -------
    count, first : (leaves,) int64
        How many of the indices lie in the leaf, and where they begin in the next two.
    place : (n,) int64
        Positions in ``index``, sorted by leaf.
    coordinate : (n,) float32
        Their coordinates.
    """
    start, stop = (bound[:, axis] for bound in boxes(geometry)[-1])
    scale, offset = (factor[:, axis] for factor in leaf_affine(geometry))
    _, one_of_span, span = np.unique(start, return_index=True, return_inverse=True)
    inside = [np.flatnonzero((index >= start[s]) & (index < stop[s])) for s in one_of_span]
    count = np.array([len(places) for places in inside])
    coordinates = [
        scale[s] * index[places] + offset[s] for s, places in zip(one_of_span, inside, strict=True)
    ]
    first = np.cumsum(count) - count
    coordinate = np.concatenate(coordinates).astype(np.float32)
    return count[span], first[span], np.concatenate(inside), coordinate


def _evaluate(
    layers: Stacked, counts: Int64Array, locate: Locate, chunks: int, device: torch.device
) -> torch.Tensor:
    """Evaluate ``counts`` voxels in each leaf of every chunk, (chunks, voxels).

    They lie at the places that locate() gives, in any chunk the same.
    """
    import torch

    voxels, leaves = int(counts.sum()), len(counts)
    tile_counts = -(-counts // LANES)
    tile_leaf = np.repeat(np.arange(leaves), tile_counts)
    tile_first = np.arange(len(tile_leaf)) - (np.cumsum(tile_counts) - tile_counts)[tile_leaf]
    leaf_of_tile = torch.tensor(tile_leaf, device=device)[:, None]
    number = torch.tensor(tile_first * LANES, device=device)[:, None]
    last = torch.tensor(counts, device=device)[leaf_of_tile] - 1
    lanes = torch.arange(LANES, device=device)
    # Idle lanes write behind the end.
    out = torch.empty(chunks * voxels + 1, dtype=torch.float32, device=device)

    def run(tiles: torch.Tensor) -> None:
        chunk, tile = tiles[:, None] // len(tile_leaf), tiles % len(tile_leaf)
        j, leaf = number[tile] + lanes, leaf_of_tile[tile]
        idle = j > last[tile]
        x, place = locate(leaf, torch.minimum(j, last[tile]))
        place = (place + chunk * voxels).masked_fill_(idle, chunks * voxels)
        out[place] = _forward(layers, (chunk * leaves + leaf)[:, 0], chunks * leaves, x)

    _run_slabs(run, chunks * len(tile_leaf), device)
    return out[:-1].view(chunks, voxels)


def _forward(layers: Stacked, leaf: torch.Tensor, leaves: int, x: torch.Tensor) -> torch.Tensor:
    """Return the outputs (tiles, LANES) for coordinates (tiles, axes, LANES) in their leaves."""
    import torch

    for weight, bias in layers:
        node = leaf // (leaves // len(weight))
        z = torch.baddbmm(bias[node].transpose(1, 2), weight[node], x)
        x = z if weight is layers[-1][0] else z.sin_()
    return x[:, 0]


def _run_slabs(run: Callable[[torch.Tensor], None], tiles: int, device: torch.device) -> None:
    """Call run() on slab after slab of tile numbers; smaller ones when CUDA memory runs out.

    A voxel's value must not depend on which others it comes with. cuBLAS chooses by shape how to
    sum, so on CUDA all slabs have the same size, the last tile repeated; MKL sums a lone product
    otherwise than several, so on the CPU there are never fewer than two.
    """
    import torch

    size = CUDA_SLAB_TILES if device.type == "cuda" else CPU_SLAB_TILES
    at = 0
    while at < tiles:
        stop = at + (size if device.type == "cuda" else max(2, min(size, tiles - at)))
        try:
            run(torch.arange(at, stop, device=device).clamp_(max=tiles - 1))
            at = stop
        except torch.cuda.OutOfMemoryError:
            if size <= 2:
                raise
            size //= 2
            torch.cuda.empty_cache()
