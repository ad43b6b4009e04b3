"""OME-Zarr metadata, read and written: pure functions over attributes.

Version 0.5 (zarr v3) keeps it under the attribute ``ome``, 0.4 (zarr v2) among the others.
Specification: https://ngff.openmicroscopy.org/0.5/ and /0.4/.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinc_codec.errors import UnsupportedData

_VERSIONS = {2: "0.4", 3: "0.5"}
_LOOSE_KEYS = (  # of 0.4
    "multiscales",
    "omero",
    "image-label",
    "labels",
    "bioformats2raw.layout",
    "series",
    "plate",
    "well",
)
_TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
_UNITS = {
    "a": "angstrom",
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",
    "μm": "micrometer",
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "in": "inch",
    "inch": "inch",
    "s": "second",
    "sec": "second",
    "ms": "millisecond",
    "us": "microsecond",
    "µs": "microsecond",
    "μs": "microsecond",
    "min": "minute",
    "h": "hour",
}
_NO_UNITS = ("", "pixel", "pixels", "px", "reference frame", "unknown", "none", "null")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the voxels of an array lie; one entry for each axis, None where it is not known.

    Attributes
    ----------
    names : tuple of str
        Names of the axes.
    types : tuple of str or None
        "space", "time", "channel", or what the source says.
    scale : tuple of float or None
        Distance of neighbouring voxels, in ``units``.
    units : tuple of str or None
        UDUNITS-2 names ("micrometer") where known; other units as the source has them.
    translation : tuple of float or None
        Position of the first voxel's centre, in ``units``.
    """

    names: tuple[str, ...]
    types: tuple[str | None, ...]
    scale: tuple[float | None, ...]
    units: tuple[str | None, ...]
    translation: tuple[float | None, ...]


def grid(
    names: Sequence[str],
    *,
    types: Sequence[str | None] | None = None,
    scale: Sequence[float | None] | None = None,
    units: Sequence[str | None] | None = None,
    translation: Sequence[float | None] | None = None,
) -> Grid:
    """Make a :class:`Grid`; what is left out is unknown, types are told by the usual names.

    A scale that is not positive and finite, as files have it where none was set, is unknown.
    """
    unknown = (None,) * len(names)
    return Grid(
        names=tuple(names),
        types=tuple(types or (_TYPES.get(name.lower()) for name in names)),
        scale=tuple(
            None if s is None or not (math.isfinite(s) and s > 0) else float(s)
            for s in scale or unknown
        ),
        units=tuple(units or unknown),
        translation=tuple(None if t is None else float(t) for t in translation or unknown),
    )


def unit_name(text: str | None) -> str | None:
    """Return the UDUNITS-2 name of a unit, the text itself if it is none known here.

    Pixels are no unit: None.
    """
    stripped = (text or "").strip()
    if stripped.lower() in _NO_UNITS:
        return None
    return _UNITS.get(stripped.lower(), stripped)


def split(attributes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the OME metadata of a group's attributes (empty if none), and the other attributes."""
    rest = dict(attributes)
    block = rest.pop("ome", None)
    if not isinstance(block, dict):
        block = {key: rest.pop(key) for key in _LOOSE_KEYS if key in rest}
    return block, rest


def level_zero_path(ome: Mapping[str, Any]) -> str | None:
    """Return the path of the full-resolution array, None if the metadata names none."""
    try:
        return str(ome["multiscales"][0]["datasets"][0]["path"])
    except (KeyError, IndexError, TypeError):
        return None


def axis_names(ome: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the axes, None if the metadata has none."""
    try:
        axes = ome["multiscales"][0]["axes"]
        return tuple(str(axis["name"] if isinstance(axis, dict) else axis) for axis in axes)
    except (KeyError, IndexError, TypeError):
        return None


def grid_of(ome: Mapping[str, Any], ndim: int) -> Grid | None:
    """Return the grid of level 0.

    None if the metadata names no axes, or another number of them, or is damaged.

    Parameters
    ----------
    ome : mapping
        As :func:`split` returned it.
    ndim : int
        Number of the array's axes.
    """
    names = axis_names(ome)
    if names is None or len(names) != ndim:
        return None
    try:
        return _grid_of_image(ome["multiscales"][0], names)
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _grid_of_image(image: Any, names: Sequence[str]) -> Grid:
    """Return the grid of level 0 of a multiscale image as OME-Zarr describes it."""
    ndim = len(names)
    axes = [axis if isinstance(axis, dict) else {} for axis in image["axes"]]
    scale: list[float | None] = [None] * ndim
    translation: list[float | None] = [None] * ndim
    transforms = image["datasets"][0].get("coordinateTransformations") or []
    for step in [*transforms, *(image.get("coordinateTransformations") or [])]:
        values = step.get(step.get("type"))
        if not isinstance(values, list) or len(values) != ndim:
            continue
        if not all(isinstance(v, int | float) for v in values):
            continue
        if step["type"] == "scale":
            scale = [v * (1 if s is None else s) for s, v in zip(scale, values, strict=True)]
            moved = zip(translation, values, strict=True)
            translation = [None if t is None else t * v for t, v in moved]
        elif step["type"] == "translation":
            translation = [(t or 0) + v for t, v in zip(translation, values, strict=True)]
    return grid(
        names,
        types=[
            axis.get("type") or _TYPES.get(n.lower()) for axis, n in zip(axes, names, strict=True)
        ],
        scale=scale,
        units=[axis.get("unit") for axis in axes],
        translation=translation,
    )


def cannot_describe(grid: Grid) -> str | None:
    """Return why OME-Zarr cannot describe such an array, None if it can.

    It wants 2 to 5 axes of different names: at most one of time, then at most one of channels or
    of another kind, then 2 or 3 of space.
    """
    count = Counter(
        kind if kind in ("space", "time") else "channel or other" for kind in grid.types
    )
    order = [{"time": 0, "space": 2}.get(kind or "", 1) for kind in grid.types]
    listed = ", ".join(
        f"{n} ({t or 'unknown'})" for n, t in zip(grid.names, grid.types, strict=True)
    )
    if count["space"] not in (2, 3):
        return f"OME-Zarr wants 2 or 3 axes of space; the axes are {listed}"
    if count["time"] > 1 or count["channel or other"] > 1:
        return f"OME-Zarr wants one axis of time and one of channels at most; the axes are {listed}"
    if order != sorted(order):
        return f"OME-Zarr wants time, channels, then space; the axes are {listed}"
    if len(set(grid.names)) != len(grid.names):
        return f"OME-Zarr wants axes of different names; the axes are {listed}"
    return None


def image_attributes(
    grid: Grid,
    levels: Sequence[tuple[str, tuple[int, ...]]],
    zarr_format: int,
    *,
    block: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Return the attributes of a multiscale image's group.

    Each level has its scale, and the half voxels by which the centre of its first voxel is
    moved. A scale that is not known is written as the specification demands: as the factor
    between the level and level 0, without a unit.

    Parameters
    ----------
    grid : Grid
        Of level 0.
    levels : sequence of (str, tuple of int)
        Path of each level's array within the group, and its factors, one for each axis: (1, 1, 1)
        for level 0.
    zarr_format : int
        2 gives OME-Zarr 0.4, 3 gives 0.5.
    block : mapping, optional
        OME metadata of the source, as :func:`split` returned it: omero, labels, names and whatever
        else it says are copied, with axes and levels replaced.
    name : str, optional
        Of the image, if the source's metadata has none.

    Raises
    ------
    UnsupportedData
        If OME-Zarr cannot describe the axes; see :func:`cannot_describe`.
    """
    why = cannot_describe(grid)
    if why:
        raise UnsupportedData(why)
    source = dict(block or {})
    images = source.get("multiscales") or [{}]
    image = {
        key: value
        for key, value in dict(images[0]).items()
        if key not in ("version", "axes", "datasets", "coordinateTransformations")
    }
    if name is not None:
        image.setdefault("name", name)
    if len(levels) > 1:
        image["type"] = "mean"
        image["metadata"] = {
            "description": "Means of blocks of level 0",
            "method": "tinc_codec.archive.pyramid.downsample",
        }
    image["axes"] = _axes(grid)
    image["datasets"] = [
        {"path": path, "coordinateTransformations": _transforms(grid, factors)}
        for path, factors in levels
    ]
    return _versioned(source, image, zarr_format)


def label_image_attributes(
    block: Mapping[str, Any], levels: int, zarr_format: int
) -> dict[str, Any]:
    """Return the attributes of a label image's group, of its first levels, in a format's version.

    All else stays as it is.
    """
    image = {key: value for key, value in block["multiscales"][0].items() if key != "version"}
    image["datasets"] = image["datasets"][:levels]
    return _versioned(dict(block), image, zarr_format)


def labels_attributes(names: Sequence[str], zarr_format: int) -> dict[str, Any]:
    """Return the attributes of the group ``labels``, which lists the label images in it."""
    if zarr_format == 3:
        return {"ome": {"version": "0.5", "labels": list(names)}}
    return {"labels": list(names)}


def array_options(grid: Grid, attributes: Mapping[str, Any], zarr_format: int) -> dict[str, Any]:
    """Return what ``create_array`` needs to name the axes, as xarray and OME-Zarr want them."""
    if zarr_format == 3:
        return {"attributes": dict(attributes), "dimension_names": grid.names}
    return {"attributes": {**attributes, "_ARRAY_DIMENSIONS": list(grid.names)}}


def _axes(grid: Grid) -> list[dict[str, str]]:
    columns = zip(grid.names, grid.types, grid.units, grid.scale, strict=True)
    return [
        {"name": name}
        | ({"type": kind} if kind else {})
        | ({"unit": unit} if unit and scale is not None else {})
        for name, kind, unit, scale in columns
    ]


def _transforms(grid: Grid, factors: tuple[int, ...]) -> list[dict[str, Any]]:
    base = [1.0 if s is None else s for s in grid.scale]
    first = [0.0 if t is None else t for t in grid.translation]
    scale = [s * f for s, f in zip(base, factors, strict=True)]
    columns = zip(first, base, factors, strict=True)
    translation = [t + s * (f - 1) / 2 for t, s, f in columns]
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
    if any(translation) or any(t is not None for t in grid.translation):
        transforms.append({"type": "translation", "translation": translation})
    return transforms


def _versioned(source: dict[str, Any], image: dict[str, Any], zarr_format: int) -> dict[str, Any]:
    version = _VERSIONS[zarr_format]
    block = {key: value for key, value in source.items() if key != "version"}
    for key in ("omero", "image-label"):
        if isinstance(block.get(key), dict):
            block[key] = {k: v for k, v in block[key].items() if k != "version"}
            if zarr_format == 2:
                block[key]["version"] = version
    if zarr_format == 3:
        return {"ome": {"version": version, **block, "multiscales": [image]}}
    return {**block, "multiscales": [{"version": version, **image}]}
