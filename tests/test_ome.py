"""OME-Zarr metadata: what is written is valid, and says what the source said."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zarr
from volumes import volume

from tinc_codec import Settings, UnsupportedData
from tinc_codec.archive import convert, ome, plan, pyramid, run
from tinc_codec.cli import main

pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")

FORMATS = [2, 3]
WAVELETS = Settings(ratio=4, effort=1, form="wavelet")
GRID = ome.grid("czyx", scale=(None, 4.0, 0.5, 0.5), units=(None, *["micrometer"] * 3))
OMERO = {
    "id": 7,
    "channels": [
        {
            "color": color,
            "window": {"start": 0, "end": 900, "min": 0, "max": 65535},
            "label": label,
            "active": True,
        }
        for color, label in (("FF0000", "cells"), ("00FF00", "background"))
    ],
}


def write(folder, grid, shape, factors, zarr_format, **options):
    """Write a pyramid as the converter does, and return its group."""
    levels = [(str(k), f) for k, f in enumerate(factors)]
    attributes = ome.image_attributes(grid, levels, zarr_format, **options)
    group = zarr.create_group(folder, zarr_format=zarr_format, attributes=attributes)
    data = volume(shape)
    for path, f in levels:
        level = pyramid.downsample(data, f)
        described = ome.array_options(grid, {"kept": 1}, zarr_format)
        array = group.create_array(path, shape=level.shape, dtype=level.dtype, **described)
        array[:] = level
    return group


def validated(folder, zarr_format):
    from ome_zarr_models import open_ome_zarr

    found = open_ome_zarr(folder, version={2: "0.4", 3: "0.5"}[zarr_format])
    return found.attributes.ome if zarr_format == 3 else found.attributes


@pytest.mark.parametrize("zarr_format", FORMATS)
class TestWritten:
    @pytest.mark.parametrize("levels", [1, 2, 4])
    def test_is_valid_with_any_number_of_levels(self, tmp_path, zarr_format, levels):
        shape = (2, 9, 30, 33)
        factors = pyramid.level_factors(GRID, shape, levels)
        write(tmp_path / "a.zarr", GRID, shape, factors, zarr_format, name="brain")
        image = validated(tmp_path / "a.zarr", zarr_format).multiscales[0]
        assert len(image.datasets) == levels
        assert [axis.name for axis in image.axes] == list("czyx")
        assert [axis.unit for axis in image.axes][1:] == ["micrometer"] * 3
        assert image.name == "brain"

    def test_positions_are_those_of_the_voxels_centres(self, tmp_path, zarr_format):
        """The centre of each voxel of a level is the mean of the centres of its block."""
        grid = ome.grid("zyx", scale=(4.0, 0.5, 0.5), units=["nm"] * 3, translation=(10, 0, -3))
        shape, factors = (4, 16, 24), (2, 8, 8)
        write(tmp_path / "a.zarr", grid, shape, [(1, 1, 1), factors], zarr_format)
        image = validated(tmp_path / "a.zarr", zarr_format).multiscales[0]

        def positions(level, lengths):
            scale, moved = (getattr(t, t.type) for t in level.coordinateTransformations)
            return [np.arange(n) * s + m for n, s, m in zip(lengths, scale, moved, strict=True)]

        fine = positions(image.datasets[0], shape)
        coarse = positions(image.datasets[1], pyramid.level_shape(shape, factors))
        for f, c, factor in zip(fine, coarse, factors, strict=True):
            assert np.allclose(f.reshape(-1, factor).mean(1), c)
        assert [f[0] for f in fine] == [10, 0, -3]

    def test_an_unknown_scale_is_a_factor_without_a_unit(self, tmp_path, zarr_format):
        grid = ome.grid("zyx", units=["micrometer"] * 3)
        write(tmp_path / "a.zarr", grid, (4, 8, 8), [(1, 1, 1), (2, 2, 2)], zarr_format)
        image = validated(tmp_path / "a.zarr", zarr_format).multiscales[0]
        assert [axis.unit for axis in image.axes] == [None] * 3
        scales = [level.coordinateTransformations[0].scale for level in image.datasets]
        assert scales == [[1, 1, 1], [2, 2, 2]]

    @pytest.mark.parametrize("source_format", FORMATS)
    def test_axes_scale_units_and_omero_survive_from_either_version(
        self, tmp_path, zarr_format, source_format
    ):
        moved = ome.grid(
            "czyx", scale=GRID.scale, units=GRID.units, translation=(0, 100.0, -5.5, 0.25)
        )
        block = {"omero": OMERO, "multiscales": [{"name": "m1"}]}
        shape = (2, 4, 8, 10)
        source = write(
            tmp_path / "s.zarr", moved, shape, [(1,) * 4, (1, 2, 2, 2)], source_format, block=block
        )
        validated(tmp_path / "s.zarr", source_format)
        read, _ = ome.split(source.attrs.asdict())
        grid = ome.grid_of(read, 4)
        assert grid == ome.grid(
            "czyx", scale=(1, 4.0, 0.5, 0.5), units=GRID.units, translation=moved.translation
        )
        write(tmp_path / "a.zarr", grid, shape, [(1,) * 4], zarr_format, block=read)
        found = validated(tmp_path / "a.zarr", zarr_format)
        image = found.multiscales[0]
        assert image.name == "m1"
        assert [axis.unit for axis in image.axes] == [None, *["micrometer"] * 3]
        scale, translation = image.datasets[0].coordinateTransformations
        assert scale.scale == [1, 4.0, 0.5, 0.5]
        assert translation.translation == list(moved.translation)
        written = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs.asdict()
        omero = written["ome"]["omero"] if zarr_format == 3 else written["omero"]
        assert omero == OMERO | ({} if zarr_format == 3 else {"version": "0.4"})

    def test_names_are_where_xarray_looks(self, tmp_path, zarr_format):
        xr = pytest.importorskip("xarray")
        write(tmp_path / "a.zarr", GRID, (2, 4, 6, 8), [(1,) * 4], zarr_format)
        opened = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["0"]
        assert opened.dims == tuple("czyx")
        assert opened.attrs == {"kept": 1}

    def test_label_images_and_their_list(self, tmp_path, zarr_format):
        block = {
            "image-label": {
                "version": "0.4",
                "colors": [{"label-value": 1, "rgba": [255, 0, 0, 255]}],
            }
        }
        group = write(tmp_path / "a.zarr", GRID, (2, 4, 6, 8), [(1,) * 4], zarr_format)
        group.create_group("labels", attributes=ome.labels_attributes(["cells"], zarr_format))
        grid = ome.grid("zyx")
        write(
            tmp_path / "a.zarr/labels/cells", grid, (4, 6, 8), [(1,) * 3], zarr_format, block=block
        )
        from ome_zarr_models.v04 import ImageLabel as Label04
        from ome_zarr_models.v04 import Labels as Labels04
        from ome_zarr_models.v05 import ImageLabel as Label05
        from ome_zarr_models.v05 import Labels as Labels05

        labels, label = {2: (Labels04, Label04), 3: (Labels05, Label05)}[zarr_format]
        labels.from_zarr(group["labels"])  # opens and checks every label image, too
        label.from_zarr(group["labels/cells"])


def write_with_labels(folder, source_format):
    """Write an image with two label images, of no channels and of two levels."""
    group = write(folder, GRID, (2, 8, 12, 16), [(1,) * 4], source_format, name="brain")
    group.create_group("labels", attributes=ome.labels_attributes(["cells", "rois"], source_format))
    grid = ome.grid("zyx", scale=(4.0, 0.5, 0.5), units=["micrometer"] * 3, translation=(1, 2, 3))
    colors = [{"label-value": 1, "rgba": [255, 0, 0, 255]}]
    factors = [(1,) * 3, (1, 2, 2)]
    for name in ("cells", "rois"):
        label = {"image-label": {"colors": colors, "source": {"image": "../../"}}}
        inner = group.create_group(
            f"labels/{name}",
            attributes={"kept": name}
            | ome.image_attributes(
                grid, [(str(k), f) for k, f in enumerate(factors)], source_format, block=label
            ),
        )
        for k, f in enumerate(factors):
            shape = pyramid.level_shape((8, 12, 16), f)
            values = np.random.default_rng(k).integers(0, 2**40, shape)
            described = ome.array_options(grid, {}, source_format)
            inner.create_array(str(k), data=values, chunks=(3, 5, 7), **described)
    return group


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize(("source_format", "levels"), [(2, 1), (3, 2)])
def test_label_images_are_copied_with_their_metadata(tmp_path, zarr_format, source_format, levels):
    source = write_with_labels(tmp_path / "s.zarr", source_format)
    made = plan(tmp_path / "s.zarr", tmp_path / "a.zarr", WAVELETS, chunks=(1, 4, 6, 8),
                zarr_format=zarr_format, levels=levels)  # fmt: skip
    assert made.left_out == ()
    run(made)
    found = zarr.open_group(tmp_path / "a.zarr", mode="r")
    for path in ("cells/0", "cells/1", "rois/0")[:: 3 - levels]:
        copied = found[f"labels/{path}"]
        assert np.array_equal(copied[:], source[f"labels/{path}"][:])
        assert copied.dtype == np.int64
    assert found["labels/cells"].attrs["kept"] == "cells"
    blocks = [
        ome.split(group["labels/cells"].attrs.asdict())[0]["multiscales"][0]
        for group in (source, found)
    ]
    assert blocks[1]["axes"] == blocks[0]["axes"]
    assert blocks[1]["datasets"] == blocks[0]["datasets"][:levels]

    from ome_zarr_models import v04, v05

    models = {2: v04, 3: v05}[zarr_format]
    validated(tmp_path / "a.zarr", zarr_format)
    models.Labels.from_zarr(found["labels"])
    colors = models.ImageLabel.from_zarr(found["labels/rois"]).attributes
    colors = colors.ome.image_label if zarr_format == 3 else colors.image_label
    assert colors.colors[0].rgba == (255, 0, 0, 255)


def test_label_images_are_part_of_the_source(tmp_path):
    group = write_with_labels(tmp_path / "s.zarr", 3)
    before = plan(tmp_path / "s.zarr", tmp_path / "a.zarr", WAVELETS)
    group["labels/rois/0"][:3, :5, :7] += 1
    assert plan(tmp_path / "s.zarr", tmp_path / "a.zarr", WAVELETS).source_id != before.source_id
    scores = convert(tmp_path / "s.zarr", tmp_path / "a.zarr", WAVELETS)
    assert len(scores.chunks) == 2
    assert scores.raw_bytes == 2 * 8 * 12 * 16 * 2


def test_label_images_that_are_not_copied_are_named(tmp_path, capsys):
    group = write_with_labels(tmp_path / "s.zarr", 3)
    command = ["convert", str(tmp_path / "s.zarr"), str(tmp_path / "a.zarr"), "--ratio", "16"]
    command += ["--form", "wavelet", "--effort", "1", "--workers", "1"]
    assert main([*command, "--roi", "0:4,:,:"]) == 0
    assert "label images (cells, rois) are not copied when a box" in capsys.readouterr().err
    assert "labels" not in zarr.open_group(tmp_path / "a.zarr", mode="r")
    del group["labels/rois/0"]
    assert main([*command, "--overwrite", "--levels", "3"]) == 0
    said = capsys.readouterr().err
    assert "labels/rois is no label image" in said
    assert "labels/cells has 2 levels" in said
    assert sorted(zarr.open_group(tmp_path / "a.zarr", mode="r")["labels"]) == ["cells"]


class TestRead:
    def test_transformations_of_the_image_come_after_those_of_the_level(self):
        image = {
            "axes": [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"],
            "datasets": [
                {
                    "path": "0",
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [2.0, 3.0]},
                        {"type": "translation", "translation": [1.0, 0.0]},
                    ],
                }
            ],
            "coordinateTransformations": [{"type": "scale", "scale": [10.0, 10.0]}],
        }
        grid = ome.grid_of({"multiscales": [image]}, 2)
        assert grid.scale == (20, 30)
        assert grid.translation == (10, 0)

    def test_nothing_is_invented(self):
        assert ome.grid_of({}, 3) is None
        grid = ome.grid_of({"multiscales": [{"axes": ["y", "x"], "datasets": [{"path": "0"}]}]}, 2)
        assert grid.scale == grid.units == grid.translation == (None, None)

    @pytest.mark.parametrize(
        "damaged",
        [
            {},
            {"datasets": []},
            {"datasets": [7]},
            {"datasets": [{"coordinateTransformations": ["scale"]}]},
            {"datasets": [{"coordinateTransformations": [{"type": []}]}]},
        ],
    )
    def test_damaged_metadata_describes_nothing(self, damaged):
        image = {"axes": ["y", "x"], **damaged}
        assert ome.grid_of({"multiscales": [image]}, 2) is None

    @pytest.mark.parametrize("scale", [["a", "b"], [1.0, None], [1.0], 3.0])
    def test_a_scale_that_is_no_numbers_is_passed_over(self, scale):
        step = {"type": "scale", "scale": scale}
        image = {"axes": ["y", "x"], "datasets": [{"coordinateTransformations": [step]}]}
        assert ome.grid_of({"multiscales": [image]}, 2).scale == (None, None)

    @pytest.mark.parametrize("scale", [0, -1, math.nan, math.inf])
    def test_a_scale_that_cannot_be_is_none(self, scale):
        assert ome.grid("x", scale=[scale]).scale == (None,)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("um", "micrometer"),
            ("µm", "micrometer"),
            ("\u03bcm", "micrometer"),
            ("micrometer", "micrometer"),
            ("furlong", "furlong"),
            ("pixel", None),
            (" ", None),
            (None, None),
        ],
    )
    def test_units(self, text, expected):
        assert ome.unit_name(text) == expected


@pytest.mark.parametrize(
    ("names", "types", "why"),
    [
        ("x", None, "2 or 3 axes of space"),
        ("zcyx", None, "time, channels, then space"),
        ("tqczyx", None, "one of channels at most"),
        ("yy", None, "different names"),
        ("abc", None, "2 or 3 axes of space; the axes are a \\(unknown\\)"),
    ],
)
def test_axes_that_ome_zarr_cannot_describe_are_refused_with_the_reason(names, types, why):
    with pytest.raises(UnsupportedData, match=why):
        ome.image_attributes(ome.grid(names, types=types), [("0", (1,) * len(names))], 3)
