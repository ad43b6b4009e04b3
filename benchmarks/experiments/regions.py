"""The 64 sub-regions of a block (paper sec. 5.3), how alike they are, and spectra."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.protocol import Array

_CUTS = 4
_C1, _C2 = 0.01**2, 0.03**2


def regions(block: Array) -> list[tuple[slice, ...]]:
    """Return up to 4 × 4 × 4 equal boxes in the order of rows; what is left over is cut off."""
    cuts = [min(_CUTS, n) for n in block.shape]
    sides = [n // c for n, c in zip(block.shape, cuts, strict=True)]
    return [
        tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, sides, strict=True))
        for place in product(*map(range, cuts))
    ]


def similarity(block: Array) -> NDArray[np.float64]:
    """Return each sub-region's mean SSIM to the others: its non-local similarity (Fig. 5).

    One window over the whole sub-region, peak the block's range.
    """
    unit = (block - float(block.min())) / float(np.ptp(block))
    values = np.stack([unit[box].ravel() for box in regions(block)])
    mean = values.mean(axis=1)
    centred = values - mean[:, None]
    covariance = centred @ centred.T / values.shape[1]
    variance = np.diag(covariance)
    luminance = (2 * np.outer(mean, mean) + _C1) / (np.add.outer(mean**2, mean**2) + _C1)
    structure = (2 * covariance + _C2) / (np.add.outer(variance, variance) + _C2)
    alike = luminance * structure
    others = len(values) - 1
    result: NDArray[np.float64] = (alike.sum(axis=1) - np.diag(alike)) / others
    return result


def high_frequencies(block: Array) -> float:
    """Return the share of spectral magnitude beyond a quarter of the band, the mean left out.

    "The percentage of high frequency information" by which the paper (sec. 5.3) tells complex
    data; SCI's exact measure is not in its text, so that this one is ours.
    """
    spectrum = np.abs(np.fft.fftn(block - block.mean(dtype=np.float64)))
    low = np.ones(block.shape, bool)
    for axis, n in enumerate(block.shape):
        shape = [1] * block.ndim
        shape[axis] = n
        low &= (np.abs(np.fft.fftfreq(n)) <= 0.125).reshape(shape)
    return float(spectrum[~low].sum() / spectrum.sum())
