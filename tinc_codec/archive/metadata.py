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
    with open_source(plan.src) as source:
        attributes = dict(source.attributes)
        described = ome.for_level_zero(source.ome, source.name, plan.zarr_format)
        about = {**source.group_attributes, **described}
    store = MemoryStore(found)
    zarr.create_group(store, zarr_format=plan.zarr_format, attributes=about)
    for number, level in enumerate(plan.levels):
        new_array(
            found,
            level,
            np.dtype(plan.dtype),
            plan.settings,
            plan.zarr_format,
            names=plan.names,
            attributes={**attributes, "tinc_codec": provenance} if number == 0 else None,
        )
    with warnings.catch_warnings():
        # Not in the v3 specification yet, but without it xarray warns at each opening.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in found.items()}
