"""HDF5: the dataset that is named, or the only one; and Imaris files, which are HDF5."""

from __future__ import annotations

from typing import Any

from tinc_codec.archive import ome
from tinc_codec.archive.ome import Grid
from tinc_codec.archive.sources import imaris
from tinc_codec.archive.sources.source import (
    Source,
    SourceSpec,
    default_dimension_names,
    plain,
    require,
)
from tinc_codec.errors import InvalidSetting

SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".ims")
_LISTED = 10
_HIDDEN = ("DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS", "CLASS", "NAME")


def open_hdf5(spec: SourceSpec) -> Source:
    """Open a file for this process alone: handles of HDF5 do not survive a fork or a pickle."""
    h5py = require("h5py", spec.location)
    try:
        file = h5py.File(spec.location, "r")
    except OSError as error:
        raise InvalidSetting(f"{spec.location} cannot be read as HDF5: {error}") from error
    try:
        if spec.component is None and imaris.is_imaris(file):
            return imaris.open_imaris(spec, file)
        if spec.location.lower().endswith(".ims") and spec.component is None:
            raise InvalidSetting(
                f"{spec.location} is HDF5 but not Imaris: it has no DataSet and DataSetInfo"
            )
        return _source(spec, file, _dataset(spec, file, h5py))
    except BaseException:
        file.close()
        raise


def _dataset(spec: SourceSpec, file: Any, h5py: Any) -> Any:
    if spec.component is not None:
        try:
            found = file[spec.component]
        except (KeyError, ValueError) as error:
            raise InvalidSetting(
                f"{spec.location} holds no {spec.component}; it holds {_listed(file, h5py)}"
            ) from error
        if not isinstance(found, h5py.Dataset):
            raise InvalidSetting(
                f"{spec.location}::{spec.component} is a group; it holds {_listed(found, h5py)}"
            )
        return found
    names = _datasets(file, h5py)
    if len(names) != 1:
        raise InvalidSetting(
            f"{spec.location} leaves open which dataset is meant: it holds {_listed(file, h5py)}; "
            f"give {spec.location}::NAME"
        )
    return file[names[0]]


def _datasets(group: Any, h5py: Any) -> list[str]:
    """Return the names of the numerical datasets with axes, scales of axes left out."""
    names: list[str] = []

    def look(name: str, found: Any) -> None:
        volume = isinstance(found, h5py.Dataset) and found.ndim and found.dtype.kind in "iuf"
        if volume and not found.is_scale:
            names.append(name)

    group.visititems(look)
    return names


def _listed(group: Any, h5py: Any) -> str:
    names = _datasets(group, h5py)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) + more) or "no numerical dataset"


def _source(spec: SourceSpec, file: Any, dataset: Any) -> Source:
    attributes = {key: plain(v) for key, v in dataset.attrs.items() if key not in _HIDDEN}
    return Source(
        spec=spec,
        kind="hdf5",
        array=dataset,
        grid=_grid(dataset),
        name=dataset.name.rpartition("/")[2] or "data",
        chunks=dataset.chunks,
        files=(spec.location,),
        attributes=attributes,
        close=file.close,
    )


def _grid(dataset: Any) -> Grid:
    """Return names by HDF5's dimension labels, and scale by ``element_size_um``, if there are any.

    That attribute has the sizes of the last three axes in micrometers; PlantSeg, ilastik and Fiji's
    HDF5 plugin write it.
    """
    ndim = dataset.ndim
    labels = tuple(dimension.label for dimension in dataset.dims)
    named = all(labels) and len(set(labels)) == ndim
    names = labels if named else default_dimension_names(ndim)
    sizes = plain(dataset.attrs.get("element_size_um"))
    if not isinstance(sizes, list) or len(sizes) != 3 or ndim < 3:
        return ome.grid(names)
    unknown = [None] * (ndim - 3)
    return ome.grid(names, scale=[*unknown, *sizes], units=[*unknown, *["micrometer"] * 3])
