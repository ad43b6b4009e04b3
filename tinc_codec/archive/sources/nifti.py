"""NIfTI: stored numbers as they are, axes in the order t, c, z, y, x."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.sources.source import (
    Readable,
    Source,
    SourceSpec,
    Transposed,
    default_dimension_names,
    plain,
    require,
)
from tinc_codec.errors import InvalidSetting

SUFFIXES = (".nii", ".nii.gz")
_AXES = ("x", "y", "z", "t", "c")
_UNITS = {"mm": "millimeter", "meter": "meter", "micron": "micrometer", "sec": "second"}
_UNITS |= {"msec": "millisecond", "usec": "microsecond", "hz": "hertz", "ppm": "ppm"}


def open_nifti(spec: SourceSpec) -> Source:
    """Open a file.

    Where the header scales (scl_slope, scl_inter), the stored numbers are given all the same, and
    the attributes ``scale_factor`` and ``add_offset`` tell the rest: xarray applies them. A .nii.gz
    cannot be read in parts: the first read takes all of it into memory, ``resident_bytes``.
    """
    nibabel = require("nibabel", spec.location)
    path = Path(spec.location)
    try:
        image = nibabel.load(path)
        header, proxy = image.header, image.dataobj
        stored = nibabel.arrayproxy.ArrayProxy(
            str(path), (proxy.shape, header.get_data_dtype(), proxy.offset, 1.0, 0.0)
        )
        zooms, units = header.get_zooms(), header.get_xyzt_units()
    except (OSError, MemoryError):
        raise
    except Exception as error:  # nibabel has several for damaged headers
        raise InvalidSetting(f"{path} cannot be read as NIfTI: {error}") from error
    size = math.prod(stored.shape) * stored.dtype.itemsize
    packed = path.name.lower().endswith(".gz")
    if not packed and path.stat().st_size < stored.offset + size:
        raise InvalidSetting(
            f"{path} is cut short: {path.stat().st_size} bytes of {stored.offset + size}; "
            "copy it there again"
        )
    array: Readable = Whole(stored) if packed else stored
    names = _AXES[: len(stored.shape)]
    order = [k for k in (3, 4, 2, 1, 0) if k < len(names)]
    if len(stored.shape) > len(_AXES):
        names = default_dimension_names(len(stored.shape))
        order = list(range(len(names)))
    scale, unit = _sizes(zooms, units, len(names))
    return Source(
        spec=spec,
        kind="nifti",
        array=Transposed(array, tuple(order)),
        grid=ome.grid(
            [names[k] for k in order],
            scale=[scale[k] for k in order],
            units=[unit[k] for k in order],
        ),
        files=(spec.location,),
        resident_bytes=size if packed else 0,
        attributes=_attributes(image, proxy),
    )


class Whole:
    """A compressed file, read at once when first asked for."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy
        self._voxels: NDArray[Any] | None = None
        self._lock = threading.Lock()
        self.shape: tuple[int, ...] = tuple(proxy.shape)
        self.dtype = np.dtype(proxy.dtype)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        with self._lock:
            if self._voxels is None:
                try:
                    self._voxels = np.asarray(self._proxy.get_unscaled())
                except (EOFError, ValueError) as error:
                    raise OSError(f"{self._proxy.file_like} cannot be read: {error}") from error
        return self._voxels[region]


def _sizes(
    zooms: tuple[float, ...], units: tuple[str, str], ndim: int
) -> tuple[list[float | None], list[str | None]]:
    """Return scale and units in the file's order of axes; zooms of 1 without a unit are no sizes.

    A new header has just that, so they tell nothing.
    """
    space, time = (_UNITS.get(unit) for unit in units)
    of_axis = [space] * min(3, ndim) + [time] * (ndim > 3) + [None] * max(0, ndim - 4)
    told = [float(z) if u or z != 1 else None for z, u in zip(zooms, of_axis, strict=True)]
    return [z if k < 4 else None for k, z in enumerate(told)], of_axis


def _attributes(image: Any, proxy: Any) -> dict[str, Any]:
    attributes: dict[str, Any] = {"nifti_affine": plain(image.affine)}
    text = image.header["descrip"].item().decode("utf-8", "replace").strip("\0 ")
    if text:
        attributes["nifti_descrip"] = text
    if (proxy.slope, proxy.inter) != (1, 0):
        attributes |= {"scale_factor": float(proxy.slope), "add_offset": float(proxy.inter)}
    return attributes
