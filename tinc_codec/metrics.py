"""Fidelity of a decoded volume: PSNR, maximum error, SSIM, the paper's Acc.τ, block faces.

Everything is summed in float64, a slab or some rows of a plane at a time, so that unsigned integers
never wrap and a volume is never copied whole. This module knows nothing else of the package.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_SLAB_VOXELS = 1 << 21  # 16 MiB of float64 for each array in work
_BAND_VOXELS = 1 << 18  # of a plane; some twenty of them are in work
# Of the histogram that a threshold is taken from; integers of so many bytes are counted first.
_BINS, _COUNTED_BYTES = 256, 2
_MOST_AXES = 3  # that a window of SSIM spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """What a comparison leaves behind: enough for PSNR, and parts can be added up.

    Attributes
    ----------
    voxels : int
        Voxels compared: the ones that are finite in the reference.
    squared_error : float
        Sum of squared differences. Infinite if a voxel that is NaN or infinite in either volume
        differs between the two.
    max_error : float
        Largest absolute difference; infinite in the same case.
    low, high : float
        Smallest and largest finite value of the reference; NaN when there is none.
    """

    voxels: int = 0
    squared_error: float = 0.0
    max_error: float = 0.0
    low: float = math.nan
    high: float = math.nan

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            voxels=self.voxels + other.voxels,
            squared_error=self.squared_error + other.squared_error,
            max_error=max(self.max_error, other.max_error),
            low=float(np.fmin(self.low, other.low)),
            high=float(np.fmax(self.high, other.high)),
        )

    @property
    def data_range(self) -> float:
        """Largest minus smallest finite value of the reference; 0 when there is none."""
        return 0.0 if math.isnan(self.low) else self.high - self.low

    @property
    def rmse(self) -> float:
        """Root mean square error; 0 where nothing was compared."""
        if math.isinf(self.squared_error):
            return math.inf
        return math.sqrt(self.squared_error / self.voxels) if self.voxels else 0.0

    def psnr(self, data_range: float | None = None) -> float:
        """Return the peak signal-to-noise ratio in dB.

        Parameters
        ----------
        data_range : float, optional
            The peak; by default :attr:`data_range`.

        Returns
        -------
        float
            Infinite when nothing differs, minus infinite when something does and the peak is 0.
        """
        if self.squared_error == 0:
            return math.inf
        peak = self.data_range if data_range is None else float(data_range)
        if peak == 0 or math.isinf(self.squared_error):
            return -math.inf
        return 10 * math.log10(peak**2 * self.voxels / self.squared_error)


def errors(reference: ArrayLike, test: ArrayLike) -> Errors:
    """Compare two volumes.

    Parameters
    ----------
    reference, test : array_like
        Real volumes of one shape.

    Returns
    -------
    Errors

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return sum(errors_by_threshold(reference, test, -math.inf), Errors())


def errors_by_threshold(
    reference: ArrayLike, test: ArrayLike, threshold: float
) -> tuple[Errors, Errors]:
    """Compare two volumes where the reference is at or above a threshold, and where it is not.

    Parameters
    ----------
    reference, test : array_like
        Real volumes of one shape.
    threshold : float
        In the data's unit; NaN: nothing is at or above it.

    Returns
    -------
    bright, dark : Errors

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    from tinc_codec.metric_loops import tally

    a, b = _pair(reference, test)
    bright, dark = Errors(), Errors()
    for slab in _slabs(a.shape):
        x, y = a[slab].astype(np.float64), b[slab].astype(np.float64)
        kinds = np.array([[0, 0, 0, math.inf, -math.inf]] * 2)
        if tally(x.reshape(-1), y.reshape(-1), threshold, kinds):
            found = [_of_tally(*kind) for kind in kinds.tolist()]
        else:
            mask = x >= threshold
            found = [_slab_errors(x[kind], y[kind]) for kind in (~mask, mask)]
        dark, bright = dark + found[0], bright + found[1]
    return bright, dark


def _of_tally(voxels: float, squares: float, largest: float, low: float, high: float) -> Errors:
    if not voxels:
        return Errors()
    return Errors(voxels=int(voxels), squared_error=squares, max_error=largest, low=low, high=high)


def _slab_errors(a: NDArray[np.float64], b: NDArray[np.float64]) -> Errors:
    finite = np.isfinite(a)
    alike = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    a, b = a[finite], b[finite]
    low, high = (float(a.min()), float(a.max())) if a.size else (math.nan, math.nan)
    if not (alike and np.isfinite(b).all()):
        return Errors(voxels=a.size, squared_error=math.inf, max_error=math.inf, low=low, high=high)
    if not a.size:
        return Errors()
    difference = np.abs(b - a).ravel()
    return Errors(
        voxels=a.size,
        squared_error=float(np.einsum("i,i", difference, difference)),
        max_error=float(difference.max()),
        low=low,
        high=high,
    )


def psnr(reference: ArrayLike, test: ArrayLike, data_range: float | None = None) -> float:
    """Return the peak signal-to-noise ratio in dB.

    Parameters
    ----------
    reference, test : array_like
        Real volumes of one shape. Voxels that are not finite in the reference must be the same in
        the test, and do not count.
    data_range : float, optional
        The peak; by default the largest minus the smallest value of the reference.

    Returns
    -------
    float
        Infinite when the volumes are equal.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return errors(reference, test).psnr(data_range)


def max_error(reference: ArrayLike, test: ArrayLike) -> float:
    """Return the largest absolute difference, in the data's unit.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    return errors(reference, test).max_error


def accuracy(reference: ArrayLike, test: ArrayLike, threshold: float) -> float:
    """Return Acc.τ, the share of voxels whose binarisation at a threshold agrees.

    The measure for sparse structures in the TINC paper (CVPR 2023, sec. 5.2): a voxel is set when
    it is at or above the threshold.

    Parameters
    ----------
    reference, test : array_like
        Real volumes of one shape.
    threshold : float
        τ, in the data's unit.

    Returns
    -------
    float
        From 0 to 1; 1 for empty volumes.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    a, b = _pair(reference, test)
    agreeing = sum(
        int(np.count_nonzero((a[slab] >= threshold) == (b[slab] >= threshold)))
        for slab in _slabs(a.shape)
    )
    return agreeing / a.size if a.size else 1.0


def otsu_threshold(volume: ArrayLike) -> float:
    """Return the value that parts a volume in two classes best (Otsu 1979), from 256 bins.

    Parameters
    ----------
    volume : array_like
        Real values, not empty; those that are not finite do not count.

    Returns
    -------
    float
        In the data's unit: the centre of the darker class's last bin, as in scikit-image. Voxels
        above it are foreground. Of a flat volume, its value.

    Raises
    ------
    ValueError
        If there is no finite value.
    """
    values, times = _distinct(np.asarray(volume))
    if not values.size:
        raise ValueError("a volume without finite values has no threshold")
    halves = values.astype(np.float64) / 2  # differences stay finite
    low, high = halves.min(), halves.max()
    if low == high:
        return float(values.flat[0])
    bins = np.minimum((halves - low) / (high - low) * _BINS, _BINS - 1).astype(np.int64)
    counts = np.bincount(bins, times, minlength=_BINS)
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * np.arange(_BINS))
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(2 * (low + (0.5 + np.argmax(between)) * ((high - low) / _BINS)))


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return finite values, and how often each occurs, or None for once.

    Small integers, of which there are few, are counted.
    """
    if values.dtype.kind == "f":
        return values[np.isfinite(values)], None
    if values.dtype.itemsize > _COUNTED_BYTES or not values.size:
        return values.reshape(-1), None
    low = int(values.min())
    times = np.bincount(values.reshape(-1).astype(np.int64) - low)
    there = np.flatnonzero(times)
    return there + low, times[there]


def block_jump(reference: ArrayLike, test: ArrayLike, faces: Sequence[Sequence[int]]) -> float:
    """Return how much more a volume jumps at block faces than the reference does there.

    The mean absolute difference between the voxels on both sides of the faces, over that of the
    next pairs of voxels on each side of a face; and that quotient over the reference's. A measure
    of blocking artefacts in the manner of Wang, Bovik and Evans (2000).

    Parameters
    ----------
    reference, test : array_like
        Real, finite volumes of one shape.
    faces : sequence of sequences of int
        For each axis, the first index after each face; at least 2 and at most the length less 2.

    Returns
    -------
    float
        1 where faces cannot be told from other places, above where they show. NaN without faces,
        or where the reference or the test does not change near them.

    Raises
    ------
    ValueError
        If the shapes differ, there is not a sequence for each axis, or a face is too near a border.
    """
    a, b = _pair(reference, test)
    if len(faces) != a.ndim:
        raise ValueError(f"faces of {len(faces)} axes were given for {a.ndim} axes")
    return relative_jump(jump_at(b, faces), jump_at(a, faces))


def relative_jump(test: float, reference: float) -> float:
    """Return test / reference, two values of :func:`jump_at`; NaN where the reference is 0."""
    return test / reference if reference > 0 else math.nan


def jump_at(volume: NDArray[Any], faces: Sequence[Sequence[int]]) -> float:
    """Return how much a volume changes at faces, over how much it does beside them.

    Parameters
    ----------
    volume : array
        Real and finite.
    faces
        As in :func:`block_jump`, whose errors this raises too.
    """
    at, near, planes = 0.0, 0.0, 0
    for axis, positions in enumerate(faces):
        for face in positions:
            if not 2 <= face <= volume.shape[axis] - 2:
                raise ValueError(
                    f"face {face} on axis {axis} must be from 2 to {volume.shape[axis] - 2}"
                )
            window = np.take(volume, range(face - 2, face + 2), axis=axis).astype(np.float64)
            steps = np.moveaxis(np.abs(np.diff(window, axis=axis)), axis, 0)
            at += float(steps[1].sum())
            near += float(steps[0].sum() + steps[2].sum()) / 2
            planes += 1
    return at / near if planes and near > 0 else math.nan


def ssim(
    reference: ArrayLike,
    test: ArrayLike,
    data_range: float | None = None,
    *,
    ndim: int = 3,
    window: int = 7,
) -> float:
    """Return the mean structural similarity over the last axes, with a uniform window.

    Wang et al. 2004 with sample covariances, as scikit-image computes it without Gaussian weights.
    Windows lie wholly inside the volume. An axis shorter than the window takes the largest odd
    one that fits.

    Parameters
    ----------
    reference, test : array_like
        Real, finite volumes of one shape.
    data_range : float, optional
        The peak; by default the largest minus the smallest value of the reference.
    ndim : int
        Trailing axes that a window spans: 3 for volumes, 2 for the mean over slices that the TINC
        paper reports, 1 for lines. Axes before them only count as more slices.
    window : int
        Voxels along an edge of the window; odd.

    Returns
    -------
    float
        At most 1, which equal volumes have.

    Raises
    ------
    ValueError
        If the shapes differ, the window is even or below 1, or ndim is not 1, 2 or 3.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window={window} must be odd and positive")
    if not 1 <= ndim <= _MOST_AXES:
        raise ValueError(f"ndim={ndim} must be from 1 to {_MOST_AXES}")
    a, b = _pair(reference, test)
    if data_range is None:
        data_range = errors(a, a).data_range
    if data_range == 0:
        return 1.0 if np.array_equal(a, b) else 0.0
    spatial = a.shape[max(a.ndim - ndim, 0) :]
    # Axes that are not there have one voxel: the first, and of a line the last.
    depth, height, width = {0: (1, 1, 1), 1: (1, *spatial, 1), 2: (1, *spatial)}.get(
        len(spatial), spatial
    )
    stack = (-1, depth, height, width)
    windows = tuple(min(window, n - 1 + n % 2) for n in stack[1:])
    total, count = 0.0, 0
    for u, v in zip(a.reshape(stack), b.reshape(stack), strict=True):
        for rows in _overlapping((height, width), windows[1]):
            found = _similarities(u[:, rows], v[:, rows], windows, float(data_range))
            total, count = total + found[0], count + found[1]
    return total / count


def _similarities(
    a: NDArray[Any], b: NDArray[Any], windows: tuple[int, ...], data_range: float
) -> tuple[float, int]:
    """Return the sum over all windows, and how many there are."""
    from tinc_codec.metric_loops import SUMS, add_plane, plane_of_windows

    # About zero and of the order of one: the running sums then lose no digits.
    middle = float(a.flat[0])
    sums = np.zeros((SUMS, *a.shape[1:]))
    within: deque[NDArray[np.float64]] = deque()
    deep, high, wide = windows
    n = math.prod(windows)
    unbias = n / max(n - 1, 1)
    total = 0.0
    for planes in zip(a, b, strict=True):
        pair = (np.stack(planes).astype(np.float64) - middle) / data_range
        add_plane(sums, pair, 1.0)
        within.append(pair)
        if len(within) == deep:
            total += plane_of_windows(sums, high, wide, n, unbias, middle / data_range)
            add_plane(sums, within.popleft(), -1.0)
    return total, math.prod(k - w + 1 for k, w in zip(a.shape, windows, strict=True))


def _pair(reference: ArrayLike, test: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    a, b = np.asarray(reference), np.asarray(test)
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: reference {a.shape}, test {b.shape}")
    return a, b


def _slabs(shape: tuple[int, ...]) -> Iterator[Any]:
    if not shape:
        yield ...
        return
    rows = max(1, _SLAB_VOXELS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, start + rows)


def _overlapping(shape: tuple[int, int], window: int) -> Iterator[slice]:
    """Rows of a plane that share window - 1 with the next, so that each window lies in just one."""
    height, width = shape
    rows = max(1, _BAND_VOXELS // max(1, width))
    for start in range(0, height - window + 1, rows):
        yield slice(start, min(start + rows + window - 1, height))
