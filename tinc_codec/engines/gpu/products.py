"""Losses and gradients by batched products: forward and backward passes of whole levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tinc_codec.engines.gpu import fused, trust
from tinc_codec.engines.gpu.memory import LANES
from tinc_codec.engines.gpu.stacks import Stacked, Stacks
from tinc_codec.tree.geometry import boxes, coordinate_leaders, leaf_affine
from tinc_codec.tree.network import Tree

if TYPE_CHECKING:
    import torch

_BITS_32 = (1 << 32) - 1


class Gradient:
    """Losses and gradients of chunks that share a tree, by torch's batched products.

    Nothing in a call waits for the device, or moves data to or from it: calls may be captured in
    a CUDA graph.

    Parameters
    ----------
    stacks : Stacks
        Of the chunks.
    tree : Tree
        Their structure.
    paths : Paths or None
        Of the stacks, for Triton's kernels.
    tiles : int
        Tiles of ``LANES`` voxels drawn from each leaf.
    device : torch.device
        Where everything lies.
    """

    def __init__(
        self,
        stacks: Stacks,
        tree: Tree,
        paths: fused.Paths | None,
        tiles: int,
        device: torch.device,
    ) -> None:
        import torch

        start, stop = boxes(tree.geometry)[-1]
        sides = stop - start
        leaves, axes = sides.shape
        volume = sides.prod(axis=1)
        n = tiles * LANES
        # Leaves with the same coordinates are given the same drawings.
        first = coordinate_leaders(tree.geometry)[:, None] * n
        numbers = (first + np.arange(n))[..., None] * axes + np.arange(axes)
        strides = np.cumprod([1, *tree.geometry.shape[:0:-1]])[::-1]
        share = volume / volume.mean() / (leaves * n)
        self._stacks = stacks
        self._numbers = torch.tensor(numbers * 0x9E3779B9 & _BITS_32, device=device)
        affine = leaf_affine(tree.geometry)
        self._start, self._side, self._scale, self._offset = (
            torch.tensor(table, device=device)[:, None] for table in (start, sides, *affine)
        )
        self._strides = torch.tensor(strides.copy(), device=device)
        self._share = torch.tensor(share.astype(np.float32), device=device)[:, None]
        self._paths = paths
        if paths is not None:
            self._draws = fused.Draws(
                corners=torch.tensor(np.hstack([first, start, sides]), device=device),
                affine=torch.tensor(np.hstack(affine), device=device),
                strides=self._strides,
                shares=self._share[:, 0].contiguous(),
                count=n,
            )
            self._jobs = paths.jobs(self._draws)

    @property
    def has_kernels(self) -> bool:
        """Whether Triton's kernels do the work."""
        return self._paths is not None

    def sample(self, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw the voxels of a step, with replacement, the same number in each leaf.

        Parameters
        ----------
        key : (1,) int64 tensor
            The step's key, 0 to 2**32 - 1.

        Returns
        -------
        coordinates : (leaves, n, axes) float32
        where : (leaves, n) int64
            Indices into the flat volume, in C order.
        """
        # Unsigned 32-bit integers in int64, whose products may wrap: the low bits are right.
        x = self._numbers + key & _BITS_32
        x = (x ^ x >> 16) * 0x7FEB352D & _BITS_32
        x = (x ^ x >> 15) * 0x846CA68B & _BITS_32
        x = x ^ x >> 16
        index = self._start + (x * self._side >> 32)
        where = (index * self._strides).sum(dim=-1)
        return (index * self._scale + self._offset).float(), where

    def __call__(
        self,
        parameters: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        key: torch.Tensor,
        *,
        squared: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and gradients at a step's sample.

        Parameters
        ----------
        parameters : (stacked size,) float32 tensor
            Weights and biases.
        targets : (chunks, voxels) float32 tensor
            Values to reach, in C order.
        weights : (chunks, voxels) float32 tensor or None
            Weight of each voxel in the loss; None means 1 everywhere.
        key : (1,) int64 tensor
            The step's key, 0 to 2**32 - 1: chooses the voxels, the same in all chunks.
        squared : bool
            Instead of gradients, give mean squares of the output's derivatives.

        Returns
        -------
        losses : (chunks,) float32 tensor
        gradient : (stacked size,) float32 tensor
        """
        if self._paths is not None and not squared:
            return self._fused(self._paths, parameters, key, targets, weights)
        return self._products(parameters, key, targets, weights, squared=squared)

    def check(self, targets: torch.Tensor, weights: torch.Tensor | None, key: torch.Tensor) -> None:
        """Go on without Triton's kernels if they do not agree here; waits for the device."""
        paths = self._paths
        if paths is None:
            return

        def compare() -> tuple[torch.Tensor, torch.Tensor]:
            parameters = trust.probe(self._stacks, targets.device)
            found = self._fused(paths, parameters, key, targets, weights)[1]
            return found, self._products(parameters, key, targets, weights, squared=False)[1]

        what = "fit", weights is not None, paths.widths, paths.axes
        if not trust.agreed(what, targets.device, compare, trust.ROUGH_AGREEMENT):
            self._paths = None

    def _fused(
        self,
        paths: fused.Paths,
        parameters: torch.Tensor,
        key: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and gradients by Triton's kernels."""
        return fused.gradient(paths, parameters, self._draws, self._jobs, key, targets, weights)

    def _products(
        self,
        parameters: torch.Tensor,
        key: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        *,
        squared: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return losses and gradients, or mean squares, by torch's products."""
        import torch

        x, where = self.sample(key)
        size = (len(targets), *where.shape)
        target, factor = targets.index_select(1, where.view(-1)).view(size), self._share
        if weights is not None:
            factor = factor * weights.index_select(1, where.view(-1)).view(size)
        layers = self._stacks.views(parameters)
        inputs, sums = _forward(layers, x.expand(len(targets), *x.shape))
        error = sums[-1].view(size) - target
        weighted = factor * error
        losses = (weighted * error).flatten(1).sum(dim=1)
        dz = factor.sqrt().expand(size) if squared else 2 * weighted
        gradient = torch.empty_like(parameters)
        _backward(layers, inputs, sums, dz, self._stacks.views(gradient), squared)
        return losses, gradient


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
