"""A folder of TIFF planes, in natural order: plane2 before plane10."""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinc_codec.archive import ome
from tinc_codec.archive.layout import Region
from tinc_codec.archive.sources.source import Source, SourceSpec
from tinc_codec.archive.sources.tiff import SUFFIXES, ome_pixels, voxel_sizes, whole_file
from tinc_codec.errors import InvalidSetting, TincError


def open_planes(spec: SourceSpec) -> Source:
    """Open a folder of files with one plane each; all must be of the same shape and dtype.

    The headers of all are read, but for a spec that has been opened before: then a plane is
    looked at when it is read.
    """
    folder = Path(spec.location)
    files = sorted((p for p in folder.iterdir() if _is_plane(p)), key=lambda p: natural(p.name))
    shape, dtype, told = _header(files[0])
    for file in files[1:] if not spec.checked else ():
        _check_same(file, _header(file)[:2], files[0], (shape, dtype))
    return Source(
        spec=spec,
        kind="tiff planes",
        array=Planes(tuple(files), shape, dtype),
        grid=ome.grid(
            "zyx",
            scale=[None, *(told.get(axis, (None, None))[0] for axis in "yx")],
            units=[None, *(told.get(axis, (None, None))[1] for axis in "yx")],
        ),
        chunks=(1, *shape),
        files=tuple(map(str, files)),
        left_out=_gaps(files),
    )


def _gaps(files: Sequence[Path]) -> tuple[str, ...]:
    """Say where numbers of files, which else go up evenly, leave some out: planes may be lost."""
    keys = [natural(file.name) for file in files]
    texts = {tuple(part for part in key if isinstance(part, str)) for key in keys}
    varying = [k for k, parts in enumerate(zip(*keys, strict=False)) if len(set(parts)) > 1]
    if len(texts) > 1 or len(varying) != 1:
        return ()
    numbers = [key[varying[0]] for key in keys]
    steps = [after - before for before, after in itertools.pairwise(numbers)]
    usual = statistics.mode(steps)
    gaps = [k for k, step in enumerate(steps) if step > usual]
    if not gaps or 2 * steps.count(usual) < len(steps):  # numbers of another kind, such as times
        return ()
    more = f", and at {len(gaps) - 1} more places" if len(gaps) > 1 else ""
    return (
        f"planes that the folder may have lost: the numbers of its files leave some out between "
        f"{files[gaps[0]].name} and {files[gaps[0] + 1].name}{more}; all are taken for neighbours",
    )


def natural(name: str) -> list[Any]:
    """Return a key that sorts the numbers within names by value."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True, slots=True)
class Planes:
    """Planes, each read whole for any part of it; attributes as a readable has them."""

    files: Sequence[Path]
    plane: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along z, y and x."""
        return (len(self.files), *self.plane)

    def __getitem__(self, region: Region, /) -> NDArray[Any]:
        z, *part = region
        files = self.files[z]
        shape = [len(range(*s.indices(n))) for s, n in zip(part, self.plane, strict=True)]
        voxels = np.empty((len(files), *shape), self.dtype)
        for target, file in zip(voxels, files, strict=True):
            target[...] = self._plane(file)[tuple(part)]
        return voxels

    def _plane(self, file: Path) -> NDArray[Any]:
        import tifffile

        try:
            with tifffile.TiffFile(file, is_ome=False) as tiff:
                plane = tiff.pages.first.asarray()
        except (OSError, MemoryError):
            raise
        except Exception as error:  # whatever the decoder raises for damaged bytes
            raise OSError(f"{file} cannot be read: {error}") from error
        if plane.shape != self.plane or plane.dtype != self.dtype:
            raise OSError(
                f"{file} has changed: it is {plane.shape} {plane.dtype}, and was "
                f"{self.plane} {self.dtype}"
            )
        return np.asarray(plane)


def _is_plane(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _header(file: Path) -> tuple[tuple[int, ...], np.dtype[Any], dict[str, Any]]:
    import tifffile

    try:
        with whole_file(file), tifffile.TiffFile(file) as tiff:
            first, pages = tiff.pages.first, len(tiff.pages)
            shape, dtype = tuple(first.shape), first.dtype
            told = voxel_sizes(tiff, ome_pixels(tiff))
            ends = max(o + n for o, n in zip(first.dataoffsets, first.databytecounts, strict=True))
    except (TincError, OSError, MemoryError):
        raise
    except Exception as error:  # tifffile lets through much of what damaged bytes raise
        raise InvalidSetting(f"{file} cannot be read as a TIFF: {error}") from error
    if pages != 1 or len(shape) != 2:
        raise InvalidSetting(
            f"{file} holds {pages} page(s) of shape {shape}; a folder is read as one plane of two "
            "axes a file: give a single file, or a folder of planes"
        )
    if ends > file.stat().st_size:
        raise InvalidSetting(
            f"{file} is cut short: {file.stat().st_size} bytes of {ends}; copy it there again"
        )
    return shape, np.dtype(dtype), told


def _check_same(file: Path, found: Any, first: Path, expected: Any) -> None:
    if found != expected:
        raise InvalidSetting(
            f"{file} is {found[0]} {found[1]}, but {first.name} is {expected[0]} {expected[1]}; "
            "take it out of the folder, or give the folder of one stack"
        )
