"""Bjøntegaard deltas: the mean distance of two rate-distortion curves where both have points.

Curves are interpolated by piecewise cubic Hermite polynomials (PCHIP) of log-rate, as in ITU-T
HSTP-VID-WPOM (2020): no overshoot, any number of points. G. Bjøntegaard, VCEG-M33 (2001), had one
cubic through four points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points of a codec, by rising rate.

    Attributes
    ----------
    rate : tuple of float
        In any unit, strictly rising.
    psnr : tuple of float
        In dB.
    """

    rate: tuple[float, ...]
    psnr: tuple[float, ...]


def bd_rate(anchor: Curve, test: Curve) -> float | None:
    """Return by how many percent more rate the test takes at equal PSNR, on average.

    Returns
    -------
    float or None
        Negative where the test is better. None where less than two points are left, or the
        ranges of PSNR do not overlap.
    """
    a, b = _rising(anchor), _rising(test)
    mean = _mean_difference((a.psnr, np.log(a.rate).tolist()), (b.psnr, np.log(b.rate).tolist()))
    return None if mean is None else 100 * math.expm1(mean)


def bd_psnr(anchor: Curve, test: Curve) -> float | None:
    """Return by how many dB more the test has at equal rate, on average; None as above."""
    return _mean_difference(
        (np.log(anchor.rate).tolist(), anchor.psnr), (np.log(test.rate).tolist(), test.psnr)
    )


def _rising(curve: Curve) -> Curve:
    """Leave out points that cost more rate than another without a gain: PSNR must rise."""
    kept: list[tuple[float, float]] = []
    for rate, psnr in zip(curve.rate, curve.psnr, strict=True):
        if not kept or psnr > kept[-1][1]:
            kept.append((rate, psnr))
    return Curve(rate=tuple(r for r, _ in kept), psnr=tuple(p for _, p in kept))


_Points = tuple[Sequence[float], Sequence[float]]


def _mean_difference(anchor: _Points, test: _Points) -> float | None:
    """Return the mean of test - anchor over the overlap of both abscissae."""
    if min(len(anchor[0]), len(test[0])) < 2:
        return None
    low = max(anchor[0][0], test[0][0])
    high = min(anchor[0][-1], test[0][-1])
    if high <= low:
        return None
    areas = [float(PchipInterpolator(x, y).integrate(low, high)) for x, y in (anchor, test)]
    return (areas[1] - areas[0]) / (high - low)
