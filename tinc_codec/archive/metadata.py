"""The zarr metadata of an archive, made in memory and written last, when all chunks are there."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from tinc_codec.archive import ome
from tinc_codec.archive.arrays import Documents, new_array
from tinc_codec.archive.plan import Plan
from tinc_codec.archive.sources import (
    Source,
    declared,
    default_dimension_names,
    label_images,
    open_source,
)


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
            paths = [(level.path, level.factors) for level in plan.levels if not level.image]
            about |= ome.image_attributes(
                grid, paths, plan.zarr_format, block=source.ome, name=source.name
            )
        zarr.create_group(store, zarr_format=plan.zarr_format, attributes=about)
        grids = _label_groups(store, plan, source)
    missing = {name: attributes[name] for name in declared.NAMES if name in attributes}
    for level in plan.levels:
        own = {} if level.image else missing
        if level is first:
            own = {**attributes, "tinc_codec": provenance}
        own = declared.as_stored(own, np.dtype(level.dtype), plan.zarr_format)
        described = ome.array_options(grids.get(level.path, grid), own, plan.zarr_format)
        new_array(found, level, plan.settings, plan.zarr_format, described)
    with warnings.catch_warnings():
        # Not in the v3 specification yet, but without it xarray warns at each opening.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in found.items()}


def _label_groups(store: MemoryStore, plan: Plan, source: Source) -> dict[str, ome.Grid]:
    """Make the groups of the label images that are copied; return the grids of their arrays."""
    copied = {level.image for level in plan.levels if level.image}
    images = [i for i in label_images(source)[0] if f"labels/{i.name}" in copied] if copied else []
    if images:
        names = ome.labels_attributes([image.name for image in images], plan.zarr_format)
        zarr.create_group(store, path="labels", zarr_format=plan.zarr_format, attributes=names)
    grids = {}
    for image in images:
        path = f"labels/{image.name}"
        count = sum(level.image == path for level in plan.levels)
        attributes = dict(image.attributes)
        attributes |= ome.label_image_attributes(image.block, count, plan.zarr_format)
        zarr.create_group(store, path=path, zarr_format=plan.zarr_format, attributes=attributes)
        for level in plan.levels:
            if level.image == path:
                ndim = len(level.shape)
                grids[level.path] = ome.grid_of(image.block, ndim) or ome.grid(
                    default_dimension_names(ndim)
                )
    return grids
