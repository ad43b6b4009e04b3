"""Values that attributes declare as missing: as plain numbers, however they are written.

netCDF-4 has them in arrays of one value; xarray writes those of floats to zarr v3 as base64 of
eight bytes (its ``FillValueCoder``), and those of zarr v2 as the array's fill value.
"""

from __future__ import annotations

import base64
import contextlib
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

NAMES = ("_FillValue", "missing_value")


def with_plain_numbers(attributes: Mapping[str, Any], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return attributes in which what is declared missing is a number, where it is one.

    NaN, which is kept in any case, is left out.
    """
    found = dict(attributes)
    for name in NAMES:
        if name in found:
            value = _number(found.pop(name), dtype)
            if not (isinstance(value, float) and math.isnan(value)):
                found[name] = value
    return found


def _number(value: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(value, list | tuple | np.ndarray | np.generic) and np.size(value) == 1:
        value = np.asarray(value).item()
    if not isinstance(value, str) or dtype.kind != "f":
        return value
    for read in (float, _of_base64):
        with contextlib.suppress(ValueError, struct.error):
            return read(value)
    return value


def _of_base64(text: str) -> float:
    return float(struct.unpack("<d", base64.b64decode(text, validate=True))[0])


def as_stored(
    attributes: Mapping[str, Any], dtype: np.dtype[Any], zarr_format: int
) -> dict[str, Any]:
    """Return attributes as xarray wants them in zarr metadata of a format."""
    found = dict(attributes)
    value = found.get("_FillValue")
    if zarr_format == 3 and dtype.kind == "f" and isinstance(value, int | float):
        found["_FillValue"] = base64.b64encode(struct.pack("<d", value)).decode()
    return found


def numbers(attributes: Mapping[str, Any]) -> list[int | float]:
    """Return the values that plain attributes declare as missing."""
    declared = [attributes.get(name) for name in NAMES]
    return [v for v in declared if isinstance(v, int | float) and math.isfinite(v)]
