"""Networks that predict each slice from the one before: SSF's and DVC's.

Scale-space flow (Agustsson et al., CVPR 2020). Follows the paper: three autoencoders, of the first
slice, of the flow and of the residual; the flow's has the slice and the decoded reference as input
and gives displacement and scale; the reference is blurred to a stack of five Gaussians besides
itself and sampled trilinearly; no motion estimation apart; one loss for all.

DVC (Lu et al., CVPR 2019). Follows the paper: motion estimated by a network of its own, its
displacements coded by an autoencoder, bilinear warping, a network that refines the warped
reference, an autoencoder of the residual; one loss for all. Differs: a small convolutional
estimator in place of a pre-trained SpyNet; a hyperprior for motion too; the first slice by an
autoencoder as SSF's, where TINC's comparison took JPEG.

Of both, the group of pictures is the whole volume, and sizes are those of
:mod:`benchmarks.baselines.learned`.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from benchmarks.baselines.learned import CHANNELS, Coder, Hyperprior, weighed

_LEVELS = 5
_SIGMA = 1.5


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = min(int(3 * sigma + 0.5), x.shape[-1] - 1, x.shape[-2] - 1)
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    taps = (taps / taps.sum())[None, None, None]
    x = functional.conv2d(functional.pad(x, (radius, radius, 0, 0), mode="reflect"), taps)
    taps = taps.transpose(2, 3)
    return functional.conv2d(functional.pad(x, (0, 0, radius, radius), mode="reflect"), taps)


def _places(flow: torch.Tensor) -> torch.Tensor:
    """Return sampling places (n, y, x, 2) in [-1, 1] for displacements (n, 2, y, x) in pixels."""
    rows, columns = flow.shape[2:]
    y = torch.arange(rows)[:, None] + flow[:, 1]
    x = torch.arange(columns) + flow[:, 0]
    return torch.stack([2 * x / (columns - 1) - 1, 2 * y / (rows - 1) - 1], dim=-1)


def warp(reference: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return a reference displaced by (n, 2, y, x) pixels, bilinearly."""
    places = _places(flow)
    return functional.grid_sample(
        reference, places, mode="bilinear", padding_mode="border", align_corners=True
    )


def scale_space_warp(reference: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """Return a reference sampled in its scale space at (n, 3, y, x): displacement and scale."""
    levels = [reference]
    levels += [_blur(reference, _SIGMA * 2.0**level) for level in range(_LEVELS)]
    volume = torch.stack(levels, dim=2)
    scale = flow[:, 2:].clamp(-1, 1).permute(0, 2, 3, 1)
    places = torch.cat([_places(flow[:, :2]), scale], dim=-1)[:, None]
    warped = functional.grid_sample(
        volume, places, mode="bilinear", padding_mode="border", align_corners=True
    )
    return warped[:, :, 0]


class _Video(nn.Module):
    """The first slice alone, each later one by its prediction and a residual."""

    first: Hyperprior
    motion: Hyperprior
    residual: Hyperprior

    def seen(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return what the autoencoder of motion gets."""
        raise NotImplementedError

    def predict(self, reference: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Return the prediction."""
        raise NotImplementedError

    def loss(self, clip: torch.Tensor, q: float) -> torch.Tensor:
        """Return rate and weighted distortion of (n, slices, y, x)."""
        restored, spent = self.first(clip[:, :1], q)
        slices = [restored]
        for number in range(1, clip.shape[1]):
            x, reference = clip[:, number : number + 1], slices[-1]
            flow, motion_bits = self.motion(self.seen(x, reference), q)
            predicted = self.predict(reference, flow)
            residual, residual_bits = self.residual(x - predicted, q)
            slices.append(predicted + residual)
            spent = spent + motion_bits + residual_bits
        return weighed(torch.cat(slices, dim=1), clip, spent, q)

    def code(
        self, frames: torch.Tensor | None, shape: tuple[int, ...], q: float, coder: Coder
    ) -> torch.Tensor:
        """Return restored slices (slices, y, x)."""
        size = (1, *shape[1:])
        given = [None] * shape[0] if frames is None else list(frames[:, None, None])
        slices = [self.first.code(given[0], size, q, coder)]
        for x in given[1:]:
            reference = slices[-1]
            seen = None if x is None else self.seen(x, reference)
            predicted = self.predict(reference, self.motion.code(seen, size, q, coder))
            change = None if x is None else x - predicted
            slices.append(predicted + self.residual.code(change, size, q, coder))
        return torch.cat(slices)[:, 0]


class ScaleSpaceFlow(_Video):
    """SSF's network."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.motion, self.residual = (
            Hyperprior(1, 1),
            Hyperprior(2, 3),
            Hyperprior(1, 1),
        )

    def seen(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return slice and reference."""
        return torch.cat([x, reference], dim=1)

    def predict(self, reference: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Return the reference warped in its scale space."""
        # A scale of -1 is the reference itself: at the start there is no blur.
        return scale_space_warp(reference, torch.cat([flow[:, :2], flow[:, 2:] - 1], dim=1))


class Dvc(_Video):
    """DVC's network."""

    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.first, self.motion, self.residual = (
            Hyperprior(1, 1),
            Hyperprior(2, 2),
            Hyperprior(1, 1),
        )
        self.estimate = nn.Sequential(
            nn.Conv2d(2, c, 7, 2, 3),
            nn.LeakyReLU(),
            nn.Conv2d(c, c, 5, 2, 2),
            nn.LeakyReLU(),
            nn.Conv2d(c, 2, 5, 1, 2),
            nn.Upsample(scale_factor=4, mode="bilinear"),
        )
        self.refine = nn.Sequential(
            nn.Conv2d(4, c, 3, 1, 1), nn.LeakyReLU(), nn.Conv2d(c, 1, 3, 1, 1)
        )

    def seen(self, x: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        """Return the estimated motion."""
        motion: torch.Tensor = self.estimate(torch.cat([x, reference], dim=1))
        return motion

    def predict(self, reference: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        """Return the warped and refined reference."""
        warped = warp(reference, flow)
        refined: torch.Tensor = self.refine(torch.cat([warped, reference, flow], dim=1))
        return warped + refined
