"""A generated volume that looks like light-sheet microscopy of tissue, for demos and tests."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tinc_codec.errors import InvalidSetting

Field = NDArray[np.float32]
Point = NDArray[np.float64]

_MARGIN = 8  # voxels generated beyond each face and cropped: objects run on, filters wrap unseen
_PSF = (1.5, 0.8, 0.8)  # standard deviation of the blur in voxels; worst along the detection axis
_GAIN, _OFFSET, _READ_NOISE = 2.2, 100.0, 1.6  # of an sCMOS camera: counts a photon, counts, counts
_VOXELS_PER_CELL = 4_600
_VOXELS_PER_VESSEL = 160_000


def phantom(shape: tuple[int, ...] = (128, 128, 128), seed: int = 0) -> NDArray[np.uint16]:
    """Return a volume of vessels, cells, neurites and autofluorescence, as a camera would see it.

    Vessels are branching tubes with a bright wall, cells are blobs of widely differing brightness
    in clusters, neurites are thin beaded random walks from some of the cells, autofluorescence is
    smooth. The whole is blurred by an anisotropic point-spread function and gets shot noise, read
    noise and a camera offset.

    Parameters
    ----------
    shape : tuple of int
        Voxels along z, y and x, each at least 1.
    seed : int
        The same shape and seed give the same volume (for one numpy version).

    Returns
    -------
    ndarray of uint16
        Camera counts, C order.

    Raises
    ------
    InvalidSetting
        If the shape is not three positive sizes.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise InvalidSetting(f"shape={shape} must be three sizes of at least 1 voxel")
    rng = np.random.default_rng(seed)
    padded = tuple(n + 2 * _MARGIN for n in shape)

    tissue = _smooth_noise(rng, padded, 22.0)
    photons = 55 * np.exp(0.4 * tissue + 0.08 * _smooth_noise(rng, padded, 2.5))
    _paint_vessels(rng, photons)
    somata = _paint_cells(rng, photons, density=tissue)
    _paint_neurites(rng, photons, somata)

    inner = tuple(slice(_MARGIN, _MARGIN + n) for n in shape)
    seen = np.maximum(_blur(photons, _PSF)[inner], 0)
    counts = rng.poisson(seen) * _GAIN + rng.normal(_OFFSET, _READ_NOISE, shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def _blur(volume: Field, sigma: tuple[float, ...]) -> Field:
    """Gaussian blur with periodic borders; sigma in voxels."""
    spectrum = np.fft.rfftn(volume)
    for axis, (n, s) in enumerate(zip(volume.shape, sigma, strict=True)):
        frequency = np.fft.rfftfreq(n) if axis == volume.ndim - 1 else np.fft.fftfreq(n)
        response = np.exp(-2 * (math.pi * s * frequency) ** 2)
        spectrum *= response.reshape([-1 if k == axis else 1 for k in range(volume.ndim)])
    blurred = np.fft.irfftn(spectrum, s=volume.shape, axes=range(volume.ndim))
    return blurred.astype(np.float32)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Field:
    """Gaussian noise that varies over `scale` voxels; mean 0, standard deviation 1."""
    noise = _blur(rng.standard_normal(shape, dtype=np.float32), (scale,) * len(shape))
    noise -= noise.mean()
    return noise / max(float(noise.std()), 1e-12)


def _walk(
    rng: np.random.Generator, start: Point, heading: Point, step: float, wander: float, length: int
) -> Iterator[tuple[Point, Point]]:
    """Positions and directions of a path that turns gently."""
    position = start.copy()
    for turn in rng.normal(0, wander, (length, 3)):
        heading = heading + turn
        heading /= np.linalg.norm(heading)
        position = position + step * heading
        yield position, heading


def _direction(rng: np.random.Generator) -> Point:
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _blend(
    volume: Field, centre: Point, radii: Point, value: float, *, darken: bool = False
) -> None:
    """Paint a soft-edged ellipsoid: the brighter (or darker) of what is there and the value."""
    low = np.maximum(np.floor(centre - radii - 1), 0).astype(int)
    high = np.minimum(np.ceil(centre + radii + 2), volume.shape).astype(int)
    if (low >= high).any():
        return
    z, y, x = (
        ((np.arange(a, b) - c) / r) ** 2
        for a, b, c, r in zip(low, high, centre, radii, strict=True)
    )
    distance = np.sqrt(z[:, None, None] + y[:, None] + x)
    cover = np.clip((1 - distance) * float(radii.mean()) + 0.5, 0, 1).astype(np.float32)
    view = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    mixed = view + cover * (value - view)
    (np.minimum if darken else np.maximum)(view, mixed, out=view)


def _paint_vessels(rng: np.random.Generator, photons: Field) -> None:
    shape = np.array(photons.shape)
    walls: list[tuple[Point, float]] = []
    pending: list[tuple[Point, Point, float]] = []
    for _ in range(max(1, round(photons.size / _VOXELS_PER_VESSEL))):
        start = rng.uniform(0, shape)
        start[rng.integers(3)] = 0.0  # enters through a face
        towards = rng.uniform(0.25, 0.75, 3) * shape - start
        pending.append((start, towards / np.linalg.norm(towards), rng.uniform(2.0, 4.5)))
    while pending:
        start, heading, radius = pending.pop()
        for position, direction in _walk(rng, start, heading, 0.7 * radius, 0.16, 400):
            if (position < -radius).any() or (position > shape + radius).any():
                break
            walls.append((position, radius))
            if radius > 1.6 and rng.random() < 0.03:
                pending.append((position, direction + _direction(rng), radius * 0.72))
    for position, radius in walls:
        _blend(photons, position, np.full(3, radius), 190.0)
    for position, radius in walls:  # after all walls, so that joints stay open
        if radius > 2:
            _blend(photons, position, np.full(3, radius - 1.5), 35.0, darken=True)


def _paint_cells(rng: np.random.Generator, photons: Field, density: Field) -> list[Point]:
    """Paint the cells; return the centres of the ones that grow neurites."""
    shape = np.array(photons.shape)
    somata = []
    for _ in range(round(2 * photons.size / _VOXELS_PER_CELL)):
        centre = rng.uniform(0, shape)
        crowding = float(density[tuple(centre.astype(int))])
        radii, brightness = rng.uniform(2.2, 4.4, 3), rng.lognormal(4.6, 0.75)
        grows, accepted = rng.random() < 0.12, rng.random() < 0.5 * math.exp(0.7 * crowding)
        if not accepted:
            continue
        _blend(photons, centre, radii, 70 + brightness)
        if rng.random() < 0.5:  # label kept out of the nucleus
            _blend(photons, centre, 0.5 * radii, 50 + 0.5 * brightness, darken=True)
        if grows:
            _blend(photons, centre, 1.1 * radii, 350 + 1.5 * brightness)
            somata.append(centre)
    return somata


def _paint_neurites(rng: np.random.Generator, photons: Field, somata: list[Point]) -> None:
    shape = np.array(photons.shape)
    passing = rng.uniform(0, shape, (round(photons.size / 120_000) + 1, 3))
    starts = [soma for soma in somata for _ in range(rng.integers(2, 6))] + list(passing)
    for start in starts:
        brightness = rng.uniform(120, 420)
        beads = rng.uniform(0, 2 * math.pi)
        length = int(rng.integers(60, 420))
        for k, (position, _) in enumerate(_walk(rng, start, _direction(rng), 0.5, 0.11, length)):
            swelling = max(0.0, math.sin(0.35 * k + beads)) ** 6  # a varicosity every 9 voxels
            fade = 1 - 0.6 * k / length
            radius = 0.65 + 0.5 * swelling
            _blend(photons, position, np.full(3, radius), brightness * fade * (1 + 0.6 * swelling))
