"""Archives as xarray and dask users write and read them, in both zarr formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, count_evaluations, volume

zarr = pytest.importorskip("zarr", minversion="3.1")
xr = pytest.importorskip("xarray")
dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")

import tinc_codec  # noqa: E402
from tinc_codec import TINC, Settings, TINCSerializer  # noqa: E402
from tinc_codec.archive import convert, plan, run  # noqa: E402

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


@pytest.mark.skipif(
    tuple(map(int, dask.__version__.split(".")[:2])) < (2026, 1),
    reason="dask before 2026.1 takes chunks twice",
)
@ALL
def test_dask_writes_and_reads(tmp_path: Path, zarr_format: Any, encoding: dict[str, Any]) -> None:
    path = str(tmp_path / "d.zarr")
    source = da.from_array(volume((32, 32, 32)), chunks=encoding.get("shards", (16, 16, 16)))
    source.to_zarr(path, zarr_format=zarr_format, **encoding)
    whole = zarr.open_array(path, mode="r")[:]
    read = da.from_zarr(path)
    assert (read.shape, read.dtype) == ((32, 32, 32), np.uint16)
    np.testing.assert_array_equal(read[4:20, 3, ::5].compute(), whole[4:20, 3, ::5])


# What a source declares as missing, in the forms that netCDF-4 and xarray have for it.


def with_holes() -> np.ndarray:
    data = volume((16, 16, 16), "f4")
    data[:5, :5] = -9999
    return data


def of_hdf5(path: Path, declared: Any) -> str:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    with h5py.File(path / "s.h5", "w") as file:
        file.create_dataset("v", data=with_holes()).attrs["_FillValue"] = declared
    return str(path / "s.h5")


def of_xarray(path: Path, zarr_format: Any) -> str:
    data = with_holes()
    saved = xr.Dataset({"v": (("z", "y", "x"), np.where(data == -9999, np.nan, data))})
    saved.to_zarr(
        str(path / "s.zarr"), zarr_format=zarr_format, encoding={"v": {"_FillValue": -9999.0}},
        consolidated=False,
    )  # fmt: skip
    return str(path / "s.zarr")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "source",
    [
        lambda path: of_hdf5(path, np.float32(-9999)),
        lambda path: of_hdf5(path, np.array([-9999.0], "f4")),
        lambda path: of_xarray(path, 2),
        lambda path: of_xarray(path, 3),
    ],
    ids=["number", "array of one", "xarray in format 2", "xarray in format 3"],
)
def test_what_is_declared_missing_stays_so(tmp_path: Path, source: Any, zarr_format: Any) -> None:
    made = plan(
        source(tmp_path), tmp_path / "a.zarr", Settings(ratio=8, effort=1), levels=2,
        zarr_format=zarr_format,
    )  # fmt: skip
    assert made.settings.preserve == (-9999,)
    run(made)
    missing = with_holes() == -9999
    opened = tinc_codec.open(tmp_path / "a.zarr")["0/data"]
    np.testing.assert_array_equal(opened.values == -9999, missing)
    assert opened.attrs["_FillValue"] == -9999
    for level, other in ("01", "10"):
        found = xr.open_zarr(str(tmp_path / "a.zarr"), consolidated=False, drop_variables=other)
        n = found[level].sizes["z"]
        none_left = missing.reshape(n, 16 // n, n, 16 // n, n, 16 // n).all((1, 3, 5))
        np.testing.assert_array_equal(np.isnan(found[level].values), none_left)
    again = opened.to_dataset(name="again")
    again.to_zarr(str(tmp_path / "again.zarr"), zarr_format=3, consolidated=False)
    read = xr.open_zarr(str(tmp_path / "again.zarr"), consolidated=False).again
    np.testing.assert_array_equal(np.isnan(read.values), missing)


@pytest.mark.parametrize("declared", [np.float32("nan"), np.array([np.nan], "f4")])
def test_nan_needs_no_declaration(tmp_path: Path, declared: Any) -> None:
    convert(of_hdf5(tmp_path, declared), tmp_path / "a.zarr", Settings(ratio=8, effort=1))
    assert "_FillValue" not in tinc_codec.open(tmp_path / "a.zarr").attrs
    assert xr.open_zarr(str(tmp_path / "a.zarr"), consolidated=False).v.shape == (16, 16, 16)


def test_coordinates_that_an_archive_cannot_have_are_named(tmp_path: Path) -> None:
    even = np.arange(16) * 0.5
    times = np.datetime64("2026-01-01", "D") + np.arange(16)
    array = xr.DataArray(
        volume((16, 16, 16)), dims=("t", "y", "x"), name="v",
        coords={"t": times, "y": even[::-1], "x": even, "run": 7, "s": ("x", even)},
    )  # fmt: skip
    settings = Settings(ratio=8, effort=1)
    made = plan(array, tmp_path / "a.zarr", settings)
    assert [said.partition(":")[0] for said in made.left_out] == ["coordinates run, s, t, y"]
    array.drop_vars(["run", "s"]).to_dataset().to_zarr(str(tmp_path / "s.zarr"), consolidated=False)
    of_group = plan(tmp_path / "s.zarr", tmp_path / "b.zarr", settings)
    assert [said.partition(":")[0] for said in of_group.left_out] == ["coordinates t, y"]
    for one in (made, of_group):
        run(one)
        opened = tinc_codec.open(one.dst)
        assert list(opened.coords) == ["x"]
        np.testing.assert_array_equal(opened.x, even)
    even_ones = array.drop_vars(["run", "s", "t", "y"])
    assert plan(even_ones, tmp_path / "c.zarr", settings).left_out == ()


def test_a_box_of_voxels_of_unknown_size_is_where_it_was(tmp_path: Path) -> None:
    box = np.s_[3:11, :, 2:]
    run(plan(volume((16, 16, 16)), tmp_path / "a.zarr", Settings(ratio=8, effort=1), roi=box))
    opened = tinc_codec.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(opened.z, np.arange(3, 11))
    np.testing.assert_array_equal(opened.x, np.arange(2, 16))
    assert "y" not in opened.coords
