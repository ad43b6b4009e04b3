"""The archive layer. Most tests put a lossless codec in place of TINC: they are about the rest."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from importlib import import_module

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from volumes import QUICK, volume

from tinc_codec import InvalidSetting, Settings, TincError, UnsupportedData, runtime
from tinc_codec.archive import Bounds, arrays, convert, info, levels, open_source, verify, work
from tinc_codec.archive.layout import chunk_groups, chunk_regions, chunk_shape
from tinc_codec.archive.target import Target
from tinc_codec.metrics import psnr

FORMATS = [2, 3]
SETTINGS = Settings(**QUICK)


@pytest.fixture
def lossless(monkeypatch):
    """Put zarr's own codecs in TINC's place."""
    monkeypatch.setattr(arrays, "codec", lambda settings, zarr_format: {})
    monkeypatch.setattr(levels, "check_encoder", lambda chunks, dtype, settings: None)
    monkeypatch.setattr(work, "form", lambda payload: "absent" if payload is None else "")


@pytest.fixture
def npy(tmp_path):
    path = tmp_path / "source.npy"
    np.save(path, volume((20, 24, 28)))
    return path


def saved(path, array, **options):
    np.save(path, array, **options)
    return path


class TestChunkShape:
    @pytest.mark.parametrize(
        ("shape", "expected"),
        [
            ((256, 256, 256), (128, 128, 128)),
            ((200, 202, 129), (100, 101, 65)),  # equal parts: hardly any padding
            ((8, 64, 63), (8, 64, 63)),
            ((2, 26, 512, 512), (1, 26, 256, 256)),  # thin: as many voxels along the others
            ((8, 3000, 200), (8, 500, 200)),  # up to 512
            ((60, 2048, 2048), (60, 171, 171)),
            ((1000,), (1000,)),
            ((1, 300_000, 1), (1, 150_000, 1)),  # lines as much as planes have
            ((3, 2, 1, 1, 1), (1, 1, 1, 1, 1)),
        ],
    )
    def test_default(self, shape, expected):
        assert chunk_shape(shape, None) == expected

    def test_edges_asked_for_are_those_of_the_last_axes_clipped_to_the_shape(self):
        assert chunk_shape((5, 40, 50, 60), (32, 100)) == (1, 1, 32, 60)

    @pytest.mark.parametrize("asked", [(), (0, 4), (1, 2, 3, 4), (-1,)])
    def test_refuses_others(self, asked):
        with pytest.raises(InvalidSetting, match="chunks="):
            chunk_shape((10, 10, 10), asked)

    def test_regions_cover_every_voxel_once(self):
        count = np.zeros((5, 7, 3), int)
        for _, region in chunk_regions(count.shape, (2, 4, 3)):
            count[region] += 1
        assert (count == 1).all()

    @pytest.mark.parametrize("most", [1, 3, 4, 8, 1000])
    def test_groups_are_the_regions_in_boxes(self, most):
        shape, chunks = (5, 7, 12), (2, 4, 3)
        groups = list(chunk_groups(shape, chunks, most))
        assert max(len(group) for group in groups) == min(most, 24)
        together = [chunk for group in groups for chunk in group]
        assert sorted(together, key=lambda c: c[0]) == list(chunk_regions(shape, chunks))
        for group in groups:
            count = np.zeros(shape, int)
            for _, region in group:
                count[region] += 1
            box = [slice(a.start, b.stop) for a, b in zip(group[0][1], group[-1][1], strict=True)]
            assert (count[tuple(box)] == 1).all()
            assert count.sum() == count[tuple(box)].size


class TestSources:
    def test_npy_is_mapped_not_read(self, npy):
        source = open_source(npy)
        assert isinstance(source.array, np.memmap)
        assert (source.kind, source.dimension_names) == ("npy", ("z", "y", "x"))
        assert np.array_equal(source.read(np.s_[2:4, :, 5:]), np.load(npy)[2:4, :, 5:])

    @pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
    def test_tiff(self, tmp_path, compression):
        stack = volume((5, 30, 40))
        path = tmp_path / "stack.tif"
        tifffile.imwrite(path, stack, compression=compression)
        with open_source(path) as source:
            assert source.dimension_names == ("z", "y", "x")
            assert source.attributes == {}
            assert isinstance(source.array, zarr.Array if compression else np.memmap)
            assert np.array_equal(source.read(np.s_[1:3, 4:20, :]), stack[1:3, 4:20])

    def test_tiff_names_its_axes_and_keeps_its_description(self, tmp_path):
        path = tmp_path / "stack.ome.tiff"
        tifffile.imwrite(path, volume((2, 3, 16, 16)), metadata={"axes": "TZYX"}, ome=True)
        with open_source(path) as source:
            assert source.dimension_names == ("t", "z", "y", "x")
            assert "OME" in source.attributes["image_description"]

    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_zarr_array_group_and_array_in_a_group(self, tmp_path, zarr_format):
        data = volume((6, 8))
        group = zarr.create_group(tmp_path / "g.zarr", zarr_format=zarr_format)
        group.create_array("image", data=data, attributes={"unit": "counts"})
        group.create_array("other/deep", data=data + 1)
        for path in ("g.zarr", "g.zarr/image"):
            source = open_source(tmp_path / path)
            assert source.kind == f"zarr v{zarr_format}"
            assert source.attributes == {"unit": "counts"}
            assert np.array_equal(source.read(np.s_[:, 2:]), data[:, 2:])
        assert np.array_equal(open_source(tmp_path / "g.zarr/other").read(np.s_[:]), data + 1)

    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_an_xarray_dataset_gives_its_variable_not_its_coordinates(self, tmp_path, zarr_format):
        data = xr.DataArray(volume((4, 6)), dims=("y", "x"), coords={"x": np.arange(6.0)})
        dataset = data.to_dataset(name="image")
        dataset.to_zarr(tmp_path / "d.zarr", zarr_format=zarr_format, consolidated=False)
        source = open_source(tmp_path / "d.zarr")
        assert (source.name, source.dimension_names) == ("image", ("y", "x"))

    def test_a_group_of_several_arrays_names_them(self, tmp_path):
        group = zarr.create_group(tmp_path / "g.zarr")
        for name in ("raw", "mask"):
            group.create_array(name, data=volume((3, 4)))
        with pytest.raises(InvalidSetting, match=r"mask, raw; give .*g\.zarr/NAME"):
            open_source(tmp_path / "g.zarr")

    def test_what_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            open_source(tmp_path / "nothing.npy")

    @pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.txt"])
    def test_damaged_and_unknown_files(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"no such format")
        with pytest.raises(InvalidSetting, match=name):
            open_source(tmp_path / name)

    def test_a_truncated_npy(self, npy):
        npy.write_bytes(npy.read_bytes()[:-1000])
        with pytest.raises(InvalidSetting, match=r"source\.npy"):
            open_source(npy)

    def test_a_damaged_tiff_page_is_an_oserror_naming_the_file(self, tmp_path):
        path = tmp_path / "stack.tif"
        tifffile.imwrite(path, volume((5, 64, 64)), compression="zlib")
        with tifffile.TiffFile(path) as tiff:
            start = tiff.pages[1].dataoffsets[0]
        damaged = bytearray(path.read_bytes())
        damaged[start : start + 50] = b"\xff" * 50
        path.write_bytes(damaged)
        with open_source(path) as source, pytest.raises(OSError, match=r"stack\.tif"):
            source.read(np.s_[0:5, :, :])

    def test_a_plain_folder(self, tmp_path):
        with pytest.raises(InvalidSetting, match="neither a zarr array nor a zarr group"):
            open_source(tmp_path)

    @pytest.mark.parametrize("shape", [(0, 4), ()])
    def test_no_voxels(self, tmp_path, shape):
        with pytest.raises(UnsupportedData, match="at least one"):
            open_source(saved(tmp_path / "empty.npy", np.zeros(shape)))


@pytest.mark.usefixtures("lossless")
class TestConvert:
    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_opens_in_xarray_with_the_same_voxels(self, npy, tmp_path, zarr_format):
        scores = convert(npy, tmp_path / "a.zarr", chunks=(10, 16, 9), zarr_format=zarr_format)
        data = xr.open_zarr(tmp_path / "a.zarr")["data"]
        assert data.dims == ("z", "y", "x")
        assert data.dtype == np.uint16
        assert np.array_equal(data.to_numpy(), np.load(npy))
        assert len(scores.chunks) == 2 * 2 * 4
        assert scores.psnr_db == math.inf
        assert scores.raw_bytes == np.load(npy).nbytes

    @pytest.mark.parametrize("zarr_format", FORMATS)
    @pytest.mark.parametrize("value", [0, 9])
    def test_chunks_of_one_value(self, tmp_path, zarr_format, value):
        flat = saved(tmp_path / "flat.npy", np.full((8, 8), value, np.uint16))
        convert(flat, tmp_path / "a.zarr", chunks=(4, 4), zarr_format=zarr_format)
        assert (xr.open_zarr(tmp_path / "a.zarr")["data"].to_numpy() == value).all()
        assert info(tmp_path / "a.zarr").settings is None

    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_stored_bytes_are_those_on_disk(self, npy, tmp_path, zarr_format):
        scores = convert(npy, tmp_path / "a.zarr", chunks=(10, 10, 10), zarr_format=zarr_format)
        files = [p for p in (tmp_path / "a.zarr/data").rglob("*") if p.name.isdigit()]
        on_disk = sum(p.stat().st_size for p in files if p.is_file())
        index = 18 * 16 + 4 if zarr_format == 3 else 0  # of the one shard
        payloads = sum(c.stored_bytes for c in scores.chunks)
        assert scores.stored_bytes == payloads + index == on_disk > 0

    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_each_file_is_written_once(self, npy, tmp_path, monkeypatch, zarr_format):
        written = []
        original = Target.put

        def spy(self, key, data, scratch):
            written.append(key)
            original(self, key, data, scratch)

        monkeypatch.setattr(Target, "put", spy)
        options = {} if zarr_format == 2 else {"shards": (16, 16, 32)}
        convert(npy, tmp_path / "a.zarr", chunks=(16, 16, 16), zarr_format=zarr_format, **options)
        head, grid = ("data", (2, 2, 2)) if zarr_format == 2 else ("data/c", (2, 2, 1))
        assert written == ["/".join([head, *map(str, where)]) for where in np.ndindex(grid)]

    @pytest.mark.parametrize("dtype", [">u2", "<f4", ">f8", "i1"])
    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_dtypes(self, tmp_path, dtype, zarr_format):
        array = volume((6, 7), dtype)
        convert(
            saved(tmp_path / "s.npy", array, allow_pickle=False),
            tmp_path / "a.zarr",
            zarr_format=zarr_format,
        )
        back = xr.open_zarr(tmp_path / "a.zarr", mask_and_scale=False)["data"].to_numpy()
        assert back.dtype == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(back, array)

    @pytest.mark.parametrize("zarr_format", FORMATS)
    @pytest.mark.parametrize("source_format", FORMATS)
    def test_attributes_and_names_come_along(self, tmp_path, source_format, zarr_format):
        data = xr.DataArray(volume((4, 6)), dims=("row", "column"), attrs={"unit": "counts"})
        dataset = data.to_dataset(name="image").assign_attrs(subject="m1")
        dataset.to_zarr(tmp_path / "s.zarr", zarr_format=source_format, consolidated=False)
        convert(tmp_path / "s.zarr", tmp_path / "a.zarr", zarr_format=zarr_format)
        opened = xr.open_zarr(tmp_path / "a.zarr")
        assert opened.attrs == {"subject": "m1"}
        assert opened["image"].dims == ("row", "column")
        assert opened["image"].attrs["unit"] == "counts"

    @pytest.mark.parametrize("zarr_format", FORMATS)
    @pytest.mark.parametrize("source_format", FORMATS)
    def test_ome_metadata_names_level_zero_alone(self, tmp_path, source_format, zarr_format):
        image = {
            "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
            "datasets": [
                {"path": p, "coordinateTransformations": [{"type": "scale", "scale": [s] * 3}]}
                for p, s in (("0", 2.0), ("1", 4.0))
            ],
        }
        if source_format == 3:
            attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
        else:
            attributes = {"multiscales": [image | {"version": "0.4"}], "omero": {"id": 1}}
        group = zarr.create_group(
            tmp_path / "s.zarr", zarr_format=source_format, attributes=attributes
        )
        data = volume((8, 8, 8))
        group.create_array("0", data=data)
        group.create_array("1", data=data[::2, ::2, ::2])
        convert(tmp_path / "s.zarr", tmp_path / "a.zarr", zarr_format=zarr_format)

        written = zarr.open_group(tmp_path / "a.zarr", mode="r")
        attributes = dict(written.attrs)
        block = attributes["ome"] if zarr_format == 3 else attributes
        assert block["multiscales"][0]["datasets"] == image["datasets"][:1]
        versioned = block if zarr_format == 3 else block["multiscales"][0]
        assert versioned["version"] == {2: "0.4", 3: "0.5"}[zarr_format]
        assert ("omero" in block) == (source_format == 2)
        assert np.array_equal(written["0"][:], data)
        assert open_source(tmp_path / "a.zarr").dimension_names == ("z", "y", "x")

    def test_provenance(self, npy, tmp_path):
        convert(npy, tmp_path / "a.zarr", SETTINGS)
        found = zarr.open_group(tmp_path / "a.zarr", mode="r")["data"].attrs["tinc_codec"]
        json.dumps(found, allow_nan=False)
        assert found["source"] == {
            "name": "source.npy",
            "kind": "npy",
            "shape": [20, 24, 28],
            "dtype": "<u2",
        }
        assert Settings.from_json(found["settings"]) == SETTINGS
        assert str(tmp_path) not in json.dumps(found)

    def test_values_declared_missing_are_preserved(self, tmp_path):
        source = zarr.create_array(
            tmp_path / "s.zarr", data=volume((4, 4), "int16"), attributes={"_FillValue": -999}
        )
        assert source.attrs["_FillValue"] == -999
        convert(tmp_path / "s.zarr", tmp_path / "a.zarr", Settings(preserve=(5,)))
        found = zarr.open_group(tmp_path / "a.zarr", mode="r")["data"].attrs["tinc_codec"]
        assert found["settings"]["preserve"] == [5, -999]

    def test_progress_tells_the_sums(self, npy, tmp_path):
        seen = []
        scores = convert(npy, tmp_path / "a.zarr", chunks=(10, 24, 28), progress=seen.append)
        assert [(p.done, p.total) for p in seen] == [(1, 2), (2, 2)]
        assert seen[-1].errors == scores.errors
        assert seen[-1].stored_bytes == sum(chunk.stored_bytes for chunk in scores.chunks)

    def test_refuses_an_existing_destination(self, npy, tmp_path):
        (tmp_path / "a.zarr").mkdir()
        with pytest.raises(FileExistsError, match=r"a\.zarr exists"):
            convert(npy, tmp_path / "a.zarr")

    def test_overwrites_an_archive_on_demand_and_nothing_else(self, npy, tmp_path):
        convert(npy, tmp_path / "a.zarr")
        other = saved(tmp_path / "other.npy", volume((5, 6)))
        convert(other, tmp_path / "a.zarr", overwrite=True)
        assert xr.open_zarr(tmp_path / "a.zarr")["data"].shape == (5, 6)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "other.npy", "source.npy"]
        (tmp_path / "precious").mkdir()
        with pytest.raises(FileExistsError, match="not a zarr folder"):
            convert(npy, tmp_path / "precious", overwrite=True)

    @pytest.mark.parametrize("dst", ["s.zarr", "s.zarr/inside.zarr", "."])
    def test_refuses_to_write_over_the_source(self, tmp_path, dst):
        zarr.create_array(tmp_path / "s.zarr", data=volume((4, 4)))
        with pytest.raises(InvalidSetting, match="overlap"):
            convert(tmp_path / "s.zarr", tmp_path / dst, overwrite=True)

    def test_refuses_a_half_written_folder_of_something_else(self, npy, tmp_path):
        (tmp_path / "a.zarr.partial").mkdir()
        with pytest.raises(FileExistsError, match="left by something else"):
            convert(npy, tmp_path / "a.zarr")
        convert(npy, tmp_path / "a.zarr", overwrite=True)
        assert not (tmp_path / "a.zarr.partial").exists()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("existing", [False, True])
    def test_failure_leaves_what_there_was_and_can_be_gone_on_from(
        self, npy, tmp_path, error, existing
    ):
        if existing:
            convert(saved(tmp_path / "old.npy", volume((5, 6))), tmp_path / "a.zarr")

        def fail(progress):
            raise error

        options = {"chunks": (16, 16, 16), "shards": (16, 16, 16), "overwrite": existing}
        with pytest.raises(error):
            convert(npy, tmp_path / "a.zarr", progress=fail, **options)
        assert (tmp_path / "a.zarr").exists() == existing
        if existing:
            assert xr.open_zarr(tmp_path / "a.zarr")["data"].shape == (5, 6)
        with pytest.raises(InvalidSetting, match="neither a zarr array nor"):
            open_source(tmp_path / "a.zarr.partial")
        scores = convert(npy, tmp_path / "a.zarr", **options)
        assert len(scores.chunks) == 8
        assert np.array_equal(xr.open_zarr(tmp_path / "a.zarr")["data"].to_numpy(), np.load(npy))
        assert not list(tmp_path.glob("a.zarr.*"))

    def test_an_interrupt_waits_for_the_shard_in_work(self, npy, tmp_path, monkeypatch):
        original = Target.put
        written = []

        def interrupted(self, key, data, scratch):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.1)
            original(self, key, data, scratch)
            written.append(key)

        monkeypatch.setattr(Target, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(npy, tmp_path / "a.zarr", chunks=(10, 24, 28), shards=(10, 24, 28))
        assert len(written) == 1
        files = [p for p in (tmp_path / "a.zarr.partial").rglob("*") if p.is_file()]
        assert [p.name for p in files] == ["0"]

    def test_refuses_other_formats(self, npy, tmp_path):
        with pytest.raises(InvalidSetting, match="zarr_format=1"):
            convert(npy, tmp_path / "a.zarr", zarr_format=1)


@pytest.mark.usefixtures("lossless")
class TestVerify:
    def test_scores_from_what_is_stored(self, npy, tmp_path):
        written = convert(npy, tmp_path / "a.zarr", chunks=(10, 24, 28))
        original = np.load(npy)
        array = zarr.open_group(tmp_path / "a.zarr", mode="r+")["data"]
        changed = original.copy()
        changed[3, 4, 5] += 40
        array[:] = changed
        scores = verify(npy, tmp_path / "a.zarr")
        assert scores.psnr_db == pytest.approx(psnr(original, changed))
        assert scores.errors.max_error == 40
        assert [chunk.errors.max_error for chunk in scores.chunks] == [40, 0]
        assert scores.worst(1)[0].region == np.s_[0:10, 0:24, 0:28]
        assert scores.chunks[1].ssim == pytest.approx(1)
        assert scores.chunks[0].ssim < scores.ssim < 1
        assert scores.ratio == pytest.approx(written.ratio, rel=0.05)

    def test_counts_the_bytes_of_shards(self, npy, tmp_path):
        data = np.load(npy)
        zarr.create_array(tmp_path / "a.zarr", data=data, chunks=(5, 8, 7), shards=(20, 24, 28))
        scores = verify(npy, tmp_path / "a.zarr")
        assert scores.stored_bytes == (tmp_path / "a.zarr/c/0/0/0").stat().st_size
        assert len(scores.chunks) == 4 * 3 * 4

    def test_missing_values_must_match(self, tmp_path):
        array = volume((4, 6), "float32")
        array[1, 2] = np.nan
        npy = saved(tmp_path / "s.npy", array)
        convert(npy, tmp_path / "a.zarr")
        assert verify(npy, tmp_path / "a.zarr").psnr_db == math.inf
        zarr.open_group(tmp_path / "a.zarr", mode="r+")["data"][1, 2] = 0
        assert verify(npy, tmp_path / "a.zarr").psnr_db == -math.inf

    def test_refuses_another_volume(self, npy, tmp_path):
        convert(npy, tmp_path / "a.zarr")
        for other in (volume((20, 24, 27)), volume((20, 24, 28), "float32")):
            with pytest.raises(InvalidSetting, match="not the same volume"):
                verify(saved(tmp_path / "o.npy", other), tmp_path / "a.zarr")

    def test_refuses_what_is_no_archive(self, npy):
        with pytest.raises(InvalidSetting, match="not a zarr archive"):
            verify(npy, npy)
        with pytest.raises(InvalidSetting, match="not a zarr archive"):
            info(npy)


class TestWithTinc:
    """The real codec."""

    @pytest.mark.parametrize("zarr_format", FORMATS)
    def test_converts_verifies_and_describes(self, tmp_path, zarr_format):
        original = volume((32, 32, 40))
        npy = saved(tmp_path / "s.npy", original)
        dst = tmp_path / "a.zarr"
        written = convert(npy, dst, SETTINGS, chunks=(32, 32, 20), zarr_format=zarr_format)
        verified = verify(npy, dst)
        decoded = xr.open_zarr(dst)["data"].to_numpy()
        assert written.psnr_db == pytest.approx(psnr(original, decoded))
        assert verified.errors == written.errors
        low = 0.99 * SETTINGS.ratio if zarr_format == 3 else SETTINGS.ratio  # the shard's index
        assert low <= written.ratio == verified.ratio < 1.1 * SETTINGS.ratio

        found = info(dst)
        assert found.settings == SETTINGS.to_json()
        assert found.ratio == written.ratio
        assert found.kind == f"zarr v{zarr_format}"
        assert found.summary is not None
        assert sum(found.summary.forms.values()) == 2
        low, middle, high = found.summary.ratio
        assert SETTINGS.ratio <= low <= middle <= high
        assert found.provenance["psnr_db"] == pytest.approx(written.psnr_db)

    def test_chunks_left_out_are_told(self, tmp_path):
        original = np.zeros((16, 16, 32), np.uint16)
        original[..., 16:] = volume((16, 16, 16))
        convert(
            saved(tmp_path / "s.npy", original), tmp_path / "a.zarr", SETTINGS, chunks=(16, 16, 16)
        )
        forms = info(tmp_path / "a.zarr").summary.forms
        assert forms["absent"] == 1
        assert sum(forms.values()) == 2

    def test_settings_and_payloads_are_found_inside_shards(self, tmp_path):
        from tinc_codec import TINCSerializer

        zarr.create_array(
            tmp_path / "a.zarr",
            data=volume((16, 16, 32)),
            chunks=(16, 16, 16),
            shards=(16, 16, 32),
            serializer=TINCSerializer(**QUICK),
            compressors=None,
        )
        found = info(tmp_path / "a.zarr")
        assert found.settings == SETTINGS.to_json()
        assert sum(found.summary.forms.values()) == 2
        assert len(found.summary.psnr_db) == 3
        assert found.stored_bytes > 0

    @pytest.mark.parametrize("zarr_format", FORMATS)
    @pytest.mark.parametrize("dtype", ["bool", "complex64", "int64", "U4"])
    def test_unsupported_dtypes_leave_nothing(self, tmp_path, dtype, zarr_format):
        npy = saved(tmp_path / "s.npy", np.zeros((16, 16), dtype))
        with pytest.raises(UnsupportedData):
            convert(npy, tmp_path / "a.zarr", SETTINGS, zarr_format=zarr_format)
        assert [p.name for p in tmp_path.iterdir()] == ["s.npy"]

    def test_damaged_payloads_are_told(self, tmp_path):
        npy = saved(tmp_path / "s.npy", volume((16, 16, 16)))
        convert(npy, tmp_path / "a.zarr", SETTINGS)
        payload = tmp_path / "a.zarr/data/c/0/0/0"
        payload.write_bytes(payload.read_bytes()[:40])
        for broken in (lambda: verify(npy, tmp_path / "a.zarr"), lambda: info(tmp_path / "a.zarr")):
            with pytest.raises(TincError):
                broken()

    def test_every_real_volume(self, tmp_path, tinc_data):
        for path in sorted(tinc_data.glob("*.npy")):
            whole = np.load(path, mmap_mode="r")
            corner = whole[(slice(32),) * whole.ndim]
            npy = saved(tmp_path / path.name, corner)
            scores = convert(npy, tmp_path / "a.zarr", SETTINGS, overwrite=True)
            assert scores.psnr_db > 10
            assert scores.ratio >= SETTINGS.ratio


def test_torch_is_given_many_chunks_at_once(npy, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = import_module("tinc_codec.zarr_v3")
    sizes = []
    original = module.encode_chunks

    def encode_chunks(arrays, settings):
        sizes.append(len(arrays))
        return original(arrays, settings)

    monkeypatch.setattr(module, "encode_chunks", encode_chunks)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with runtime(device="torch"):
        scores = convert(
            npy, tmp_path / "a.zarr", SETTINGS, chunks=(16, 16, 16), shards=(32, 16, 32)
        )
    torch.set_num_threads(threads)
    assert sizes == [4, 4]
    assert [c.region for c in scores.chunks] == [
        region for _, region in chunk_regions((20, 24, 28), (16, 16, 16))
    ]
    again = verify(npy, tmp_path / "a.zarr")
    assert again.stored_bytes == scores.stored_bytes
    assert again.psnr_db == pytest.approx(scores.psnr_db, abs=0.01)


# Arrays in memory.


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("name", ["/x/y", "raw/cam", "..", ".", "zarr.json", ".zarray", "a/"])
def test_a_name_leads_to_no_other_place(tmp_path, name, zarr_format):
    voxels = volume((12, 12, 12))
    array = xr.DataArray(voxels, name=name, dims=("z", "y", "x"))
    dst = tmp_path / "in" / "a.zarr"
    dst.parent.mkdir()
    convert(array, dst, Settings(max_error=3, effort=1), zarr_format=zarr_format)
    expected = {"/x/y": "y", "raw/cam": "cam"}.get(name, "data")
    assert list(zarr.open_group(dst, mode="r").array_keys()) == [expected]
    assert verify(array, dst).errors.max_error <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    assert [path.name for path in dst.parent.iterdir()] == ["a.zarr"]


def test_a_key_beyond_the_archive_is_refused(tmp_path):
    target = Target(tmp_path / "a.zarr")
    target.begin(fresh=True)
    for key in ("/x/c/0", "../c/0", "data/../../c"):
        with pytest.raises(InvalidSetting, match="not a path within"):
            target.put(key, b"1", tmp_path)
    assert not list(target.partial.iterdir())


@pytest.mark.parametrize("lazy", [False, True])
def test_masks_are_not_dropped(tmp_path, lazy):
    import dask.array

    array = np.ma.masked_less(volume((12, 12, 12)), 300)
    given = dask.array.from_array(array, chunks=6) if lazy else array
    with pytest.raises(UnsupportedData, match="mask would be lost"):
        convert(given, tmp_path / "a.zarr", SETTINGS)
    assert not list(tmp_path.iterdir())


def test_a_zarr_array_is_taken_as_its_path_is(tmp_path):
    voxels = volume((12, 12, 12))
    voxels[:3] = 65535
    source = zarr.create_array(
        tmp_path / "s.zarr", data=voxels, chunks=(6, 12, 12), dimension_names=("t", "y", "x"),
        attributes={"_FillValue": 65535, "kept": 1},
    )  # fmt: skip
    convert(source, tmp_path / "a.zarr", Settings(ratio=16, effort=1))
    found = zarr.open_group(tmp_path / "a.zarr", mode="r")
    (array,) = (array for _, array in found.arrays())
    assert array.metadata.dimension_names == ("t", "y", "x")
    assert array.attrs["kept"] == 1
    assert (array[:3] == 65535).all()


@pytest.mark.parametrize("bound", [{"max_error": math.nan}, {"psnr_db": math.nan}, {"rmse": -1.0}])
def test_bounds_that_bound_nothing_are_refused(bound):
    with pytest.raises(InvalidSetting, match=next(iter(bound))):
        Bounds(**bound)
