"""The torch engine's problem: chunks of one structure on the device, and their descent."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinc_codec.array_types import Float32Array
from tinc_codec.engines.gpu import fused, products
from tinc_codec.engines.gpu.device import current_device, exact_products
from tinc_codec.engines.gpu.loop import Loop, Update
from tinc_codec.engines.gpu.memory import LANES, leaf_samples
from tinc_codec.tree.network import Tree

if TYPE_CHECKING:
    import torch


def step_keys(seed: int, first: int, steps: int) -> npt.NDArray[np.int64]:
    """Return the 32 pseudo-random bits that each step's draws start from (splitmix64 finaliser)."""
    z = np.arange(first + 1, first + 1 + steps, dtype=np.uint64)
    z += np.uint64(seed * 0x9E3779B97F4A7C15 & (1 << 64) - 1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.int64)


class Problem:
    """A tree and the volumes that it is to fit: gives losses with gradients, on a torch device.

    It draws the same voxels as the CPU engine's, the same for all chunks. Memory on the
    device: see :func:`tinc_codec.engines.gpu.memory.bytes_per_chunk`.

    Parameters
    ----------
    tree : Tree
        Structure of every chunk.
    targets : (chunks, *shape of the tree's box) float32
        Values to reach.
    weights : float32 array of the same shape, or None
        Weight of each voxel in the loss; None means 1 everywhere.
    samples : int
        Voxels drawn at each step, about; every leaf gives the same number of whole tiles.
    seed : int
        Seed of the draws.

    Raises
    ------
    InvalidSetting
        If torch or the device of the run-time settings is not there.
    """

    def __init__(
        self,
        tree: Tree,
        targets: Float32Array,
        weights: Float32Array | None,
        samples: int,
        seed: int,
    ) -> None:
        device = current_device()
        import torch

        self._seed = seed
        self._device = device
        self._stacks, paths = fused.stacks_of(tree, len(targets), device)
        self._targets = torch.tensor(targets.reshape(len(targets), -1), device=device)
        self._weights = (
            None
            if weights is None
            else torch.tensor(weights.reshape(len(targets), -1), device=device)
        )
        leaves = tree.geometry.node_counts[-1]
        tiles = leaf_samples(leaves, samples) // LANES
        self._gradient = products.Gradient(self._stacks, tree, paths, tiles, device)
        with exact_products(device):
            self._gradient.check(self._targets, self._weights, self._keys(0, 1))
        self._loop: Loop | None = None

    @property
    def has_kernels(self) -> bool:
        """Whether Triton's kernels give the gradients."""
        return self._gradient.has_kernels

    def _keys(self, first: int, steps: int) -> torch.Tensor:
        import torch

        return torch.tensor(step_keys(self._seed, first, steps), device=self._device)

    def sample(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return coordinates (leaves, n, axes) and flat indices (leaves, n) of a step's voxels."""
        return self._gradient.sample(self._keys(step, 1))

    def start(self, parameters: Float32Array) -> torch.Tensor:
        """Return (chunks, size) parameters as :meth:`gradient` takes them: a flat stacked copy."""
        import torch

        given = torch.tensor(parameters, dtype=torch.float32, device=self._device)
        return self._stacks.stack(given)

    def finish(self, parameters: torch.Tensor) -> Float32Array:
        """Return such a vector as a (chunks, size) float32 array."""
        values: Float32Array = self._stacks.flatten(parameters).cpu().numpy()
        return values

    def gradient(
        self, parameters: torch.Tensor, step: int, *, squared: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses at a step's sample and their gradient; does not wait for the device.

        Parameters
        ----------
        parameters : (stacked size,) float32 tensor
            Weights and biases, from :meth:`start`.
        step : int
            Number of the step: chooses the voxels.
        squared : bool
            Instead of the gradient, give the mean square of the output's derivative by each
            parameter (the diagonal of the Gauss-Newton matrix).

        Returns
        -------
        losses : (chunks,) float32 tensor
        gradient : (1, stacked size) float32 tensor
        """
        with exact_products(self._device):
            losses, gradient = self._gradient(
                parameters, self._targets, self._weights, self._keys(step, 1), squared=squared
            )
            return losses, gradient[None]

    def run(
        self,
        start: Float32Array,
        factors: Float32Array,
        update: Update,
        sizes: Float32Array,
        first_sample: int,
    ) -> tuple[Float32Array, Float32Array]:
        """Do many steps of an optimiser, on a GPU by replaying one step's CUDA graph.

        Parameters
        ----------
        start : (chunks, size) float32
            First parameters.
        factors : (chunks, size) float32
            Factor of each parameter's rate.
        update : callable
            An optimiser's step on flat tensors, given (parameters, gradient rows, factors, first
            moment, second moment, size, size); nothing in it may wait for the device.
        sizes : (steps, 2) float32
            The last two of each step.
        first_sample : int
            Number of the first step's sample of voxels.

        Returns
        -------
        parameters : (chunks, size) float32
            The last ones.
        losses : (steps, chunks) float32
        """
        import torch

        if self._loop is None or self._loop.update is not update:
            given = partial(self._gradient, targets=self._targets, weights=self._weights)
            stacks = self._stacks
            self._loop = Loop(given, update, stacks.chunks, stacks.size, self._device)
        with exact_products(self._device):
            parameters, losses = self._loop.run(
                self.start(start),
                self.start(factors),
                torch.tensor(sizes, device=self._device),
                self._keys(first_sample, len(sizes)),
            )
            return self.finish(parameters), losses.cpu().numpy()
