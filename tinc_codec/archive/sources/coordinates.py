"""Coordinates along axes: OME-Zarr has even, increasing ones as a scale, a unit and a first place.

Others are left out, and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.ome import Grid

# Values along an axis, and the attributes that they have.
Coordinate = tuple[NDArray[Any], Mapping[str, Any]]


def grid_and_lost(
    names: Sequence[str], along: Mapping[str, Coordinate], others: Iterable[str] = ()
) -> tuple[Grid, tuple[str, ...]]:
    """Return the grid that coordinates tell, and for messages what it does not.

    Parameters
    ----------
    names : sequence of str
        Of the axes.
    along : mapping
        Coordinates by the axis that they are of.
    others : iterable of str
        Names of other coordinates.
    """
    scale: list[float | None] = []
    units: list[str | None] = []
    first: list[float | None] = []
    for name in names:
        values, attributes = along.get(name, (np.zeros(0), {}))
        step = None if _is_of_time(attributes) else _spacing(values)
        scale.append(step)
        first.append(None if step is None else float(values[0]))
        units.append(None if step is None else ome.unit_name(attributes.get("units")))
    known = [name for name, step in zip(names, scale, strict=True) if step is not None]
    lost = sorted({*along, *others} - set(known))
    said = (
        f"coordinates {', '.join(lost)}: OME-Zarr has numbers alone, evenly spaced and increasing, "
        "one for each index of an axis"
    )
    return ome.grid(names, scale=scale, units=units, translation=first), (said,) if lost else ()


def _is_of_time(attributes: Mapping[str, Any]) -> bool:
    """Return whether numbers are times since a date, as CF conventions write them."""
    return " since " in str(attributes.get("units"))


def _spacing(values: NDArray[Any]) -> float | None:
    if values.ndim != 1 or values.size < 2 or values.dtype.kind not in "iuf":
        return None
    steps = np.diff(values.astype(np.float64))
    step = float(values[-1] - values[0]) / (values.size - 1)
    even = step > 0 and bool(np.allclose(steps, step, rtol=1e-4, atol=0))
    return step if even else None
