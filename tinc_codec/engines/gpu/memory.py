"""Memory of the device: what chunks take, what is there, and batches that fit in."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tinc_codec.engines.gpu import fused
from tinc_codec.engines.gpu.device import current_device
from tinc_codec.engines.gpu.stacks import layer_stacks
from tinc_codec.tree.network import Tree, layout

if TYPE_CHECKING:
    import torch

# Voxels are drawn and evaluated in multiples of this, as in the CPU engine.
LANES = 256
# Of the free memory on a GPU: allocators and libraries want some.
_SHARE = 0.8
# A batch gains nothing on a CPU; so much keeps it modest.
_CPU_BYTES = 1 << 28
# Per parameter: itself, factor, moments, gradient, a step's temporaries; two places of 8 bytes.
_PARAMETER_COPIES = 14
# Per voxel of a step: target, error, weights, loss, the output's derivative and temporaries.
_VOXEL_COPIES = 8
# Of the widest layer: derivatives by its inputs and sums, and their squares.
_WIDEST_COPIES = 5


def leaf_samples(leaves: int, samples: int) -> int:
    """Return the voxels drawn in each leaf at a step, whole tiles, of about so many in all."""
    return LANES * max(1, round(samples / (LANES * leaves)))


def bytes_per_chunk(tree: Tree, samples: int, *, weighted: bool, multiple: int = 1) -> int:
    """Return the bytes on the device that one chunk of a batch takes while it is fitted.

    4 bytes per voxel of the chunk, and 4 more with weights; per voxel of a step 8 bytes per
    feature on its path (each sine's argument and value), 20 per feature of the widest layer and
    32 more; 56 bytes per parameter, padding included. Triton's kernels take less, but are compared
    with what takes that.

    Parameters
    ----------
    tree : Tree
        The chunk's structure.
    samples : int
        Voxels drawn at each step, about.
    weighted : bool
        Whether voxels have weights.
    multiple : int
        To which widths are padded.
    """
    leaves = tree.geometry.node_counts[-1]
    layers, source = layer_stacks(layout(tree), multiple)
    features = sum(layer.n_out for layer in layers)
    widest = max(layer.n_out for layer in layers)
    per_voxel = 2 * features + _WIDEST_COPIES * widest + _VOXEL_COPIES
    volume = math.prod(tree.geometry.shape) * (2 if weighted else 1)
    drawn = leaves * leaf_samples(leaves, samples)
    return 4 * (volume + drawn * per_voxel + _PARAMETER_COPIES * len(source))


def most_chunks(tree: Tree, samples: int, *, weighted: bool) -> int:
    """Return how many chunks to fit at once: as many as the memory at hand holds.

    Parameters
    ----------
    tree, samples, weighted
        See :func:`bytes_per_chunk`.

    Raises
    ------
    InvalidSetting
        If torch or the device of the run-time settings is not there.
    """
    device = current_device()
    multiple = fused.multiple_of(tree, device)
    each = bytes_per_chunk(tree, samples, weighted=weighted, multiple=multiple)
    return max(1, available(device) // each)


def most_decoded(voxels: int, itemsize: int) -> int:
    """Return how many chunks to decode at once: as many as the memory at hand holds.

    Per voxel a chunk takes 4 bytes normalised, 8 while faces are made smooth (what is added, and
    what was asked for), and ``itemsize`` decoded; the chunk that is being rescaled takes 40 more,
    in float64. To evaluate takes a fixed amount beside.
    """
    left = available(current_device()) - 40 * voxels
    return max(1, left // max(1, (12 + itemsize) * voxels))


def available(device: torch.device) -> int:
    """Return the bytes that a batch may take on the device now."""
    if device.type != "cuda":
        return _CPU_BYTES
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    # What torch holds without using it is free too.
    held = torch.cuda.memory_stats(device)
    kept = held.get("reserved_bytes.all.current", 0) - held.get("allocated_bytes.all.current", 0)
    return int(_SHARE * (free + kept))


def in_batches(run: Callable[[Sequence[int]], None], numbers: Sequence[int], most: int) -> None:
    """Call run() on all numbers, at most so many at once; on half as many when memory runs out.

    Raises
    ------
    torch.cuda.OutOfMemoryError
        If a single one is too much.
    """
    at = 0
    while at < len(numbers):
        some = numbers[at : at + most]
        try:
            run(some)
            at += len(some)
        except out_of_memory():
            if len(some) == 1:
                raise
            most = -(-len(some) // 2)
        else:
            continue
        # Outside the handler, whose traceback holds the failed batch.
        _empty_cache()


def out_of_memory() -> tuple[type[BaseException], ...]:
    """Return the error of a full device; nothing raises it before torch is loaded."""
    torch = sys.modules.get("torch")
    return () if torch is None else (torch.cuda.OutOfMemoryError,)


def _empty_cache() -> None:
    """Give back what torch keeps, so that a batch of another size finds it in one piece."""
    import torch

    torch.cuda.empty_cache()
