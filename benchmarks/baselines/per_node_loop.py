"""The paper's recipe trained as its authors' code trains it: a Python loop over the tree's nodes.

What follows the released code (github.com/RichealYoung/TINC): a ``torch.nn`` module of its own for
each node, with ``sin(30 (W x + b))`` and SIREN's initialisation; a depth-first walk over the nodes
in Python at each step; the volume stays in the host's memory, one gather (and one copy to the
device) per leaf and step; mean squared error per leaf, added up; intensities in [0, 100]; Adamax
with one parameter group per node and a ``MultiStepLR``; the loss read back at each step; weights
in float32.

What follows the paper's text instead: coordinates run over [-1, 1] along the whole chunk, so that a
node passes each child the features of the child's own voxels. (The released code gives all leaves
the same coordinates, which needs fewer rows in upper nodes, and joins nothing across blocks.)

What follows neither: levels, depths and widths are those that ``tinc_codec`` chooses with
``preset="paper"``, for exactly the same payload bytes, where the released code takes three levels
for every budget and leaves up to 17 % of it unused; the number of voxels a step is an argument.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tinc_codec import encode
from tinc_codec.decoding.opened import open_chunk
from tinc_codec.fit.recipe import PAPER_MILESTONES
from tinc_codec.stream.normalize import normalize
from tinc_codec.tree.geometry import boxes, leaf_affine
from tinc_codec.tree.network import Tree, level_layers

# Of the released configuration, for 64 leaves together.
RELEASED_BATCH = 262_144
ITERATIONS = 10_000
_FREQUENCY = 30.0
_RATE, _DROP = 1e-3, 0.2
_INTENSITY = 100.0
_PARTS = 8

# Step to voxel indices (leaves, n, axes) of the volume.
Draw = Callable[[int], torch.Tensor]


class Sine(nn.Module):
    """SIREN's activation, ``sin(30 x)``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(_FREQUENCY * x)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What an iteration takes.

    Attributes
    ----------
    seconds : float
        Median over parts of the timed iterations, of the mean within a part.
    timed : int
        Iterations timed, after a warm-up.
    """

    seconds: float
    timed: int


class PerNodeLoop:
    """A trainer.

    Parameters
    ----------
    tree : Tree
        Structure.
    unit : float32 array, shape of the tree's box
        Normalised voxels, in [0, 1].
    batch : int
        Voxels of a step, about; every leaf gives the same number.
    milestones : sequence of int
        Iterations at which the rate falls by 0.2.
    device : str
        Of torch, where the networks are.
    seed : int
        Of initialisation and draws.
    draw : callable, optional
        Chooses the voxels of a step instead of the released code's way: the same random places in
        every leaf.
    """

    def __init__(
        self,
        tree: Tree,
        unit: npt.NDArray[np.float32],
        batch: int,
        milestones: Sequence[int] = PAPER_MILESTONES,
        device: str = "cpu",
        seed: int = 0,
        draw: Draw | None = None,
    ) -> None:
        torch.manual_seed(seed)
        self._tree = tree
        self._device = torch.device(device)
        start, stop = (torch.tensor(corner)[:, None] for corner in boxes(tree.geometry)[-1])
        self._start, self._sides = start, stop - start
        self._samples = max(1, round(batch / len(start)))
        self._affine = [
            torch.tensor(table[:, None], dtype=torch.float32, device=self._device)
            for table in leaf_affine(tree.geometry)
        ]
        self._volume = _INTENSITY * torch.tensor(unit.reshape(-1))
        self._strides = torch.tensor(unit.strides) // unit.itemsize
        self._draw = draw or self._same_places
        self._nodes = [
            [node.to(self._device) for node in level_modules(tree, level)]
            for level in range(tree.geometry.levels)
        ]
        groups = [{"params": node.parameters()} for level in self._nodes for node in level]
        self._optimiser = torch.optim.Adamax(groups, lr=_RATE)
        self._schedule = torch.optim.lr_scheduler.MultiStepLR(
            self._optimiser, list(milestones), gamma=_DROP
        )
        self._steps = 0

    def _same_places(self, step: int) -> torch.Tensor:
        places = torch.rand((1, self._samples, self._sides.shape[-1]), dtype=torch.float64)
        return self._start + (places * self._sides).long()

    def step(self) -> float:
        """Do one iteration; return its loss, the sum over leaves on intensities in [0, 100]."""
        self._optimiser.zero_grad()
        index = self._draw(self._steps)
        where = (index * self._strides).sum(-1)
        scale, offset = self._affine
        loss = self._walk(0, 0, (index.to(self._device) * scale + offset).flatten(0, 1), where)
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
        self._steps += 1
        return loss.item()

    def _walk(self, level: int, node: int, x: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        """Return the loss of a node's leaves; x are features of their voxels, leaf after leaf."""
        y = self._nodes[level][node](x)
        splits = self._tree.geometry.splits
        if level == len(splits):
            label = self._volume[where[node]].to(self._device)
            return torch.nn.functional.mse_loss(y[:, 0], label)
        children = 1 << len(splits[level])
        return sum(
            self._walk(level + 1, node * children + child, part, where)
            for child, part in enumerate(y.chunk(children))
        )

    def pace(self, iterations: int, warm_up: int = 10) -> Pace:
        """Run and time iterations, at least eight, after some that are not timed."""
        for _ in range(warm_up):
            self.step()
        part = -(-iterations // _PARTS)
        seconds = []
        for _ in range(_PARTS):
            started = time.perf_counter()
            for _ in range(part):
                self.step()
            seconds.append((time.perf_counter() - started) / part)
        return Pace(seconds=statistics.median(seconds), timed=part * _PARTS)

    def load(self, parameters: npt.NDArray[np.float32]) -> None:
        """Take over weights and biases (size,) in the order and scale of a payload's."""
        at = 0
        for tensor, scale in self._in_payload_order():
            part = torch.tensor(parameters[at : at + tensor.numel()]) / scale
            tensor.data.copy_(part.view_as(tensor))
            at += tensor.numel()

    def parameters(self) -> npt.NDArray[np.float32]:
        """Return weights and biases (size,) in the order and scale of a payload's."""
        parts = [tensor.detach().flatten() * scale for tensor, scale in self._in_payload_order()]
        return torch.cat(parts).cpu().numpy()

    def _in_payload_order(self) -> Iterator[tuple[torch.Tensor, float]]:
        """Yield tensors and what a payload holds of them: 30 W and 30 b, 0.01 W for outputs."""
        for level in self._nodes:
            linears = [[part for part in node if isinstance(part, nn.Linear)] for node in level]
            for layer in zip(*linears, strict=True):
                is_output = level is self._nodes[-1] and layer[0] is linears[0][-1]
                scale = 1 / _INTENSITY if is_output else _FREQUENCY
                yield from ((linear.weight, scale) for linear in layer)
                yield from ((linear.bias, scale) for linear in layer)


def level_modules(tree: Tree, level: int) -> list[nn.Sequential]:
    """Return the modules of a level's nodes, initialised as SIRENs (only weights; see torch)."""
    layers = [tuple(map(np.ndarray.tolist, widths)) for widths in level_layers(tree, level)]
    is_leaf = level == tree.geometry.levels - 1
    nodes = []
    for node in range(tree.geometry.node_counts[level]):
        parts: list[nn.Module] = []
        for n_in, n_out in layers:
            linear = nn.Linear(n_in[node], n_out[node])
            spread = math.sqrt(6 / n_in[node]) / _FREQUENCY
            if level == 0 and not parts:
                spread = 1 / n_in[node]
            nn.init.uniform_(linear.weight, -spread, spread)
            parts += [linear, Sine()]
        nodes.append(nn.Sequential(*(parts[:-1] if is_leaf else parts)))
    return nodes


def structure_of(
    block: npt.NDArray[Any], ratio: float, levels: int | Literal["auto"] = "auto"
) -> tuple[Tree, npt.NDArray[np.float32]]:
    """Return the tree that ``preset="paper"`` takes for a block, and what it fits, in [0, 1].

    Parameters
    ----------
    block : array
        Without axes of one voxel or special values; padding is cropped.
    ratio : float
        Raw bytes over budget.
    levels : int or "auto"
        Of the settings.
    """
    chunk = open_chunk(encode(block, preset="paper", ratio=ratio, levels=levels, iterations=1))
    assert chunk.tree is not None
    box = block if chunk.crop is None else block[chunk.crop.slices]
    return chunk.tree, normalize(box, chunk.info.low, chunk.info.high)
