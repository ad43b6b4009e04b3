"""What the networks of coordinates share: stacks of small networks, their fit, their bytes.

Weights are stored as float32, as the papers store them: a payload is mean and deviation of the
volume (float32 each), then the weights. Widths are not stored, for they follow from the number of
bytes (:func:`widths_within`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.baselines.protocol import Array, Target
from benchmarks.baselines.values import like
from tinc_codec.runtime import current_runtime

HEADER = 8
_BATCH = 8192
_TILE = 65536
_FEWEST, _MOST_STEPS = 20, 80_000

# Step to (coordinates (networks, n, 3), values (networks, n, 1)).
Sample = Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]]


def steps_of(target: Target) -> int:
    """Return the optimiser's steps: 20 at effort 1, the 80,000 of SCI's released code at 9."""
    return round(_FEWEST * (_MOST_STEPS / _FEWEST) ** ((target.effort - 1) / 8))


def ready(seed: int = 0) -> torch.Generator:
    """Give torch the threads of the runtime; return its random numbers."""
    torch.set_num_threads(current_runtime().thread_count())
    return torch.Generator().manual_seed(seed)


class Stack(nn.Module):
    """Networks of equal widths, side by side: one batched product a layer.

    Parameters
    ----------
    networks : int
        How many.
    widths : sequence of int
        Of the input, the hidden layers and the output.
    frequency : float or None
        sin(frequency (W x + b)) in the first layer and sin(30 (W x + b)) in later ones, with
        SIREN's initialisation (its section 3.2); None: rectifiers, with He's.
    generator : torch.Generator
        Of the initial weights.
    """

    def __init__(
        self,
        networks: int,
        widths: Sequence[int],
        frequency: float | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.frequency = frequency
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (rows, columns) in enumerate(itertools.pairwise(widths)):
            bound = math.sqrt(6 / rows)
            if frequency is not None:
                bound = 1 / rows if layer == 0 else bound / 30
            weight = torch.rand((networks, rows, columns), generator=generator) * 2 - 1
            bias = torch.rand((networks, 1, columns), generator=generator) * 2 - 1
            self.weights.append(weight * bound)
            self.biases.append(bias * (0 if frequency is None else 1 / math.sqrt(rows)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return values (networks, n, 1) at coordinates (networks, n, inputs)."""
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer == last:
                return x
            if self.frequency is None:
                x = torch.relu(x)
            else:
                x = torch.sin((30 if layer else self.frequency) * x)
        return x


def parameters_of(widths: Sequence[int]) -> int:
    """Return the weights and biases of one network."""
    return sum((a + 1) * b for a, b in itertools.pairwise(widths))


def widths_within(
    budget: int, inputs: int, hidden: int, taper: float = 1
) -> tuple[int, ...] | None:
    """Return the widest network within a number of parameters; None if one unit is too many.

    Layers grow in turn, the first one first, until one more unit does not fit: so the widths are
    also those of any budget between their own number of parameters and this one.

    Parameters
    ----------
    budget : int
        The most parameters.
    inputs, hidden : int
        Inputs of the network; hidden layers.
    taper : float
        Width of the first hidden layer over that of the others.
    """
    found: tuple[int, ...] | None = None
    for units in range(1, budget + 1):
        for grown in range(1, hidden + 1):
            sizes = [max(1, units - (layer >= grown)) for layer in range(hidden)]
            sizes[0] = round(taper * sizes[0])
            widths = (inputs, *sizes, 1)
            if parameters_of(widths) > budget:
                return found
            found = widths
    return found


def grid(shape: Sequence[int]) -> torch.Tensor:
    """Return the coordinates of all voxels, (n, 3) in [-1, 1]."""
    axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)


def fit(
    stacks: Sequence[nn.Module],
    samples: Sequence[Sample],
    steps: int,
    rate: float,
    generator: torch.Generator,
) -> None:
    """Minimise the squared error with Adam, its rate falling as a cosine to zero."""
    parameters = [p for stack in stacks for p in stack.parameters()]
    adam = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        loss = torch.zeros(())
        for stack, sample in zip(stacks, samples, strict=True):
            coordinates, values = sample(generator)
            loss = loss + (stack(coordinates) - values).square().sum() / _BATCH
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()


def sampler(unit: torch.Tensor, encode: Callable[[torch.Tensor], torch.Tensor]) -> Sample:
    """Return the sampler of a whole volume, for a stack of one network."""
    shape = unit.shape
    flat = unit.reshape(-1)
    sides = torch.tensor(shape)

    def sample(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        where = torch.randint(flat.numel(), (min(_BATCH, flat.numel()),), generator=generator)
        index = torch.stack(torch.unravel_index(where, shape), dim=-1)
        coordinates = torch.where(sides > 1, 2 * index / (sides - 1).clamp(min=1) - 1, 0.0)
        return encode(coordinates)[None], flat[where][None, :, None]

    return sample


def evaluate(stack: nn.Module, inputs: Callable[[slice], torch.Tensor], voxels: int) -> Array:
    """Return the values of all voxels, tile by tile: (networks, voxels)."""
    with torch.no_grad():
        tiles = [
            stack(inputs(slice(start, min(start + _TILE, voxels))))[..., 0]
            for start in range(0, voxels, _TILE)
        ]
    values: Array = torch.cat(tiles, dim=1).numpy()
    return values


def standardised(volume: Array) -> tuple[torch.Tensor, bytes]:
    """Return (volume - mean) / deviation in float32, and both as bytes."""
    moments = np.array([volume.mean(), volume.std()], np.float32)
    unit = (volume.astype(np.float32) - moments[0]) / moments[1]
    return torch.from_numpy(unit), moments.tobytes()


def destandardised(unit: Array, header: bytes, volume: Array) -> Array:
    """Undo :func:`standardised`, in the shape and dtype of a volume."""
    mean, deviation = np.frombuffer(header[:HEADER], np.float32)
    return like(unit.reshape(volume.shape) * deviation + mean, volume)


def to_bytes(modules: Sequence[nn.Module]) -> bytes:
    """Return all weights as float32."""
    values = [p.detach().numpy().tobytes() for module in modules for p in module.parameters()]
    return b"".join(values)


def load(modules: Sequence[nn.Module], payload: bytes) -> None:
    """Set all weights from what :func:`to_bytes` gave."""
    values = torch.from_numpy(np.frombuffer(payload, np.float32).copy())
    start = 0
    with torch.no_grad():
        for p in (p for module in modules for p in module.parameters()):
            p.copy_(values[start : start + p.numel()].reshape(p.shape))
            start += p.numel()
