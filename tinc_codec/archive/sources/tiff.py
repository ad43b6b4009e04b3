"""TIFF, BigTIFF, OME-TIFF and ImageJ's: axes in the order of OME-Zarr, voxel sizes where told."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zarr

from tinc_codec.archive import ome
from tinc_codec.archive.sources.source import (
    Readable,
    Source,
    SourceSpec,
    Transposed,
    default_dimension_names,
    ome_order,
)
from tinc_codec.errors import InvalidSetting, TincError

SUFFIXES = (".tif", ".tiff", ".btf", ".tf8", ".lsm")

# Axes that tifffile finds no meaning of: sequences of pages, and images.
_UNKNOWN = frozenset("qi")

Told = dict[str, tuple[float, str | None]]  # scale and unit by axis


def open_tiff(spec: SourceSpec) -> Source:
    """Open the first series of a file, at full resolution."""
    import tifffile

    path = spec.location
    tiff = None
    try:
        with whole_file(path):
            tiff = tifffile.TiffFile(path)
            series = tiff.series[0]
            axes, description = tuple(series.axes.lower()), tiff.pages.first.description
            pixels, left_out = ome_pixels(tiff), _other_images(tiff)
            told, channels = voxel_sizes(tiff, pixels), _channel_names(pixels)
            if series.keyframe.is_memmappable and series.dataoffset is not None:
                array: Readable = tifffile.memmap(path, series=0, mode="r")
                chunks = None
            else:
                _check_last(path, series)
                array, chunks = _pages(path, series)
    except Exception as error:  # tifffile lets through much of what damaged bytes raise
        if tiff:
            tiff.close()
        if isinstance(error, TincError | OSError | MemoryError):
            raise
        raise InvalidSetting(f"{path} cannot be read as a TIFF: {error}") from error
    names = _names(axes, len(array.shape))
    order = ome_order(names)
    if order != tuple(range(len(order))):
        array, names = Transposed(array, order), tuple(names[k] for k in order)
        chunks = chunks and tuple(chunks[k] for k in order)
    # The descriptions that tifffile itself adds only repeat the shape.
    own = not description or description.startswith('{"shape"')
    attributes: dict[str, Any] = {} if own else {"image_description": description}
    if channels:
        attributes["channel_names"] = channels
    return Source(
        spec=spec,
        kind="tiff",
        array=array,
        grid=ome.grid(
            names,
            scale=[told.get(name, (None, None))[0] for name in names],
            units=[told.get(name, (None, None))[1] for name in names],
        ),
        chunks=chunks,
        files=(path,),
        attributes=attributes,
        left_out=left_out,
        close=tiff.close,
    )


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[None]:
    """Refuse what tifffile only logs: that pages are missing, as in a file that is cut short.

    It would go on with those that are left, as if they were all.
    """
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener = Listener(logging.ERROR)
    logger = logging.getLogger("tifffile")
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)
    lost = [text for text in said if "TiffPages" in text or "series" in text]
    if lost:
        raise InvalidSetting(f"{path} is damaged or cut short, pages may be missing: {lost[0]}")


def voxel_sizes(tiff: Any, pixels: dict[str, Any]) -> Told:
    """Return what OME-XML or ImageJ say of distances.

    The resolution of plain TIFF is left alone: it is mostly a printer's default, and says nothing
    of z.
    """
    if tiff.is_ome:
        return _of_ome(pixels)
    if tiff.is_imagej:
        return _of_imagej(tiff)
    return {}


def _other_images(tiff: Any) -> tuple[str, ...]:
    others = len(tiff.series) - 1
    if not others:
        return ()
    first = tiff.series[0]
    return (
        f"{others} of the {others + 1} images in the file: the first is read, {first.name!r} of "
        f"shape {first.shape}; save the others on their own",
    )


def _channel_names(pixels: dict[str, Any]) -> list[str]:
    """Return the names of the first image's channels; none where not all have one."""
    found = pixels.get("Channel", [])
    channels = found if isinstance(found, list) else [found]
    names = [str(channel.get("Name") or "") for channel in channels]
    return names if all(names) else []


def _names(axes: tuple[str, ...], ndim: int) -> tuple[str, ...]:
    if len(axes) != ndim or len(set(axes)) != ndim:
        return default_dimension_names(ndim)
    if "s" in axes and "c" not in axes:  # samples of a pixel, red, green and blue
        axes = tuple("c" if axis == "s" else axis for axis in axes)
    elif set(axes) & _UNKNOWN:
        return default_dimension_names(ndim)
    # Pages beside samples are planes, or times where there are planes.
    free = iter([name for name in "zt" if name not in axes])
    return tuple(next(free, axis) if axis in _UNKNOWN else axis for axis in axes)


def _pages(path: str, series: Any) -> tuple[Readable, tuple[int, ...]]:
    """View a series of compressed pages as an array that decodes a page or tile at a time."""
    opened = zarr.open(series.aszarr(level=0), mode="r")
    if not isinstance(opened, zarr.Array):
        raise InvalidSetting(f"{path} holds several arrays; save the wanted one on its own")
    return opened, opened.chunks


def _check_last(path: str, series: Any) -> None:
    page = series.pages[-1]
    if page is None:  # a plane that OME-XML tells was never written
        return
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    size = page.parent.filehandle.size
    if max(ends) > size:
        raise InvalidSetting(
            f"{path} is cut short: {size} bytes of {max(ends)}; copy it there again"
        )


def ome_pixels(tiff: Any) -> dict[str, Any]:
    """Return what OME-XML tells of the first image's voxels; nothing where there is none."""
    import tifffile

    if not tiff.is_ome:
        return {}
    image = tifffile.xml2dict(tiff.ome_metadata).get("OME", {}).get("Image", {})
    pixels: dict[str, Any] = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    return pixels


def _of_ome(pixels: dict[str, Any]) -> Told:
    told: Told = {}
    for axis in "zyx":
        size = pixels.get(f"PhysicalSize{axis.upper()}")
        if size is not None:  # micrometers are the schema's default
            unit = ome.unit_name(pixels.get(f"PhysicalSize{axis.upper()}Unit", "µm"))
            told[axis] = float(size), unit
    if pixels.get("TimeIncrement") is not None:
        unit = ome.unit_name(pixels.get("TimeIncrementUnit", "s"))
        told["t"] = float(pixels["TimeIncrement"]), unit
    return told


def _of_imagej(tiff: Any) -> Told:
    described = tiff.imagej_metadata or {}
    told: Told = {}
    unit = ome.unit_name(str(described.get("unit") or "").replace("\\u00B5", "µ"))
    if unit is not None:
        tags = tiff.pages.first.tags
        for axis, tag in (("y", "YResolution"), ("x", "XResolution")):
            pixels, units = tags[tag].value if tag in tags else (0, 0)
            if pixels and units:
                told[axis] = units / pixels, unit
        if described.get("spacing"):
            told["z"] = abs(float(described["spacing"])), unit
    if described.get("finterval"):
        told["t"] = float(described["finterval"]), "second"
    return told
