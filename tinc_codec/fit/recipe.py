"""What the fit does and for how long: presets and effort, resolved for one chunk."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tinc_codec.fit.descent import warmed_cosine
from tinc_codec.settings import Settings

# Work of effort 5: multiply-adds per voxel of the chunk, summed over the forward passes of the
# whole fit. Each effort is 100**(1/8) times the one below, 100 from 1 to 9.
_REFERENCE_EFFORT = 5
_WORK = 4.0e5
_EFFORT_FACTOR = 100 ** (1 / 8)
# Passes over the chunk at that effort, least and most; and voxels drawn at a step, at most.
_EPOCHS = (60, 800)
_SAMPLES = 16384
# A step below this many multiply-adds costs more in calls than in arithmetic.
_LEAST_STEP = 2e6

# Candidates for w_0, each tried with a part of the steps, so many at least.
_FREQUENCIES = (10.0, 20.0, 30.0)
_PILOT_SHARE = 20
_LEAST_PILOT = 50

# Share of the steps in which the rate rises.
_WARM = 0.05

PAPER_FREQUENCY = 30.0
# The released milestones need more than the 10,000 steps that its configuration takes on a 64^3
# block; 60,000 converge, and steps of 8,192 voxels lose nothing against 16,384.
PAPER_ITERATIONS = 60_000
PAPER_BATCH = 8_192
PAPER_MILESTONES = (20_000, 50_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One fit.

    Attributes
    ----------
    optimiser : "adam" or "adamax"
        See :mod:`tinc_codec.fit.optimiser`.
    rate : float
        Highest learning rate.
    milestones : tuple of int or None
        Steps at which the rate falls by 0.2; None: a linear warm-up, then a cosine down to 0.
    steps : int
        Optimiser steps.
    samples : int
        Voxels drawn at each step.
    frequencies : tuple of tuple of float
        Candidates for w_0 of the first layer, SIREN's factor of the coordinates, one value per
        axis; more than one are tried by short pilot fits.
    paper : bool
        Intensities in [0, 100] and the SIREN parametrisation of the paper, instead of
        standardised intensities and weights that w_0 is folded into.
    """

    optimiser: str
    rate: float
    milestones: tuple[int, ...] | None
    steps: int
    samples: int
    frequencies: tuple[tuple[float, ...], ...]
    paper: bool

    def pilot(self, frequencies: tuple[float, ...]) -> Recipe:
        """Return the short version of this fit that tries one candidate."""
        steps = max(_LEAST_PILOT, self.steps // _PILOT_SHARE)
        return replace(self, steps=min(steps, self.steps), frequencies=(frequencies,))

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        if self.milestones is not None:
            return self.rate * 0.2 ** sum(step >= m for m in self.milestones)
        return self.rate * warmed_cosine((step + 0.5) / self.steps, _WARM)


def candidate_frequencies(shape: tuple[int, ...]) -> tuple[tuple[float, ...], ...]:
    """Return first-layer frequencies to try: low to high, per box side or per voxel.

    Which is best depends on the spectrum of the chunk and on the size of the network; a pilot of
    1/20 of the steps ranks them almost as the whole fit does. Axes of different lengths may have
    the same frequency along their whole length, or the same frequency per voxel.
    """
    longest = max(shape)
    ways = [(1.0,) * len(shape)]
    if min(shape) < 0.7 * longest:
        ways.append(tuple(n / longest for n in shape))
    return tuple(tuple(w * f for f in way) for way in ways for w in _FREQUENCIES)


def share_of_work(effort: int, of: int) -> float:
    """Return which part of an effort's work another effort's is; it may be below 1, for trials."""
    return float(_EFFORT_FACTOR ** (effort - of))


def recipe_for(
    settings: Settings, shape: tuple[int, ...], macs_per_voxel: float, share: float = 1.0
) -> Recipe:
    """Return the recipe of a chunk.

    Parameters
    ----------
    settings : Settings
        Preset, effort and explicit iterations.
    shape : tuple of int
        Voxels to fit along each axis.
    macs_per_voxel : float
        Multiply-adds of one evaluation.
    share : float
        Part of the effort's work to be done.
    """
    voxels = math.prod(shape)
    scale = share * share_of_work(settings.effort, _REFERENCE_EFFORT)
    if settings.preset == "paper":
        milestones = PAPER_MILESTONES if settings.milestones == "auto" else settings.milestones
        iterations = max(1, round(PAPER_ITERATIONS * scale))
        return Recipe(
            optimiser="adamax",
            rate=1e-3,
            milestones=milestones,
            steps=iterations if settings.iterations == "auto" else settings.iterations,
            samples=min(PAPER_BATCH, voxels),
            frequencies=((PAPER_FREQUENCY,) * len(shape),),
            paper=True,
        )
    samples = min(voxels, round(max(voxels / 128, _LEAST_STEP / macs_per_voxel)), _SAMPLES)
    epochs = min(max(_WORK / macs_per_voxel, _EPOCHS[0]), _EPOCHS[1]) * scale
    steps = max(50, round(epochs * voxels / samples))
    return Recipe(
        optimiser="adam",
        rate=2e-2,
        milestones=None,
        steps=steps if settings.iterations == "auto" else settings.iterations,
        samples=samples,
        frequencies=candidate_frequencies(shape),
        paper=False,
    )
