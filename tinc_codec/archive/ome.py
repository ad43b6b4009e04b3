"""OME-Zarr metadata: which array is level 0, and the same metadata for that level alone.

Version 0.5 (zarr v3) keeps it under the attribute ``ome``, 0.4 (zarr v2) among the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LOOSE_KEYS = ("multiscales", "omero")  # of 0.4


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


def for_level_zero(ome: Mapping[str, Any], name: str, zarr_format: int) -> dict[str, Any]:
    """Return group attributes that describe level 0 alone, for one zarr format.

    Parameters
    ----------
    ome : mapping
        As :func:`split` returned it.
    name : str
        Name of the level's array in its new group.
    zarr_format : int
        2 gives OME-Zarr 0.4, 3 gives 0.5.
    """
    if level_zero_path(ome) is None:
        return {}
    image = dict(ome["multiscales"][0])
    image["datasets"] = [{**image["datasets"][0], "path": name}]
    image.pop("version", None)
    if zarr_format == 3:
        return {"ome": {**ome, "version": "0.5", "multiscales": [image]}}
    loose = {key: value for key, value in ome.items() if key != "version"}
    return {**loose, "multiscales": [{**image, "version": "0.4"}]}
