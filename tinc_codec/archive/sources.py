"""Opening what users have: .npy, TIFF, zarr v2 and v3 arrays and groups, read by region."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.errors import InvalidSetting, TincError, UnsupportedData

_TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".lsm")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
_DEFAULT_AXES = ("t", "c", "z", "y", "x")


class Readable(Protocol):
    """An array that gives up parts of itself: a memory map, or a zarr array."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    def __getitem__(self, region: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A volume on disk, of which regions can be read.

    Attributes
    ----------
    path : Path
        As given.
    kind : str
        "npy", "tiff", "zarr v2" or "zarr v3".
    array : Readable
        The voxels.
    name : str
        Name of the array within its group; "data" where the file gives none.
    dimension_names : tuple of str
        One for each axis.
    attributes, group_attributes : mapping
        User attributes of the array and of its group, OME metadata left out.
    ome : mapping
        OME metadata of the group; empty if none.
    close : callable
        Lets go of the file; leaving a ``with`` block does the same.
    """

    path: Path
    kind: str
    array: Readable
    name: str = "data"
    dimension_names: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    group_attributes: Mapping[str, Any] = field(default_factory=dict)
    ome: Mapping[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if math.prod(self.array.shape) == 0 or not self.array.shape:
            raise UnsupportedData(
                f"{self.path} holds an array of shape {self.array.shape}; "
                "give one with at least one axis and one voxel"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a voxel."""
        return np.dtype(self.array.dtype)

    def read(self, region: Region) -> NDArray[Any]:
        """Return the voxels of a region (one slice for each axis) as an array in memory.

        Raises
        ------
        OSError
            If they cannot be read.
        CorruptPayload
            If they were written by TINC, and are damaged.
        """
        try:
            return np.asarray(self.array[region])
        except (TincError, OSError):
            raise
        except Exception as error:  # whatever the decoder of this file raises for damaged bytes
            raise OSError(f"{self.path} cannot be read at {region}: {error}") from error


def open_source(path: str | Path) -> Source:
    """Open a volume without reading its voxels.

    Parameters
    ----------
    path : str or Path
        A .npy or TIFF file; a zarr array; a zarr group with one array, or with OME-Zarr metadata
        (its level 0 is taken); an array inside a group, as ``store.zarr/name``.

    Returns
    -------
    Source

    Raises
    ------
    OSError
        If there is nothing there, or it cannot be read.
    InvalidSetting
        If the file is of another kind, damaged, or a group leaves open which array is meant.
    UnsupportedData
        If the array has no voxels.
    """
    path = Path(path)
    if path.is_dir():
        return _open_zarr(path)
    with path.open("rb"):  # not there or not ours to read: the system's own error says which
        pass
    if path.suffix.lower() == ".npy":
        return _open_npy(path)
    if path.suffix.lower() in _TIFF_SUFFIXES:
        return _open_tiff(path)
    raise InvalidSetting(
        f"{path} is of no kind known here; give .npy, {', '.join(_TIFF_SUFFIXES)} or a zarr folder"
    )


def zarr_array(source: Source) -> zarr.Array[Any]:
    """Return the array of an archive.

    Raises
    ------
    InvalidSetting
        If the source is not zarr.
    """
    if not isinstance(source.array, zarr.Array) or not source.kind.startswith("zarr"):
        raise InvalidSetting(f"{source.path} is {source.kind}, not a zarr archive")
    return source.array


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in _ZARR_FILES)


def default_dimension_names(ndim: int) -> tuple[str, ...]:
    """Return x; y, x; z, y, x; ... for arrays that name no axes."""
    if ndim <= len(_DEFAULT_AXES):
        return _DEFAULT_AXES[len(_DEFAULT_AXES) - ndim :]
    return tuple(f"dim_{k}" for k in range(ndim))


def _open_npy(path: Path) -> Source:
    try:
        array = np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InvalidSetting(f"{path} cannot be read as a plain .npy array: {error}") from error
    return Source(
        path=path, kind="npy", array=array, dimension_names=default_dimension_names(array.ndim)
    )


def _open_tiff(path: Path) -> Source:
    import tifffile

    tiff = None
    try:
        tiff = tifffile.TiffFile(path)
        series = tiff.series[0]
        axes, description = tuple(series.axes.lower()), tiff.pages.first.description
        if series.keyframe.is_memmappable and series.dataoffset is not None:
            array: Readable = tifffile.memmap(path, series=0, mode="r")
        else:
            array = _pages(path, series)
    except (tifffile.TiffFileError, IndexError, ValueError) as error:
        if tiff:
            tiff.close()
        raise InvalidSetting(f"{path} cannot be read as a TIFF: {error}") from error
    if len(axes) != len(array.shape) or len(set(axes)) != len(axes) or set(axes) & set("qi"):
        axes = default_dimension_names(len(array.shape))
    # The descriptions that tifffile itself adds only repeat the shape.
    own = not description or description.startswith('{"shape"')
    attributes = {} if own else {"image_description": description}
    return Source(
        path=path,
        kind="tiff",
        array=array,
        dimension_names=axes,
        attributes=attributes,
        close=tiff.close,
    )


def _pages(path: Path, series: Any) -> zarr.Array[Any]:
    """View a series of compressed pages as an array that decodes a page at a time."""
    opened = zarr.open(series.aszarr(level=0), mode="r")
    if not isinstance(opened, zarr.Array):
        raise InvalidSetting(f"{path} holds several arrays; save the wanted one on its own")
    return opened


def _open_zarr(path: Path) -> Source:
    if not is_zarr(path):
        raise InvalidSetting(f"{path} is a folder, but neither a zarr array nor a zarr group")
    try:
        opened = zarr.open(path, mode="r")
        return (
            _from_array(path, opened)
            if isinstance(opened, zarr.Array)
            else _from_group(path, opened)
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidSetting | UnsupportedData):
            raise
        raise InvalidSetting(f"{path} cannot be opened as zarr: {error}") from error


def _from_array(path: Path, array: zarr.Array[Any]) -> Source:
    attributes = dict(array.attrs)
    names: Any = attributes.pop("_ARRAY_DIMENSIONS", None) or getattr(
        array.metadata, "dimension_names", None
    )
    if not names or None in names or len(set(names)) != array.ndim:
        names = default_dimension_names(array.ndim)
    return Source(
        path=path,
        kind=f"zarr v{array.metadata.zarr_format}",
        array=array,
        name=array.basename or "data",
        dimension_names=tuple(map(str, names)),
        attributes=attributes,
    )


def _from_group(path: Path, group: zarr.Group) -> Source:
    block, rest = ome.split(group.attrs.asdict())
    name = ome.level_zero_path(block) or _only_volume(path, group)
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise InvalidSetting(f"{path}/{name} is a group; give the path of one array in it")
    inner = _from_array(path, array)
    axes = ome.axis_names(block)
    named = axes is not None and len(axes) == array.ndim
    return Source(
        path=path,
        kind=inner.kind,
        array=array,
        name=inner.name,
        dimension_names=axes if named and axes else inner.dimension_names,
        attributes=inner.attributes,
        group_attributes=rest,
        ome=block,
    )


def _only_volume(path: Path, group: zarr.Group) -> str:
    arrays = dict(group.arrays())
    # Coordinates, as xarray writes them, are named after their only dimension.
    volumes = [
        name
        for name, array in arrays.items()
        if _from_array(path, array).dimension_names != (name,)
    ]
    if len(volumes) != 1:
        inside = sorted(arrays) + sorted(f"{name}/" for name in group.group_keys())
        raise InvalidSetting(
            f"{path} leaves open which array is meant: it holds "
            f"{', '.join(inside) or 'nothing'}; give {path}/NAME"
        )
    return volumes[0]
