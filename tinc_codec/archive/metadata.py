"""The zarr metadata of an archive, made in memory and written last, when all chunks are there."""

from __future__ import annotations

import warnings
from typing import Any

import zarr
from zarr.storage import MemoryStore

from tinc_codec.archive import ome
from tinc_codec.archive.arrays import Documents, new_array
from tinc_codec.archive.plan import Plan
from tinc_codec.archive.sources import open_source


def documents(plan: Plan, provenance: dict[str, Any]) -> dict[str, bytes]:
    """Return the metadata files of an archive by their path in it.

    Attributes come from the source; ``tinc_codec`` among those of the full resolution tells where
    it came from.

    Parameters
    ----------
    plan : Plan
        The plan.
    provenance : dict
        Plain JSON values.
    """
    found = Documents()
    store = MemoryStore(found)
    first = plan.levels[0]
    with open_source(first.source) as source:
        attributes = dict(source.attributes)
        grid, about = source.grid, dict(source.group_attributes)
        if ome.cannot_describe(grid) is None:
            paths = [(level.path, level.factors) for level in plan.levels]
            about |= ome.image_attributes(
                grid, paths, plan.zarr_format, block=source.ome, name=source.name
            )
    zarr.create_group(store, zarr_format=plan.zarr_format, attributes=about)
    for level in plan.levels:
        own = {**attributes, "tinc_codec": provenance} if level is first else {}
        described = ome.array_options(grid, own, plan.zarr_format)
        new_array(found, level, plan.settings, plan.zarr_format, described)
    with warnings.catch_warnings():
        # Not in the v3 specification yet, but without it xarray warns at each opening.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in found.items()}
