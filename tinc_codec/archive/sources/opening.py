"""Which reader a path, URL or array is for."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tinc_codec.archive.sources import (
    arrays,
    declared,
    hdf5,
    n5,
    nifti,
    npy,
    parts,
    planes,
    tiff,
    zarrs,
)
from tinc_codec.archive.sources.source import Source, SourceSpec
from tinc_codec.errors import InvalidSetting, TincError

_KINDS = (  # suffixes and the reader of files that have them
    (npy.SUFFIXES, npy.open_npy),
    (tiff.SUFFIXES, tiff.open_tiff),
    (hdf5.SUFFIXES, hdf5.open_hdf5),
    (nifti.SUFFIXES, nifti.open_nifti),
)
FILE_SUFFIXES = tuple(suffix for suffixes, _ in _KINDS for suffix in suffixes)


def open_source(
    src: str | Path | SourceSpec | Any, storage_options: Mapping[str, Any] | None = None
) -> Source:
    """Open a volume without reading its voxels.

    Parameters
    ----------
    src : str, Path, SourceSpec or array
        A file: .npy, TIFF (OME, ImageJ, BigTIFF), HDF5, Imaris (.ims), NIfTI; a folder of TIFF
        planes; a zarr array, or a zarr group with one array or with OME-Zarr metadata (level 0 is
        taken); N5; a URL of zarr or .npy (s3, gs, http, whatever fsspec has). What is inside is
        named after it, ``store.zarr/name``, ``file.h5/name``, or ``file.h5::name``; a file with a
        single array needs no name. Or an array of dask, xarray, zarr or numpy.
    storage_options : mapping, optional
        For fsspec, with URLs; what it leaves out comes from the environment.

    Returns
    -------
    Source

    Raises
    ------
    OSError
        If there is nothing there, or it cannot be read.
    InvalidSetting
        If the file is of another kind, damaged, or leaves open which array is meant.
    UnsupportedData
        If the array has no voxels.
    ModuleNotFoundError
        If its reader is not installed; the message says what to install.
    """
    if isinstance(src, SourceSpec):
        return open_spec(src)
    if not isinstance(src, str | Path):
        return arrays.open_array(SourceSpec(location=f"a {type(src).__name__}", array=src))
    return open_spec(locate(str(src), storage_options or {}))


def locate(text: str, storage_options: Mapping[str, Any]) -> SourceSpec:
    """Tell the file or store from the path of the array within it.

    ``file://`` URLs become paths. ``::`` separates the two, unless a URL follows, as in the chains
    of fsspec; without it, the file is the first part of the path that is one.
    """
    location, mark, component = text.rpartition("::")
    if not mark or "://" in component or Path(text).exists():
        location, component = text, ""
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    if "://" not in location:
        file = next((p for p in Path(location).parents if p.is_file()), None)
        if file is not None and not component:
            component = Path(location).relative_to(file).as_posix()
            location = str(file)
    return SourceSpec(
        location=location, component=component or None, storage_options=dict(storage_options)
    )


def open_spec(spec: SourceSpec) -> Source:
    """Open what a spec names; see :func:`open_source`."""
    with closed_on_error() as opened:
        source = opened(_open_whole(replace(spec, roi=None, mask=None)))
        plain = declared.with_plain_numbers(source.attributes, source.dtype)
        source = replace(source, attributes=plain)
        if spec.roi is None and spec.mask is None:
            return source
        mask = None if spec.mask is None else opened(open_spec(spec.mask))
        return parts.part_of(source, spec.roi, mask)


@contextlib.contextmanager
def closed_on_error() -> Iterator[Callable[[Source], Source]]:
    """Give a function that takes note of sources, which are closed if the block fails."""
    with contextlib.ExitStack() as stack:

        def opened(source: Source) -> Source:
            stack.callback(source.close)
            return source

        yield opened
        stack.pop_all()


def _open_whole(spec: SourceSpec) -> Source:
    if spec.array is not None:
        return arrays.open_array(spec)
    if spec.is_url:
        return _open_url(spec)
    try:
        return _reader(Path(spec.location))(spec)
    except (TincError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # whatever a reader raises for bytes that its authors never saw
        raise InvalidSetting(
            f"{spec.location} is damaged, or not what its name says: "
            f"{type(error).__name__}: {error}"
        ) from error


def _reader(path: Path) -> Callable[[SourceSpec], Source]:
    if path.is_dir():
        return _folder_reader(path)
    check_is_there(path)
    with path.open("rb"):  # not ours to read: the system's own error says so
        pass
    for suffixes, reader in _KINDS:
        if path.name.lower().endswith(suffixes):
            return reader
    raise InvalidSetting(
        f"{path} is of no kind known here; give {', '.join(FILE_SUFFIXES)}, a folder of TIFF "
        "planes, zarr or N5"
    )


def check_is_there(path: Path) -> None:
    """Raise what is to be said of a path that is not there: of an archive, that it is unfinished.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    """
    if path.exists():
        return
    partial = path.with_name(f"{path.name}.partial")
    told = "No such file or directory"
    if partial.is_dir():
        told += f"; {partial.name} is there, of a conversion to be finished: run it again"
    raise FileNotFoundError(errno.ENOENT, told, str(path))


def _folder_reader(path: Path) -> Callable[[SourceSpec], Source]:
    if zarrs.is_zarr(path):
        return zarrs.open_zarr
    if n5.is_n5(path):
        return n5.open_n5
    if any(name.suffix.lower() in tiff.SUFFIXES for name in path.iterdir()):
        return planes.open_planes
    raise InvalidSetting(
        f"{path} is a folder, but neither a zarr array nor a zarr group, nor N5, nor TIFF planes"
    )


def _open_url(spec: SourceSpec) -> Source:
    path = urlsplit(spec.location).path.lower()
    if path.endswith(tuple(suffix for suffixes, _ in _KINDS[1:] for suffix in suffixes)):
        raise InvalidSetting(
            f"{spec.location}: only zarr and .npy are read from URLs; copy the file here first"
        )
    reader = npy.open_url if path.endswith(npy.SUFFIXES) else zarrs.open_zarr
    try:
        return reader(spec)
    except (TincError, MemoryError):
        raise
    except ImportError as error:  # fsspec says which package the file system is in
        raise ModuleNotFoundError(
            f"{spec.location}: {error}: pip install 'tinc_codec[cloud]'"
        ) from error
    except FileNotFoundError as error:
        known = str(error).startswith(spec.location)
        raise (
            error if known else FileNotFoundError(f"{spec.location} is not there: {error}")
        ) from error
    except Exception as error:  # each file system has its own, of access, addresses, time-outs
        raise OSError(f"{spec.location} cannot be read: {error}") from error
