"""Compiled loops of the metrics: imported where they are used, since numba takes its time."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinc_codec.compiled import compiled

# Of two volumes, their squares and their product.
SUMS = 5
_K1, _K2 = 0.01, 0.03  # stabilisers of SSIM (Wang et al. 2004)


@compiled()
def tally(a: Any, b: Any, threshold: float, kinds: Any) -> bool:
    """Add voxels, squares, largest error, lowest and highest, of dark and bright ones.

    False where a voxel is not finite.
    """
    for i in range(len(a)):
        u, difference = a[i], abs(b[i] - a[i])
        if not np.isfinite(difference):
            return False
        kind = kinds[1 if u >= threshold else 0]
        kind[0] += 1
        kind[1] += difference * difference
        kind[2] = max(kind[2], difference)
        kind[3] = min(kind[3], u)
        kind[4] = max(kind[4], u)
    return True


@compiled()
def add_plane(sums: Any, pair: Any, sign: float) -> None:
    """Add two planes, their squares and their product to sums."""
    for y in range(pair.shape[1]):
        for x in range(pair.shape[2]):
            u, v = pair[0, y, x], pair[1, y, x]
            sums[0, y, x] += sign * u
            sums[1, y, x] += sign * v
            sums[2, y, x] += sign * (u * u)
            sums[3, y, x] += sign * (v * v)
            sums[4, y, x] += sign * (u * v)


@compiled()
def plane_of_windows(
    sums: Any, high: int, wide: int, n: int, unbias: float, middle: float
) -> float:
    """Return the sum of the similarities of windows, of planes that are summed up already."""
    c1, c2 = _K1**2, _K2**2
    _, height, width = sums.shape
    rows = np.zeros((SUMS, width))
    total = 0.0
    for y in range(height):
        for k in range(SUMS):
            for x in range(width):
                rows[k, x] += sums[k, y, x]
        if y < high - 1:
            continue
        a = b = aa = bb = ab = 0.0
        for x in range(width):
            a, b, aa = a + rows[0, x], b + rows[1, x], aa + rows[2, x]
            bb, ab = bb + rows[3, x], ab + rows[4, x]
            if x < wide - 1:
                continue
            p, q = a / n, b / n
            varied = unbias * (aa / n - p * p + bb / n - q * q)
            together = unbias * (ab / n - p * q)
            # The means enter as they are in the data, not about the middle.
            p, q = p + middle, q + middle
            luminance = (2 * p * q + c1) / (p * p + q * q + c1)
            total += luminance * (2 * together + c2) / (varied + c2)
            left = x - wide + 1
            a, b, aa = a - rows[0, left], b - rows[1, left], aa - rows[2, left]
            bb, ab = bb - rows[3, left], ab - rows[4, left]
        for k in range(SUMS):
            for x in range(width):
                rows[k, x] -= sums[k, y - high + 1, x]
    return total
