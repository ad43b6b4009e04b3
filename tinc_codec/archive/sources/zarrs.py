"""Zarr v2 and v3, arrays and groups, local or behind a URL; OME-Zarr 0.4 and 0.5."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from tinc_codec.archive import ome
from tinc_codec.archive.sources.coordinates import grid_and_lost
from tinc_codec.archive.sources.source import Source, SourceSpec, default_dimension_names
from tinc_codec.errors import InvalidSetting, UnsupportedData

_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")


def zarr_array(source: Source) -> zarr.Array[Any]:
    """Return the array of an archive.

    Raises
    ------
    InvalidSetting
        If the source is not zarr.
    """
    if not isinstance(source.array, zarr.Array) or not source.kind.startswith("zarr"):
        raise InvalidSetting(f"{source.spec.location} is {source.kind}, not a zarr archive")
    return source.array


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr array or group."""
    return any((path / name).is_file() for name in _ZARR_FILES)


def open_zarr(spec: SourceSpec) -> Source:
    """Open an array, or the one array, or level 0 of the one image, of a group."""
    where = spec.location
    if spec.component:
        where = posixpath.join(where, spec.component)
    # zarr's own store for paths renames its files into place; a URL of a file would not.
    options = dict(spec.storage_options) if spec.is_url else None
    try:
        opened = zarr.open(where, mode="r", storage_options=options)
        if isinstance(opened, zarr.Array):
            return _from_array(spec, where, opened)
        return _from_group(spec, where, opened)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, InvalidSetting | UnsupportedData):
            raise
        if "NotFound" in type(error).__name__:  # zarr's, which has changed its parents
            raise FileNotFoundError(f"{where} is not there, or no zarr array or group") from error
        raise InvalidSetting(f"{where} cannot be opened as zarr: {error}") from error


def dimension_names(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return the names of an array's axes; those of OME-Zarr where it has none, or not all."""
    names: Any = array.attrs.get("_ARRAY_DIMENSIONS") or getattr(
        array.metadata, "dimension_names", None
    )
    listed = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    if not listed or len(set(names)) != array.ndim:
        return tuple(default_dimension_names(array.ndim))
    return tuple(names)


def of_array(spec: SourceSpec, kind: str, array: zarr.Array[Any]) -> Source:
    """Return the source that an array is, whose files are not known."""
    attributes = dict(array.attrs)
    attributes.pop("_ARRAY_DIMENSIONS", None)
    # In v2 a fill value is a missing one, to xarray: but 0, which everybody writes who means none.
    if array.metadata.zarr_format == 2 and array.fill_value:
        attributes.setdefault("_FillValue", array.fill_value)
    return Source(
        spec=spec,
        kind=kind,
        array=array,
        grid=ome.grid(dimension_names(array)),
        name=array.basename or "data",
        chunks=array.shards or array.chunks,
        attributes=attributes,
    )


def _from_array(spec: SourceSpec, where: str, array: zarr.Array[Any]) -> Source:
    source = of_array(spec, f"zarr v{array.metadata.zarr_format}", array)
    return replace(source, files=_files(where, array))


def _from_group(spec: SourceSpec, where: str, group: zarr.Group) -> Source:
    block, rest = ome.split(group.attrs.asdict())
    if "bioformats2raw.layout" in block:
        series = _only_series(where, group, block)
        return _from_group(spec, posixpath.join(where, series), _group(where, group, series))
    name = ome.level_zero_path(block) or _only_volume(spec, where, group)
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise InvalidSetting(f"{where}/{name} is a group; give the path of one array in it")
    inner = _from_array(spec, posixpath.join(where, name), array)
    found = replace(inner, group_attributes=rest, ome=block, group=where)
    if known := ome.grid_of(block, array.ndim):
        return replace(found, grid=known)
    grid, left_out = _grid_of_group(group, inner.dimension_names)
    return replace(found, grid=grid, left_out=left_out)


def _grid_of_group(group: zarr.Group, names: tuple[str, ...]) -> tuple[ome.Grid, tuple[str, ...]]:
    """Return the grid that coordinates tell, which xarray writes beside an array."""
    along = {
        name: (np.asarray(array[:]), array.attrs.asdict())
        for name, array in group.arrays()
        if name in names and array.ndim == 1
    }
    return grid_and_lost(names, along)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelImage:
    """A label image of OME-Zarr, which lies in the group ``labels`` beside the image's levels.

    Attributes
    ----------
    name : str
        In that group.
    block, attributes : mapping
        OME metadata, and other attributes, of its own group.
    levels : mapping of str to SourceSpec
        Its arrays by their paths in it.
    """

    name: str
    block: Mapping[str, Any]
    attributes: Mapping[str, Any]
    levels: Mapping[str, SourceSpec]


def label_images(source: Source) -> tuple[list[LabelImage], list[str]]:
    """Return the label images of a source, and why some that it lists are none."""
    if not source.group:
        return [], []
    options = dict(source.spec.storage_options) if source.spec.is_url else None
    group = zarr.open_group(source.group, mode="r", storage_options=options)
    labels = group.get("labels")
    if not isinstance(labels, zarr.Group):
        return [], []
    listed = ome.split(labels.attrs.asdict())[0].get("labels")
    found, problems = [], []
    for name in listed if isinstance(listed, list) else []:
        try:
            found.append(_label_image(source, labels, str(name)))
        except (InvalidSetting, KeyError, IndexError, TypeError) as error:
            problems.append(f"labels/{name} is no label image of OME-Zarr ({error!r})")
    return found, problems


def _label_image(source: Source, labels: zarr.Group, name: str) -> LabelImage:
    group = _group(source.group, labels, name)
    block, rest = ome.split(group.attrs.asdict())
    levels = {}
    for level in block["multiscales"][0]["datasets"]:
        path = str(level["path"])
        array = group[path]
        if not isinstance(array, zarr.Array) or array.dtype.kind not in "iu":
            raise TypeError(f"{path} is no array of integers")
        where = posixpath.join(source.group, "labels", name, path)
        inside = where.removeprefix(source.spec.location).lstrip("/")
        levels[path] = replace(source.spec, component=inside, roi=None, mask=None)
    return LabelImage(name=name, block=block, attributes=rest, levels=levels)


def _group(where: str, parent: zarr.Group, name: str) -> zarr.Group:
    found = parent[name]
    if not isinstance(found, zarr.Group):
        raise InvalidSetting(f"{where}/{name} is an array, not an image of several levels")
    return found


def _only_series(where: str, group: zarr.Group, block: dict[str, Any]) -> str:
    """Return the only image of what bioformats2raw wrote: one group for each."""
    listed = block.get("series") or sorted(k for k in group.group_keys() if k.isdigit())
    if len(listed) != 1:
        raise InvalidSetting(
            f"{where} holds {len(listed)} images: {', '.join(listed) or 'none'}; give {where}/NAME"
        )
    return str(listed[0])


def _only_volume(spec: SourceSpec, where: str, group: zarr.Group) -> str:
    arrays = dict(group.arrays())
    # Coordinates, as xarray writes them, are named after their only dimension.
    volumes = [
        name
        for name, array in arrays.items()
        if array.ndim != 1 or _from_array(spec, where, array).dimension_names != (name,)
    ]
    if len(volumes) != 1:
        inside = sorted(arrays) + sorted(f"{name}/" for name in group.group_keys())
        raise InvalidSetting(
            f"{where} leaves open which array is meant: it holds "
            f"{', '.join(inside) or 'nothing'}; give {where}/NAME"
        )
    return volumes[0]


def _files(where: str, array: zarr.Array[Any]) -> tuple[str, ...]:
    """Return where the metadata, and the first and last chunk are, or would be."""
    edges = array.shards or array.chunks
    last = tuple(max(math.ceil(n / c) - 1, 0) for n, c in zip(array.shape, edges, strict=True))
    keys = [array.metadata.encode_chunk_key(at) for at in ((0,) * array.ndim, last)]
    metadata = ["zarr.json"] if array.metadata.zarr_format == 3 else [".zarray", ".zattrs"]
    return tuple(posixpath.join(where, key) for key in [*metadata, *keys])
