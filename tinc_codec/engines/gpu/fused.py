"""The Triton kernels on the host's side: for which paths, their tables, their launches.

Whether they are used at all is a matter of :mod:`tinc_codec.engines.gpu.trust`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Int64Array
from tinc_codec.engines.gpu import trust
from tinc_codec.engines.gpu.stacks import Stacks
from tinc_codec.tree.network import Layout, Tree, layout

if TYPE_CHECKING:
    import torch

    from tinc_codec.engines.gpu.faces import Axis

# Widths of sine layers are padded to multiples of this: the least side of Triton's products.
MULTIPLE = 16
# Layers of a path, output included; outputs of all its sine layers, or of two in a row. Beyond,
# compiling takes minutes.
MOST_LAYERS = 9
MOST_FEATURES, MOST_OF_TWO = 320, 192
# Voxels of a tile, the warps that work on it, and the most features of a block. With blocks of 64,
# what Triton 3.6 makes of the gradients goes beyond its memory.
FIT_BLOCK, _FIT_WARPS, _FIT_FEATURES = 64, 4, 32
DECODE_BLOCK, _DECODE_WARPS, _DECODE_FEATURES = 128, 4, 64
# Tiles twice as large are fitted faster where a path has at most so many features, and a layer.
_NARROW, _NARROW_LAYER = 128, 32
# Registers of a thread: with fewer than a kernel would take, more programs run at once. That pays
# where hardly anything has to be kept elsewhere: where a layer has at most so many features.
_REGISTERS, _FEW_TO_FIT, _FEW_TO_DECODE = 168, 16, 64
# Programs that decode, at least, where there are so many tiles; tiles that one decodes at most.
_DECODE_PROGRAMS, _MOST_ROUNDS = 1024, 16
# Voxels that a program draws.
_DRAWN = 256
# Stacks of more than one chunk are kept up to so many parameters, which take some 16 MiB.
_KEPT_PARAMETERS = 1 << 20
# Voxels that a program maps to integers.
_MAPPED = 1024
# Lines along an axis, and faces or rows, of a program that corrects faces.
_LINES, _AT_ONCE = 64, 8
# Gradients that a program adds up, and how many rows of them at once.
_ITEMS, _ROWS = 128, 16
# Products of float16 are for parameters below this; integers up to this are float16 themselves, if
# the steps that they count are no tiny ones.
_SMALL, _WHOLE, _TINY_STEP = 2.0**15, 2.0**11, 2.0**-100


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTables:
    """Where voxels lie and what their coordinates are, all arrays on the device.

    Attributes
    ----------
    counts : (leaves,) int32
        Voxels asked for in each leaf.
    sides : (axes, leaves) int32
        Of a grid: how many of an axis's indices lie in the leaf.
    firsts : (axes, leaves) int64
        Where they begin in the next two; of points, where the leaf's points begin.
    places : int64
        Positions in the output along an axis, axis after axis; of points, in the output.
    coordinates : float32
        Theirs.
    strides : (axes,) int64
        What a position counts in the flat output.
    points : bool
        Whether these are points.
    """

    counts: torch.Tensor
    sides: torch.Tensor
    firsts: torch.Tensor
    places: torch.Tensor
    coordinates: torch.Tensor
    strides: torch.Tensor
    points: bool


def stacks_of(tree: Tree, chunks: int, device: torch.device) -> tuple[Stacks, Paths | None]:
    """Return the stacks of chunks' trees, and their paths where the kernels are to be tried.

    The last ones are kept, unless they are large.

    Raises
    ------
    InvalidSetting
        If the run-time settings ask for Triton where it cannot run.
    """
    given = tree, chunks, device, multiple_of(tree, device)
    is_large = chunks > 1 and chunks * layout(tree).size > _KEPT_PARAMETERS
    return _stacks(*given) if is_large else _kept_stacks(*given)


def multiple_of(tree: Tree, device: torch.device) -> int:
    """Return of what the stacks' widths are multiples: of 1 where no kernels are to be tried."""
    table = layout(tree)
    widths = table.n_out[table.paths[:, :-1]].max(axis=0)
    padded = -(-widths // MULTIPLE) * MULTIPLE
    return MULTIPLE if _wanted(padded.tolist(), device) else 1


def _stacks(
    tree: Tree, chunks: int, device: torch.device, multiple: int
) -> tuple[Stacks, Paths | None]:
    stacks = Stacks(layout(tree), chunks, device, multiple)
    return stacks, None if multiple == 1 else Paths(stacks, device)


_kept_stacks = lru_cache(maxsize=8)(_stacks)


def _wanted(widths: Sequence[int], device: torch.device) -> bool:
    """Tell whether the kernels are to be tried for paths of sine layers of these widths."""
    fits = len(widths) < MOST_LAYERS and sum(widths) <= MOST_FEATURES
    fits = fits and all(a + b <= MOST_OF_TWO for a, b in pairwise([0, *widths]))
    return trust.are_asked_for(device) and fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How the voxels of a step's sample are drawn, all arrays on the device.

    Attributes
    ----------
    corners : (leaves, 1 + 2 * axes) int64
        The number of a leaf's first draw, where it starts along each axis, and its sides.
    affine : (leaves, 2 * axes) float64
        Scales and offsets of coordinates.
    strides : (axes,) int64
        What an index counts in the flat volume.
    shares : (leaves,) float32
        Weight of a leaf's voxels in the loss.
    count : int
        Voxels drawn in each leaf.
    """

    corners: torch.Tensor
    affine: torch.Tensor
    strides: torch.Tensor
    shares: torch.Tensor
    count: int


class Paths:
    """The layers of a tree's paths as the kernels take them.

    Parameters
    ----------
    stacks : Stacks
        Of the chunks, of widths that are multiples of :data:`MULTIPLE`.
    device : torch.device
        Where tables lie.
    """

    def __init__(self, stacks: Stacks, device: torch.device) -> None:
        import torch

        layers, n = stacks.layers, stacks.chunks
        sizes = [layer.n_out * (layer.n_in + 1) for layer in layers]
        first = np.cumsum([0, *sizes])
        self.size = int(first[-1])
        self.axes = layers[0].n_in
        self.leaves, self.chunks = layers[-1].nodes, n
        self.widths = tuple(layer.n_out for layer in layers[:-1])
        self.to_decode, self.to_fit = (
            _constants(self.widths, most) | {"AXES": self.axes, **_registers(self.widths, few)}
            for most, few in (
                (_DECODE_FEATURES, _FEW_TO_DECODE),
                (_FIT_FEATURES, _FEW_TO_FIT),
            )
        )
        narrow = sum(self.widths) <= _NARROW and max(self.widths) <= _NARROW_LAYER
        self.fit_block = 2 * FIT_BLOCK if narrow else FIT_BLOCK
        rows = [
            (n * s.start, n * s.bias_start, self.leaves // s.nodes, int(column))
            for s, column in zip(layers, first[:-1], strict=True)
        ]
        self.table = torch.tensor(rows, dtype=torch.int64, device=device)
        self._layers, self._rows, self._device = layers, rows, device

    def parts(self, draws: Draws) -> int:
        """Return how many tiles are drawn in each leaf."""
        return -(-draws.count // self.fit_block)

    def jobs(self, draws: Draws) -> torch.Tensor:
        """Return what :func:`tinc_codec.engines.gpu.kernels.fit.add_up`'s programs do.

        A row of partial gradients belongs to each tile.
        """
        import torch

        found, parts = [], self.parts(draws)
        for s, (weights, biases, below, column) in zip(self._layers, self._rows, strict=True):
            rows = below * parts
            given = (self.chunks * s.nodes, rows)
            size = s.n_out * s.n_in
            found += [_jobs(weights, size, column, *given)]
            found += [_jobs(biases, s.n_out, column + size, *given)]
        return torch.tensor(np.concatenate(found), device=self._device)


def _constants(widths: Sequence[int], most: int) -> dict[str, Any]:
    """Return the blocks, of at most so many features, of layers of these widths.

    See :mod:`tinc_codec.engines.gpu.kernels`.
    """
    sizes: list[int] = []
    at: list[int] = []
    first = [0]
    for width in widths:
        begin = 0
        while begin < width:
            sizes.append(min(most, 1 << ((width - begin).bit_length() - 1)))
            at.append(begin)
            begin += sizes[-1]
        first.append(len(sizes))
    return {"BLOCKS": tuple(sizes), "AT": tuple(at), "FIRST": tuple(first)}


def _registers(widths: Sequence[int], few: int) -> dict[str, int]:
    """Return the limit of registers per thread for a kernel; empty where none pays."""
    return {"maxnreg": _REGISTERS} if max(widths) <= few else {}


def _jobs(start: int, size: int, column: int, nodes: int, rows: int) -> Int64Array:
    """Return the jobs (programs, 5) of a layer's weights, or biases: ``size`` of each node."""
    pieces = -(-size // _ITEMS)
    node, piece = np.divmod(np.arange(nodes * pieces), pieces)
    done = piece * _ITEMS
    count = np.minimum(_ITEMS, size - done)
    return np.stack(
        [start + node * size + done, count, column + done, node * rows, np.full_like(node, rows)],
        axis=1,
    )


def decode(
    paths: Paths,
    parameters: torch.Tensor,
    steps: torch.Tensor | None,
    tables: DecodeTables,
    counts: Int64Array,
) -> torch.Tensor:
    """Evaluate the voxels of the tables in every chunk.

    Parameters
    ----------
    paths : Paths
        Of the chunks.
    parameters : (stacked size,) float32 tensor
        Weights and biases, that :func:`are_small`.
    steps : (chunks, layers) float32 tensor or None
        What weights that :func:`are_whole` are multiples of: two products do for each, not three.
    tables : DecodeTables
        Which voxels.
    counts : (leaves,) int64 array
        Voxels in each leaf.

    Returns
    -------
    (chunks, voxels) float32 tensor
    """
    import torch

    from tinc_codec.engines.gpu.kernels import decode as kernels

    device = parameters.device
    voxels = int(counts.sum())
    out = torch.empty((paths.chunks, voxels), dtype=torch.float32, device=device)
    if voxels == 0:
        return out
    programs = paths.chunks * paths.leaves
    tiles = -(-int(counts.max()) // DECODE_BLOCK)
    rounds = min(max(1, programs * tiles // _DECODE_PROGRAMS), _MOST_ROUNDS)
    parts = -(-tiles // rounds)
    is_whole = steps is not None
    if steps is None:
        steps = torch.ones(
            (paths.chunks, len(paths.widths) + 1), dtype=torch.float32, device=device
        )
    with _on(device):
        kernels.decode_tiles[(programs * parts,)](
            parameters, paths.table, steps, tables.counts, tables.sides, tables.firsts,
            tables.places, tables.coordinates, tables.strides, out, paths.leaves, voxels, parts,
            rounds,
            POINTS=tables.points, BLOCK=DECODE_BLOCK, WHOLE=is_whole, num_warps=_DECODE_WARPS,
            num_stages=1, enable_fp_fusion=True, **_arithmetic(device), **paths.to_decode,
        )  # fmt: skip
    return out


def gradient(
    paths: Paths,
    parameters: torch.Tensor,
    draws: Draws,
    jobs: torch.Tensor,
    key: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses and the gradient, as :class:`tinc_codec.engines.gpu.products.Gradient`.

    Beside its inputs it takes 4 bytes per parameter of a path, times leaves, times tiles of a leaf:
    less than the activations that torch's products keep.

    Parameters
    ----------
    paths : Paths
        Of the chunks.
    parameters : (stacked size,) float32 tensor
        Weights and biases.
    draws : Draws
        How voxels are drawn.
    jobs : int64 tensor
        The paths' for the draws.
    key : (1,) int64 tensor
        The step's.
    targets, weights : (chunks, voxels) float32 tensors, or None
        Values to reach, and weights in the loss.

    Returns
    -------
    losses : (chunks,) float32 tensor
    gradient : (stacked size,) float32 tensor
    """
    import torch

    from tinc_codec.engines.gpu.kernels import fit as kernels

    device = parameters.device
    programs, parts, leaves = paths.chunks * paths.leaves, paths.parts(draws), paths.leaves
    total = leaves * draws.count
    like: dict[str, Any] = {"dtype": torch.float32, "device": device}
    x = torch.empty((paths.axes, total), **like)
    where = torch.empty(total, dtype=torch.int64, device=device)
    partial = torch.empty((programs, parts, paths.size), **like)
    losses = torch.empty((programs, parts), **like)
    result = torch.empty_like(parameters)
    with _on(device):
        kernels.draw[(leaves, -(-draws.count // _DRAWN))](
            draws.corners, draws.affine, draws.strides, key, x, where, draws.count, total,
            AXES=paths.axes, BLOCK=_DRAWN, enable_fp_fusion=True,
        )  # fmt: skip
        kernels.fit_tiles[(programs, parts)](
            parameters, paths.table, x, where, targets, targets if weights is None else weights,
            draws.shares, partial, losses,
            leaves, draws.count, total, targets.shape[1], paths.size,
            WEIGHTED=weights is not None, BLOCK=paths.fit_block, num_warps=_FIT_WARPS,
            enable_fp_fusion=True, **_arithmetic(device), **paths.to_fit,
        )  # fmt: skip
        kernels.add_up[(len(jobs),)](
            partial, jobs, result, paths.size, ITEMS=_ITEMS, ROWS=_ROWS, enable_fp_fusion=True
        )
    return losses.view(paths.chunks, -1).sum(dim=1), result


def correct_faces(values: torch.Tensor, number: int, axis: Axis) -> None:
    """Correct values along an axis in place by what its faces jump by, in two launches.

    Memory: 4 bytes for each voxel of a face.

    Parameters
    ----------
    values : (chunks, *axes) float32 tensor
        Contiguous, and not empty.
    number : int
        Of the axis.
    axis : tinc_codec.engines.gpu.faces.Axis
        What to correct along it.
    """
    import torch

    from tinc_codec.engines.gpu.kernels import faces as kernels

    n, inner = values.shape[number], math.prod(values.shape[number + 1 :])
    lines, faces, rows = values.numel() // n, len(axis.firsts), len(axis.rows)
    excess = torch.empty((faces, lines), dtype=torch.float32, device=values.device)
    pieces = -(-lines // _LINES)
    with _on(values.device):
        kernels.jumps[(pieces, -(-faces // _AT_ONCE))](
            values, axis.firsts, excess, faces, n, inner, lines,
            FACES=_AT_ONCE, BLOCK=_LINES, enable_fp_fusion=False,
        )  # fmt: skip
        kernels.correct[(pieces, -(-rows // _AT_ONCE))](
            values, excess, axis.rows, axis.faces, axis.factors, rows, n, inner, lines,
            ROWS=_AT_ONCE, BLOCK=_LINES, enable_fp_fusion=False,
        )  # fmt: skip


def to_integers(unit: torch.Tensor, low: int, high: int, bits: torch.dtype) -> torch.Tensor:
    """Map [0, 1] to integers in one launch; see :mod:`tinc_codec.engines.gpu.values`."""
    import torch

    from tinc_codec.engines.gpu.kernels import decode as kernels

    out = torch.empty(unit.shape, dtype=bits, device=unit.device)
    with _on(unit.device):
        kernels.to_integers[(-(-unit.numel() // _MAPPED),)](
            unit, out, low, high, unit.numel(), BLOCK=_MAPPED, enable_fp_fusion=False
        )
    return out


def are_small(parameters: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Tell of each chunk whether its parameters are small enough for products of float16."""
    largest = np.abs(parameters).max(axis=1)
    small: npt.NDArray[np.bool_] = largest < _SMALL  # nor where one is NaN
    return small


def are_whole(
    table: Layout, parameters: npt.NDArray[np.float32], steps: npt.NDArray[np.float32] | None
) -> npt.NDArray[np.bool_]:
    """Tell of each chunk whether its weights are steps times integers that a float16 holds.

    Parameters
    ----------
    table : Layout
        The chunks' tree.
    parameters : (chunks, size) float32
        Weights and biases.
    steps : (chunks, groups) float32, or None
        What those of each group are multiples of, if they are.
    """
    if steps is None:
        return np.zeros(len(parameters), np.bool_)
    starts = [group.start for group in table.groups]
    largest = np.maximum.reduceat(np.abs(parameters), starts, axis=1)
    fit = (largest / np.float32(_WHOLE) <= steps) & (steps > _TINY_STEP) & (steps < np.inf)
    # Biases come after weights; the first layer and the last are not multiplied as float16.
    found: npt.NDArray[np.bool_] = np.all(fit[:, 2:-2:2], axis=1)
    return found


def _arithmetic(device: torch.device) -> dict[str, Any]:
    """Return how kernels multiply and take sines: on a GPU by its units, else as they are read."""
    on_gpu = device.type == "cuda"
    return {"DOT": "float16" if on_gpu else "ieee", "FAST": on_gpu}


def _on(device: torch.device) -> Any:
    """Return a context in which kernels are launched on this device."""
    import torch

    return torch.cuda.device(device if device.type == "cuda" else -1)
