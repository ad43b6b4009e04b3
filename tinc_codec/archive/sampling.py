"""Chunks drawn from a volume, by which all of them are judged.

The few are a stratified sample (double sampling, Cochran, *Sampling Techniques*, 1977, ch. 12): of
some hundred chunks drawn at random one plane is read; chunks whose planes are alike in mean and
spread form strata, empty ones a stratum of their own; from each, as many chunks are fitted as its
size deserves, but at least two, for their difference tells how sure the estimate is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region, grid_shape, middle_plane, region_of
from tinc_codec.archive.sources import Source

_LOOKS = 10  # planes looked at for each chunk fitted
_MEAN_CLASSES, _SPREAD_CLASSES = 2, 3  # of the chunks that are not empty, at most
_Z = 1.96  # standard errors within which 95 % of a normal distribution lie
_SHARES = (0.05, 0.5, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Chunks to fit, and what they stand for.

    Attributes
    ----------
    regions : tuple of tuple of slice
        Voxels of each chunk.
    strata : ndarray of int64, one for each chunk
        Number of its stratum.
    shares : ndarray of float64, one for each stratum
        Its share of the chunks looked at.
    looked_at, chunk_count : int
        Chunks of which a plane was read, and those of the volume.
    empty_share : float
        Share of the chunks looked at whose plane holds one value.
    """

    regions: tuple[Region, ...]
    strata: NDArray[np.int64]
    shares: NDArray[np.float64]
    looked_at: int
    empty_share: float
    chunk_count: int

    def mean(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the mean over all chunks, and half the width of its 95 % interval.

        The latter is NaN where one chunk of each stratum is all there is to judge by.
        """
        measured = np.asarray(values, np.float64)
        groups = [measured[self.strata == h] for h in range(len(self.shares))]
        means = np.array([group.mean() for group in groups])
        sizes = np.array([group.size for group in groups])
        mean = float(self.shares @ means)
        # A stratum with one chunk tells nothing of its spread: it takes that of the others.
        squares = np.array([((g - g.mean()) ** 2).sum() for g in groups])
        freedom = measured.size - len(groups)
        pooled = squares.sum() / freedom if freedom else math.nan
        spread = np.where(sizes > 1, squares / np.maximum(sizes - 1, 1), pooled)
        left = 1 - sizes / (self.shares * self.chunk_count)
        spread[left <= 0] = 0  # all of it fitted
        within = float((self.shares**2 * spread / sizes * np.maximum(0, left)).sum())
        seen = 1 - self.looked_at / self.chunk_count
        between = float(self.shares @ (means - mean) ** 2) / self.looked_at * seen
        return mean, _Z * math.sqrt(within + between)

    def quantiles(self, values: Sequence[float]) -> list[float]:
        """Return the quantiles over all chunks at the shares above."""
        counts = np.bincount(self.strata, minlength=len(self.shares))
        weights = (self.shares / counts)[self.strata]
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order]) / weights.sum()
        at = np.minimum(np.searchsorted(reached, _SHARES), len(order) - 1)
        return [float(np.asarray(values)[order[k]]) for k in at]


def draw(source: Source, edges: tuple[int, ...], sample: int, seed: int) -> Sample:
    """Choose the chunks to fit, from planes of more of them.

    Parameters
    ----------
    source : Source
        The volume, of which a plane of ten times ``sample`` chunks is read.
    edges : tuple of int
        Of a chunk, in voxels.
    sample : int
        Chunks to choose, about; see :func:`tinc_codec.archive.estimate`.
    seed : int
        Of the draw.

    Raises
    ------
    OSError
        If the source cannot be read.
    """
    rng = np.random.default_rng(seed)
    grid = grid_shape(source.shape, edges)
    count = math.prod(grid)
    looked_at = min(count, _LOOKS * sample)
    chosen = np.sort(rng.choice(count, looked_at, replace=False))
    positions = np.stack(np.unravel_index(chosen, grid), axis=1).tolist()
    regions = [region_of(tuple(position), source.shape, edges) for position in positions]
    looks = np.array([_look(source, region) for region in regions])
    strata = _strata(looks, sample)
    counts = np.bincount(strata)
    # Proportional to the strata, rounded, and at least two of each.
    wanted = np.round(counts * min(sample, looked_at) / looked_at).astype(int)
    wanted = np.maximum(min(sample, 2), wanted)
    picked = np.concatenate(
        [
            rng.permutation(np.flatnonzero(strata == h))[: min(wanted[h], counts[h])]
            for h in range(len(counts))
        ]
    )
    return Sample(
        regions=tuple(regions[k] for k in picked),
        strata=strata[picked],
        shares=counts / looked_at,
        looked_at=looked_at,
        empty_share=float((looks[:, 1] == 0).mean()),
        chunk_count=count,
    )


def _look(source: Source, region: Region) -> tuple[float, float]:
    """Return mean and standard deviation of the middle plane of a chunk."""
    voxels = source.read(middle_plane(region)).astype(np.float64)
    voxels = voxels[np.isfinite(voxels)]
    return (float(voxels.mean()), float(voxels.std())) if voxels.size else (0.0, 0.0)


def _strata(looks: NDArray[np.float64], sample: int) -> NDArray[np.int64]:
    """Return the stratum of each chunk, numbered from 0 without gaps.

    There are few enough of them for two chunks each in a sample of 4 or more.
    """
    means, spreads = looks.T
    many = sample >= 2 * (1 + _MEAN_CLASSES * _SPREAD_CLASSES)
    mean_classes = _MEAN_CLASSES if many else 1
    spread_classes = max(1, min(_SPREAD_CLASSES, sample // 2 - 1))
    filled = spreads > 0
    classes = np.zeros(len(looks), np.int64)  # 0: empty
    if filled.any():
        bright = _quantile_class(means[filled], mean_classes)
        rough = _quantile_class(spreads[filled], spread_classes)
        classes[filled] = 1 + spread_classes * bright + rough
    return np.unique(classes, return_inverse=True)[1].astype(np.int64)


def _quantile_class(values: NDArray[np.float64], classes: int) -> NDArray[np.int64]:
    cuts = np.quantile(values, np.arange(1, classes) / classes)
    return np.searchsorted(cuts, values, side="left").astype(np.int64)
