"""NumPy's .npy: mapped from a file, read by byte ranges from a URL."""

from __future__ import annotations

import io
import math
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.sources.fingerprint import filesystem
from tinc_codec.archive.sources.source import (
    Readable,
    Source,
    SourceSpec,
    Transposed,
    default_dimension_names,
)
from tinc_codec.errors import InvalidSetting

SUFFIXES = (".npy",)
_HEADER = 2**16


def open_npy(spec: SourceSpec) -> Source:
    """Map a file."""
    try:
        array = np.load(spec.location, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise InvalidSetting(
            f"{spec.location} cannot be read as a plain .npy array: {error}"
        ) from error
    return _source(spec, array)


def open_url(spec: SourceSpec) -> Source:
    """Read the header behind a URL."""
    fs, path = filesystem(spec.location, spec.storage_options)
    try:
        start = fs.cat_file(path, start=0, end=_HEADER)
        file = io.BytesIO(start)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, KeyError) as error:
        raise InvalidSetting(
            f"{spec.location} cannot be read as a plain .npy array: {error}"
        ) from error
    if dtype.hasobject:
        raise InvalidSetting(f"{spec.location} holds Python objects; save numbers")
    size, wanted = int(fs.info(path)["size"]), file.tell() + math.prod(shape) * dtype.itemsize
    if size < wanted:
        raise InvalidSetting(
            f"{spec.location} is cut short: {size} bytes of {wanted}; copy it there again"
        )
    array: Readable = RemoteNpy(fs, path, file.tell(), shape[::-1] if fortran else shape, dtype)
    if fortran:
        array = Transposed(array, tuple(reversed(range(len(shape)))))
    return _source(spec, array)


def _source(spec: SourceSpec, array: Readable) -> Source:
    return Source(
        spec=spec,
        kind="npy",
        array=array,
        grid=ome.grid(default_dimension_names(len(array.shape))),
        files=(spec.location,),
    )


class RemoteNpy:
    """The voxels of a .npy in C order behind fsspec: whole rows are fetched, many at once."""

    def __init__(
        self, fs: Any, path: str, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self._fs, self._path, self._offset = fs, path, offset
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        """Fetch for each index of the axes before the last two the rows that are asked for."""
        spans = [range(*part.indices(n)) for part, n in zip(region, self.shape, strict=True)]
        lead, rows = spans[:-2], spans[-2:]
        plane = self.shape[-2:]
        row = plane[-1] * self.dtype.itemsize if len(plane) == 2 else self.dtype.itemsize
        strides = [math.prod(self.shape[k + 1 :]) for k in range(len(self.shape))]
        begins = [
            self._offset
            + sum(i * s for i, s in zip(index, strides, strict=False)) * self.dtype.itemsize
            + rows[0].start * row
            for index in product(*lead)
        ]
        length = len(rows[0]) * row
        parts = self._fs.cat_ranges(
            [self._path] * len(begins), begins, [b + length for b in begins], on_error="raise"
        )
        found = np.frombuffer(b"".join(parts), self.dtype)
        if len(plane) == 1:
            return found
        found = found.reshape(*(len(span) for span in lead), len(rows[0]), plane[1])
        return found[..., rows[1].start : rows[1].stop]
