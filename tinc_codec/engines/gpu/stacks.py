"""A level's nodes side by side: parameters gathered into padded stacks, one per layer.

Nodes of a level differ in width. Each layer's weights are padded with zeros to the widest node
of its level, (nodes, out, in), so that one batched product does a layer of all nodes. Padded
features are sin(0) = 0 and meet zero weights: they change neither outputs nor gradients, and
their own gradients are zero, so that an optimiser may step the stacks as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from tinc_codec.array_types import Int64Array
from tinc_codec.forks import cached_value
from tinc_codec.tree.network import Layout

if TYPE_CHECKING:
    import torch

Stacked: TypeAlias = "list[tuple[torch.Tensor, torch.Tensor]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStack:
    """Where one layer of a level lies in the stacked vector: weights, then biases.

    Attributes
    ----------
    nodes, n_out, n_in : int
        Shape of the padded weights; biases are (nodes, 1, n_out).
    start : int
        First item of the weights.
    """

    nodes: int
    n_out: int
    n_in: int
    start: int

    @property
    def bias_start(self) -> int:
        """First item of the biases."""
        return self.start + self.nodes * self.n_out * self.n_in

    @property
    def stop(self) -> int:
        """One past the last item."""
        return self.bias_start + self.nodes * self.n_out


def layer_stacks(table: Layout, multiple: int = 1) -> tuple[tuple[LayerStack, ...], Int64Array]:
    """Return the layers in order, and the parameter that each stacked item takes.

    Parameters
    ----------
    table : Layout
        The tree as flat tables.
    multiple : int
        Of which the widths of sine layers are to be.

    Returns
    -------
    layers : tuple of LayerStack
        One per layer of a path.
    source : (stacked size,) int64
        Index of the flat parameter; ``table.size`` for padding.
    """
    layers: list[LayerStack] = []
    source: list[Int64Array] = []
    at = 0
    for column in table.paths.T:
        numbers = np.unique(column)
        n_out, n_in = table.n_out[numbers], table.n_in[numbers]
        is_first, is_output = not layers, len(layers) == table.paths.shape[1] - 1
        layer = LayerStack(
            nodes=len(numbers),
            n_out=_padded(n_out, 1 if is_output else multiple),
            n_in=_padded(n_in, 1 if is_first else multiple),
            start=at,
        )
        o, i = np.arange(layer.n_out)[:, None], np.arange(layer.n_in)
        rows, columns = n_out[:, None, None], n_in[:, None, None]
        weight = table.weight_at[numbers][:, None, None] + o * columns + i
        source.append(np.where((o < rows) & (i < columns), weight, table.size).ravel())
        bias = table.bias_at[numbers][:, None] + o[:, 0]
        source.append(np.where(o[:, 0] < n_out[:, None], bias, table.size).ravel())
        layers.append(layer)
        at = layer.stop
    return tuple(layers), np.concatenate(source)


def _padded(widths: Int64Array, multiple: int) -> int:
    return -(-int(widths.max()) // multiple) * multiple


class Stacks:
    """The stacks of some chunks' trees, all of one structure, on a device.

    A layer's nodes of all chunks lie side by side, chunk by chunk: to a batched product they are
    the nodes of a larger tree.

    Parameters
    ----------
    table : Layout
        The tree as flat tables.
    chunks : int
        How many.
    device : torch.device
        Where tensors are made.
    multiple : int
        Of which the widths of sine layers are to be.

    Attributes
    ----------
    layers : tuple of LayerStack
        One per layer of a path.
    chunks, parameters : int
        How many chunks; parameters of each, without padding.
    """

    def __init__(self, table: Layout, chunks: int, device: torch.device, multiple: int = 1) -> None:
        import torch

        self.layers, source = layer_stacks(table, multiple)
        self.chunks, self.parameters = chunks, table.size
        first = torch.arange(chunks, device=device)[:, None] * (table.size + 1)
        there = torch.tensor(source, device=device)
        parts = [(s.start, s.bias_start, s.stop) for s in self.layers]
        cuts = [cut for a, b, c in parts for cut in ((a, b), (b, c))]
        self._source = torch.cat([(first + there[a:b]).view(-1) for a, b in cuts])

    @cached_value
    def _place(self) -> torch.Tensor:
        """Where each chunk's parameters are in a stacked vector, (chunks, size)."""
        import torch

        device = self._source.device
        items = self.chunks * (self.parameters + 1)
        place = torch.empty(items, dtype=torch.int64, device=device)
        place[self._source] = torch.arange(self.size, device=device)
        return place.view(self.chunks, -1)[:, :-1]

    @property
    def size(self) -> int:
        """Items of a stacked vector, padding included."""
        return len(self._source)

    def stack(self, parameters: torch.Tensor) -> torch.Tensor:
        """Return (chunks, size) parameters as a flat stacked vector, padding zero."""
        import torch

        return torch.nn.functional.pad(parameters, (0, 1)).view(-1)[self._source]

    def flatten(self, stacked: torch.Tensor) -> torch.Tensor:
        """Return the (chunks, size) items of a stacked vector that are no padding."""
        return stacked[self._place]

    def views(self, stacked: torch.Tensor) -> Stacked:
        """Return (weight, bias) of each layer: (nodes, out, in) and (nodes, 1, out) views.

        The nodes are those of all chunks.
        """
        n = self.chunks
        return [
            (
                stacked[n * s.start : n * s.bias_start].view(n * s.nodes, s.n_out, s.n_in),
                stacked[n * s.bias_start : n * s.stop].view(n * s.nodes, 1, s.n_out),
            )
            for s in self.layers
        ]
