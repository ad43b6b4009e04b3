"""Every kind of source, from a file that the format's own library wrote."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr
from volumes import volume

import tinc_codec
from tinc_codec import InvalidSetting, Settings, UnsupportedData
from tinc_codec.archive import convert, open_source
from tinc_codec.archive.sources import Source, SourceSpec

h5py = pytest.importorskip("h5py", reason="h5py is not installed")
nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")

STACK = volume((5, 12, 14))
MICRONS = ("micrometer",) * 3


def write_npy(folder: Path) -> Path:
    np.save(folder / "a.npy", STACK)
    return folder / "a.npy"


def write_tiff(folder: Path, **options: Any) -> Path:
    tifffile.imwrite(folder / "a.tif", STACK, **options)
    return folder / "a.tif"


def write_planes(folder: Path) -> Path:
    (folder / "planes").mkdir()
    for number, plane in enumerate(STACK):
        tifffile.imwrite(folder / f"planes/z{number + 8}.tif", plane, compression="zlib")
    (folder / "planes/notes.txt").write_text("not a plane")
    return folder / "planes"


def write_hdf5(folder: Path) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset("volume/raw", data=STACK, chunks=(2, 12, 7), compression=4)
        dataset.attrs["element_size_um"] = (2.0, 0.5, 0.5)
        dataset.attrs["note"] = b"kept"
    return folder / "a.h5"


def characters(text: Any) -> np.ndarray:
    return np.frombuffer(str(text).encode(), "S1")


def write_imaris(folder: Path, times: int = 1, channels: int = 2, real=(5, 12, 14)) -> Path:
    """As Imaris writes: blocks are padded beyond the image, attributes are arrays of characters."""
    with h5py.File(folder / "a.ims", "w") as file:
        image = file.create_group("DataSetInfo/Image")
        extents = {"0": (10, 17), "1": (0, 6), "2": (-5, 5)}  # x, y, z
        for number, (low, high) in extents.items():
            image.attrs[f"ExtMin{number}"] = characters(low)
            image.attrs[f"ExtMax{number}"] = characters(high)
        image.attrs["Unit"] = characters("um")
        for c in range(channels):
            info = file.create_group(f"DataSetInfo/Channel {c}")
            info.attrs["Name"] = characters(f"dye {c}")
        for t in range(times):
            for c in range(channels):
                group = file.create_group(f"DataSet/ResolutionLevel 0/TimePoint {t}/Channel {c}")
                for axis, n in zip("ZYX", real, strict=True):
                    group.attrs[f"ImageSize{axis}"] = characters(n)
                padded = np.zeros((8, 16, 16), np.uint16)
                padded[:5, :12, :14] = STACK + 1000 * c + 10000 * t
                group.create_dataset("Data", data=padded, chunks=(4, 8, 8), compression=2)
    return folder / "a.ims"


def write_nifti(folder: Path, name: str = "a.nii", **header: Any) -> Path:
    image = nibabel.Nifti1Image(STACK.transpose(), np.diag([0.5, 0.5, 2.0, 1.0]))
    image.header.set_xyzt_units("micron", "sec")
    nibabel.save(image, folder / name)
    return folder / name


def write_nifti_gz(folder: Path) -> Path:
    return write_nifti(folder, "a.nii.gz")


def write_n5(folder: Path) -> Path:
    path = folder / "a.n5"
    array = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": str(path / "setup0/s0")},
            "metadata": {
                "dimensions": STACK.shape[::-1],
                "blockSize": [7, 6, 2],
                "dataType": "uint16",
                "compression": {"type": "gzip"},
                "axes": ["x", "y", "z"],
                "resolution": [0.5, 0.5, 2.0],
                "units": ["um", "um", "um"],
                "note": "kept",
            },
        },
        create=True,
    ).result()
    array.write(STACK.transpose()).result()
    return path


def write_zarr(folder: Path, zarr_format: int = 3) -> Path:
    zarr.create_array(
        folder / "a.zarr", data=STACK, chunks=(2, 6, 7), shards=(4, 12, 14), zarr_format=3
    )
    return folder / "a.zarr"


def write_zarr_2(folder: Path) -> Path:
    zarr.create_array(folder / "a.zarr", data=STACK, chunks=(2, 6, 7), zarr_format=2)
    return folder / "a.zarr"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "npy": write_npy,
    "tiff": write_tiff,
    "tiff zlib": lambda folder: write_tiff(folder, compression="zlib"),
    "tiff planes": write_planes,
    "hdf5": write_hdf5,
    "imaris": write_imaris,
    "nifti": write_nifti,
    "nifti.gz": write_nifti_gz,
    "n5": write_n5,
    "zarr v2": write_zarr_2,
    "zarr v3": write_zarr,
}
PART = np.s_[1:4, 3:12, 2:9]


def part_of(source: Source) -> np.ndarray:
    ahead = (slice(0, 1),) * (len(source.shape) - 3)
    return source.read((*ahead, *PART)).reshape(3, 9, 7)


@pytest.fixture(params=WRITERS)
def written(request, tmp_path) -> tuple[str, Path]:
    return request.param, WRITERS[request.param](tmp_path)


class TestEveryKind:
    def test_gives_regions_as_they_were_written(self, written):
        kind, path = written
        with open_source(path) as source:
            assert source.kind == kind.removesuffix(".gz").removesuffix(" zlib")
            assert source.shape[-3:] == STACK.shape
            assert source.dtype == STACK.dtype
            assert source.dimension_names[-3:] == ("z", "y", "x")
            assert np.array_equal(part_of(source), STACK[PART])
            whole = source.read(tuple(slice(0, n) for n in source.shape))
            assert np.array_equal(whole.reshape(-1, *STACK.shape)[0], STACK)

    def test_is_the_same_through_a_file_url(self, written):
        _, path = written
        with open_source(path.as_uri()) as source:
            assert source.spec.location == str(path)
            assert np.array_equal(part_of(source), STACK[PART])

    def test_is_opened_anew_when_pickled(self, written):
        _, path = written
        with open_source(path) as source:
            pickled = pickle.dumps(source)
            assert len(pickled) < 1000
            with pickle.loads(pickled) as again:
                assert again.array is not source.array
                assert again.grid == source.grid
                assert np.array_equal(part_of(again), STACK[PART])

    def test_enlarges_regions_to_what_is_read_anyway(self, written):
        _, path = written
        with open_source(path) as source:
            region = tuple(slice(1, 2) for _ in source.shape)
            found = source.preferred_region(region)
            assert source.preferred_region(found) == found
            assert all(f.start <= 1 and f.stop >= 2 for f in found)
            if source.chunks:
                assert tuple(f.stop - f.start for f in found) == tuple(
                    min(c, n) for c, n in zip(source.chunks, source.shape, strict=True)
                )

    def test_its_fingerprint_is_json_stays_and_tells_changes(self, written):
        _, path = written
        with open_source(path) as source:
            found = source.fingerprint()
            files = source.files
        assert json.loads(json.dumps(found)) == found
        assert found["bytes"] > 0
        with open_source(path) as source:
            assert source.fingerprint() == found
        for file in {files[0], files[-1]}:
            before = Path(file).stat()
            data = bytearray(Path(file).read_bytes())
            data[-1] ^= 1
            Path(file).write_bytes(data)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
            assert source.fingerprint()["sha256"] != found["sha256"]  # by its ends
            data[-1] ^= 1
            Path(file).write_bytes(data)
            os.utime(file, ns=(before.st_atime_ns, time.time_ns()))
            assert source.fingerprint()["sha256"] != found["sha256"]  # by its time
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert source.fingerprint() == found


def read_part(source: Source) -> np.ndarray:
    with source:
        return part_of(source)


def test_sources_travel_to_worker_processes(tmp_path):
    import dask.array

    sources = []
    for kind, write in WRITERS.items():
        (tmp_path / kind).mkdir()
        sources.append(open_source(write(tmp_path / kind)))
    sources.append(open_source(dask.array.from_array(STACK, chunks=(2, 6, 7))))
    sources.append(open_source(xr.DataArray(STACK, dims=("z", "y", "x"))))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for source, found in zip(sources, pool.map(read_part, sources), strict=True):
            assert np.array_equal(found, STACK[PART]), source.kind
    for source in sources:
        source.close()


class TestTiff:
    def test_ome_tells_voxel_sizes(self, tmp_path):
        metadata = {
            "axes": "TCZYX",
            "PhysicalSizeX": 0.4,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": 400.0,
            "PhysicalSizeYUnit": "nm",
            "PhysicalSizeZ": 2.5,
            "TimeIncrement": 30.0,
        }
        path = tmp_path / "a.ome.tif"
        tifffile.imwrite(path, volume((2, 3, 4, 16, 16)), ome=True, metadata=metadata)
        with open_source(path) as source:
            grid = source.grid
        assert grid.names == ("t", "c", "z", "y", "x")
        assert grid.scale == (30, None, 2.5, 400, 0.4)
        assert grid.units == ("second", None, "micrometer", "nanometer", "micrometer")

    def test_channels_have_the_names_of_ome_xml(self, tmp_path):
        metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}}
        path = tmp_path / "a.ome.tif"
        tifffile.imwrite(path, volume((2, 4, 16, 16)), ome=True, metadata=metadata)
        with open_source(path) as source:
            assert source.attributes["channel_names"] == ["DAPI", "GFP"]
        convert(path, tmp_path / "a.zarr", Settings(ratio=16, effort=1))
        assert tinc_codec.open(tmp_path / "a.zarr")["c"].values.tolist() == ["DAPI", "GFP"]

    def test_other_images_of_a_file_are_told(self, tmp_path):
        with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
            for name in ("one", "two"):
                file.write(STACK, metadata={"axes": "ZYX", "Name": name})
        with open_source(tmp_path / "a.ome.tif") as source:
            (told,) = source.left_out
            assert source.shape == STACK.shape
        assert told.startswith("1 of the 2 images in the file: the first is read, 'one'")

    def test_imagej_hyperstacks_are_put_in_the_order_of_ome_zarr(self, tmp_path):
        data = volume((5, 2, 16, 20))  # z c y x, as ImageJ has it
        path = tmp_path / "a.tif"
        tifffile.imwrite(
            path,
            data,
            imagej=True,
            resolution=(2.0, 4.0),
            metadata={"axes": "ZCYX", "spacing": 3.0, "unit": "um"},
        )
        with open_source(path) as source:
            assert source.dimension_names == ("c", "z", "y", "x")
            assert source.grid.scale == (None, 3, 0.25, 0.5)
            assert source.grid.units == (None, *MICRONS)
            region = np.s_[1:2, 2:5, :7, 3:]
            assert np.array_equal(source.read(region), data.transpose(1, 0, 2, 3)[region])

    def test_the_resolution_of_plain_tiff_is_no_voxel_size(self, tmp_path):
        with open_source(write_tiff(tmp_path, resolution=(72, 72), resolutionunit=2)) as source:
            assert source.grid.scale == source.grid.units == (None,) * 3

    def test_bigtiff_in_tiles(self, tmp_path):
        data = volume((4, 64, 48))
        options = {"tile": (32, 32), "compression": "zlib", "photometric": "minisblack"}
        tifffile.imwrite(tmp_path / "a.btf", data, bigtiff=True, **options)
        with open_source(tmp_path / "a.btf") as source:
            assert source.chunks == (1, 32, 32)
            assert np.array_equal(source.read(np.s_[1:3, 10:40, :]), data[1:3, 10:40])

    def test_colours_are_channels(self, tmp_path):
        data = volume((16, 20, 3), "uint8")
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb")
        with open_source(tmp_path / "a.tif") as source:
            assert source.dimension_names == ("c", "y", "x")
            assert np.array_equal(source.read(np.s_[:, :, :]), data.transpose(2, 0, 1))

    @pytest.mark.parametrize("metadata", [{}, {"axes": "QYXS"}, {"axes": "ZYXS"}, None])
    def test_colours_of_several_pages_are_channels(self, tmp_path, metadata):
        data = volume((4, 16, 20, 3), "uint8")
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", metadata=metadata)
        with open_source(tmp_path / "a.tif") as source:
            assert source.dimension_names == ("c", "z", "y", "x")
            assert np.array_equal(source.read(np.s_[:, :, :, :]), data.transpose(3, 0, 1, 2))

    def test_pages_of_colours_beside_planes_are_times(self, tmp_path):
        data = volume((2, 4, 16, 20, 3), "uint8")
        metadata = {"axes": "QZYXS"}
        tifffile.imwrite(tmp_path / "a.tif", data, photometric="rgb", metadata=metadata)
        with open_source(tmp_path / "a.tif") as source:
            assert source.dimension_names == ("t", "c", "z", "y", "x")
            assert np.array_equal(source.read(np.s_[:, :, :, :, :]), data.transpose(0, 4, 1, 2, 3))


class TestPlanes:
    def test_are_in_natural_order_and_anything_else_in_the_folder_is_left_out(self, tmp_path):
        source = open_source(write_planes(tmp_path))
        assert [Path(f).name for f in source.files] == [f"z{n}.tif" for n in (8, 9, 10, 11, 12)]
        assert source.grid.scale == (None,) * 3

    @pytest.mark.parametrize("odd", [STACK[0, :6], STACK[0].astype("float32"), STACK])
    def test_the_odd_file_is_named(self, tmp_path, odd):
        folder = write_planes(tmp_path)
        tifffile.imwrite(folder / "z10.tif", odd)
        with pytest.raises(InvalidSetting, match=r"z10\.tif"):
            open_source(folder)

    def test_a_plane_cut_short_is_named(self, tmp_path):
        file = write_planes(tmp_path) / "z11.tif"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(InvalidSetting, match=r"z11\.tif"):
            open_source(file.parent)

    def test_a_plane_that_changes_later_is_an_error_that_names_it(self, tmp_path):
        source = pickle.loads(pickle.dumps(open_source(write_planes(tmp_path))))
        tifffile.imwrite(source.files[3], STACK[0, :6])
        assert source.read(np.s_[0:3, :, :]).shape == (3, 12, 14)
        with pytest.raises(OSError, match=r"z11\.tif has changed"):
            source.read(np.s_[0:5, :, :])

    @pytest.mark.parametrize(
        ("numbers", "between"),
        [
            ([8, 9, 10, 12, 13], "a10_c1.tif and a12_c1.tif"),
            ([0, 5, 10], ""),
            ([0, 7, 11, 30], ""),
            ([3], ""),
        ],
    )
    def test_planes_that_are_missing_are_told(self, tmp_path, numbers, between):
        for number in numbers:
            tifffile.imwrite(tmp_path / f"a{number}_c1.tif", STACK[0])
        told = open_source(tmp_path).left_out
        assert [between in text for text in told] == ([True] if between else [])

    def test_voxel_sizes_within_the_plane(self, tmp_path):
        for number, plane in enumerate(STACK):
            options = {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}
            tifffile.imwrite(tmp_path / f"{number}.tif", plane, **options)
        assert open_source(tmp_path).grid.scale == (None, 0.5, 0.5)


class TestHdf5:
    @pytest.mark.parametrize("mark", ["/", "::", "::/"])
    def test_datasets_are_named_after_the_file(self, tmp_path, mark):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["raw/c0"], file["raw/c1"] = STACK, STACK + 1
        with open_source(f"{tmp_path}/a.h5{mark}raw/c1") as source:
            assert source.name == "c1"
            assert np.array_equal(source.read(PART), STACK[PART] + 1)
        with pytest.raises(InvalidSetting, match="it holds raw/c0, raw/c1; give"):
            open_source(tmp_path / "a.h5")
        with pytest.raises(InvalidSetting, match="is a group; it holds c0, c1"):
            open_source(tmp_path / "a.h5/raw")
        with pytest.raises(InvalidSetting, match="holds no missing; it holds raw/c0"):
            open_source(f"{tmp_path}/a.h5::missing")

    def test_sizes_names_and_attributes(self, tmp_path):
        with open_source(write_hdf5(tmp_path)) as source:
            assert source.grid.scale == (2, 0.5, 0.5)
            assert source.grid.units == MICRONS
            assert source.attributes["note"] == "kept"
            assert source.chunks == (2, 12, 7)
        with h5py.File(tmp_path / "b.h5", "w") as file:
            file["a"] = STACK
            for dimension, label in zip(file["a"].dims, ("depth", "row", "column"), strict=True):
                dimension.label = label
        with open_source(tmp_path / "b.h5") as source:
            assert source.dimension_names == ("depth", "row", "column")
            assert source.grid.scale == (None,) * 3


class TestImaris:
    def test_sizes_come_from_the_extents_and_padding_is_left_out(self, tmp_path):
        with open_source(write_imaris(tmp_path, times=2)) as source:
            assert source.shape == (2, 2, 5, 12, 14)
            assert source.dimension_names == tuple("tczyx")
            assert source.grid.scale == (None, None, 2, 0.5, 0.5)
            assert source.grid.units == (None, None, *MICRONS)
            assert source.grid.translation == (None, None, -4, 0.25, 10.25)
            assert source.attributes["channel_names"] == ["dye 0", "dye 1"]
            found = source.read((slice(1, 2), slice(0, 2), *PART))
            assert np.array_equal(found[0, 1], STACK[PART] + 11000)

    def test_axes_of_length_one_are_left_out(self, tmp_path):
        with open_source(write_imaris(tmp_path, channels=1)) as source:
            assert source.dimension_names == ("z", "y", "x")
            assert np.array_equal(source.read(PART), STACK[PART])

    def test_a_size_beyond_what_is_stored_is_refused(self, tmp_path):
        with pytest.raises(InvalidSetting, match="does not fit"):
            open_source(write_imaris(tmp_path, real=(5, 12, 99)))

    def test_other_hdf5_is_refused(self, tmp_path):
        write_hdf5(tmp_path).rename(tmp_path / "a.ims")
        with pytest.raises(InvalidSetting, match="not Imaris"):
            open_source(tmp_path / "a.ims")


class TestNifti:
    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_sizes_units_and_what_stays_in_memory(self, tmp_path, name):
        with open_source(write_nifti(tmp_path, name)) as source:
            assert source.grid.scale == (2, 0.5, 0.5)
            assert source.grid.units == MICRONS
            assert source.resident_bytes == (STACK.nbytes if name.endswith("gz") else 0)
            assert source.attributes["nifti_affine"][2] == [0, 0, 2, 0]

    def test_a_new_header_tells_no_sizes(self, tmp_path):
        image = nibabel.Nifti1Image(STACK.transpose(), None)
        nibabel.save(image, tmp_path / "a.nii")
        assert open_source(tmp_path / "a.nii").grid.scale == (None,) * 3

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_stored_numbers_with_their_scale_as_attributes(self, tmp_path, name):
        image = nibabel.Nifti1Image(STACK.transpose().astype("int16"), np.eye(4))
        image.header.set_slope_inter(0.5, -10)
        nibabel.save(image, tmp_path / name)
        source = open_source(tmp_path / name)
        stored = source.read(PART)
        factor, offset = source.attributes["scale_factor"], source.attributes["add_offset"]
        scaled = nibabel.load(tmp_path / name).get_fdata().transpose()[PART]
        assert stored.dtype == np.int16
        assert (factor, offset) == (0.5, -10)
        assert np.allclose(stored * factor + offset, scaled)

    def test_times_come_first(self, tmp_path):
        data = volume((3, 4, 5, 6))
        image = nibabel.Nifti1Image(data.transpose(), np.eye(4))
        image.header.set_xyzt_units("mm", "sec")
        image.header.set_zooms((1, 1, 2, 1.5))
        nibabel.save(image, tmp_path / "a.nii")
        source = open_source(tmp_path / "a.nii")
        assert source.dimension_names == tuple("tzyx")
        assert source.grid.scale == (1.5, 2, 1, 1)
        assert source.grid.units == ("second", *["millimeter"] * 3)
        assert np.array_equal(source.read(np.s_[1:3, :, 2:, :]), data[1:3, :, 2:])


class TestN5:
    def test_sizes_units_and_attributes(self, tmp_path):
        with open_source(write_n5(tmp_path) / "setup0/s0") as source:
            assert source.grid.scale == (2, 0.5, 0.5)
            assert source.grid.units == MICRONS
            assert source.chunks == (2, 6, 7)
            assert source.attributes["note"] == "kept"
        assert open_source(tmp_path / "a.n5/setup0").name == "s0"

    def test_several_datasets_are_named(self, tmp_path):
        path = write_n5(tmp_path)
        (path / "b").mkdir()
        (path / "b/attributes.json").write_bytes((path / "setup0/s0/attributes.json").read_bytes())
        with pytest.raises(InvalidSetting, match="it holds b, setup0/s0; give"):
            open_source(path)

    def test_a_damaged_block_is_an_oserror_naming_it(self, tmp_path):
        path = write_n5(tmp_path)
        (path / "setup0/s0/0/0/0").write_bytes(b"\0\0")
        with open_source(path) as source, pytest.raises(OSError, match=r"a\.n5"):
            source.read(np.s_[0:5, :, :])


class TestZarr:
    @pytest.mark.parametrize("zarr_format", [2, 3])
    def test_the_image_of_bioformats2raw(self, tmp_path, zarr_format):
        def attributes(found):
            return {"ome": {"version": "0.5", **found}} if zarr_format == 3 else found

        image = {
            "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"],
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [{"type": "scale", "scale": [2.0, 0.5, 0.5]}],
                }
            ],
        }
        root = zarr.create_group(
            tmp_path / "a.zarr",
            zarr_format=zarr_format,
            attributes=attributes({"bioformats2raw.layout": 3}),
        )
        series = root.create_group("0", attributes=attributes({"multiscales": [image]}))
        series.create_array("0", data=STACK)
        source = open_source(tmp_path / "a.zarr")
        assert source.grid.scale == (2, 0.5, 0.5)
        assert source.grid.units == MICRONS
        assert np.array_equal(source.read(PART), STACK[PART])
        root.create_group("1")
        with pytest.raises(InvalidSetting, match="2 images: 0, 1; give"):
            open_source(tmp_path / "a.zarr")

    def test_a_component_after_colons(self, tmp_path):
        zarr.create_group(tmp_path / "a.zarr").create_array("x/y", data=STACK)
        source = open_source(f"{tmp_path}/a.zarr::x/y")
        assert np.array_equal(source.read(PART), STACK[PART])

    def test_shards_are_what_is_read_at_once(self, tmp_path):
        assert open_source(write_zarr(tmp_path)).chunks == (4, 12, 14)


class TestArrays:
    def test_dask_is_computed_by_region_in_the_asking_thread(self):
        import dask.array

        threads = []

        def block(values):
            import threading

            threads.append(threading.get_ident())
            return values

        array = dask.array.from_array(STACK, chunks=(2, 6, 7)).map_blocks(
            block, dtype=STACK.dtype, meta=STACK[:0]
        )
        source = open_source(array)
        assert (source.kind, source.chunks) == ("dask", (2, 6, 7))
        assert np.array_equal(source.read(np.s_[0:2, 0:6, 0:7]), STACK[:2, :6, :7])
        import threading

        assert threads == [threading.get_ident()]
        assert source.fingerprint() == open_source(array).fingerprint()
        assert source.fingerprint() != open_source(array + 1).fingerprint()

    def test_labels_of_channels_are_their_names(self, tmp_path):
        stack = np.stack([STACK, STACK])
        array = xr.DataArray(stack, dims=("c", "z", "y", "x"), coords={"c": ["gfp", "rfp"]})
        source = open_source(array)
        assert source.attributes["channel_names"] == ["gfp", "rfp"]
        assert source.left_out == ()
        convert(array, tmp_path / "a.zarr", Settings(max_error=0))
        opened = tinc_codec.open(tmp_path / "a.zarr")
        np.testing.assert_array_equal(opened.sel(c="rfp"), STACK)

    @pytest.mark.parametrize("lazy", [True, False])
    def test_xarray_gives_names_attributes_and_evenly_spaced_coordinates(self, lazy):
        array = xr.DataArray(
            STACK,
            dims=("z", "y", "x"),
            coords={
                "z": ("z", 5 + 2.5 * np.arange(5), {"units": "um"}),
                "y": np.arange(12.0) ** 2,
            },
            attrs={"kept": np.int64(3)},
            name="image",
        )
        source = open_source(array.chunk(z=2) if lazy else array)
        assert source.name == "image"
        assert source.grid.scale == (2.5, None, None)
        assert source.grid.units == ("micrometer", None, None)
        assert source.grid.translation == (5, None, None)
        assert source.attributes == {"kept": 3}
        assert source.chunks == ((2, 12, 14) if lazy else None)
        assert np.array_equal(source.read(PART), STACK[PART])
        assert open_source(array.to_dataset()).name == "image"

    def test_a_dataset_of_several_variables_names_them(self):
        dataset = xr.Dataset({"a": ("x", [1, 2]), "b": ("x", [1, 2])})
        with pytest.raises(InvalidSetting, match="holds a, b"):
            open_source(dataset)

    def test_unknown_lengths_are_refused(self):
        import dask.array

        array = dask.array.from_array(STACK, chunks=2)
        with pytest.raises(InvalidSetting, match="compute_chunk_sizes"):
            open_source(array[array > 50])

    @pytest.mark.parametrize("other", [3, [1, 2], None, {"a": 1}])
    def test_anything_else_is_refused(self, other):
        with pytest.raises(InvalidSetting, match="is no source"):
            open_source(other)

    def test_an_array_of_numpy_or_zarr(self, tmp_path):
        array = zarr.open_array(write_zarr(tmp_path), mode="r")
        for given in (STACK, array):
            assert np.array_equal(open_source(given).read(PART), STACK[PART])


class TestSpec:
    def test_a_spec_opens_what_it_names(self, tmp_path):
        spec = SourceSpec(location=str(write_hdf5(tmp_path)), component="volume/raw")
        with spec.open() as source, open_source(spec) as again:
            assert source.spec == again.spec == spec

    def test_an_empty_array_is_refused_and_its_file_let_go(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["a"] = np.zeros((0, 3))
        with pytest.raises(UnsupportedData, match="at least one"):
            open_source(tmp_path / "a.h5")
        with h5py.File(tmp_path / "a.h5", "a"):  # HDF5 locks open files
            pass
