"""Archives as xarray and dask users write and read them, in both zarr formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, count_evaluations, volume

zarr = pytest.importorskip("zarr", minversion="3.1")
xr = pytest.importorskip("xarray")
da = pytest.importorskip("dask.array")

from tinc_codec import TINC, TINCSerializer  # noqa: E402

V2: dict[str, Any] = {"compressors": [TINC(**QUICK)], "chunks": (16, 16, 16)}
V3: dict[str, Any] = {
    "serializer": TINCSerializer(**QUICK), "compressors": None, "chunks": (16, 16, 16),
}  # fmt: skip
SHARDED = {**V3, "shards": (32, 32, 32)}
BY_NAME = {**V3, "serializer": TINCSerializer(**QUICK).to_dict()}
ALL = pytest.mark.parametrize(
    ("zarr_format", "encoding"),
    [(2, V2), (3, V3), (3, SHARDED), (3, BY_NAME)],
    ids=["v2", "v3", "v3-shards", "v3-name"],
)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    return count_evaluations(monkeypatch)


def dataset(dtype: str = "uint16") -> Any:
    data = volume((32, 32, 32), dtype)
    return xr.Dataset({"t": (("z", "y", "x"), data)}, coords={"z": np.arange(32) * 0.5})


@ALL
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_datasets_come_back_lazily(
    tmp_path: Path, zarr_format: Any, encoding: dict[str, Any], dtype: str
) -> None:
    path = str(tmp_path / "d.zarr")
    saved = dataset(dtype)
    saved.to_zarr(path, zarr_format=zarr_format, encoding={"t": encoding}, consolidated=False)
    opened = xr.open_zarr(path, consolidated=False)
    assert opened.t.chunks is not None
    assert opened.t.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(opened.z, saved.z)
    whole = zarr.open_array(path + "/t", mode="r")[:]
    np.testing.assert_array_equal(opened.t.values, whole)
    np.testing.assert_array_equal(opened.t[3:5, 10, ::4].values, whole[3:5, 10, ::4])
    np.testing.assert_array_equal(opened.t.sel(z=4.5).values, whole[9])


@pytest.mark.parametrize("encoding", [V3, SHARDED], ids=["chunks", "shards"])
def test_a_region_decodes_only_its_voxels(
    tmp_path: Path, encoding: dict[str, Any], evaluated: list[int]
) -> None:
    path = str(tmp_path / "d.zarr")
    dataset().to_zarr(path, zarr_format=3, encoding={"t": encoding}, consolidated=False)
    evaluated.clear()  # the encoder judges by decoding
    opened = xr.open_zarr(path, consolidated=False, chunks=None)
    assert evaluated == []
    assert opened.t[14:18, 5, ::4].values.size == sum(evaluated) == 32
    evaluated.clear()
    points = {"z": xr.DataArray([1, 20], dims="p"), "y": xr.DataArray([2, 30], dims="p")}
    assert opened.t.isel(points)[:, 7].values.size == 2
    assert sum(evaluated) < 64


def test_groups_and_resaving_after_drop_encoding(tmp_path: Path) -> None:
    first, second = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr")
    saved = dataset()
    saved.to_zarr(first, group="g", zarr_format=2, encoding={"t": V2}, consolidated=False)
    opened = xr.open_zarr(first, group="g", consolidated=False).drop_encoding()
    opened.to_zarr(second, group="g", zarr_format=3, encoding={"t": V3}, consolidated=False)
    again = xr.open_zarr(second, group="g", consolidated=False)
    assert again.t.shape == (32, 32, 32)
    assert again.t.dtype == np.uint16


def test_missing_voxels_of_floats_survive(tmp_path: Path) -> None:
    saved = dataset("float32")
    saved.t.values[3:6, 7, :9] = np.nan
    path = str(tmp_path / "d.zarr")
    saved.to_zarr(path, zarr_format=3, encoding={"t": V3}, consolidated=False)
    opened = xr.open_zarr(path, consolidated=False)
    np.testing.assert_array_equal(np.isnan(opened.t), np.isnan(saved.t))


def test_packed_data_keep_their_sentinels(tmp_path: Path) -> None:
    saved = dataset("float64")
    saved.t.values[3:6, 7, :9] = np.nan
    codec = TINCSerializer(**QUICK, preserve=(-32768,))
    packing = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -32768}
    path = str(tmp_path / "d.zarr")
    encoding = {"t": {**V3, "serializer": codec, **packing}}
    saved.to_zarr(path, zarr_format=3, encoding=encoding, consolidated=False)
    opened = xr.open_zarr(path, consolidated=False)
    assert opened.t.dtype.kind == "f"
    np.testing.assert_array_equal(np.isnan(opened.t), np.isnan(saved.t))


@ALL
def test_dask_writes_and_reads(tmp_path: Path, zarr_format: Any, encoding: dict[str, Any]) -> None:
    path = str(tmp_path / "d.zarr")
    source = da.from_array(volume((32, 32, 32)), chunks=encoding.get("shards", (16, 16, 16)))
    source.to_zarr(path, zarr_format=zarr_format, **encoding)
    whole = zarr.open_array(path, mode="r")[:]
    read = da.from_zarr(path)
    assert (read.shape, read.dtype) == ((32, 32, 32), np.uint16)
    np.testing.assert_array_equal(read[4:20, 3, ::5].compute(), whole[4:20, 3, ::5])
