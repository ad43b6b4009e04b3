"""Small volumes, quick settings and a spy that the tests of the zarr codecs share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tinc_codec.decoding import voxels

QUICK: dict[str, Any] = {"ratio": 16, "effort": 1, "iterations": 10}

DTYPES = ["int8", "int16", "int32", "uint8", "uint16", "uint32", "float16", "float32", "float64"]


def volume(
    shape: tuple[int, ...], dtype: npt.DTypeLike = "uint16", order: Any = "C"
) -> npt.NDArray[Any]:
    """A smooth texture with a little noise, within 5 to 115, so that any dtype holds it."""
    grids = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    wave = sum(np.sin((3 + k) * grid + k) for k, grid in enumerate(grids)) / len(shape)
    noise = np.random.default_rng(0).uniform(-5, 5, shape)
    return np.asarray(60 + 50 * wave + noise).astype(dtype, order=order)


def count_evaluations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that collects how many voxels each decode evaluates; no cache saves any."""
    monkeypatch.setenv("TINC_CACHE", "0")
    original = voxels.unit_values
    counts: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = original(*args, **kwargs)
        counts.append(values.size)
        return values

    monkeypatch.setattr(voxels, "unit_values", counted)
    return counts
