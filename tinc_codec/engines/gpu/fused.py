"""The Triton kernels on the host's side: whether to use them, their tables, their launches.

They are used on a GPU of compute capability 8.0 or more where triton is there and the paths are
neither too long nor too wide, if ``runtime(triton=True)`` or ``TINC_TRITON=1`` asks for them.
They have not run on a GPU yet. Hence a check, each time a process meets paths of other widths,
against torch's products; if the kernels fail or disagree, a warning says so and torch goes on.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tinc_codec.engines.gpu.stacks import LayerStack, Stacks
from tinc_codec.errors import InvalidSetting
from tinc_codec.runtime import current_runtime
from tinc_codec.tree.geometry import IntArray

if TYPE_CHECKING:
    import torch

# Layers of a path, output included; outputs of a sine layer: what fits a program's registers.
MOST_LAYERS = 9
WIDEST = 64
# Voxels of a tile.
FIT_BLOCK = 32
DECODE_BLOCK = 128
# Programs of a chunk in a step, about: enough for a GPU, without more partial sums than need be.
_PROGRAMS = 256
_CAPABILITY = (8, 0)
# Of the largest value: rounding alone leaves some 1e-6.
_AGREEMENT = 1e-4

_agreed: dict[tuple[Any, ...], bool] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTables:
    """Where voxels lie and what their coordinates are, all arrays on the device.

    Attributes
    ----------
    counts : (leaves,) int64
        Voxels asked for in each leaf.
    sides, firsts : (axes, leaves) int64
        Of a grid: how many of an axis's indices lie in the leaf, and where they begin in the
        next two. Of points: where the leaf's points begin.
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


def wanted(layers: Sequence[LayerStack], device: torch.device) -> bool:
    """Tell whether the kernels are to be tried for paths of these layers.

    Raises
    ------
    InvalidSetting
        If the run-time settings ask for Triton where it cannot run.
    """
    if not current_runtime().triton:
        return False
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if importlib.util.find_spec("triton") is None:
        raise InvalidSetting("triton=True needs triton, which is not installed: pip install "
                             "triton, or use triton=False")  # fmt: skip
    if device.type != "cuda" and not interpreted:
        raise InvalidSetting(
            f"triton=True needs a CUDA device, not {device}: use device='cuda', triton=False, or "
            "set TRITON_INTERPRET=1 to try the kernels slowly on the CPU"
        )
    widths = [layer.n_out for layer in layers[:-1]]
    return len(layers) <= MOST_LAYERS and max(widths) <= WIDEST and _capable(device)


def _capable(device: torch.device) -> bool:
    import torch

    if device.type != "cuda":
        return True
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (
        _CAPABILITY
    )


def agreed(
    kind: str, paths: Paths, device: torch.device, compare: Callable[[], tuple[Any, Any]]
) -> bool:
    """Tell whether kernels agree with torch's products; compared once per process and widths.

    Parameters
    ----------
    kind : str
        Which kernel.
    paths : Paths
        What it is compiled for.
    device : torch.device
        Where.
    compare : callable
        Gives the kernel's values and those expected, tensors, at :func:`probe`'s parameters.
    """
    key = (kind, paths.widths, paths.axes, device)
    if key not in _agreed:
        import torch

        try:
            found, expected = compare()
            far = float((found - expected).abs().max() / expected.abs().max())
            problem = "" if far < _AGREEMENT else f"off by {far:.2g} from torch's products"
        except torch.cuda.OutOfMemoryError:
            raise
        # Compilers and drivers raise what they like; torch's products do the same work.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            warnings.warn(f"Triton's kernels are not used on {device}: {problem}", stacklevel=2)
        _agreed[key] = not problem
    return _agreed[key]


def probe(stacks: Stacks, device: torch.device) -> torch.Tensor:
    """Return stacked parameters over [-1, 1], no two of a layer alike, to compare kernels at."""
    import torch

    values = torch.linspace(0, 40, stacks.chunks * stacks.parameters, device=device).sin()
    return stacks.stack(values.view(stacks.chunks, stacks.parameters))


class Paths:
    """The layers of a tree's paths as the kernels take them.

    Parameters
    ----------
    stacks : Stacks
        Of the chunks.
    device : torch.device
        Where the table lies.
    """

    def __init__(self, stacks: Stacks, device: torch.device) -> None:
        import torch

        layers, n = stacks.layers, stacks.chunks
        sizes = [layer.n_out * (layer.n_in + 1) for layer in layers]
        at = np.cumsum([0, *sizes])
        self.leaves = layers[-1].nodes
        self.slices = [
            (int(a), int(a) + s.n_out * s.n_in, int(b))
            for a, b, s in zip(at[:-1], at[1:], layers, strict=True)
        ]
        self.size = int(at[-1])
        self.axes = layers[0].n_in
        self.widths = tuple(max(16, 1 << (layer.n_out - 1).bit_length()) for layer in layers[:-1])
        self.warps = 4 if max(self.widths) == 16 else 8
        rows = [
            (n * s.start, n * s.bias_start, s.n_out, s.n_in, self.leaves // s.nodes, int(first))
            for s, first in zip(layers, at[:-1], strict=True)
        ]
        self.table = torch.tensor(rows, dtype=torch.int64, device=device)


def decode(
    paths: Paths, parameters: torch.Tensor, tables: DecodeTables, counts: IntArray, chunks: int
) -> torch.Tensor:
    """Evaluate the voxels of the tables in every chunk.

    Parameters
    ----------
    paths : Paths
        Of the chunks.
    parameters : (stacked size,) float32 tensor
        Weights and biases.
    tables : DecodeTables
        Which voxels.
    counts : (leaves,) int64 array
        Voxels in each leaf.
    chunks : int
        How many.

    Returns
    -------
    (chunks, voxels) float32 tensor
    """
    import torch

    from tinc_codec.engines.gpu import kernels

    device = parameters.device
    voxels = int(counts.sum())
    tile_counts = -(-counts // DECODE_BLOCK)
    leaf = np.repeat(np.arange(len(counts)), tile_counts)
    first = np.arange(len(leaf)) - (np.cumsum(tile_counts) - tile_counts)[leaf]
    out = torch.empty((chunks, voxels), dtype=torch.float32, device=device)
    if voxels == 0:
        return out
    with _on(device):
        kernels.decode_tiles[(len(leaf), chunks)](
            parameters, paths.table, torch.tensor(leaf, device=device),
            torch.tensor(first * DECODE_BLOCK, device=device), tables.counts, tables.sides,
            tables.firsts, tables.places, tables.coordinates, tables.strides, out,
            paths.leaves, voxels, POINTS=tables.points, AXES=paths.axes, WIDTHS=paths.widths,
            BLOCK=DECODE_BLOCK, num_warps=paths.warps, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def gradient(
    paths: Paths,
    parameters: torch.Tensor,
    sample: tuple[torch.Tensor, torch.Tensor],
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    shares: torch.Tensor,
    views: Callable[[torch.Tensor], list[tuple[torch.Tensor, torch.Tensor]]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses and the gradient, as :class:`tinc_codec.engines.gpu.products.Gradient`.

    Beside its inputs it takes 4 bytes per parameter of a path, times leaves, times programs
    per leaf: less than the activations that torch's products keep.

    Parameters
    ----------
    paths : Paths
        Of the chunks.
    parameters : (stacked size,) float32 tensor
        Weights and biases.
    sample : (leaves, n, axes) float32 and (leaves, n) int64 tensors
        Coordinates of the voxels drawn, and where they lie in the flat volume.
    targets, weights : (chunks, voxels) float32 tensors, or None
        Values to reach, and weights in the loss.
    shares : (leaves,) float32 tensor
        Weight of a leaf's voxels in the loss.
    views : callable
        Splits a stacked vector into layers.

    Returns
    -------
    losses : (chunks,) float32 tensor
    gradient : (stacked size,) float32 tensor
    """
    import torch

    from tinc_codec.engines.gpu import kernels

    x, where = sample
    chunks, n, leaves = len(targets), where.shape[1], paths.leaves
    tiles = -(-n // FIT_BLOCK)
    parts = min(tiles, max(1, _PROGRAMS // leaves))
    tiles = -(-tiles // parts)
    partial = torch.empty((chunks * leaves, parts, paths.size), device=x.device)
    losses = torch.empty((chunks, leaves * parts), device=x.device)
    with _on(x.device):
        kernels.fit_tiles[(chunks * leaves, parts)](
            parameters, paths.table, x, where, targets, targets if weights is None else weights,
            shares, partial, losses, leaves, n, targets.shape[1], tiles, paths.size,
            WEIGHTED=weights is not None, AXES=paths.axes, WIDTHS=paths.widths,
            BLOCK=FIT_BLOCK, num_warps=paths.warps, enable_fp_fusion=True,
        )  # fmt: skip
    result = torch.empty_like(parameters)
    for (a, middle, b), (weight, bias) in zip(paths.slices, views(result), strict=True):
        rows = partial.view(len(weight), -1, paths.size)
        torch.sum(rows[:, :, a:middle], dim=1, out=weight.view(len(weight), -1))
        torch.sum(rows[:, :, middle:b], dim=1, out=bias.view(len(bias), -1))
    return losses.sum(dim=1), result


def _on(device: torch.device) -> Any:
    """Return a context in which kernels are launched on this device."""
    import torch

    return torch.cuda.device(device if device.type == "cuda" else -1)
