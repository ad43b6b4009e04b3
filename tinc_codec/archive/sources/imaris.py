"""Imaris 5.5 files: full resolution, without the padding of the stored blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.ome import Grid
from tinc_codec.archive.sources.source import Source, SourceSpec
from tinc_codec.errors import InvalidSetting

_LEVEL = "DataSet/ResolutionLevel 0"
_IMAGE = "DataSetInfo/Image"


def is_imaris(file: Any) -> bool:
    """Whether an open HDF5 file is laid out as Imaris does it."""
    return "DataSetInfo" in file and "DataSet" in file


def open_imaris(spec: SourceSpec, file: Any) -> Source:
    """Open all channels and times; axes t and c are left out where there is only one."""
    try:
        stack = Stack(file)
        grid = _grid(file, stack.shape)
        info = file["DataSetInfo"]
        channels = [_text(info[f"Channel {k}"].attrs, "Name") for k in range(stack.shape[1])]
    except (KeyError, ValueError, IndexError) as error:
        raise InvalidSetting(f"{spec.location} cannot be read as Imaris: {error}") from error
    kept = tuple(k for k, n in enumerate(stack.shape) if k > 1 or n > 1)
    named = [name for name in channels if name]
    return Source(
        spec=spec,
        kind="imaris",
        array=_Kept(stack, kept),
        grid=ome.grid(
            [grid.names[k] for k in kept],
            scale=[grid.scale[k] for k in kept],
            units=[grid.units[k] for k in kept],
            translation=[grid.translation[k] for k in kept],
        ),
        chunks=tuple(stack.chunks[k] for k in kept),
        files=(spec.location,),
        attributes={"channel_names": named} if named else {},
        close=file.close,
    )


class Stack:
    """The datasets of all times and channels as one array (t, c, z, y, x)."""

    def __init__(self, file: Any) -> None:
        level = file[_LEVEL]
        times = sorted(level, key=lambda name: int(name.rpartition(" ")[2]))
        channels = sorted(level[times[0]], key=lambda name: int(name.rpartition(" ")[2]))
        self._data = [[level[t][c]["Data"] for c in channels] for t in times]
        first = level[times[0]][channels[0]]
        real = tuple(int(_text(first.attrs, f"ImageSize{axis}")) for axis in "ZYX")
        stored = first["Data"].shape
        if any(r > s or r < 1 for r, s in zip(real, stored, strict=True)):
            raise ValueError(f"the image size {real} does not fit into the stored {stored}")
        self.shape: tuple[int, ...] = (len(times), len(channels), *real)
        self.dtype = np.dtype(first["Data"].dtype)
        self.chunks: tuple[int, ...] = (1, 1, *(first["Data"].chunks or (1, 1, 1)))

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        times, channels, *space = region
        inside = tuple(
            slice(*part.indices(n)) for part, n in zip(space, self.shape[2:], strict=True)
        )
        return np.stack(
            [np.stack([data[inside] for data in row[channels]]) for row in self._data[times]]
        )


class _Kept:
    """The same without the axes of length one that are left out."""

    def __init__(self, stack: Stack, kept: tuple[int, ...]) -> None:
        self._stack, self._kept = stack, kept
        self.shape = tuple(stack.shape[k] for k in kept)
        self.dtype = stack.dtype

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        full = [slice(0, 1)] * len(self._stack.shape)
        for axis, part in zip(self._kept, region, strict=True):
            full[axis] = part
        dropped = tuple(set(range(len(full))) - set(self._kept))
        return self._stack[tuple(full)].squeeze(dropped)


def _grid(file: Any, shape: tuple[int, ...]) -> Grid:
    """Return voxel sizes from the extents; the first voxel's centre is half a voxel inside."""
    image = file[_IMAGE].attrs
    unit = ome.unit_name(_text(image, "Unit")) or None
    scale: list[float | None] = [None, None]
    first: list[float | None] = [None, None]
    for number, n in zip((2, 1, 0), shape[2:], strict=True):  # extents are x, y, z
        low, high = _text(image, f"ExtMin{number}"), _text(image, f"ExtMax{number}")
        size = (float(high) - float(low)) / n if low and high else None
        scale.append(size)
        first.append(float(low) + size / 2 if size is not None else None)
    units = [None, None, *(unit if size is not None else None for size in scale[2:])]
    return ome.grid("tczyx", scale=scale, units=units, translation=first)


def _text(attributes: Any, name: str) -> str:
    """Return an attribute of Imaris, which stores texts as arrays of single characters."""
    value = attributes.get(name)
    if value is None:
        return ""
    if isinstance(value, np.ndarray):
        return b"".join(np.asarray(value, "S1").ravel().tolist()).decode("utf-8", "replace")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
