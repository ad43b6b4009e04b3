"""tinc_codec.open: archives in xarray, lazily, with what they know of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from volumes import QUICK, count_evaluations, volume

import tinc_codec
from tinc_codec import TINC, InvalidSetting, TINCSerializer, runtime
from tinc_codec.runtime import current_runtime

zarr = pytest.importorskip("zarr", minversion="3.1")
xr = pytest.importorskip("xarray")

from tinc_codec.archive import info, ome  # noqa: E402
from tinc_codec.archive.reading import task_chunks  # noqa: E402

V2 = {"zarr_format": 2, "compressors": TINC(**QUICK)}
V3 = {"zarr_format": 3, "serializer": TINCSerializer(**QUICK), "compressors": None}
SHARDED = {**V3, "shards": (32, 32, 32)}
ALL = pytest.mark.parametrize("options", [V2, V3, SHARDED], ids=["v2", "v3", "sharded"])


def create(parent: Any, name: str, data: Any, options: dict[str, Any], **more: Any) -> Any:
    rest = {key: value for key, value in options.items() if key != "zarr_format"}
    array = parent.create_array(
        name, shape=data.shape, dtype=data.dtype, chunks=(16, 16, 16), **rest, **more
    )
    array[...] = data
    return array


def ome_group(path: Path, options: dict[str, Any], levels: int = 1, **metadata: Any) -> Any:
    zarr_format = options["zarr_format"]
    grid = ome.grid(("z", "y", "x"), scale=(2.0, 0.5, 0.5), units=("micrometer",) * 3, **metadata)
    names = [(str(k), (2**k,) * 3) for k in range(levels)]
    group = zarr.create_group(
        path, zarr_format=zarr_format, attributes=ome.image_attributes(grid, names, zarr_format)
    )
    for name, (f, _, _) in names:
        create(group, name, volume((32, 32, 32))[::f, ::f, ::f], V2 if zarr_format == 2 else V3)
    return group


@ALL
def test_an_array_alone_and_in_a_group(tmp_path: Path, options: dict[str, Any]) -> None:
    group = zarr.create_group(
        tmp_path / "a.zarr", zarr_format=options["zarr_format"], attributes={"subject": "m1"}
    )
    names = {"dimension_names": ("z", "y", "x")} if options["zarr_format"] == 3 else {}
    attributes = {} if names else {"_ARRAY_DIMENSIONS": ["z", "y", "x"]}
    attributes["unit"] = "counts"
    stored = create(group, "data", volume((32, 32, 32)), options, attributes=attributes, **names)
    for path, attrs in (("a.zarr", {"subject": "m1", "unit": "counts"}), ("a.zarr/data", None)):
        opened = tinc_codec.open(tmp_path / path)
        assert isinstance(opened, xr.DataArray)
        assert opened.dims == ("z", "y", "x")
        assert opened.dtype == np.uint16
        assert opened.name == "data"
        assert opened.attrs == (attrs or {"unit": "counts"})
        assert opened.chunks is not None
        np.testing.assert_array_equal(opened.to_numpy(), stored[:])
        mean = opened.mean().compute()
        assert mean == pytest.approx(stored[:].mean())


def test_zeros_of_a_v2_image_are_not_missing(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    data = np.zeros((16, 16, 16), np.uint16)
    create(group, "data", data, V2, attributes={"_ARRAY_DIMENSIONS": ["z", "y", "x"]})
    assert group["data"].fill_value == 0
    opened = tinc_codec.open(tmp_path / "a.zarr")
    assert opened.dtype == np.uint16
    assert (opened == 0).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_packed_values_come_unpacked(tmp_path: Path, zarr_format: Any) -> None:
    values = np.where(np.arange(64.0).reshape(8, 8) == 9, np.nan, np.arange(64.0).reshape(8, 8))
    packing = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1}
    xr.Dataset({"t": (("y", "x"), values)}, coords={"y": np.arange(8) * 2.0}).to_zarr(
        tmp_path / "a.zarr", zarr_format=zarr_format, encoding={"t": packing}, consolidated=False
    )
    opened = tinc_codec.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(opened.to_numpy(), values)
    np.testing.assert_array_equal(opened.y, np.arange(8) * 2.0)


@pytest.mark.parametrize("options", [V3, SHARDED], ids=["v3", "sharded"])
@pytest.mark.parametrize("path", ["a.zarr", "a.zarr/data"])
def test_parts_and_previews_decode_only_their_voxels(
    tmp_path: Path, options: dict[str, Any], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    stored = create(group, "data", volume((32, 32, 32)), options, dimension_names=("z", "y", "x"))[
        :
    ]
    opened = tinc_codec.open(tmp_path / path)
    evaluated = count_evaluations(monkeypatch)
    for part in (np.s_[5], np.s_[::4, ::4, ::4], np.s_[3:7, 9, ::2]):
        evaluated.clear()
        found = opened[part].to_numpy()
        np.testing.assert_array_equal(found, stored[part])
        assert sum(evaluated) == found.size
    evaluated.clear()
    assert opened.isel(z=slice(None, None, 8)).mean().compute() > 0
    assert sum(evaluated) == 4 * 32 * 32


@pytest.mark.parametrize("overview", [None, 2])
def test_threads_of_dask_read_as_it_was_opened(
    tmp_path: Path, overview: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = zarr.create_group(tmp_path / "a.zarr")
    settings = {**V3, "serializer": TINCSerializer(**QUICK | {"ratio": 4}, form="tree")}
    create(group, "data", volume((32, 32, 32)), settings)
    seen: list[str] = []

    def noted() -> Any:
        found = current_runtime()
        seen.append(found.device)
        return found

    monkeypatch.setattr(sys.modules["tinc_codec.engines"], "current_runtime", noted)
    with runtime(device="reference", cache_bytes=1 << 20):
        opened = tinc_codec.open(tmp_path / "a.zarr/data", overview=overview)
    values = opened.compute(scheduler="threads", num_workers=2)
    assert set(seen) == {"reference"}
    seen.clear()
    plain = tinc_codec.open(tmp_path / "a.zarr/data", overview=overview).compute()
    assert set(seen) == {"auto"}
    assert np.abs(values.astype(int) - plain).max() <= 1


@pytest.mark.parametrize("options", [V2, V3], ids=["0.4", "0.5"])
def test_one_level_of_ome_has_coordinates(tmp_path: Path, options: dict[str, Any]) -> None:
    ome_group(tmp_path / "a.zarr", options, translation=(10.0, 0.0, 0.0))
    opened = tinc_codec.open(tmp_path / "a.zarr")
    np.testing.assert_allclose(opened.z, 10 + 2.0 * np.arange(32))
    np.testing.assert_allclose(opened.x, 0.5 * np.arange(32))
    assert opened.z.attrs == {"units": "micrometer"}
    assert opened.sel(z=14.2, method="nearest").z == 14


@pytest.mark.parametrize("options", [V2, V3], ids=["0.4", "0.5"])
def test_a_pyramid_is_a_tree(tmp_path: Path, options: dict[str, Any]) -> None:
    group = ome_group(tmp_path / "a.zarr", options, levels=3)
    tree = tinc_codec.open(str(tmp_path / "a.zarr"))
    assert isinstance(tree, xr.DataTree)
    assert list(tree.children) == ["0", "1", "2"]
    for k in range(3):
        level = tree[f"{k}/data"]
        assert level.shape == (32 >> k,) * 3
        assert level.chunks is not None
        np.testing.assert_array_equal(level[1].to_numpy(), group[str(k)][1])
        # Voxels twice as large, whose centres lie half a small voxel further.
        np.testing.assert_allclose(level.z, 2.0 * (2**k * np.arange(32 >> k) + (2**k - 1) / 2))


def test_scales_that_nobody_knows_give_no_coordinates(tmp_path: Path) -> None:
    attributes = ome.image_attributes(ome.grid(("z", "y", "x")), [("0", (1, 1, 1))], 3)
    group = zarr.create_group(tmp_path / "a.zarr", attributes=attributes)
    create(group, "0", volume((16, 16, 16)), V3)
    assert tinc_codec.open(tmp_path / "a.zarr").coords == {}


@pytest.mark.parametrize("named", [5, True, "zyx", ["z", 5, "x"], [["z"], "y", "x"]])
def test_nonsense_for_names_and_provenance_is_passed_over(tmp_path: Path, named: Any) -> None:
    path = tmp_path / "a.zarr"
    array = zarr.create_array(path, data=volume((16, 16, 16)))
    array.attrs.update({"_ARRAY_DIMENSIONS": named, "tinc_codec": named})
    assert tinc_codec.open(path).dims == ("z", "y", "x")
    assert info(path).provenance is None


def test_labelled_channels(tmp_path: Path) -> None:
    omero = {"omero": {"channels": [{"label": "nuclei"}, {"label": "tracer"}]}}
    grid = ome.grid(("c", "y", "x"), scale=(1, 2, 2), units=(None, "micrometer", "micrometer"))
    attributes = ome.image_attributes(grid, [("0", (1, 1, 1))], 3, block=omero)
    group = zarr.create_group(tmp_path / "a.zarr", attributes=attributes)
    group.create_array("0", data=volume((2, 16, 16)))
    opened = tinc_codec.open(tmp_path / "a.zarr")
    assert opened.sel(c="tracer").shape == (16, 16)


def test_several_arrays_and_groups_are_a_tree(tmp_path: Path) -> None:
    data = xr.DataArray(volume((8, 8)), dims=("y", "x"))
    nodes = {"/": xr.Dataset({"a": data, "b": data}), "/more": xr.Dataset({"c": data})}
    xr.DataTree.from_dict(nodes).to_zarr(tmp_path / "t.zarr", consolidated=False)
    tree = tinc_codec.open(tmp_path / "t.zarr")
    assert set(tree.data_vars) == {"a", "b"}
    np.testing.assert_array_equal(tree["more/c"], data)


def test_urls(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    stored = ome_group(tmp_path / "a.zarr", V3)["0"][:]
    opened = tinc_codec.open(f"file://{tmp_path}/a.zarr")
    np.testing.assert_array_equal(opened.to_numpy(), stored)


def test_a_setting_that_is_unknown_is_told_of_a_url_as_of_a_path(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    create(zarr.create_group(tmp_path / "a.zarr"), "data", volume((16, 16, 16)), V3)
    metadata = tmp_path / "a.zarr/data/zarr.json"
    metadata.write_text(metadata.read_text().replace('"effort"', '"exertion"'))
    for path in (f"{tmp_path}/a.zarr/data", f"file://{tmp_path}/a.zarr/data"):
        with pytest.raises(InvalidSetting, match="exertion"):
            tinc_codec.open(path)


def test_a_lack_of_memory_is_none_of_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(zarr, "open", exhausted)
    with pytest.raises(MemoryError):
        tinc_codec.open("s3://bucket/a.zarr")


def test_what_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing"):
        tinc_codec.open(tmp_path / "nothing")
    np.save(tmp_path / "a.npy", volume((4, 4)))
    for path in (tmp_path, tmp_path / "a.npy"):
        with pytest.raises(InvalidSetting, match="neither a zarr array nor a zarr group"):
            tinc_codec.open(path)
    attributes = ome.image_attributes(ome.grid(("z", "y", "x")), [("0", (1, 1, 1))], 3)
    zarr.create_group(tmp_path / "a.zarr", attributes=attributes)
    with pytest.raises(InvalidSetting, match="level 0, which is no array"):
        tinc_codec.open(tmp_path / "a.zarr")


@pytest.mark.parametrize("shards", [None, (512, 512, 512), (48, 48, 48)])
def test_dask_chunks_are_whole_zarr_chunks_within_a_shard(shards: Any) -> None:
    array = zarr.create_array(
        {}, shape=(1000, 1024, 700), chunks=(16, 16, 16), shards=shards, dtype="uint16"
    )
    chunks = task_chunks(array)
    assert all(n % 16 == 0 for n in chunks)
    assert 2 * np.prod(chunks) <= 32 << 20
    if shards:
        assert all(s % n == 0 for s, n in zip(shards, chunks, strict=True))


def test_the_name_is_loaded_on_first_use() -> None:
    code = "import sys, tinc_codec; a = 'xarray' in sys.modules; tinc_codec.open; print(a)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_fill_values_of_zarr_are_attributes_nowhere_in_a_group_of_v2(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=2)
    for name in ("a", "sub/b"):
        array = group.create_array(name, shape=(4, 4), chunks=(4, 4), dtype="u2", fill_value=0)
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
        array[:] = 1
    tree = tinc_codec.open(tmp_path / "g.zarr")
    assert tree["a"].attrs == tree["sub/b"].attrs == {}


def test_a_group_without_names_of_axes_is_refused_in_words(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "g.zarr", mode="w", zarr_format=2)
    for name in ("a", "b"):
        group.create_array(name, shape=(4, 4), chunks=(4, 4), dtype="u2")[:] = 1
    with pytest.raises(InvalidSetting, match=r"open .*g\.zarr/NAME"):
        tinc_codec.open(tmp_path / "g.zarr")
