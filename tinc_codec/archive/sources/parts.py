"""A part of a source: what lies in a box, and in a mask. Others see no difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region
from tinc_codec.archive.ome import Grid
from tinc_codec.archive.sources.source import Readable, Roi, Source
from tinc_codec.errors import InvalidSetting


def part_of(source: Source, roi: Roi | None, mask: Source | None) -> Source:
    """Return a source with only what lies in a box; 0 outside of a mask.

    Parameters
    ----------
    source : Source
        The whole.
    roi : tuple of (int, int), optional
        As :func:`whole_roi` made it.
    mask : Source, optional
        Of the whole; see :func:`mask_factors`.

    Raises
    ------
    InvalidSetting
        If the shape of the mask is not that of the source's axes of space, or lower by whole
        factors.
    """
    spec = replace(source.spec, roi=roi, mask=mask.spec if mask else None)
    array, close = source.array, source.close
    if mask:
        array = _Masked(array, mask, _space(source.grid), mask_factors(source, mask))
        close = _both(close, mask.close)
    if roi is None:
        return replace(source, spec=spec, array=array, close=close)
    return replace(
        source,
        spec=spec,
        array=_Box(array, roi),
        close=close,
        grid=_moved(source.grid, roi),
        origin=tuple(start for start, _ in roi),
        ome=_with_channels(source.ome, source.grid, source.shape, roi),
    )


def whole_roi(source: Source, roi: Sequence[slice] | None) -> Roi | None:
    """Return the box of all axes that slices of the last axes name; None for the whole.

    Raises
    ------
    InvalidSetting
        If there are more of them than axes, they have steps, or the box is not within the source.
    """
    if roi is None:
        return None
    shape = source.shape
    given: Any = roi
    if isinstance(given, slice) or not all(isinstance(s, slice) for s in given):
        raise InvalidSetting(f"roi={roi!r} must be a sequence of slices, such as np.s_[10:20, :]")
    text = ",".join(f"{_side(s.start)}:{_side(s.stop)}" for s in roi)
    limits = ",".join(f"0:{n}" for n in shape)
    if not 0 < len(roi) <= len(shape) or any(s.step not in (None, 1) for s in roi):
        raise InvalidSetting(
            f"roi={text} must be 1 to {len(shape)} ranges START:STOP of the last axes, without "
            f"steps; all of the source is {limits}"
        )
    found = [(0, n) for n in shape[: len(shape) - len(roi)]]
    for s, n, name in zip(roi, shape[-len(roi) :], source.grid.names[-len(roi) :], strict=True):
        start, stop = 0 if s.start is None else s.start, n if s.stop is None else s.stop
        if not 0 <= start < stop <= n:
            raise InvalidSetting(
                f"roi={text}: {start}:{stop} is no range of voxels within 0:{n}, which axis "
                f"{name} has; take one within {limits}"
            )
        found.append((int(start), int(stop)))
    return None if all(side == (0, n) for side, n in zip(found, shape, strict=True)) else (*found,)


def mask_factors(source: Source, mask: Source) -> list[int]:
    """Return how many voxels of the source one of the mask stands for, along each axis.

    The mask has the source's axes of space, in their order; axes of length 1 before them do not
    count. Along each it has as many voxels as the source, or n times fewer, where it does not
    matter whether an incomplete block at the end has a voxel. Along other axes it holds throughout.

    Raises
    ------
    InvalidSetting
        If the shape is another.
    """
    space = _space(source.grid)
    shape = list(mask.shape)
    while len(shape) > len(space) and shape[0] == 1:
        del shape[0]
    found = [1] * len(source.shape)
    fits = len(shape) == len(space)
    for axis, m in zip(space, shape, strict=False):
        n = source.shape[axis]
        found[axis] = max(1, round(n / m))
        fits = fits and m in (math.ceil(n / found[axis]), n // found[axis])
    if not fits:
        wanted = ", ".join(f"{source.grid.names[k]} {source.shape[k]}" for k in space)
        raise InvalidSetting(
            f"mask={mask.spec.location} has shape {mask.shape}; it must have the source's axes of "
            f"space ({wanted}), or each by a whole number fewer: resample it to that"
        )
    return found


@dataclass(frozen=True, slots=True)
class _Box:
    """A box of an array."""

    array: Readable
    roi: Roi

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(stop - start for start, stop in self.roi)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, region: Region, /) -> Any:
        sides = zip(region, self.roi, strict=True)
        return self.array[tuple(slice(s.start + a, s.stop + a) for s, (a, _) in sides)]


@dataclass(frozen=True, slots=True)
class _Masked:
    """An array that is 0 outside of a mask. Where the mask holds nothing, it is not read."""

    array: Readable
    mask: Source
    space: list[int]
    factors: list[int]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        inside = self._inside(region)
        if not inside.any():
            return np.zeros([side.stop - side.start for side in region], self.dtype)
        voxels = np.asarray(self.array[region])
        return np.where(inside, voxels, np.zeros((), voxels.dtype))

    def _inside(self, region: Region) -> NDArray[np.bool_]:
        """Return which voxels lie in the mask; of length 1 along axes that it does not have."""
        shape = self.mask.shape[len(self.mask.shape) - len(self.space) :]
        places = []
        for axis, n in zip(self.space, shape, strict=True):
            # Beyond the mask's end, where an incomplete block has no voxel, the last one holds.
            index = np.arange(region[axis].start, region[axis].stop) // self.factors[axis]
            places.append(np.minimum(index, n - 1))
        sides = [slice(int(index[0]), int(index[-1]) + 1) for index in places]
        few = self.mask.read((slice(0, 1),) * (len(self.mask.shape) - len(shape)) + tuple(sides))
        few = few.reshape(few.shape[-len(shape) :])
        inside: NDArray[np.bool_] = (few != 0) & (few == few)  # NaN is nothing
        wide = inside[np.ix_(*(index - index[0] for index in places))]
        lengths = dict(zip(self.space, wide.shape, strict=True))
        return wide.reshape([lengths.get(axis, 1) for axis in range(len(region))])


def _space(grid: Grid) -> list[int]:
    """Return the axes of space: the last three where none is known as such."""
    known = [axis for axis, kind in enumerate(grid.types) if kind == "space"]
    return known or list(range(len(grid.names)))[-3:]


def _moved(grid: Grid, roi: Roi) -> Grid:
    """Return where the voxels of a box lie: in voxels where their size is not known."""
    translation = list(grid.translation)
    for axis, (start, _) in enumerate(roi):
        if start and grid.types[axis] in ("space", "time"):
            # Without a scale OME-Zarr has 1 there, too; none is 0.
            translation[axis] = (translation[axis] or 0.0) + start * (grid.scale[axis] or 1.0)
    return replace(grid, translation=tuple(translation))


def _with_channels(
    ome: Mapping[str, Any], grid: Grid, shape: tuple[int, ...], roi: Roi
) -> Mapping[str, Any]:
    """Return OME metadata with only the channels in the box."""
    omero = ome.get("omero")
    if "channel" not in grid.types or not isinstance(omero, dict):
        return ome
    axis = grid.types.index("channel")
    channels = omero.get("channels")
    if not isinstance(channels, list) or len(channels) != shape[axis]:
        return ome
    return {**ome, "omero": {**omero, "channels": channels[slice(*roi[axis])]}}


def _side(edge: Any) -> str:
    return "" if edge is None else str(edge)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def close() -> None:
        try:
            first()
        finally:
            second()

    return close
