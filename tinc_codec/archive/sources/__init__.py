"""Opening what users have, read by region: one module for each format."""

from tinc_codec.archive.sources.opening import FILE_SUFFIXES, closed_on_error, open_source
from tinc_codec.archive.sources.parts import part_of, whole_roi
from tinc_codec.archive.sources.source import (
    Readable,
    Roi,
    Source,
    SourceSpec,
    default_dimension_names,
)
from tinc_codec.archive.sources.staging import SLAB_BYTES, Staging
from tinc_codec.archive.sources.zarrs import LabelImage, is_zarr, label_images, zarr_array

__all__ = [
    "FILE_SUFFIXES",
    "SLAB_BYTES",
    "LabelImage",
    "Readable",
    "Roi",
    "Source",
    "SourceSpec",
    "Staging",
    "closed_on_error",
    "default_dimension_names",
    "is_zarr",
    "label_images",
    "open_source",
    "part_of",
    "whole_roi",
    "zarr_array",
]
