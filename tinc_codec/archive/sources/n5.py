"""N5 through tensorstore: zarr 3 reads it no more. Axes in the order z, y, x, as elsewhere."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.ome import Grid
from tinc_codec.archive.sources.source import (
    Source,
    SourceSpec,
    Transposed,
    default_dimension_names,
    require,
)
from tinc_codec.errors import InvalidSetting

_FILE = "attributes.json"
_OWN = ("dimensions", "blockSize", "dataType", "compression", "compressionType", "n5")


def is_n5(path: Path) -> bool:
    """Whether a folder is an N5 group or dataset."""
    named = any(part.lower().endswith(".n5") for part in path.parts)
    return named or (path / _FILE).is_file()


def open_n5(spec: SourceSpec) -> Source:
    """Open a dataset, the only dataset of a group, or level ``s0`` of a group of levels."""
    tensorstore = require("tensorstore", spec.location)
    folder = _dataset(Path(spec.location, spec.component or ""))
    described = _attributes(folder)
    try:
        array = tensorstore.open(
            {"driver": "n5", "kvstore": {"driver": "file", "path": str(folder)}},
            read=True,
            open=True,
        ).result()
    except ValueError as error:
        raise InvalidSetting(f"{folder} cannot be opened as N5: {error}") from error
    order = tuple(reversed(range(array.ndim)))  # N5 counts x first
    blocks = array.chunk_layout.read_chunk.shape
    shape = tuple(array.shape[k] for k in order)
    chunks = tuple(blocks[k] for k in order)
    last = [(n - 1) // b for n, b in zip(array.shape, blocks, strict=True)]
    ends = [folder.joinpath(*map(str, at)) for at in ([0] * array.ndim, last)]
    group = {} if folder.name != "s0" else _attributes(folder.parent)
    return Source(
        spec=spec,
        kind="n5",
        array=Transposed(N5(array), order),
        grid=_grid({**group, **described}, len(shape)),
        name=folder.name if folder.suffix.lower() != ".n5" else "data",
        chunks=chunks,
        files=tuple(map(str, [folder / _FILE, *ends])),
        attributes={key: value for key, value in described.items() if key not in _OWN},
    )


class N5:
    """A tensorstore, whose regions are awaited."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype.numpy_dtype)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        parts = tuple(slice(*s.indices(n)) for s, n in zip(region, self.shape, strict=True))
        return np.asarray(self._array[parts].read().result())


def _attributes(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InvalidSetting(f"{folder / _FILE} is not JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _dataset(folder: Path) -> Path:
    if "dimensions" in _attributes(folder):
        return folder
    if "dimensions" in _attributes(folder / "s0"):
        return folder / "s0"
    inside = sorted(p.parent for p in folder.rglob(_FILE) if "dimensions" in _attributes(p.parent))
    if len(inside) != 1:
        names = ", ".join(p.relative_to(folder).as_posix() for p in inside) or "no dataset"
        raise InvalidSetting(
            f"{folder} leaves open which dataset is meant: it holds {names}; give {folder}/NAME"
        )
    return inside[0]


def _grid(attributes: dict[str, Any], ndim: int) -> Grid:
    """Return what resolution, units and axes, or n5-viewer's pixelResolution, say."""
    pixel = attributes.get("pixelResolution")
    sizes: Any
    units: Any
    sizes, units = attributes.get("resolution"), attributes.get("units")
    if isinstance(pixel, dict):
        sizes, units = pixel.get("dimensions"), [pixel.get("unit")] * ndim
    names = attributes.get("axes")
    if not isinstance(names, list) or len(names) != ndim or len(set(map(str, names))) != ndim:
        names = default_dimension_names(ndim)[::-1]
    listed = isinstance(sizes, list) and len(sizes) == ndim
    scale = [float(s) if math.isfinite(s) else None for s in sizes] if listed else [None] * ndim
    named = listed and isinstance(units, list) and len(units) == ndim
    unit = [ome.unit_name(u) for u in units] if named else [None] * ndim
    return ome.grid([str(name) for name in names[::-1]], scale=scale[::-1], units=unit[::-1])
