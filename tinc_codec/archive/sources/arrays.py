"""Arrays that a program already has: of xarray, dask, zarr or numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.sources.coordinates import Coordinate, grid_and_lost
from tinc_codec.archive.sources.source import (
    Source,
    SourceSpec,
    default_dimension_names,
    plain,
)
from tinc_codec.archive.sources.zarrs import of_array
from tinc_codec.errors import InvalidSetting, UnsupportedData


class Computed:
    """A dask array, of which regions are computed in the thread that asks for them.

    A worker has its share of the cores already; dask's own threads would come on top.
    """

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(map(int, array.shape))
        self.dtype = np.dtype(array.dtype)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        computed = self._array[region].compute(scheduler="synchronous")
        _check_unmasked(computed, "a dask array")
        return np.asarray(computed)


def _check_unmasked(array: Any, what: str) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise UnsupportedData(
            f"{what} has masked voxels, whose mask would be lost; fill them with a value "
            "(filled(value)), and give that to preserve"
        )


def _safe_name(name: object) -> str:
    """Return a name for an array of an archive: "data" in place of what would be another path."""
    last = str(name or "").rpartition("/")[2]
    reserved = last in ("", ".", "..", "zarr.json") or last.startswith((".z", "__"))
    return "data" if reserved else last


def open_array(spec: SourceSpec) -> Source:
    """Make a source of an array.

    Raises
    ------
    InvalidSetting
        If it is none of those known here, or a dataset of several variables.
    UnsupportedData
        If it is masked.
    """
    import xarray as xr

    array = spec.array
    if isinstance(array, xr.Dataset):
        if len(array.data_vars) != 1:
            names = ", ".join(map(str, array.data_vars)) or "nothing"
            raise InvalidSetting(f"the dataset holds {names}; give one of its variables")
        array = next(iter(array.data_vars.values()))
    if isinstance(array, xr.DataArray):
        return _of_xarray(spec, array)
    return _of_plain(spec, array)


def _of_xarray(spec: SourceSpec, array: Any) -> Source:
    names = [str(name) for name in array.dims]
    along = {
        str(name): (np.asarray(array.coords[name]), array.coords[name].attrs)
        for name in array.dims
        if name in array.coords
    }
    labels = _channel_names(names, along)
    others = {str(name) for name in array.coords} - set(along)
    grid, left_out = grid_and_lost(
        names, {name: found for name, found in along.items() if name not in labels}, others
    )
    named = {"channel_names": next(iter(labels.values()))} if labels else {}
    return Source(
        spec=spec,
        kind="xarray",
        # Computed one by one, as xarray's own loading is; numpy inside needs no computing.
        array=Computed(array.data) if hasattr(array.data, "dask") else array.variable,
        grid=grid,
        name=_safe_name(array.name),
        chunks=_chunks(array.data),
        attributes=plain(array.attrs) | named,
        left_out=left_out,
    )


def _channel_names(names: Sequence[str], along: Mapping[str, Coordinate]) -> dict[str, list[str]]:
    """Return the labels along an axis of channels, by its name, where it has any."""
    return {
        name: [str(label) for label in along[name][0]]
        for name, kind in zip(names, ome.grid(names).types, strict=True)
        if kind == "channel" and name in along and along[name][0].dtype.kind == "U"
    }


def _of_plain(spec: SourceSpec, array: Any) -> Source:
    import dask.array

    _check_unmasked(getattr(array, "_meta", array), spec.location)
    grid = ome.grid(default_dimension_names(getattr(array, "ndim", 0)))
    if isinstance(array, dask.array.Array):
        if any(np.isnan(n) for n in array.shape):
            raise InvalidSetting(
                f"the dask array has unknown lengths {array.shape}; call compute_chunk_sizes()"
            )
        return Source(
            spec=spec, kind="dask", array=Computed(array), grid=grid, chunks=_chunks(array)
        )
    if isinstance(array, zarr.Array):
        return of_array(spec, "zarr array", array)
    if isinstance(array, np.ndarray):
        return Source(spec=spec, kind="numpy", array=array, grid=grid)
    raise InvalidSetting(
        f"{spec.location} is no source; give a path, a URL, or an array of dask, xarray, zarr or "
        "numpy"
    )


def _chunks(data: Any) -> tuple[int, ...] | None:
    return tuple(map(int, data.chunksize)) if hasattr(data, "dask") else None
