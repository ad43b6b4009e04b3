"""Opening an archive in xarray: lazily, chunk by chunk, with the coordinates that it knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.errors import ContainsArrayError, GroupNotFoundError, NodeNotFoundError

from tinc_codec.archive import borders, ome, overviews
from tinc_codec.archive.layout import grid_shape
from tinc_codec.archive.sources import declared
from tinc_codec.archive.sources.opening import check_is_there
from tinc_codec.archive.sources.zarrs import dimension_names
from tinc_codec.errors import InvalidSetting, TincError
from tinc_codec.runtime import Runtime, given_runtime, using

if TYPE_CHECKING:
    import xarray as xr

_TASK_BYTES = 32 << 20  # of a dask chunk, at most, unless one zarr chunk is more
_VARIABLE = "data"  # of each level in a tree; levels are called by their paths


@dataclass(frozen=True, slots=True)
class _Bound:
    """An array that is read under the run-time settings of where it was opened.

    Those are context variables, which threads of older versions of dask do not inherit, nor do
    workers of distributed.
    """

    array: zarr.Array[Any]
    settings: Runtime

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __getitem__(self, selection: Any) -> Any:
        with using(self.settings):
            return self.array[selection]


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How voxels are read: see :func:`open_archive`."""

    overview: int | Sequence[int] | None
    smooth_borders: bool

    @property
    def changes(self) -> bool:
        """Whether values are other than those of the array."""
        return self.overview is not None or self.smooth_borders


def open_archive(
    path: str | Path,
    *,
    overview: int | Sequence[int] | None = None,
    smooth_borders: bool = False,
) -> xr.DataArray | xr.DataTree:
    """Open a zarr archive in xarray; offered as :func:`tinc_codec.open`.

    Nothing is decoded until it is asked for, but borders for ``smooth_borders``. Values come as
    dask arrays, whose chunks are whole zarr chunks. A selection by integers and slices reaches the
    codec: in zarr v3 only what the voxels selected take is evaluated of a chunk. An array or image
    opened inside of :func:`tinc_codec.runtime` is read under those settings, wherever it is
    computed.

    Parameters
    ----------
    path : str or Path
        A zarr array or group (v2 or v3, sharded or not, OME-Zarr or not), local or a URL that
        fsspec knows.
    overview : int or sequence of int, optional
        Open an array of TINC's payloads at a lower resolution, as
        :func:`tinc_codec.decode_overview` does, by this factor for all axes or for each of them.
        Samples begin anew in each chunk, at its first voxel; coordinates, where no scale is known
        the indices of voxels, tell where they are. Channels, and other axes of chunks of one
        voxel, stay whole.
    smooth_borders : bool
        Take out of the steps between chunks, which show at high ratios, what they have more than
        steps within chunks, from two voxels on either side (:mod:`tinc_codec.archive.borders`).
        Eight borders across each axis, of each channel, are decoded when it is opened. Values are
        no longer those that other readers get.

    Returns
    -------
    xarray.DataArray or xarray.DataTree
        The array, where there is one. A pyramid gives a tree with a node for each level, called by
        its path as in ``tree["0/data"]``; a group of several arrays the tree that xarray makes of
        it. Axes with a scale in OME-Zarr metadata have coordinates, the centres of voxels, whose
        unit is in their attribute ``units``; channels with labels have those.

    Raises
    ------
    FileNotFoundError
        If nothing is there.
    InvalidSetting
        If it is not zarr; if an overview is asked for of a pyramid, of a group without OME-Zarr
        metadata or of other codecs' chunks, or its factor is not a power of two; if smooth borders
        are asked for of an overview, a pyramid, a group without OME-Zarr metadata, other codecs'
        chunks or bounded ones.
    CorruptPayload
        If a chunk that is looked at for smooth borders is damaged; others when they are computed.
    OSError
        If it cannot be read.
    """
    if overview is not None and smooth_borders:
        raise InvalidSetting("open: overview and smooth_borders exclude each other; give one")
    how = _How(overview=overview, smooth_borders=smooth_borders)
    node = _open_node(path)
    if isinstance(node, zarr.Array):
        return _lazy(node, None, dict(node.attrs), how)
    block, attributes = ome.split(node.attrs.asdict())
    if ome.level_zero_path(block) is not None:
        return _multiscale(path, node, block, attributes, how)
    if how.changes:
        names = ", ".join(sorted(name for name, _ in node.arrays())) or "none"
        raise InvalidSetting(
            f"{path} is a group; overview and smooth_borders are of one array: open {path}/NAME "
            f"(arrays: {names})"
        )
    return _as_xarray_has_it(path, node)


def _open_node(path: str | Path) -> zarr.Array[Any] | zarr.Group:
    location = str(path)
    local = "://" not in location
    if local:
        check_is_there(Path(location))
    try:
        return zarr.open(location, mode="r")
    except (GroupNotFoundError, NodeNotFoundError, ContainsArrayError, FileNotFoundError) as error:
        raise InvalidSetting(f"{path} is neither a zarr array nor a zarr group: {error}") from error
    except (TincError, MemoryError):
        raise
    except Exception as error:  # each file system has its own, of access, addresses, time-outs
        if local:
            raise
        raise OSError(f"{path} cannot be read: {error}") from error


def _multiscale(
    path: str | Path,
    group: zarr.Group,
    block: dict[str, Any],
    attributes: dict[str, Any],
    how: _How,
) -> xr.DataArray | xr.DataTree:
    import xarray as xr

    levels: dict[str, xr.DataArray] = {}
    datasets = block["multiscales"][0]["datasets"]
    if how.changes and len(datasets) > 1:
        raise InvalidSetting(
            f"{path} is a pyramid of {len(datasets)} levels; overview and smooth_borders are of "
            f"one array: open {path}/{datasets[0]['path']}, or another level"
        )
    for level in datasets:
        array = group.get(str(level["path"]))
        if not isinstance(array, zarr.Array):
            raise InvalidSetting(
                f"{path}: its OME metadata name the level {level['path']}, which is no array"
            )
        own = {**block, "multiscales": [{**block["multiscales"][0], "datasets": [level]}]}
        levels[str(level["path"])] = _lazy(array, own, {**attributes, **array.attrs.asdict()}, how)
    if len(levels) == 1:
        return next(iter(levels.values()))
    nodes = {
        level: xr.Dataset({_VARIABLE: array.rename(_VARIABLE)}) for level, array in levels.items()
    }
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs={"ome": block, **attributes}), **nodes})


def _lazy(
    array: zarr.Array[Any],
    block: dict[str, Any] | None,
    attributes: dict[str, Any],
    how: _How,
) -> xr.DataArray:
    import dask.array as da
    import xarray as xr

    if how.overview is None:
        settings = given_runtime()
        reader: Any = array if settings is None else _Bound(array, settings)
        if how.smooth_borders:
            reader = borders.smoothed(array, reader)
        # Slicing is fused into reading: a graph that holds the array itself lets dask do so.
        values = da.from_array(  # type: ignore[no-untyped-call]
            reader, chunks=task_chunks(array), inline_array=True
        )
        places = [np.arange(n) for n in array.shape]
    else:
        values = overviews.overview(array, how.overview, array.shards or task_chunks(array))
        places = overviews.places(array, how.overview)
    grid = ome.grid_of(block, array.ndim) if block else None
    if grid and len(set(grid.names)) < array.ndim:  # xarray wants names that differ
        grid = None
    names = grid.names if grid else dimension_names(array)
    attributes.pop("_ARRAY_DIMENSIONS", None)
    attributes = declared.with_plain_numbers(attributes, array.dtype)
    indices = {} if how.overview is None else dict(zip(names, places, strict=True))
    labels = _channel_labels(block or {}, attributes)
    coordinates = indices | (_coordinates(grid, places, labels) if grid else {})
    return xr.DataArray(
        values, dims=names, coords=coordinates, name=array.basename or _VARIABLE, attrs=attributes
    )


def task_chunks(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of the dask chunks: whole zarr chunks, within a shard, up to 32 MiB."""
    per_file = grid_shape(array.shards or array.shape, array.chunks)
    counts = [1] * array.ndim
    size = math.prod(array.chunks) * array.dtype.itemsize
    while True:
        # The axis along which the task is shortest grows first; within a shard, by a divisor.
        for axis in sorted(range(array.ndim), key=lambda k: counts[k] * array.chunks[k]):
            more = (n for n in range(counts[axis] + 1, per_file[axis] + 1))
            grown = next((n for n in more if not array.shards or per_file[axis] % n == 0), None)
            if grown and size // counts[axis] * grown <= _TASK_BYTES:
                size = size // counts[axis] * grown
                counts[axis] = grown
                break
        else:
            return tuple(n * c for n, c in zip(counts, array.chunks, strict=True))


def _coordinates(
    grid: ome.Grid, places: Sequence[NDArray[np.int64]], labels: Sequence[str]
) -> dict[str, Any]:
    """Return the coordinates of voxels, by the names of axes."""
    found: dict[str, Any] = {}
    for k, (name, kind) in enumerate(zip(grid.names, grid.types, strict=True)):
        scale, unit = grid.scale[k], grid.units[k]
        if kind == "channel":
            if len(labels) == len(places[k]) == len(set(labels)):
                found[name] = (name, labels)
        elif scale is not None and (unit is not None or scale != 1 or grid.translation[k]):
            # A scale of 1 without a unit is what OME-Zarr demands where none is known.
            centres = (grid.translation[k] or 0.0) + scale * places[k]
            found[name] = (name, centres, {} if unit is None else {"units": unit})
    return found


def _channel_labels(block: dict[str, Any], attributes: dict[str, Any]) -> list[str]:
    """Return the names of channels: of OME-Zarr, else those that a TIFF or Imaris file had."""
    channels = (block.get("omero") or {}).get("channels") or []
    names = attributes.get("channel_names")
    if channels or not isinstance(names, list):
        return [str(channel.get("label", "")) for channel in channels]
    return [str(name) for name in names]


def _without_fill_values(tree: xr.DataTree, group: zarr.Group) -> None:
    """Take from attributes the fill values of zarr that xarray puts there."""
    for node in tree.subtree:
        inside = node.path.strip("/")
        arrays: Any = group[inside] if inside else group
        for name in (*node.data_vars, *node.coords):
            if str(name) in arrays and arrays[str(name)].fill_value is not None:
                node[str(name)].attrs.pop("_FillValue", None)


def _as_xarray_has_it(path: str | Path, group: zarr.Group) -> xr.DataArray | xr.DataTree:
    import xarray as xr

    # In v2 xarray takes any fill value for "missing", and would turn the zeros of an image into
    # NaN. Only where values are packed, which xarray itself writes so, does it mean that.
    arrays = dict(group.arrays())
    packed = any({"scale_factor", "add_offset"} & set(array.attrs) for array in arrays.values())
    masked = packed or group.metadata.zarr_format == 3
    try:
        tree: xr.DataTree = xr.open_datatree(
            str(path),
            engine="zarr",
            chunks={},
            mask_and_scale=masked,
            consolidated=None if group.metadata.consolidated_metadata else False,
        )
    except KeyError as error:  # xarray's, of arrays that do not name their axes
        raise InvalidSetting(
            f"{path} is a group that xarray cannot open ({error}): open {path}/NAME"
        ) from error
    if not masked:
        _without_fill_values(tree, group)
    if tree.children or len(tree.data_vars) != 1:
        return tree
    variable: xr.DataArray = next(iter(tree.data_vars.values()))
    return variable.assign_attrs({**tree.attrs, **variable.attrs})
