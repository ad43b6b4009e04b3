"""What every kind of source is to the rest of the package, and how a worker process opens it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive.layout import Region
from tinc_codec.archive.ome import Grid
from tinc_codec.archive.sources.fingerprint import fingerprint
from tinc_codec.errors import TincError, UnsupportedData

Roi = tuple[tuple[int, int], ...]  # start and stop along each axis
_DEFAULT_AXES = ("t", "c", "z", "y", "x")


class Readable(Protocol):
    """An array that gives up parts of itself: a memory map, or a zarr array."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102
    def __getitem__(self, region: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """What it takes to open a source again, in another process or on another machine.

    Attributes
    ----------
    location : str
        Path or URL of the file, folder or store; a description, where ``array`` is given.
    component : str or None
        Path of the array within it.
    storage_options : mapping
        For fsspec, with URLs.
    checked : bool
        Whether every file of a folder has been looked at already.
    array : object
        The dask, xarray, zarr or numpy array itself, where the source is one.
    roi : tuple of (int, int), or None
        Box that is taken of it, in voxels, for each axis.
    mask : SourceSpec or None
        Of a volume; where that is 0, the voxels count as 0.
    """

    location: str
    component: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold keys
    checked: bool = False
    array: Any = None
    roi: Roi | None = None
    mask: SourceSpec | None = None

    @property
    def is_url(self) -> bool:
        """Whether the location is a URL."""
        return self.array is None and "://" in self.location

    def open(self) -> Source:
        """Open the source; see :func:`tinc_codec.archive.open_source`."""
        from tinc_codec.archive.sources.opening import open_spec

        return open_spec(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A volume, of which regions can be read.

    Pickling one pickles its ``spec``: unpickling opens the files anew.

    Attributes
    ----------
    spec : SourceSpec
        Where it is.
    kind : str
        "npy", "tiff", "tiff planes", "hdf5", "imaris", "nifti", "n5", "zarr v2", "zarr v3", "dask",
        "xarray" or "numpy".
    array : Readable
        The voxels.
    grid : Grid
        Names, scale, units and translation of the axes; None where the file does not tell.
    name : str
        Name of the array within its group; "data" where the file gives none.
    chunks : tuple of int or None
        Edges of what the file gives up at once, its chunks, shards or planes; None if voxels can be
        had one by one.
    origin : tuple of int or None
        First voxel, as counted from the start of a chunk, where the source is a box of a file.
    files : tuple of str
        Paths or URLs whose size, time and ends tell whether the source has changed.
    resident_bytes : int
        Bytes that stay in memory from the first read on.
    attributes, group_attributes : mapping
        User attributes of the array and of its group, OME metadata left out.
    ome : mapping
        OME metadata of the group; empty if none.
    group : str
        Where that group is, in a zarr store; empty if none.
    left_out : tuple of str
        What an archive will not have of it, for messages.
    close : callable
        Lets go of the file; leaving a ``with`` block does the same.
    """

    spec: SourceSpec
    kind: str
    array: Readable
    grid: Grid
    name: str = "data"
    chunks: tuple[int, ...] | None = None
    origin: tuple[int, ...] | None = None
    files: tuple[str, ...] = ()
    resident_bytes: int = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    group_attributes: Mapping[str, Any] = field(default_factory=dict)
    ome: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    left_out: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        if math.prod(self.array.shape) == 0 or not self.array.shape:
            self.close()
            raise UnsupportedData(
                f"{self.spec.location} holds an array of shape {tuple(self.array.shape)}; "
                "give one with at least one axis and one voxel"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return SourceSpec.open, (replace(self.spec, checked=True),)

    @property
    def path(self) -> Path:
        """The location as a path; of a URL, only its last part means anything."""
        return Path(self.spec.location)

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a voxel."""
        return np.dtype(self.array.dtype)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return self.grid.names

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
        except (TincError, OSError, MemoryError):
            raise
        except Exception as error:  # whatever the decoder of this file raises for damaged bytes
            hint = ""
            if "checksum" in str(error) and self.spec.location.startswith("http"):
                hint = " (does the server answer requests for ranges of bytes? It has to)"
            raise OSError(
                f"{self.spec.location} cannot be read at {region}: {error}{hint}"
            ) from error

    def preferred_region(self, region: Region) -> Region:
        """Return the region, enlarged to what the file has to be read for it anyway."""
        if self.chunks is None:
            return region
        origin = self.origin or (0,) * len(region)
        columns = zip(region, self.chunks, self.shape, origin, strict=True)
        return tuple(
            slice(max((s.start + o) // c * c - o, 0), min(math.ceil((s.stop + o) / c) * c - o, n))
            for s, c, n, o in columns
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this source from another, or from itself after a change, as JSON.

        Location, shape, dtype, and of the files: how many, bytes, and a digest of their sizes,
        times (or ETags) and of the first and last bytes of the first and last of them. Of a zarr or
        N5 array the files are its metadata and its first and last chunk: a change inside of the
        others goes unseen.
        """
        return {
            "location": self.spec.location,
            "component": self.spec.component,
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            **fingerprint(self.files, self.spec.storage_options, self.spec.array),
        }


def default_dimension_names(ndim: int) -> tuple[str, ...]:
    """Return x; y, x; z, y, x; ... for arrays that name no axes."""
    if ndim <= len(_DEFAULT_AXES):
        return _DEFAULT_AXES[len(_DEFAULT_AXES) - ndim :]
    return tuple(f"dim_{k}" for k in range(ndim))


def require(module: str, location: str) -> Any:
    """Import a reader.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed, with the remedy.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{location} needs {module}, which is not installed: pip install 'tinc_codec[formats]'"
        ) from error


@dataclass(frozen=True, slots=True)
class Transposed:
    """A readable with its axes in another order, as ``numpy.transpose`` has it."""

    array: Readable
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(self.array.shape[k] for k in self.order)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of a voxel."""
        return np.dtype(self.array.dtype)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        below = [slice(None)] * len(self.order)
        for axis, part in zip(self.order, region, strict=True):
            below[axis] = part
        return np.asarray(self.array[tuple(below)]).transpose(self.order)


def ome_order(names: Sequence[str]) -> tuple[int, ...]:
    """Return the order of axes that OME-Zarr wants: time, channels, z, y, x.

    Axes of other names stay where they are, and so do all the others then.
    """
    if not set(names) <= set(_DEFAULT_AXES):
        return tuple(range(len(names)))
    return tuple(sorted(range(len(names)), key=lambda k: _DEFAULT_AXES.index(names[k])))


def plain(value: Any) -> Any:
    """Return an attribute as JSON has it: numpy's values as Python's, bytes as text."""
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)
