"""NeRV: a slice's number to the slice, by convolutions.

Chen et al., "NeRV: Neural Representations for Videos", NeurIPS 2021. Follows the paper: the number
in [0, 1] encoded with b = 1.25 and 40 frequencies, a hidden fully connected layer and one that
gives a small image, blocks of convolution, pixel shuffle and GELU, loss 0.7 L1 + 0.3 (1 - SSIM);
then the model's compression: 40 % of the weights pruned by size, the rest trained on, 8 bits a
weight, entropy coding.

Differs: four blocks of stride 2; the width of the fully connected layer and of all blocks follows
from the bytes (TINC sets width and number of fully connected layers); one scale a tensor around
zero, so that pruned weights are zero; range coding under a normal density a tensor for Huffman
codes; more is pruned where the bytes ask for it; values standardised; SSIM with uniform windows;
4 slices a step. Fewer steps (``effort``) at a higher rate.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import partial

import constriction
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.baselines import fields
from benchmarks.baselines.protocol import Array, Coded, Target, timed

_BASE, _FREQUENCIES = 1.25, 40
_BLOCKS = 4
_STRIDE = 2**_BLOCKS
_PRUNED, _MOST_PRUNED = 0.4, 0.95
_BITS = 8
_EXPECTED_BITS = 4.6
_RATE, _SLICES = 5e-3, 4
_PEAK = (1 << (_BITS - 1)) - 1


class Nerv(nn.Module):
    """Slices of a shape (y, x) from their numbers; blocks have ``width`` down to half as many."""

    def __init__(self, width: int, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.small = tuple(-(-n // _STRIDE) for n in shape)
        channels = [width, width, *[max(1, width // 2)] * (_BLOCKS - 1)]
        self.first = nn.Linear(2 * _FREQUENCIES, 2 * width)
        self.second = nn.Linear(2 * width, width * self.small[0] * self.small[1])
        self.blocks = nn.ModuleList(
            nn.Conv2d(a, 4 * b, 3, padding=1) for a, b in itertools.pairwise(channels)
        )
        self.last = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, number: torch.Tensor) -> torch.Tensor:
        """Return slices (n, y, x) for numbers (n,) in [0, 1]."""
        angles = number[:, None] * torch.pi * _BASE ** torch.arange(_FREQUENCIES)
        x = functional.gelu(self.first(torch.cat([angles.sin(), angles.cos()], dim=1)))
        x = functional.gelu(self.second(x)).unflatten(1, (-1, *self.small))
        for block in self.blocks:
            x = functional.gelu(functional.pixel_shuffle(block(x), 2))
        return self.last(x)[:, 0, : self.shape[0], : self.shape[1]]


def loss(restored: torch.Tensor, slices: torch.Tensor, span: float) -> torch.Tensor:
    """Return 0.7 L1 + 0.3 (1 - SSIM) of (n, y, x), windows of 7², values divided by ``span``."""
    a, b = restored[:, None] / span, slices[:, None] / span
    mean = partial(functional.avg_pool2d, kernel_size=7, stride=1)
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    ssim = ssim / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return 0.7 * (a - b).abs().mean() + 0.3 * (1 - ssim.mean())


def _train(
    net: Nerv, unit: torch.Tensor, steps: int, masks: list[torch.Tensor] | None = None
) -> None:
    adam = torch.optim.Adam(net.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    span = float(unit.max() - unit.min())
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        which = torch.randint(len(unit), (_SLICES,), generator=generator)
        error = loss(net(which / max(1, len(unit) - 1)), unit[which], span)
        adam.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        adam.step()
        schedule.step()
        if masks is not None:
            _apply(net, masks)


def _apply(net: Nerv, masks: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for parameter, mask in zip(net.parameters(), masks, strict=True):
            parameter.mul_(mask)


def _masks(net: Nerv, pruned: float) -> list[torch.Tensor]:
    """Return which weights stay, the smallest of all tensors pruned; biases stay."""
    sizes = torch.cat([p.detach().abs().ravel() for p in net.parameters() if p.ndim > 1])
    least = torch.quantile(sizes, pruned) if sizes.numel() < 1 << 24 else sizes.median()
    return [(p.detach().abs() >= least) | (p.ndim == 1) for p in net.parameters()]


def to_bytes(net: Nerv) -> bytes:
    """Return the weights at 8 bits, range coded."""
    coder = constriction.stream.queue.RangeEncoder()
    facts = []
    for parameter in net.parameters():
        values = parameter.detach().numpy().ravel()
        scale = np.float16(np.abs(values).max() / _PEAK + 1e-7)
        symbols = np.clip(np.rint(values / np.float32(scale)), -_PEAK, _PEAK).astype(np.int32)
        share = np.uint16(np.round((symbols == 0).mean() * 65535))
        deviation = np.float16(max(0.3, float(symbols.std())))
        facts.append(np.array([scale, deviation], np.float16).tobytes() + share.tobytes())
        for part, family, *parameters in _models(symbols, share, deviation):
            coder.encode(part, family, *parameters)
    return b"".join(facts) + bytes(coder.get_compressed().tobytes())


def _zero(share: np.uint16) -> constriction.stream.model.Bernoulli:
    chance = float(np.clip(share / 65535, 1e-3, 1 - 1e-3))
    return constriction.stream.model.Bernoulli(chance, perfect=False)


def _models(symbols: Array, share: np.uint16, deviation: np.float16) -> list[tuple[object, ...]]:
    zero = (symbols == 0).astype(np.int32)
    others = symbols[zero == 0]
    normal = constriction.stream.model.QuantizedGaussian(-_PEAK, _PEAK, 0.0, float(deviation))
    return [(zero, _zero(share)), *([(others, normal)] if len(others) else [])]


def load(net: Nerv, payload: bytes) -> None:
    """Set the weights from what :func:`to_bytes` gave."""
    parameters = list(net.parameters())
    coder = constriction.stream.queue.RangeDecoder(
        np.frombuffer(payload[6 * len(parameters) :], np.uint32)
    )
    for number, parameter in enumerate(parameters):
        facts = payload[6 * number : 6 * number + 6]
        scale, deviation = np.frombuffer(facts[:4], np.float16)
        share = np.frombuffer(facts[4:], np.uint16)[0]
        normal = constriction.stream.model.QuantizedGaussian(-_PEAK, _PEAK, 0.0, float(deviation))
        zero = coder.decode(_zero(share), parameter.numel())
        symbols = np.zeros(parameter.numel(), np.float32)
        if (count := int((zero == 0).sum())) > 0:
            symbols[zero == 0] = coder.decode(normal, count)
        with torch.no_grad():
            values = torch.from_numpy(symbols * np.float32(scale))
            parameter.copy_(values.reshape(parameter.shape))


@dataclass(frozen=True, slots=True)
class _Codec:
    name: str = "NeRV"
    library: str = "torch"
    fits: bool = True

    def encode(self, volume: Array, target: Target) -> Coded | None:
        budget = target.budget(volume)
        weights = 8 * (budget - fields.HEADER - 1) / _EXPECTED_BITS
        width = 0
        while _parameters(width + 1, volume) <= weights:
            width += 1
        steps = fields.steps_of(target)
        # The narrowest network is tried too: pruning may take it within the bytes.
        payload, encode_s = timed(
            lambda: self.compress(volume, min(255, max(1, width)), steps, budget)
        )
        if payload is None:
            return None
        decode = partial(self.decompress, payload, volume)
        decoded, decode_s = timed(decode)
        return Coded(
            payload_bytes=len(payload),
            decoded=decoded,
            encode_s=encode_s,
            decode_s=decode_s,
            knob=f"width {payload[fields.HEADER]}",
            decode=decode,
            note=f"{steps} steps, pruned, {_BITS} bits",
        )

    def compress(self, volume: Array, width: int, steps: int, budget: int) -> bytes | None:
        """Fit, prune as much as the bytes ask for, fit on; None if that is too much."""
        generator = fields.ready()
        torch.manual_seed(generator.initial_seed())
        unit, header = fields.standardised(volume)
        net = Nerv(width, (volume.shape[1], volume.shape[2]))
        _train(net, unit, steps)
        start = [p.detach().clone() for p in net.parameters()]
        for pruned in np.arange(_PRUNED, _MOST_PRUNED + 0.01, 0.11):
            with torch.no_grad():
                for parameter, value in zip(net.parameters(), start, strict=True):
                    parameter.copy_(value)
            masks = _masks(net, float(pruned))
            _apply(net, masks)
            if fields.HEADER + 1 + len(to_bytes(net)) > budget:
                continue
            _train(net, unit, max(1, steps // 5), masks)
            payload = header + bytes([width]) + to_bytes(net)
            if len(payload) <= budget:
                return payload
        return None

    def decompress(self, payload: bytes, volume: Array) -> Array:
        """Return the values; of the volume only shape and dtype are used."""
        fields.ready()
        net = Nerv(payload[fields.HEADER], (volume.shape[1], volume.shape[2]))
        load(net, payload[fields.HEADER + 1 :])
        numbers = torch.arange(volume.shape[0]) / max(1, volume.shape[0] - 1)
        with torch.no_grad():
            slices = torch.cat([net(part) for part in numbers.split(8)])
        return fields.destandardised(slices.contiguous().numpy(), payload, volume)


def _parameters(width: int, volume: Array) -> int:
    with torch.device("meta"):
        net = Nerv(width, (volume.shape[1], volume.shape[2]))
    return sum(p.numel() for p in net.parameters())


BASELINES = (_Codec(),)
