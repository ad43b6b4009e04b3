"""The arrays of an archive: levels of the image's pyramid, and label images that are copied."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tinc_codec.archive.arrays import Level, check_encoder
from tinc_codec.archive.layout import chunk_shape, shard_shape
from tinc_codec.archive.memory import with_reading
from tinc_codec.archive.pyramid import level_factors, level_shape
from tinc_codec.archive.sources import Source, SourceSpec, declared, label_images, open_source
from tinc_codec.errors import InvalidSetting
from tinc_codec.settings import Settings

_LOSSLESS_FROM = 3  # level of the pyramid: coarser ones are small, and overviews want to be quick


def image_levels(
    source: Source,
    settings: Settings,
    levels: int,
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    zarr_format: Literal[2, 3],
    *,
    labels: bool,
) -> tuple[Level, ...]:
    """Lay out the levels of the image's pyramid, the full resolution first.

    Parameters
    ----------
    source : Source
        Of the image.
    settings : Settings
        Of the encoder. Levels that it does not take are lossless, but for the full resolution.
    levels, chunks, shards, zarr_format, labels
        See :func:`tinc_codec.archive.plan`.

    Raises
    ------
    InvalidSetting
        If the chunks, the shards or the number of levels are out of range, or the encoder does not
        take chunks of the full resolution.
    UnsupportedData
        If the codec does not take the source's dtype.
    """
    dtype = source.dtype.newbyteorder("=")
    sentinels = declared.numbers(source.attributes)
    spec = _for_workers(source.spec)
    found: list[Level] = []
    for number, factors in enumerate(level_factors(source.grid, source.shape, levels)):
        shape = level_shape(source.shape, factors)
        edges = chunk_shape(shape, chunks)
        fits = not labels and _fits(edges, dtype, settings, number)
        level = Level(
            source=spec,
            path=source.name if levels == 1 else str(number),
            dtype=dtype.str,
            factors=factors,
            shape=shape,
            chunks=edges,
            shards=edges if zarr_format == 2 else shard_shape(shape, edges, shards),
            lossless=number >= _LOSSLESS_FROM or not fits,
            labels=labels,
            missing=sentinels[0] if sentinels else None,
        )
        found.append(with_reading(level, source))
    return tuple(found)


def label_levels(
    source: Source,
    levels: int,
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    zarr_format: Literal[2, 3],
) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Lay out the copies of the source's label images; tell why some are not copied, or in part.

    Parameters
    ----------
    source : Source
        Of the image.
    levels : int
        Of the image: OME-Zarr wants as many of its label images.
    chunks, shards, zarr_format
        See :func:`tinc_codec.archive.plan`.

    Raises
    ------
    InvalidSetting
        If the chunks or the shards are out of range.
    OSError
        If a label image cannot be read.
    """
    arrays, left_out = _label_arrays(source, levels)
    found = (_label_level(path, spec, chunks, shards, zarr_format) for path, spec in arrays.items())
    return tuple(found), left_out


def _label_arrays(source: Source, levels: int) -> tuple[dict[str, SourceSpec], tuple[str, ...]]:
    """Return the arrays of label images to copy by their paths in the archive; why others not."""
    images, problems = label_images(source)
    if images and source.spec.roi:
        names = ", ".join(image.name for image in images)
        return {}, (f"label images ({names}) are not copied when a box is converted", *problems)
    arrays = {
        f"labels/{image.name}/{path}": _for_workers(spec)
        for image in images
        for path, spec in list(image.levels.items())[:levels]
    }
    said = [f"{problem}: it is not copied" for problem in problems]
    said += [
        f"labels/{image.name} has {len(image.levels)} levels, and gets no more: OME-Zarr wants as "
        f"many as the image's {levels}"
        for image in images
        if len(image.levels) < levels
    ]
    return arrays, tuple(said)


def _label_level(
    path: str,
    spec: SourceSpec,
    chunks: Sequence[int] | None,
    shards: Sequence[int] | None,
    zarr_format: Literal[2, 3],
) -> Level:
    """Lay out the copy of an array of a label image, in chunks as the image's where it can be."""
    with open_source(spec) as source:
        ndim = len(source.shape)
        edges = chunk_shape(source.shape, chunks and chunks[-ndim:])
        whole = shard_shape(source.shape, edges, shards and shards[-ndim:])
        level = Level(
            source=spec,
            path=path,
            image="/".join(path.split("/")[:2]),
            dtype=source.dtype.newbyteorder("=").str,
            factors=(1,) * ndim,
            shape=source.shape,
            chunks=edges,
            shards=edges if zarr_format == 2 else whole,
            lossless=True,
            labels=True,
        )
        return with_reading(level, source)


def _fits(chunks: tuple[int, ...], dtype: np.dtype[Any], settings: Settings, number: int) -> bool:
    """Tell whether the encoder takes such chunks; at full resolution it has to."""
    try:
        check_encoder(chunks, dtype, settings)
    except InvalidSetting:
        if number == 0:
            raise
        return False
    return True


def _for_workers(spec: SourceSpec) -> SourceSpec:
    """Return the spec as workers need it, which may have another working directory."""
    if spec.array is None and not spec.is_url:
        spec = replace(spec, location=os.path.abspath(spec.location))
    return replace(spec, checked=True, mask=spec.mask and _for_workers(spec.mask))
