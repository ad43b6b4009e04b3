"""What the learned codecs share: transforms, entropy model, coder, search for the rate.

CompressAI is not used: it asks for numpy below 2, torchvision and torch-geometric, which this
package's environment cannot have. What follows its models (Ballé et al., ICLR 2018; Minnen et al.,
NeurIPS 2018): an analysis and a synthesis of strided 5 × 5 convolutions; a hyperprior that gives
mean and scale of each latent; uniform noise for rounding in training; range coding of the rounded
latents, here by constriction, of all slices in one stream.

What does not: leaky rectifiers for GDN; 24 channels for 128 to 320, three and two strides of 2 for
four and two; a normal density per channel for the hyper-latents where Ballé has a learned
cumulative; one network for all rates, with the step q of the rounding as its knob, trained over
random q and the multiplier that high-rate theory gives for it (cf. Choi et al., ICCV 2019), where
the papers train one network a rate. Slices along axis 0, standardised by the volume's mean and
deviation. The decoder recomputes scales in float32: bytes are for the same machine and threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import constriction
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.baselines.protocol import Array

STRIDE = 32
CHANNELS = 24
_LIMIT = 255
_LEAST_SCALE = 0.05
_LEAST_Q, _MOST_Q = 0.02, 200.0
_TRIALS = 7
_NEAR = 0.94

Coder = Callable[[torch.Tensor | None, torch.Tensor, torch.Tensor, float], torch.Tensor]


class Encoder:
    """Rounds latents to multiples of q and codes them."""

    def __init__(self) -> None:
        self._queue = constriction.stream.queue.RangeEncoder()
        self._family = constriction.stream.model.QuantizedGaussian(-_LIMIT, _LIMIT)

    def __call__(
        self, latent: torch.Tensor | None, mean: torch.Tensor, scale: torch.Tensor, q: float
    ) -> torch.Tensor:
        """Return the latents as a decoder will have them."""
        assert latent is not None
        symbols = (latent / q).round().clamp(-_LIMIT, _LIMIT)
        self._queue.encode(
            symbols.numpy().astype(np.int32).ravel(), self._family, *_model(mean, scale, q)
        )
        return symbols * q

    def payload(self) -> bytes:
        """Return the bytes so far."""
        return bytes(self._queue.get_compressed().tobytes())


class Decoder:
    """Reads what an encoder wrote, in the same order."""

    def __init__(self, payload: bytes) -> None:
        self._queue = constriction.stream.queue.RangeDecoder(np.frombuffer(payload, np.uint32))
        self._family = constriction.stream.model.QuantizedGaussian(-_LIMIT, _LIMIT)

    def __call__(
        self, latent: torch.Tensor | None, mean: torch.Tensor, scale: torch.Tensor, q: float
    ) -> torch.Tensor:
        """Return the latents; the first argument is not looked at."""
        symbols = self._queue.decode(self._family, *_model(mean, scale, q))
        return torch.from_numpy(symbols.astype(np.float32)).reshape(mean.shape) * q


def _model(mean: torch.Tensor, scale: torch.Tensor, q: float) -> tuple[Array, Array]:
    # Symbols beyond the limits cannot be coded, and means there would have no use.
    means = (mean / q).clamp(-_LIMIT, _LIMIT).numpy().astype(np.float64).ravel()
    return means, (scale / q).clamp(min=1e-3).numpy().astype(np.float64).ravel()


def bits(latent: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor, q: float) -> torch.Tensor:
    """Return the bits of latents rounded to multiples of q, under normal densities."""
    apart = (latent - mean).abs()
    upper = torch.special.ndtr((q / 2 - apart) / scale)
    lower = torch.special.ndtr((-q / 2 - apart) / scale)
    return -(upper - lower).clamp(min=1e-9).log2().sum()


def multiplier(q: float) -> float:
    """Return the weight of a squared error beside a bit: the slope at D = q² / 12."""
    return 6 / (math.log(2) * q * q)


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, 2, 2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, 2, 2, 1)


class Hyperprior(nn.Module):
    """An autoencoder of images, (n, inputs, y, x) to (n, outputs, y, x); sides multiples of 32."""

    def __init__(self, inputs: int, outputs: int, channels: int = CHANNELS) -> None:
        super().__init__()
        c, act = channels, nn.LeakyReLU
        self.analysis = nn.Sequential(_down(inputs, c), act(), _down(c, c), act(), _down(c, c))
        self.synthesis = nn.Sequential(_up(c, c), act(), _up(c, c), act(), _up(c, outputs))
        self.hyper_analysis = nn.Sequential(_down(c, c), act(), _down(c, c))
        self.hyper_synthesis = nn.Sequential(_up(c, c), act(), _up(c, 2 * c))
        self.mean = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, c, 1, 1))

    def prior(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and scale of the latents."""
        mean, scale = self.hyper_synthesis(z).chunk(2, dim=1)
        return mean, functional.softplus(scale) + _LEAST_SCALE

    def hyper(self, like: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and scale of hyper-latents of a shape."""
        return self.mean.expand(like), self.log_scale.exp().expand(like) + _LEAST_SCALE

    def forward(self, x: torch.Tensor, q: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the restored images and the bits, with noise for rounding."""
        y = self.analysis(x)
        z = self.hyper_analysis(y)
        z = z + q * (torch.rand_like(z) - 0.5)
        mean, scale = self.prior(z)
        y = y + q * (torch.rand_like(y) - 0.5)
        spent = bits(y, mean, scale, q) + bits(z, *self.hyper(z.shape), q)
        return self.synthesis(y), spent

    def code(self, x: torch.Tensor | None, shape: tuple[int, ...], q: float, coder: Coder) -> Any:
        """Return the restored images (n, outputs, y, x); ``x`` is None where a coder decodes."""
        y = None if x is None else self.analysis(x)
        return self.synthesis(self.code_latents(y, None, shape, q, coder))

    def code_latents(
        self,
        y: torch.Tensor | None,
        z: torch.Tensor | None,
        shape: tuple[int, ...],
        q: float,
        coder: Coder,
    ) -> torch.Tensor:
        """Return the latents as rounded; ``shape`` is (n, y, x) of the images."""
        n, rows, columns = shape
        if z is None and y is not None:
            z = self.hyper_analysis(y)
        size = torch.Size((n, self.mean.shape[1], rows // STRIDE, columns // STRIDE))
        z = coder(z, *self.hyper(size), q)
        return coder(y, *self.prior(z), q)


class Model(Protocol):
    """What a learned codec's network does, beside being a torch module."""

    def loss(self, clip: torch.Tensor, q: float) -> torch.Tensor:
        """Return rate and weighted distortion of (n, slices, y, x), a voxel's mean."""

    def code(
        self, frames: torch.Tensor | None, shape: tuple[int, ...], q: float, coder: Coder
    ) -> torch.Tensor:
        """Return restored slices (slices, y, x)."""


def weighed(
    restored: torch.Tensor, clip: torch.Tensor, spent: torch.Tensor, q: float
) -> torch.Tensor:
    """Return (bits + multiplier × squared error) per voxel, scaled to like sizes at all q."""
    error = (restored - clip).square().sum()
    total: torch.Tensor = (spent / multiplier(q) + error) / clip.numel() / q**0.5
    return total


def padded(frames: torch.Tensor) -> torch.Tensor:
    """Return (slices, y, x) with edges repeated up to multiples of 32."""
    rows, columns = (-n % STRIDE for n in frames.shape[1:])
    return functional.pad(frames[None], (0, columns, 0, rows), mode="replicate")[0]


def padded_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape that :func:`padded` gives."""
    return shape[0], *(n + -n % STRIDE for n in shape[1:])


def search(size_at: Callable[[float], int], budget: int) -> float | None:
    """Return a step q whose bytes are within the budget and near it; None if none is.

    Bytes fall about as a power of q, so each trial goes where the last one points.
    """
    low, high = _LEAST_Q, _MOST_Q
    found: float | None = None
    q = 2.0
    for _ in range(_TRIALS):
        size = size_at(q)
        if size <= budget:
            found = high = q
            if size >= _NEAR * budget:
                break
        else:
            low = q
        q *= min(8.0, max(1 / 8, (size / (0.98 * budget)) ** 0.9))
        if not low < q < high:
            q = math.sqrt(low * high)
    if found is None and size_at(_MOST_Q) <= budget:
        found = _MOST_Q
    return found
