"""Golden payloads: written once, decoded for ever. And what "the same" means between engines."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinc_codec.decoding.opened import open_chunk
from tinc_codec.inspection import inspect as inspect_payload
from tinc_codec.stream import container
from tinc_codec.stream.container import SectionKind
from tinc_codec.stream.special_values import bit_view
from tinc_codec.tree import weights

FOLDER = Path(__file__).parent / "golden"
# By the version of the container, as in "v1/tree".
NAMES = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.tinc")
)

# FORMAT.md, "Evaluation and decode tolerance": normalised units, by the mode of WEIGHTS.
TOLERANCE = {weights.QUANTIZED: 1e-5, weights.RAW: 1e-4}

Array = npt.NDArray[Any]


def payload(name: str) -> bytes:
    return (FOLDER / f"{name}.tinc").read_bytes()


def stored(name: str) -> Array:
    array: Array = np.load(FOLDER / f"{name}.npy")
    return array


def facts(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def inspection(coded: bytes) -> dict[str, Any]:
    """Return what ``inspect`` says as plain JSON values."""
    found = asdict(inspect_payload(coded))
    found["dtype"] = found["dtype"].str
    found["psnr_db"] = found["psnr_db"] if math.isfinite(found["psnr_db"]) else None
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def exact_voxels(coded: bytes) -> npt.NDArray[np.bool_]:
    """Return which voxels no engine may change: all but those of trees and cosines."""
    chunk = open_chunk(coded)
    exact = np.ones(chunk.info.shape, np.bool_)
    box = exact if chunk.crop is None else exact[chunk.crop.slices]
    box[...] = chunk.form in ("constant", "wavelet", "correction", "wavelet+correction")
    if chunk.mask is not None:
        box |= chunk.mask.labels != 0
    return exact


def tolerance(coded: bytes) -> float:
    """Return by how much engines may differ on a payload, in normalised units."""
    section = container.unpack(coded).get(SectionKind.WEIGHTS)
    return TOLERANCE[weights.QUANTIZED if section is None else section[0]]


def assert_within_tolerance(decoded: Array, expected: Array, coded: bytes) -> None:
    """Assert that an engine's array is the expected one as FORMAT.md has it."""
    assert decoded.dtype == expected.dtype
    assert decoded.dtype.byteorder == expected.dtype.byteorder
    assert decoded.shape == expected.shape
    assert decoded.flags.c_contiguous == expected.flags.c_contiguous
    assert decoded.flags.f_contiguous == expected.flags.f_contiguous
    exact = exact_voxels(coded)
    np.testing.assert_array_equal(bit_view(decoded)[exact], bit_view(expected)[exact])
    info = open_chunk(coded).info
    a, b = decoded[~exact].astype(np.float64), expected[~exact].astype(np.float64)
    error = tolerance(coded) * (float(info.high) - float(info.low))
    if info.dtype.kind != "f":
        bound: Any = math.floor(error) + 1
    else:
        # Both were rounded once more, by half a unit in the last place each.
        bound = error + np.spacing(np.abs(expected[~exact])).astype(np.float64)
    assert (np.abs(a - b) <= bound).all()
    assert (a >= info.low).all()
    assert (a <= info.high).all()
