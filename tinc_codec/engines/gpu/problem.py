"""Losses and gradients by torch: forward and backward passes of a whole level at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tinc_codec.engines.gpu.device import current_device, exact_products
from tinc_codec.engines.gpu.memory import leaf_samples
from tinc_codec.engines.gpu.stacks import Stacked, Stacks
from tinc_codec.tree.geometry import boxes, leaf_affine
from tinc_codec.tree.network import Tree, layout

if TYPE_CHECKING:
    import torch

Float32Array = npt.NDArray[np.float32]

_BITS_64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """Return the int64 with the low 64 bits of an integer: torch has no uint64 arithmetic."""
    value &= _BITS_64
    return value - (1 << 64) if value >> 63 else value


def _mix(a: int, b: torch.Tensor) -> torch.Tensor:
    """Return 32 pseudo-random bits for each b (splitmix64 finaliser); products wrap around."""
    z = b + _signed(a * 0x9E3779B97F4A7C15)
    # int64 shifts copy the sign: masks take those bits off.
    z = (z ^ (z >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB)
    return (z ^ (z >> 31 & (1 << 33) - 1)) >> 32 & (1 << 32) - 1


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

        start, stop = boxes(tree.geometry)[-1]
        sides = stop - start
        leaves = len(start)
        volume = sides.prod(axis=1)
        shape = tree.geometry.shape
        strides = np.cumprod([1, *shape[:0:-1]])[::-1].copy()
        self._leaf_samples = leaf_samples(leaves, samples)
        self._seed = seed
        self._device = device
        self._stacks = Stacks(layout(tree), len(targets), device)
        self._targets = torch.tensor(targets.reshape(len(targets), -1), device=device)
        self._weights = (
            None
            if weights is None
            else torch.tensor(weights.reshape(len(targets), -1), device=device)
        )
        self._numbers = torch.arange(leaves * self._leaf_samples, device=device).view(leaves, -1)
        self._volume = torch.tensor(volume, device=device)[:, None]
        self._sides = [torch.tensor(side, device=device)[:, None] for side in sides.T]
        self._start, self._scale, self._offset = (
            torch.tensor(table, device=device)[:, None]
            for table in (start, *leaf_affine(tree.geometry))
        )
        self._strides = torch.tensor(strides, device=device)
        share = volume / volume.mean() / (leaves * self._leaf_samples)
        self._share = torch.tensor(share.astype(np.float32), device=device)[:, None]

    def start(self, parameters: Float32Array) -> torch.Tensor:
        """Return (chunks, size) parameters as :meth:`gradient` takes them: a flat stacked copy."""
        import torch

        given = torch.tensor(parameters, dtype=torch.float32, device=self._device)
        return self._stacks.stack(given)

    def finish(self, parameters: torch.Tensor) -> Float32Array:
        """Return such a vector as a (chunks, size) float32 array."""
        values: Float32Array = self._stacks.flatten(parameters).cpu().numpy()
        return values

    def sample(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the voxels of a step, with replacement, the same number in each leaf.

        Returns
        -------
        coordinates : (leaves, n, axes) float32
        where : (leaves, n) int64
            Indices into the flat volume, in C order.
        """
        import torch

        bits = _mix(self._seed + (step + 1 << 32), self._numbers)
        rest = bits * self._volume >> 32
        index = torch.empty((*rest.shape, len(self._sides)), dtype=torch.int64, device=self._device)
        for axis in reversed(range(len(self._sides))):
            torch.remainder(rest, self._sides[axis], out=index[..., axis])
            rest = rest // self._sides[axis]
        index += self._start
        where = (index * self._strides).sum(dim=-1)
        return (index * self._scale + self._offset).float(), where

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
        import torch

        with exact_products(self._device):
            x, where = self.sample(step)
            target = self._targets[:, where]
            factor = self._share
            if self._weights is not None:
                factor = factor * self._weights[:, where]
            gradient = torch.empty_like(parameters)
            losses = by_products(
                self._stacks.views(parameters),
                self._stacks.views(gradient),
                x,
                target,
                factor,
                squared=squared,
            )
            return losses, gradient[None]


def by_products(
    weights: Stacked,
    gradients: Stacked,
    x: torch.Tensor,
    target: torch.Tensor,
    factor: torch.Tensor,
    *,
    squared: bool,
) -> torch.Tensor:
    """Return losses and fill gradients, by batched products of whole layers.

    Parameters
    ----------
    weights, gradients : list of (weight, bias)
        Of each layer; see :class:`tinc_codec.engines.gpu.stacks.Stacks`.
    x : (leaves, n, axes) float32
        Coordinates, common to all chunks.
    target : (chunks, leaves, n) float32
        Values to reach.
    factor : float32, of a shape that broadcasts to that of target
        Weight of each squared error in the loss.
    squared : bool
        Fill in the sums of ``factor`` times the squared derivative of the output instead.

    Returns
    -------
    (chunks,) float32 tensor
    """
    inputs, sums = _forward(weights, x.expand(len(target), *x.shape))
    error = sums[-1].view(target.shape) - target
    weighted = factor * error
    losses = (weighted * error).flatten(1).sum(dim=1)
    dz = factor.sqrt().expand_as(error) if squared else 2 * weighted
    _backward(weights, inputs, sums, dz, gradients, squared)
    return losses


def _forward(weights: Stacked, x: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return each layer's inputs and sums, (nodes, voxels, features).

    The children of a node come one after another, and so do the voxels of the leaves, all within
    their chunk: passing from a level to the next is a change of shape.
    """
    import torch

    inputs, sums = [], []
    for weight, bias in weights:
        x = x.reshape(len(weight), -1, weight.shape[2])
        inputs.append(x)
        sums.append(torch.baddbmm(bias, x, weight.transpose(1, 2)))
        x = sums[-1].sin()
    return inputs, sums


def _backward(
    weights: Stacked,
    inputs: list[torch.Tensor],
    sums: list[torch.Tensor],
    dz: torch.Tensor,
    gradients: Stacked,
    squared: bool,
) -> None:
    """Fill the gradients from dz of the output layer, or the sums of their squares."""
    import torch

    dz = dz.reshape(sums[-1].shape)
    for k in reversed(range(len(weights))):
        x = inputs[k]
        d, y = (dz * dz, x * x) if squared else (dz, x)
        torch.bmm(d.transpose(1, 2), y, out=gradients[k][0])
        torch.sum(d, dim=1, keepdim=True, out=gradients[k][1])
        if k:
            dx = torch.bmm(dz, weights[k][0]).view(sums[k - 1].shape)
            dz = dx.mul_(sums[k - 1].cos_())
