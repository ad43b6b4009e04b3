"""SGA+BB: latents of a hyperprior refined for each image, by stochastic Gumbel annealing.

Yang, Bamler and Mandt, "Improving Inference for Neural Image Compression", NeurIPS 2020. Follows
the paper: the loss of a trained mean-scale hyperprior is minimised over the latents of the image
itself; in doing so each latent is rounded up or down at random, with logits -atanh(distance) / τ,
relaxed with Gumbel noise, and τ falls as exp(-0.001 t) from 0.5 (here in as many steps as there
are); Adam at 0.005 (here times the step q). At last latents are rounded and coded.

Left out: bits-back coding (BB) of the hyper-latents, which are coded as they are; they are a small
part of the bytes here, and BB saves a part of that part. Follows TINC: slices one by one.
"""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.baselines.learned import Coder, Hyperprior, bits, multiplier, weighed

_TOP, _LAST = 0.5, 0.1
_RATE = 0.05


def soft_round(x: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a relaxed random choice between floor and ceiling of each value."""
    low = x.detach().floor()
    up = (x - low).clamp(1e-5, 1 - 1e-5)
    logits = -torch.stack([up, 1 - up]).atanh() / temperature
    noise = -torch.empty_like(logits).exponential_().log()
    share = torch.softmax((logits + noise) / temperature, dim=0)
    return low + share[1]


class Intra(nn.Module):
    """A hyperprior over slices, whose latents can be refined."""

    def __init__(self) -> None:
        super().__init__()
        self.codec = Hyperprior(1, 1)
        self.refined: tuple[torch.Tensor, torch.Tensor] | None = None

    def loss(self, clip: torch.Tensor, q: float) -> torch.Tensor:
        """Return rate and weighted distortion of (n, slices, y, x)."""
        slices = clip.flatten(0, 1)[:, None]
        restored, spent = self.codec(slices, q)
        return weighed(restored, slices, spent, q)

    def refine(self, frames: torch.Tensor, q: float, steps: int) -> None:
        """Find better latents of slices (slices, y, x) for the step q."""
        x = frames[:, None]
        with torch.no_grad():
            y = self.codec.analysis(x)
            z = self.codec.hyper_analysis(y)
        y, z = (y / q).requires_grad_(), (z / q).requires_grad_()
        adam = torch.optim.Adam([y, z], _RATE)
        for step in range(steps):
            temperature = _TOP * (_LAST / _TOP) ** (step / max(1, steps - 1))
            y_hat, z_hat = (q * soft_round(v, temperature) for v in (y, z))
            mean, scale = self.codec.prior(z_hat)
            spent = bits(y_hat, mean, scale, q)
            spent = spent + bits(z_hat, *self.codec.hyper(z_hat.shape), q)
            error = (self.codec.synthesis(y_hat) - x).square().sum()
            adam.zero_grad()
            (spent + multiplier(q) * error).backward()
            adam.step()
        self.refined = (y.detach() * q, z.detach() * q)

    def code(
        self, frames: torch.Tensor | None, shape: tuple[int, ...], q: float, coder: Coder
    ) -> torch.Tensor:
        """Return restored slices; from refined latents where there are some."""
        y = z = None
        if frames is not None:
            y, z = self.refined or (self.codec.analysis(frames[:, None]), None)
        latents = self.codec.code_latents(y, z, shape, q, coder)
        restored: torch.Tensor = self.codec.synthesis(latents)
        return restored[:, 0]
